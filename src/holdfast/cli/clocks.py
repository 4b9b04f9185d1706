"""Shards that are closed because they have recorded a time that was wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.incidents import By, operator
from holdfast.cli.output import DONE, USAGE, Failure, confirm, refused, show, show_json
from holdfast.cli.places import Json, Yes, run, store_configuration, worker_state

if TYPE_CHECKING:
    from settlement.clock_reset import Ahead

clock = typer.Typer(help="The time that shards have recorded.", no_args_is_help=True)


@clock.command("reset")
def reset(
    shard: Annotated[int | None, typer.Argument(metavar="SHARD", min=0, max=999)] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every shard that needs it.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for the record.")],
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> int:
    """Let shards go on from now, where they have recorded a later time than Redis tells.

    For clocks that were ahead together and are right again. Redis, Postgres and this machine must
    agree; run it on another machine than theirs. Shards that are not ahead stay as they are.
    """
    if (shard is None) is not everything:
        raise Failure("name one shard, or --all", USAGE)
    if not reason.strip():
        raise Failure("--reason needs a word", USAGE)
    config = store_configuration()
    if shard is not None and shard >= config.shards:
        raise Failure(f"there is no shard {shard}: they are 0 to {config.shards - 1}", USAGE)
    numbers = None if shard is None else [shard]
    if not yes:
        _ask(run(_find(numbers)))
    done = run(_reset(numbers, reason.strip(), operator(by)))
    if as_json:
        show_json({"shards": [asdict(each) for each in done]})
    else:
        show(*([_line(each) for each in done] or [_NOTHING]))
    return DONE


_NOTHING = "no shard has recorded a later time than its Redis tells; nothing was changed"


def _line(ahead: Ahead) -> str:
    from settlement.clock_reset import moment  # noqa: PLC0415

    was, now = moment(ahead.recorded_ms), moment(ahead.now_ms)
    return f"shard {ahead.number} had recorded {was}, and goes on from {now}"


def _ask(found: list[Ahead]) -> None:
    from settlement.clock_reset import moment  # noqa: PLC0415

    if not found:
        return
    latest = max(each.recorded_ms for each in found)
    confirm(
        f"Redis, Postgres and this machine say that it is {moment(found[0].now_ms)}."
        f" {len(found)} shards have recorded up to {moment(latest)}. Is the earlier time the right"
        " one?"
    )


async def _find(numbers: list[int] | None) -> list[Ahead]:
    from settlement.clock_reset import NotReset, shards_ahead  # noqa: PLC0415

    async with worker_state(store_configuration()) as state:
        try:
            return await shards_ahead(state, numbers)
        except NotReset as error:
            raise refused(str(error)) from None


async def _reset(numbers: list[int] | None, reason: str, asked_by: str) -> list[Ahead]:
    from settlement.clock_reset import NotReset, reset_clocks  # noqa: PLC0415

    async with worker_state(store_configuration()) as state:
        try:
            return await reset_clocks(state, numbers, reason, asked_by)
        except NotReset as error:
            raise refused(str(error)) from None
