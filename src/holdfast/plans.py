"""Plans: what accounts on one may do, and what they are given by period.

    PUT plan ──▶ plan (Postgres), a new revision ──▶ worker: settings of the accounts that follow it
    PUT account {plan} ──▶ settings (Redis): the plan's name and limits ──▶ account_plan, allowance

The limits of a plan are written into the settings of its accounts, by the same transition as any
settings: the scripts check them atomically, and know no plans. What somebody sets on an account
apart from its plan stays, until a plan is assigned to it again.

Where no plan is defined, an account's `plan` is a word of the caller's own, and means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from typing import Any, Final, Literal

from holdfast import audit
from holdfast.arguments import models_text
from holdfast.decisions import Level
from holdfast.errors import InvalidRequest, NotFound
from holdfast.keys import is_id
from holdfast.ledger import Ledger
from holdfast.model import Account, Context
from holdfast.postgres import Pool
from holdfast.queries import sql

LIMITS: Final = ("max_hold", "daily_limit", "monthly_limit", "max_open_holds", "models")
"""The settings of an account that a plan writes; None takes one away."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a plan is. Amounts in microcredits; None: no credits, no limit."""

    credits_per_period: int | None = None
    period: Literal["month", "anniversary"] = "month"
    rollover_cap: int = 0
    """The most that is carried from one period into the next."""
    max_hold: int | None = None
    daily_limit: int | None = None
    monthly_limit: int | None = None
    max_open_holds: int | None = None
    models: list[str] | None = None
    """Those that may be used; None: all."""
    paid: bool = False
    """Whoever is on it pays: he is not on trial."""

    @property
    def limits(self) -> dict[str, Any]:
        """The settings that it writes."""
        return {name: getattr(self, name) for name in LIMITS}


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan by its name. `revision` counts the changes of its definition, from 1."""

    name: str
    revision: int
    definition: Definition
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the list of plans, and the cursor of the next one, or None at the end."""

    data: list[Plan]
    next: str | None


def _plan(row: Mapping[str, Any]) -> Plan:
    definition = Definition(**{field.name: row[field.name] for field in fields(Definition)})
    return Plan(row["name"], row["revision"], definition, row["created_at"], row["updated_at"])


def _checked_name(name: str) -> str:
    if not is_id(name):
        raise InvalidRequest.of_field("name", "must be 1 to 128 characters of A-Z a-z 0-9 _ . : -")
    return name


# ── definitions ──────────────────────────────────────────────────────────────────────────────────


async def put(
    pool: Pool, name: str, definition: Definition, *, by: audit.Caller
) -> tuple[Plan, bool]:
    """Define a plan, or define it anew; answers it, and whether it is new.

    The worker brings the limits of the accounts that follow it up to date; credits change with the
    next period of each. Raises InvalidRequest for a name that is none, or for models that are
    none, StoreUnavailable.
    """
    if definition.models is not None:
        models_text(definition.models)
    values = (_checked_name(name), *asdict(definition).values())
    async with pool.acquire() as conn, conn.transaction():
        row = {"subject": f"plan:{name}", "after": asdict(definition)}
        # Made first and looked for after: so it is there for one of two who make it at once.
        made = await conn.fetchrow(sql("insert_plan"), *values)
        if made is not None:
            await audit.record_as(by, conn, action="plan.create", **row)
            return _plan(made), True
        before = _plan(await conn.fetchrow(sql("find_plan_for_change"), name))
        after = _plan(await conn.fetchrow(sql("update_plan"), *values))
        if after.revision != before.revision:
            was = asdict(before.definition)
            await audit.record_as(by, conn, action="plan.change", **row, before=was)
        return after, False


async def find(pool: Pool, name: str) -> Plan:
    """A plan by its name. Raises NotFound, InvalidRequest, StoreUnavailable."""
    row = await pool.fetchrow(sql("find_plan"), _checked_name(name))
    if row is None or row["name"] is None:
        raise NotFound(f"there is no plan {name!r}")
    return _plan(row)


async def page(pool: Pool, after: str | None = None, limit: int = 100) -> Page:
    """Plans by name, those after `after`. Raises StoreUnavailable."""
    rows = await pool.fetch(sql("list_plans"), after or "", limit + 1)
    data = [_plan(row) for row in rows[:limit]]
    return Page(data, data[-1].name if len(rows) > limit else None)


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────


async def assign(
    ledger: Ledger,
    account: str,
    settings: Mapping[str, Any],
    *,
    context: Context,
    by: audit.Caller,
    durability: Level | None = None,
    anchor: date | None = None,
    needs_credits: bool = False,
) -> Account:
    """Change settings of an account of which one is `plan`, or open it with them.

    The plan's limits go with it, but for those that `settings` has itself. Its credits begin with
    the period under way; for an account that is given credits already, the change counts from its
    next period. None takes plan and allowance away, and leaves the limits.

    Raises what put_account raises, InvalidRequest for a plan that does not exist where plans are
    defined (with `needs_credits`, also for one that gives none), StoreUnavailable. Repeated with
    the same settings after any failure, it ends as if it had not failed.
    """
    plan = await _wanted(ledger.pool, settings["plan"], needs_credits)
    if plan is not None:
        settings = plan.definition.limits | dict(settings)
    answer = await ledger.put_account(account, settings, context=context, durability=durability)
    seq = 0 if answer.receipt is None else answer.receipt.seq
    async with ledger.pool.acquire() as conn, conn.transaction():
        if plan is None:
            if await conn.fetchval(sql("unassign_plan"), account, seq) is not None:
                await _note_assignment(conn, by, account, None, anchor)
            return answer
        limits = plan.definition.limits.values()
        shard = ledger.shards.number_of(account)
        row = (account, shard, plan.name, plan.revision, *limits, seq)
        if await conn.fetchval(sql("assign_plan"), *row) is not None:
            await _note_assignment(conn, by, account, plan, anchor)
    return answer


async def _wanted(pool: Pool, name: str | None, needs_credits: bool) -> Plan | None:
    """The plan of that name; None where none is wanted, or no plan is defined at all."""
    if name is None:
        return None
    row = await pool.fetchrow(sql("find_plan"), name)
    if row is None or row["name"] is None:
        if row is not None and not row["any_defined"] and not needs_credits:
            return None
        raise InvalidRequest.of_field("plan", f"there is no plan {name!r}")
    plan = _plan(row)
    if needs_credits and plan.definition.credits_per_period is None:
        raise InvalidRequest.of_field("plan", f"plan {name!r} gives no credits")
    return plan


async def _note_assignment(
    conn: Any, by: audit.Caller, account: str, plan: Plan | None, anchor: date | None
) -> None:
    """What a new plan does to the account's allowance, and the row of the audit."""
    if plan is None:
        await conn.execute(sql("stop_allowance"), account)
    elif plan.definition.credits_per_period is None:
        await conn.execute(sql("move_allowance"), account, plan.name)
    else:
        today = datetime.now(UTC).date()
        await conn.execute(sql("start_allowance"), account, plan.name, anchor, today)
    after = {"plan": None if plan is None else plan.name}
    if anchor is not None:
        after["anchor"] = anchor.isoformat()
    subject = f"account:{account}"
    await audit.record_as(
        by, conn, action="plan.assign", subject=subject, account=account, after=after
    )
