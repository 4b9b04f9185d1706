"""The role that `serve` and `settle` run as: it adds to the journal and the audit, no more.

Who owns the tables can take the audit's trigger away; so the owner migrates, and a role that owns
nothing serves. Its rights are set anew by every `holdfast migrate --app-role NAME`, for a release
may bring tables.
"""

from __future__ import annotations

from holdfast import audit
from settlement.queries import Connection, sql
from settlement.schema import SchemaError


class RoleUnfit(SchemaError):
    """The role cannot be what the service runs as; nothing was granted."""


async def grant_to(conn: Connection, role: str, actor: str) -> None:
    """Leave `role` with exactly what serve and settle need. Repeating it changes nothing.

    Raises RoleUnfit, and what asyncpg raises.
    """
    found = await conn.fetchrow(sql("role_find"), role)
    if found is None:
        raise RoleUnfit(f"there is no role {role}: make it first, with a password and LOGIN")
    if found["superuser"] or found["owner"]:
        why = "is a superuser" if found["superuser"] else "owns the tables, or can act as who does"
        raise RoleUnfit(f"{role} {why}, and so could change the audit: name another role")
    await conn.execute(sql("migration_lock"))  # Postgres refuses two who grant on one table at once
    try:
        async with conn.transaction():
            for row in await conn.fetch(sql("role_grants"), role):
                await conn.execute(row["statement"])
            await audit.record(conn, actor=actor, action="role.grant", subject=f"role:{role}")
    finally:
        if not conn.is_closed():
            await conn.execute(sql("migration_unlock"))
