"""When a compensation is tried again; what a try does is for the tests over real stores."""

from holdfast.compensator import MAX_ATTEMPTS, pause_s


def test_pauses_double_up_to_an_hour() -> None:
    pauses = [pause_s(attempts) for attempts in range(1, MAX_ATTEMPTS)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert max(pauses) == 3600
    assert 9 * 3600 < sum(pauses) < 12 * 3600
