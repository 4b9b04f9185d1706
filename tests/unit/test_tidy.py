"""Rules of style that a test can see. What breaks one for a reason stands in a table, with it."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sources import (
    CODE,
    DEFINITIONS,
    FUNCTIONS,
    LUA,
    OURS,
    PYTHON,
    ROOT,
    SQL,
    TREES,
    definitions,
    everything,
    strings_of,
)


def none_of(found: Iterable[str]) -> None:
    """Fails with everything that was found, a line each."""
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)


def all_excused(found: dict[str, str], reasons: dict[str, str]) -> None:
    """Fails for what was found and has no reason, and for reasons of what is no longer found."""
    unexplained = [said for name, said in found.items() if name not in reasons]
    none_of(unexplained + [f"{name} needs no reason any more" for name in reasons.keys() - found])


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────


class Limit(NamedTuple):
    """Lines up to which nobody asks, and lines that no reason makes good."""

    soft: int
    hard: int


LUA_FILE, MODULE, FUNCTION = Limit(120, 250), Limit(400, 700), Limit(70, 120)

SIZE_REASONS = {
    "lua/commit.lua": "the hot path writes its entry and its keys outright, each said once",
    "settlement/worker.py": "the settle loop and what starts it are read together",
    "src/holdfast/client/calls.py": "one function a call of the contract, alike, and nothing else",
    "src/holdfast/http/routes.py": "one row a route, alike, and what finds one",
    "src/holdfast/ledger.py": "one method a transition, alike, and nothing else",
    "src/holdfast/telemetry.py": "one table of all metrics, one of all events, and their writers",
    "src/holdfast/wire.py": "one protocol: topology and redirections share its state",
    "tests/integration/test_dev.py": "one suite for one supervisor and its stand-in",
    "tests/integration/test_http.py": "one suite for one surface on one running server",
    "tests/integration/test_journal.py": "one suite for one settle, on one set of builders",
    "tests/integration/test_reconcile.py": "one suite for one comparison, on one set of builders",
    "tests/integration/test_vetting.py": "one suite for one decision, on one set of builders",
    "tests/integration/test_wire_on_valkey.py": "one suite for one module, on real servers",
    "tests/integration/test_worker.py": "one suite for one loop, then for its whole process",
    "tests/unit/test_client.py": "one suite for both clients, each test against both",
    "tests/unit/test_wire.py": "one suite for one module, on one scripted peer",
}


def sizes() -> Iterator[tuple[str, int, Limit]]:
    for path, text in LUA.items():
        yield path, len(text.splitlines()), LUA_FILE
    for path, text in PYTHON.items():
        yield path, len(text.splitlines()), MODULE
        for node in definitions(path):
            if isinstance(node, FUNCTIONS):
                assert node.end_lineno is not None
                yield f"{path}::{node.name}", node.end_lineno - node.lineno + 1, FUNCTION


def test_what_is_long_has_a_reason() -> None:
    long = {
        name: f"{name} has {lines} lines, more than {limit.soft}"
        for name, lines, limit in sizes()
        if lines > limit.soft
    }
    all_excused(long, SIZE_REASONS)


def test_nothing_is_longer_than_any_reason_allows() -> None:
    none_of(f"{n} has {lines} lines" for n, lines, limit in sizes() if lines > limit.hard)


# A line of a script's contract is read by tools, one line each.
CONTRACT = re.compile(r"-- (PURPOSE|KEYS|ARGV|RETURNS|CODES|APPENDS) ")


def test_lines_of_scripts_and_statements_end_at_column_100() -> None:
    """Ruff looks at Python's lines."""
    none_of(
        f"{path}:{number} has {len(line)} columns"
        for path, text in (LUA | SQL).items()
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > 100 and not CONTRACT.match(line)
    )


# ── names ────────────────────────────────────────────────────────────────────────────────────────

BANNED = {
    *("transaction", "lock", "sync", "process", "handle", "handler", "manager"),
    *("util", "utils", "helper", "helpers"),
}
VERSIONED = re.compile(r"_?[vV]\d+$")
LUA_FUNCTION = re.compile(r"\bfunction (\w+)")

