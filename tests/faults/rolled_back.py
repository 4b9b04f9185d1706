"""An older copy of Postgres's data in the place of the data, and what becomes of the service.

What Postgres had settled since is settled again, by the streams. A stream that does not reach so
far back leaves its shard stopped, with all it has, until the right data is there again.
"""

from __future__ import annotations

import time

from holdfast.client import AsyncClient
from tests.faults.catalogue import Figures, Run
from tests.faults.crew import Rows, ends, one_of_each, revetted, until_rows
from tests.faults.place import Place
from tests.faults.under_load import Background

_KINDS = ("postgres_went_back", "stopped")


class RolledBack:
    """One copy, made before the fault and put back after it."""

    def __init__(self, run: Run, place: Place, load: Background) -> None:
        self._place = place
        self._load = load
        self._base = run.directory / "base"
        self._newest = run.directory / "newest"
        numbers = range(len(place.shards))
        short = run.rng.sample(numbers, run.rng.randint(1, len(numbers)))
        self._short = set(short) if run.rng.random() < 0.5 else set()
        """The shards whose stream will not reach back to the copy."""

    async def keep(self, client: AsyncClient) -> None:
        """Copy the data; returns when every shard has settled more since."""
        place = self._place
        await place.postgres.keep_base(self._base)
        kept = await place.shard_rows()
        for name in one_of_each(len(place.shards)):
            await client.put_account(name)  # the load may leave out a shard for long
        await until_rows(
            place,
            lambda rows: all(row["mark"] > kept[row["id"]]["mark"] for row in rows),
            "every shard has settled more than is in the copy",
        )

    async def put_back(self) -> Figures:
        """Start Postgres with the copy, and see what becomes of it."""
        place, postgres, short = self._place, self._place.postgres, self._short
        settled = {number: settled for number, (_, settled) in (await ends(place)).items()}
        if short:
            await postgres.keep_base(self._newest)
            for number in short:
                # As after the retention.
                shard = place.shards[number]
                await place.redis.command("XTRIM", shard.stream, "MINID", settled[number] + 1)
        await postgres.put_back_base(self._base)
        keys = [await self._keys(number) for number in sorted(short)]
        self._load.note("Postgres is back as it was")
        began = time.monotonic()
        await postgres.start()
        older = await place.shard_rows()
        await self._decided(older)
        figures = {"decided_ms": round((time.monotonic() - began) * 1000)}
        await self._incidents(settled)
        if short:
            assert keys == [await self._keys(number) for number in sorted(short)], "not kept"
            await self._load.refused(50)
            figures |= await self._put_right()
        else:
            await place.open_again()
        gone = sum(settled[row["id"]] - row["mark"] for row in older)
        return figures | {"stopped_shards": len(short), "rolled_back_entries": gone}

    async def _decided(self, older: Rows) -> None:
        """Wait until every shard is open under another generation, or stopped."""
        await until_rows(
            self._place,
            lambda rows: (
                len(revetted(rows, older)) == len(rows)
                and all(
                    row["state"] == ("stopped" if row["id"] in self._short else "open")
                    for row in rows
                )
            ),
            f"shards {sorted(self._short)} are stopped, all others open",
        )

    async def _incidents(self, settled: dict[int, int]) -> None:
        """Each shard went back, and says how far; what is short is stopped; nothing is rebuilt."""
        incidents = await self._place.incidents()
        told = {kind: [each for each in incidents if each["kind"] == kind] for kind in _KINDS}
        assert sum(map(len, told.values())) == len(incidents), incidents
        assert sorted(each["shard"] for each in told["stopped"]) == sorted(self._short), incidents
        back = {each["shard"]: each["details"] for each in told["postgres_went_back"]}
        assert len(told["postgres_went_back"]) == len(back) == len(settled), incidents
        for number, details in back.items():
            fate = "stop" if number in self._short else "adopt"
            assert details["fate"] == fate, details
            assert details["mark"] < settled[number] == details["redis_settled"], details

    async def _put_right(self) -> Figures:
        """What an operator does: the right data is put back; everything opens, and is all there."""
        place, postgres = self._place, self._place.postgres
        began = time.monotonic()
        await postgres.stop()
        await postgres.put_back_base(self._newest)
        self._load.note("Postgres is back as it should be")
        await postgres.start()
        await place.open_again()
        incidents = await place.incidents()
        assert {each["kind"] for each in incidents} <= {"postgres_went_back"}, incidents
        return {"put_right_ms": round((time.monotonic() - began) * 1000)}

    async def _keys(self, number: int) -> list[bytes]:
        """The accounts of a shard in Redis."""
        async with self._place.redis_client() as client:
            pattern = self._place.shards[number].family.decode() + "acct:*"
            return sorted([key async for key in client.scan_iter(match=pattern)])
