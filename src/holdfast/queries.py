"""SQL texts: one statement a file, each file opening with a comment that says what it is for.

sql = loader("holdfast")
sql("list_entries")   # holdfast/sql/list_entries.sql, without its description
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files


def loader(package: str) -> Callable[[str], str]:
    """A reader of `<package>/sql/<name>.sql`, which keeps every text that it has read.

    The reader raises FileNotFoundError for a name that has no file, ValueError for a file that does
    not open with a description.
    """

    @cache
    def read(name: str) -> str:
        text = files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
        lines = text.splitlines()
        if not lines or not lines[0].startswith("-- "):
            raise ValueError(f"{package}/sql/{name}.sql does not open with a description")
        while lines and lines[0].startswith("--"):
            del lines[0]
        return "\n".join(lines).strip()

    return read


sql = loader("holdfast")
