"""Usage and forecasts over a real Postgres: what is added up, and that roll-ups alone are read."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from holdfast import statistics
from holdfast.embedded import Postgres
from holdfast.errors import InvalidRequest
from holdfast.lists import Page
from holdfast.postgres import Pool
from holdfast.queries import sql
from holdfast.statistics import Forecast, Group, Usage, project
from tests.databases import emptied, migrated_database

DAY_MS = 86_400_000
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp()) * 1000


@pytest.fixture(scope="module")
def database_url(postgres_server: Postgres) -> Iterator[str]:
    with migrated_database(postgres_server.url) as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with emptied(database_url, "account", "usage") as pool:
        yield pool


async def put_usage(
    pool: Pool, day: int, member: str, model: str, used: int, account: str = "acme"
) -> None:
    await pool.fetch(
        "INSERT INTO usage VALUES ($1, $2, $3, $4, $5, $6, 1)",
        *(account, day, member, model, used, used // 2),
    )


async def put_some(pool: Pool) -> None:
    await put_usage(pool, 20260301, "", "m1", 1)
    await put_usage(pool, 20260301, "ann", "m1", 10)
    await put_usage(pool, 20260302, "ann", "m~2", 100)
    await put_usage(pool, 20260302, "bob", "", 1_000)
    await put_usage(pool, 20260303, "bob", "m1", 10_000)
    await put_usage(pool, 20260301, "", "m1", 7, account="other")


async def put_account(pool: Pool, available: int, opened_at: datetime, **settings: Any) -> None:
    row = {"account": "acme", "shard": 1, "status": "active", "version": 3, "last_seq": 9}
    row |= {"base": available, "available": available, "granted": available, **settings}
    row |= {"opened_at": opened_at}
    places = ", ".join(f"${i + 1}" for i in range(len(row)))
    await pool.fetch(
        f"INSERT INTO account ({', '.join(row)}) VALUES ({places})",
        *row.values(),
    )


Read = Callable[..., Awaitable[list[list[Usage]]]]


@pytest.fixture
def read(pool: Pool) -> Read:
    """All pages of a list of the first two days."""

    async def read(*groups: Group, limit: int = 10, **filters: Any) -> list[list[Usage]]:
        found: list[list[Usage]] = []
        cursor = None
        while not found or cursor is not None:
            page: Page[Usage] = await statistics.usage(
                pool,
                "acme",
                groups=groups,
                first=date(2026, 3, 1),
                last=date(2026, 3, 2),
                after=cursor,
                limit=limit,
                **filters,
            )
            found.append(page.data)
            cursor = page.next
            assert len(found) < 100
        return found

    return read


# ── usage ────────────────────────────────────────────────────────────────────────────────────────


async def test_usage_adds_up_by_day_member_or_model(pool: Pool, read: Read) -> None:
    await put_some(pool)

    def sums(pages: list[list[Usage]]) -> list[list[tuple[int, int, int]]]:
        return [[(u.used, u.spent, u.calls) for u in page] for page in pages]

    days, members = await read("day"), await read("member", limit=1)
    assert [u.day for u in days[0]] == [20260301, 20260302]
    assert sums(days) == [[(11, 5, 2), (1_100, 550, 2)]]
    assert [u.member for page in members for u in page] == ["", "ann", "bob"]
    assert sums(members) == [[(1, 0, 1)], [(110, 55, 2)], [(1_000, 500, 1)]]
    [models] = await read("model")
    assert {u.model: u.used for u in models} == {"": 1_000, "m1": 11, "m~2": 100}


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_usage_by_several_comes_in_pages(pool: Pool, read: Read, limit: int) -> None:
    await put_some(pool)

    found = await read("model", "day", "member", limit=limit)

    assert {len(page) for page in found[:-1]} <= {limit}
    lines = [u for page in found for u in page]
    assert [(u.day, u.member, u.model, u.used) for u in lines] == [
        (20260301, "", "m1", 1),
        (20260301, "ann", "m1", 10),
        (20260302, "ann", "m~2", 100),
        (20260302, "bob", "", 1_000),
    ]
    assert {u.groups for u in lines} == {("day", "member", "model")}


async def test_usage_of_one_member_or_model_alone(pool: Pool, read: Read) -> None:
    await put_some(pool)
    [[ann]] = await read("member", member="ann")
    [by_day] = await read("day", model="m1")
    [[none]] = await read("model", member="bob", model="")
    assert (ann.member, ann.used) == ("ann", 110)
    assert [(u.day, u.used) for u in by_day] == [(20260301, 11)]
    assert (none.model, none.used) == ("", 1_000)
    assert await read("day", member="ann", model="") == [[]]


@pytest.mark.parametrize(
    "cursor",
    ["", "day", "day~x~~", "day~20260301~ann", "member~0~ann~", "day~٣~~", "day~1~\0~", "day~-1~~"],
)
async def test_a_cursor_of_usage_belongs_to_its_list(pool: Pool, cursor: str) -> None:
    day = date(2026, 3, 1)
    with pytest.raises(InvalidRequest, match="after"):
        await statistics.usage(
            pool, "acme", groups=["day"], first=day, last=day, after=cursor, limit=10
        )


async def test_no_table_is_read_from_end_to_end(database_url: str, pool: Pool) -> None:
    """With many rows, and with the plan that a prepared statement keeps, for whatever arguments."""
    await pool.fetch(
        "INSERT INTO usage SELECT 'a' || a, to_char(date '2026-01-01' + d, 'YYYYMMDD')::integer,"
        " '', 'm' || m, 1, 1, 1 FROM generate_series(1, 50) a, generate_series(0, 99) d,"
        " generate_series(1, 5) m"
    )
    await pool.fetch(
        "INSERT INTO account (account, shard, status, version, last_seq, opened_at)"
        " SELECT 'a' || a, 1, 'active', 1, 1, now() FROM generate_series(1, 5000) a"
    )
    days = (20260110, 20260120)
    asked: dict[str, tuple[Any, ...]] = {
        "list_usage": ("a7", *days, ["day"], None, "m1", 20260111, "", "", 101),
        "forecast": ("a7", days[0]),
    }
    async with pool.acquire() as conn:
        await conn.execute("ANALYZE usage, account")
        for mode in ("force_custom_plan", "force_generic_plan"):
            await conn.execute(f"SET plan_cache_mode = {mode}")
            for name, arguments in asked.items():
                plan = "\n".join(
                    row[0] for row in await conn.fetch(f"EXPLAIN {sql(name)}", *arguments)
                )
                assert "usage_pkey" in plan, (mode, plan)
                assert "Seq Scan" not in plan, (mode, plan)
                assert "journal" not in plan, (mode, plan)


# ── forecasts ────────────────────────────────────────────────────────────────────────────────────


async def test_a_forecast_looks_back_seven_days_and_today(pool: Pool) -> None:
    await put_account(pool, 3_000, NOON - timedelta(days=90))
    for day, used in ((20260302, 1_000_000), (20260303, 1_000), (20260309, 1_000), (20260310, 250)):
        await put_usage(pool, day, "", "", 2 * used)

    found = await statistics.forecast(pool, "acme", NOON)

    # 2,250 in 7.5 days are 300 a day; 3,000 last for ten.
    assert found == Forecast(3_000, None, 300, 15 * DAY_MS // 2, NOON_MS + 10 * DAY_MS)


async def test_a_forecast_of_an_account_that_is_not_there(pool: Pool) -> None:
    assert await statistics.forecast(pool, "acme") is None


@pytest.mark.parametrize(("low_balance", "level"), [(100, "low"), (None, None)])
async def test_a_forecast_tells_the_level_of_an_account_that_has_one(
    pool: Pool, low_balance: int | None, level: str | None
) -> None:
    settings = {"low_balance": low_balance, "balance_level": "low"}
    await put_account(pool, 50, NOON, **settings)
    found = await statistics.forecast(pool, "acme", NOON)
    assert found is not None
    assert (found.balance_level, found.burn_per_day, found.runs_out_ms) == (level, 0, None)


def test_a_young_account_is_judged_by_its_own_days_but_by_one_at_least() -> None:
    three_days = project(900, 300, NOON_MS - 3 * DAY_MS, NOON_MS)
    an_hour = project(900, 300, NOON_MS - 3_600_000, NOON_MS)
    assert (three_days.basis_ms, three_days.burn_per_day) == (3 * DAY_MS, 100)
    assert three_days.runs_out_ms == NOON_MS + 9 * DAY_MS
    assert (an_hour.basis_ms, an_hour.burn_per_day) == (DAY_MS, 300)


def test_at_midnight_the_basis_is_seven_whole_days() -> None:
    midnight_ms = NOON_MS - DAY_MS // 2
    assert project(0, 1, 0, midnight_ms).basis_ms == 7 * DAY_MS
    assert statistics.first_day(NOON) == date(2026, 3, 3)


@pytest.mark.parametrize("available", [0, -40])
def test_what_is_gone_has_run_out_now(available: int) -> None:
    assert project(available, 7, 0, NOON_MS).runs_out_ms == NOON_MS


def test_what_lasts_for_a_century_never_runs_out() -> None:
    spent = 15  # of 7.5 days: 2 a day
    assert project(2 * 36_525, spent, 0, NOON_MS).runs_out_ms == NOON_MS + 36_525 * DAY_MS
    assert project(2 * 36_525 + 1, spent, 0, NOON_MS).runs_out_ms is None
    assert project(9 * 10**15, 1, 0, NOON_MS) == Forecast(
        9 * 10**15, None, 1, 15 * DAY_MS // 2, None
    )