NAME_REASONS = {
    "settlement/sql/migration_lock.sql": "an advisory lock of Postgres, by its own name",
    "settlement/sql/quarantine_lock.sql": "locks rows of Postgres, by its own name",
    "src/holdfast/bench.py::process_cpu_s": "the CPU time of an operating system's process",
    "tests/integration/test_allowances.py::transaction": "stands for asyncpg's, by its own name",
    "tests/integration/test_worker.py::WorkerProcess": "an operating system's process",
}


def names() -> Iterator[tuple[str, str]]:
    """Where each name is, and the name. Tests are named by sentences."""
    for path in (*PYTHON, *LUA, *SQL):
        if not Path(path).name.startswith("test_"):
            yield path, Path(path).stem
    for path in PYTHON:
        for node in definitions(path):
            if not node.name.startswith("test_"):
                yield f"{path}::{node.name}", node.name
    for path, text in LUA.items():
        yield from ((f"{path}::{name}", name) for name in LUA_FUNCTION.findall(text))


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_names_say_what_a_thing_is() -> None:
    found = {
        where: f"{where} is a name that says nothing, or means something else here"
        for where, name in names()
        if words_of(name) & BANNED or VERSIONED.search(name)
    }
    all_excused(found, NAME_REASONS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SessionManager", {"session", "manager"}),
        ("HTTPHandle", {"http", "handle"}),
        ("_sync_all", {"sync", "all"}),
        ("asynchronous", {"asynchronous"}),
    ],
)
def test_names_are_read_word_by_word(name: str, words: set[str]) -> None:
    assert words_of(name) == words


# ── one place for each thing ─────────────────────────────────────────────────────────────────────

ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "envvar"}

ENVIRONMENT_REASONS = {
    "src/holdfast/bench_http.py": "hands its own environment on to the programs that it starts",
    "src/holdfast/cli/output.py": "asks if a terminal's width is set, as rich does; no setting",
    "src/holdfast/cli/services.py": "sets what the API's own workers read through config.py",
    "src/holdfast/dev.py": "hands its own environment on to the programs that it starts",
    "src/holdfast/telemetry.py": "sets what prometheus_client reads when it is imported",
}


