"""Lists over a real Postgres: what is in them, in which order, and how pages follow each other."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from holdfast import lists
from holdfast.embedded import Postgres
from holdfast.errors import InvalidRequest
from holdfast.lists import Page
from holdfast.model import Grant, Limits
from holdfast.postgres import Pool
from tests.databases import emptied, migrated_database

NOW = datetime(2026, 3, 5, 12, 0, 0, 123_000, tzinfo=UTC)
NOW_MS = 1_772_712_000_123


@pytest.fixture(scope="module")
def database_url(postgres_server: Postgres) -> Iterator[str]:
    with migrated_database(postgres_server.url) as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    tables = ("account", "account_grant", "journal", "record", "usage")
    async with emptied(database_url, *tables) as pool:
        yield pool


async def put(pool: Pool, table: str, row: dict[str, Any]) -> None:
    places = ", ".join(f"${i + 1}" for i in range(len(row)))
    await pool.fetch(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())


async def put_account(pool: Pool, account: str, **values: Any) -> None:
    row = {"shard": 1, "status": "active", "version": 3, "last_seq": 9, "opened_at": NOW}
    await put(pool, "account", {"account": account, **row, **values})


async def put_funded(pool: Pool) -> None:
    """Account `acme`: 100 were granted, 60 are available and 40 held."""
    await put_account(pool, "acme", base=60, available=60, held=40, granted=100)


async def put_hold(pool: Pool, key: str, opened: int = 2, **values: Any) -> None:
    row = {"account": "acme", "shard": 1, "kind": "hold", "state": "held", "amount": 40}
    row |= {"made_at": NOW, "deadline": NOW + timedelta(minutes=15), "fields": '{"kind": "hold"}'}
    await put(pool, "record", {"key": key, "opened": opened, **row, **values})


async def put_entry(pool: Pool, version: int, **values: Any) -> None:
    row = {"shard": 1, "seq": 100 + version, "at": NOW, "account": "acme", "type": "reserve"}
    row |= {"available": 60, "held": 40, "settled_at": NOW, "chain": "c" * 40, "entry": "{}"}
    await put(pool, "journal", {"version": version, **row, **values})


async def put_usage(pool: Pool, day: int, member: str, model: str, used: int) -> None:
    row = {"account": "acme", "day": day, "member": member, "model": model}
    await put(pool, "usage", {**row, "used": used, "spent": used // 2, "calls": 1})


async def pages(read: Callable[[str | None], Awaitable[Page[Any]]]) -> list[list[Any]]:
    """All pages of a list."""
    found: list[list[Any]] = []
    cursor = None
    while not found or cursor is not None:
        page = await read(cursor)
        found.append(page.data)
        cursor = page.next
        assert len(found) < 100
    return found


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────


async def test_accounts_come_by_id_in_pages(pool: Pool) -> None:
    for name in ("b:1", "a:2", "a:1", "a:3", "a:10", "a"):
        await put_account(pool, name)

    found = await pages(lambda after: lists.accounts(pool, "a:", after=after, limit=2))

    assert [[each.account for each in page] for page in found] == [["a:1", "a:10"], ["a:2", "a:3"]]


async def test_a_prefix_is_no_pattern(pool: Pool) -> None:
    for name in ("a_b", "axb"):
        await put_account(pool, name)
    page = await lists.accounts(pool, "a_", after=None, limit=10)
    assert [each.account for each in page.data] == ["a_b"]


async def test_only_one_account(pool: Pool) -> None:
    for name in ("acme", "acme2"):
        await put_account(pool, name)
    page = await lists.accounts(pool, "acme", only="acme", after=None, limit=10)
    assert [each.account for each in page.data] == ["acme"]


async def test_an_account_has_its_balances_limits_grants_and_usage(pool: Pool) -> None:
    funds = {"base": 50, "in_grants": 10, "available": 60, "held": 40, "granted": 120, "spent": 20}
    settings = {"daily_limit": 500, "max_open_holds": 7, "plan": "pro", "metadata": '{"tier": 1}'}
    await put_account(pool, "acme", **funds, **settings)
    await put_hold(pool, "h-1")
    await put_hold(pool, "h-2", state="committed", ended_at=NOW)
    for name, days, remaining in (("g2", 2, 4), ("g1", 1, 6)):
        grant = {"account": "acme", "id": name, "priority": 1, "remaining": remaining}
        await put(pool, "account_grant", {**grant, "expires_at": NOW + timedelta(days=days)})
    today = datetime.now(UTC)
    day = int(today.strftime("%Y%m%d"))
    await put_usage(pool, day, "", "", 30)
    await put_usage(pool, day, "ann", "", 12)
    await put_usage(pool, 20200101, "", "", 1_000)

    [account] = (await lists.accounts(pool, after=None, limit=10)).data

    assert (account.available, account.held, account.granted, account.spent) == (60, 40, 120, 20)
    assert account.limits == Limits(daily_limit=500, max_open_holds=7)
    assert (account.plan, account.metadata, account.open_holds) == ("pro", {"tier": 1}, 1)
    assert account.overdraft_limit == 0
    day_ms = 86_400_000
    assert account.grants == [
        Grant("g1", 6, 1, NOW_MS + day_ms),
        Grant("g2", 4, 1, NOW_MS + 2 * day_ms),
    ]
    if datetime.now(UTC).date() == today.date():  # else midnight came in between
        assert (account.used_today, account.used_this_month) == (42, 42)


# ── entries ──────────────────────────────────────────────────────────────────────────────────────


async def test_entries_come_by_version_in_pages(pool: Pool) -> None:
    for version in (3, 1, 12, 2, 11):
        await put_entry(pool, version)
    await put_entry(pool, 4, account="other")

    found = await pages(lambda after: lists.entries(pool, "acme", after=after, limit=2))

    assert [[each.version for each in page] for page in found] == [[1, 2], [3, 11], [12]]


async def test_a_full_last_page_has_no_next(pool: Pool) -> None:
    for version in (1, 2):
        await put_entry(pool, version)
    page = await lists.entries(pool, "acme", after=None, limit=2)
    assert (len(page.data), page.next) == (2, None)


async def test_an_entry_has_the_words_of_its_caller(pool: Pool) -> None:
    context = {"request_id": "r-1", "actor": "key:abc", "metadata": {"chat": 7}, "reason": "x"}
    entry = {"type": "commit", "hold": "h-1", "key": "k-1", "member": "ann", "amount": 13}
    await put_entry(pool, 5, **entry, entry=orjson.dumps({"context": context}).decode())

    [found] = (await lists.entries(pool, "acme", after=None, limit=10)).data

    assert {name: getattr(found, name) for name in entry} == entry
    assert (found.version, found.seq, found.available, found.held) == (5, 105, 60, 40)
    assert (found.at_ms, found.settled_ms) == (NOW_MS, NOW_MS)
    assert (found.request_id, found.actor, found.metadata) == ("r-1", "key:abc", {"chat": 7})


@pytest.mark.parametrize("text", ["no json", "[]", '{"context": []}', "{}", '{"type": "open"}'])
async def test_an_entry_without_words_is_listed_all_the_same(pool: Pool, text: str) -> None:
    await put_entry(pool, 1, entry=text, quarantined=True)
    [entry] = (await lists.entries(pool, "acme", after=None, limit=10)).data
    assert (entry.version, entry.request_id, entry.actor, entry.metadata) == (1, None, None, None)


# ── holds ────────────────────────────────────────────────────────────────────────────────────────


async def test_holds_come_by_id_in_pages_and_by_state(pool: Pool) -> None:
    await put_funded(pool)
    await put_account(pool, "other")
    await put_hold(pool, "b")
    await put_hold(pool, "a", opened=9)
    await put_hold(pool, "a", opened=2, state="committed", committed=40, ended_at=NOW)
    await put_hold(pool, "c", state="released", ended_at=NOW)
    await put_hold(pool, "d", kind="charge", state=None, deadline=None, ended_at=NOW)
    await put_hold(pool, "e", account="other")

    async def ids(state: Any) -> list[list[tuple[str, str]]]:
        found = await pages(
            lambda after: lists.holds(pool, "acme", state=state, after=after, limit=2)
        )
        return [[(hold.id, hold.state) for hold in page] for page in found]

    assert await ids(None) == [
        [("a", "committed"), ("a", "held")],
        [("b", "held"), ("c", "released")],
    ]
    assert await ids("held") == [[("a", "held"), ("b", "held")]]
    assert await ids("released") == [[("c", "released")]]
    assert await ids("expired") == [[]]


async def test_open_holds_come_in_pages_too(pool: Pool) -> None:
    await put_account(pool, "acme")
    for i in range(5):
        await put_hold(pool, f"h-{i}")
    found = await pages(lambda after: lists.holds(pool, "acme", state="held", after=after, limit=2))
    assert [[hold.id for hold in page] for page in found] == [
        ["h-0", "h-1"],
        ["h-2", "h-3"],
        ["h-4"],
    ]


@pytest.mark.parametrize("state", [None, "held"])
async def test_a_hold_has_its_amounts_times_and_the_balances(pool: Pool, state: Any) -> None:
    await put_funded(pool)
    amounts = {"committed": 5, "remaining": 35, "uncollected": 1}
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    fields = '{"kind": "hold", "metadata": "{\\"chat\\": 7}", "late": "1"}'
    await put_hold(pool, "h-1", **amounts, member="ann", fields=fields, deadline=tomorrow)
    await put_hold(pool, "h-2")  # its deadline has passed, and nothing has expired it yet

    live, due = (await lists.holds(pool, "acme", state=state, after=None, limit=10)).data

    assert (live.account, live.member, live.amount) == ("acme", "ann", 40)
    assert {name: getattr(live, name) for name in amounts} == amounts
    assert (live.metadata, live.late) == ({"chat": 7}, True)
    assert (live.available, live.held, live.receipt.version) == (60, 40, 3)
    assert (live.created_ms, live.deadline_ms) == (NOW_MS, int(tomorrow.timestamp()) * 1000)
    assert (live.stale, due.stale, due.late, due.metadata) == (False, True, False, None)


# ── cursors ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 19, "٣"])
async def test_a_cursor_of_entries_is_a_version(pool: Pool, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await lists.entries(pool, "acme", after=cursor, limit=10)


@pytest.mark.parametrize("cursor", ["", "h-1", "h-1~", "~1", "h 1~1", "h-1~x"])
async def test_a_cursor_of_holds_is_ours(pool: Pool, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await lists.holds(pool, "acme", state=None, after=cursor, limit=10)


@pytest.mark.parametrize("cursor", ["", "a b", "a/b"])
async def test_a_cursor_of_accounts_is_an_id(pool: Pool, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await lists.accounts(pool, after=cursor, limit=10)
