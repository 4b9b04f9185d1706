"""Who knows whom: what one part of the code may import from another, and why."""

import sys

import pytest

from tests.sources import OURS, imports_of, module_of

# What settlement may know of holdfast, and why.
SETTLEMENT_KNOWS = {
    "audit": "the rows that a settle or an operator adds to the audit",
    "codes": "what scripts answer",
    "compensator": "what is owed for failed work, and how it is given once",
    "config": "the settings of the process",
    "decisions": "cold loads of the sweeper and grants of the outbox go through it",
    "errors": "what a cold load and a grant raise",
    "keys": "names of keys, the grammar of ids",
    "ledger": "the outbox grants as any caller does",
    "model": "who asks for what the outbox grants",
    "outbox": "what is owed, and how it is applied once",
    "payments": "what payment providers told",
    "purchases": "names of payments in Redis",
    "plans": "the settings that a plan writes",
    "postgres": "the errors that the pool of cold loads raises, and that pool",
    "queries": "the reader of SQL files",
    "scripts": "names and texts of scripts",
    "shards": "calls of scripts",
    "telemetry": "the one table of metrics and events",
    "trials": "what says that an account pays, and how a trial ends",
    "webhooks": "kinds of events, and where they may be sent",
    "wire": "the connection to Redis",
}

# Who in holdfast may know settlement, and why. The service itself does not.
KNOW_SETTLEMENT = {
    "holdfast.checks": "doctor: what the worker demands of the stores",
    "holdfast.cli": "operators' commands",
    "holdfast.doctor": "doctor: likewise",
    "holdfast.inspection": "inspect: reads the stream as the worker does",
    "holdfast.moment": "inspect: verifies the entries behind the mark as the worker does",
    "holdfast.standing": "inspect: folds entries as the worker does",
}


def knows(module: str, package: str) -> set[str]:
    """What the modules of `module` import from `package`, one level below it."""
    return {
        imported.removeprefix(f"{package}.").split(".")[0]
        for path in OURS
        if f"{module_of(path)}.".startswith(f"{module}.")
        for imported in imports_of(path)
        if imported.startswith(f"{package}.")
    }


def test_settlement_knows_only_this_of_holdfast() -> None:
    assert knows("settlement", "holdfast") == SETTLEMENT_KNOWS.keys()
    assert SETTLEMENT_KNOWS.keys() & {"http", "console", "cli", "client"} == set()


def test_only_operators_commands_know_settlement() -> None:
    found = {
        module_of(path)
        for path in OURS
        if module_of(path).startswith("holdfast")
        for imported in imports_of(path)
        if imported.split(".")[0] == "settlement"
    }
    known = tuple(f"{module}." for module in KNOW_SETTLEMENT)
    assert {module for module in found if not f"{module}.".startswith(known)} == set()


def test_the_client_knows_nothing_of_the_server() -> None:
    here = {path for path in OURS if module_of(path).startswith("holdfast.client")}
    assert here
    for path in here | {"src/holdfast/__init__.py"}:
        for imported in imports_of(path):
            alone = imported.startswith("holdfast.client") or imported == "httpx2"
            assert alone or imported.split(".")[0] in sys.stdlib_module_names, (path, imported)


@pytest.mark.parametrize("layer", ["ledger", "decisions", "cold", "shards", "wire", "keys"])
def test_the_ledger_knows_no_surface(layer: str) -> None:
    assert knows(f"holdfast.{layer}", "holdfast") & {"http", "console", "cli", "client"} == set()