def touches_the_environment(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        named = (
            (isinstance(node, ast.Attribute) and node.attr)
            or (isinstance(node, ast.alias) and node.name)
            or (isinstance(node, ast.keyword) and node.arg)
        )
        if named in ENVIRONMENT:
            return True
    return False


def test_one_place_reads_the_environment() -> None:
    found = {
        path: f"{path} touches the environment; config.py reads it"
        for path, tree in OURS.items()
        if path != "src/holdfast/config.py" and touches_the_environment(tree)
    }
    all_excused(found, ENVIRONMENT_REASONS)


# Parts of the names of keys: a hash tag, a family, a fixed key of a shard.
KEY_LIKE = re.compile(
    r":\{(?:\d|\*|$)|\}:|\b(?:acct|open|members):(?!\s)|:acct\b|lease:(?:new|finish)"
    r"|:(?:meta|stream|due)\b"
)

KEY_REASONS: dict[str, str] = {}


def strings_like(pattern: re.Pattern[str], but: str = "") -> dict[str, str]:
    """Strings of our code that a pattern finds; all of a file count as one."""
    return {
        path: f"{path}:{line} has {text[:60]!r}"
        for path in OURS
        if path != but
        for line, text in strings_of(path)
        if pattern.search(text)
    }


def test_keys_are_built_in_one_place() -> None:
    found = strings_like(KEY_LIKE, but="src/holdfast/keys.py")
    all_excused(found, KEY_REASONS)


STATEMENT = re.compile(
    r"\bSELECT\s+[\w*]|\bINSERT\s+INTO\b|\bUPDATE\s+\w+\s+SET\b|\bDELETE\s+FROM\b|\bTRUNCATE\s+\w"
    r"|\b(?:CREATE|ALTER|DROP)\s+(?:TABLE|INDEX|DATABASE|ROLE|SYSTEM|SCHEMA)\b"
    r"|\bMERGE\s+INTO\b|\bCOPY\s+\w+\s*\("
)

STATEMENT_REASONS = {
    "settlement/archive_rules.py": "advice to an operator, which is not executed",
    "src/holdfast/checks.py": "advice to an operator, which is not executed",
    "src/holdfast/pgdata.py": "makes the embedded server itself, before there is a connection",
    "src/holdfast/postgres.py": "asks whether Postgres answers, and no table",
}


def test_statements_are_in_files_of_their_own() -> None:
    all_excused(strings_like(STATEMENT), STATEMENT_REASONS)


def test_every_statement_is_described_and_used() -> None:
    said = "\n".join(text for path, text in PYTHON.items() if path.startswith(CODE))
    used = set(re.findall(r"\"(\w+)\"", said))
    for path, text in SQL.items():
        assert text.startswith("-- "), f"{path} does not open with what it is for"
        if "/migrations/" not in path:
            assert Path(path).stem in used, f"nobody uses {path}"


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_what_others_call_has_a_docstring() -> None:
    none_of(
        f"{path}:{node.lineno} {node.name}"
        for path, tree in OURS.items()
        for node in tree.body
        if isinstance(node, DEFINITIONS)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    )
    none_of(path for path, tree in OURS.items() if not ast.get_docstring(tree))


SLEEP_REASONS = {
    "src/holdfast/bench_http.py": "another process tells nobody when it is ready",
    "src/holdfast/children.py": "flock has no timeout; a deadline bounds the loop",
    "src/holdfast/client/blocking.py": "a blocking client waits before a repeat",
    "src/holdfast/programs.py": "the kernel tells nobody when a port becomes free",
    "tests/integration/test_wire_on_valkey.py": "a cluster tells nobody when it has formed",
}


def sleeps(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        for node in ast.walk(tree)
    )


def test_nobody_sleeps_where_something_can_be_awaited() -> None:
    found = {path: f"{path} sleeps" for path, tree in TREES.items() if sleeps(tree)}
    all_excused(found, SLEEP_REASONS)


UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
NOT_RUN = re.compile(r"\b(?:xfail|skipif|importorskip)\b|\b(?:pytest|mark)\.skip")
THIS_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/")
# Written in pieces, for this file names no host either.
REGISTRY = re.compile(
    "|".join(("pypi" r"\.org", "pythonhosted", "npm" r"js\.(?:org|com)", "crates" r"\.io"))
)
WORKPLACE = re.compile(
    r"\bissues? ?#|\b(?:this|last|next|previous|earlier|another|my) session\b"
    r"|shar"
    r"ed/(?:design|protocol|style|ecosystem|conformance)",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(UNFINISHED, id="unfinished"),
        pytest.param(NOT_RUN, id="not run"),
        pytest.param(THIS_MACHINE, id="this machine"),
        pytest.param(REGISTRY, id="registry"),
        pytest.param(WORKPLACE, id="workplace"),
    ],
)
def test_some_words_are_never_written(pattern: re.Pattern[str]) -> None:
    none_of(
        f"{path}:{number}: {line.strip()[:90]}"
        for path, text in everything().items()
        if path != Path(__file__).relative_to(ROOT).as_posix()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    )


@pytest.mark.parametrize(
    ("pattern", "bad", "good"),
    [
        (KEY_LIKE, ":{*}:", "key:0123"),
        (KEY_LIKE, "acct:", "open: commit it first"),
        (KEY_LIKE, "lease:new", "lease"),
        (STATEMENT, "SELECT 1", "SELECT"),
        (STATEMENT, "UPDATE shard SET mark = 1", "UPDATE "),
        (UNFINISHED, "TODO: later", "todos"),
        (NOT_RUN, "@pytest.mark.skip", "skipped"),
        (THIS_MACHINE, " /root/x", "var/root.md"),
        (REGISTRY, "https://" + "pypi" + ".org/simple", "PyPI"),
        (WORKPLACE, "see issue #12", "the session holds it"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], bad: str, good: str) -> None:
    assert pattern.search(bad)
    assert not pattern.search(good)
