"""What a fail-point may be set to; what it does is for the tests that kill and stop workers."""

from collections.abc import Iterator

import pytest

from settlement import failpoints

POINTS = (
    *(*failpoints.POINTS, *failpoints.VETTING_POINTS),
    *(*failpoints.OUTBOX_POINTS, *failpoints.DELIVERY_POINTS),
    *(*failpoints.COMPENSATION_POINTS, *failpoints.ARCHIVE_POINTS),
)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


@pytest.mark.parametrize(
    "setting",
    ["", "insert", "insert:", "insert:0", "insert:-1", "insert:x", "nowhere:1", "insert:1:end"],
)
def test_what_no_point_is_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="test_failpoint is <point>:<n>"):
        failpoints.arm(setting)


@pytest.mark.parametrize("action", ["", ":stop"])
@pytest.mark.parametrize("point", POINTS)
def test_every_point_can_be_armed_and_others_do_nothing(point: str, action: str) -> None:
    failpoints.arm(f"{point}:2{action}")

    failpoints.hit(point)
    for other in POINTS:
        if other != point:
            failpoints.hit(other)
            failpoints.hit(other)
