"""The SQL of settlement: one statement a file in `settlement/sql/`, named by what it does.

No other module of settlement holds SQL.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from holdfast.queries import loader

# asyncpg has no types: a connection, one lent by a pool, and a pool. Their names say what is meant.
Connection: TypeAlias = Any
Pool: TypeAlias = Any

sql: Final = loader("settlement")
"""`sql(name)` is the statement in `settlement/sql/<name>.sql`, without its description. Raises
FileNotFoundError for a name that has no file, ValueError for a file without a description."""
