"""The command without stores: what it reads, what it prints, how it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.main import get_command

from holdfast import cli, config
from holdfast.cli import output, places, services
from holdfast.cli.output import MAX_AMOUNT, credits, parse_amount, plain, table
from holdfast.cli.sides import inspection_as_text
from holdfast.inspection import Inspection
from holdfast.standing import Line


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service, no store, no dev: whatever the shell that runs the tests has set."""
    for name in ("HOLDFAST_URL", "HOLDFAST_API_KEY", "HOLDFAST_REDIS_URL", "HOLDFAST_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("REDIS_URL", "DATABASE_URL", "HOLDFAST_SHARDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path))
    monkeypatch.setattr(config, "load", config.Config)


# ── amounts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1500000", 1_500_000),
        ("1.5cr", 1_500_000),
        ("12cr", 12_000_000),
        ("0.000001cr", 1),
        ("0.1000000000cr", 100_000),
        ("9000000000cr", MAX_AMOUNT),
    ],
)
def test_an_amount_is_microcredits_or_credits(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+1", "1.5", "1e6", "1_000", "1,000", " 1", "NaN", "infcr", "cr", ".5cr"),
        *("1.cr", "0.0000001cr", "-1cr", "9000000000.000001cr", str(MAX_AMOUNT + 1), "٣", "1.5CR"),
        "9" * 10_000,
    ],
)
def test_anything_else_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|microcredits"):
        parse_amount(text)


@given(st.integers(min_value=0, max_value=MAX_AMOUNT))
def test_an_amount_reads_as_it_is_shown(amount: int) -> None:
    assert parse_amount(credits(amount).replace(",", "") + "cr") == amount
    assert credits(-amount).removeprefix("-") == credits(amount)


def test_amounts_are_shown_in_credits() -> None:
    assert credits(1_234_567_890_123) == "1,234,567.890123"
    assert credits(-1) == "-0.000001"
    assert credits(None) == ""


# ── printing ─────────────────────────────────────────────────────────────────────────────────────


def test_what_callers_wrote_cannot_command_the_terminal() -> None:
    assert plain("a\x1b[2Jb\r\nc\x9b") == "a�[2Jb��c�"


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_folds_what_is_long_and_cuts_nothing(width: int) -> None:
    account, amount = "x" * 128, credits(MAX_AMOUNT)
    screen = Console(file=io.StringIO(), width=width)
    screen.print(
        table(
            ("account", "available"), [(account, amount)], numbers={"available"}, folds={"account"}
        )
    )
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("x") == len(account)
    assert amount in shown
    assert max(map(len, shown.splitlines())) <= width


def test_json_has_times_with_a_zone_and_no_floats_of_amounts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.show_json({"at": datetime(2027, 1, 2, 3, 4, 5, 678_000, UTC), "amount": MAX_AMOUNT})
    assert json.loads(capsys.readouterr().out) == {
        "at": "2027-01-02T03:04:05.678Z",
        "amount": MAX_AMOUNT,
    }


def inspection(*lines: Line) -> Inspection:
    row: dict[str, Any] = {"state": "open", "generation": 3, "mark": 7, "proof_at": None}
    return Inspection(
        account="acme",
        prefix="hf",
        shard=17,
        node="127.0.0.1:6379",
        keys=[],
        meta={"generation": "3", "seq": "8"},
        leases={"new": 0, "finish": 1500},
        row=row,
        lines=list(lines),
        entries=[],
        unsettled=[],
        quarantined=[],
        incidents=[],
        summary="The stores disagree in available.",
        differs=True,
    )


def test_an_inspection_marks_what_differs_and_ends_with_what_it_means() -> None:
    found = inspection(
        Line("available", "5000000", "4000000", "amount", "differs"),
        Line("held", "1", "0", "amount", "unsettled"),
        Line("grant g1", "0 0 250", "what is no grant", "grant", "differs"),
        Line("member bob", "- - 1000000", "", "limits", "same"),
    )
    screen = Console(file=io.StringIO(), width=80)
    screen.print(*inspection_as_text(found), sep="\n")
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    shown = {line.split()[1]: line.split() for line in lines if line[:1] in ("≠", "…")}
    assert shown["available"] == ["≠", "available", "5.000000", "4.000000"]
    assert shown["held"] == ["…", "held", "0.000001", "0.000000"]
    assert any("what is no grant" in line for line in lines)
    assert any("1.000000 a hold" in line for line in lines)
    assert lines[-1].strip() == "The stores disagree in available."


# ── how commands end ─────────────────────────────────────────────────────────────────────────────


def test_wrong_usage_is_64(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["frob"],
        ["account", "show"],
        ["charge", "acme", "1.5"],
        ["charge", "acme", "0.0000001cr"],
        ["grant", "acme", "1cr", "--expires-at", "2027-01-01"],
        ["account", "set", "acme", "--max-open-holds", "many", "--metadata", "{}"],
        ["account", "open", "acme", "--metadata", "[1]"],
        ["account", "set", "acme"],
        ["hold", "extend", "acme", "h1"],
        ["rebuild"],
        ["rebuild", "3", "--all"],
        ["journal", "tail", "acme", "--shard", "3"],
        ["replay", "--url", "http://127.0.0.1:1", "--api-key", "k", "--speed", "fast"],
    ):
        assert cli.main(arguments) == 64, arguments
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.strip()


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["migrate"], {"HOLDFAST_SHARDS": "0"}, "HOLDFAST_SHARDS"),
        (["settle"], {"HOLDFAST_DURABILITY": "always"}, "HOLDFAST_DURABILITY"),
        (["serve"], {}, "HOLDFAST_REDIS_URL"),
        (["settle"], {"REDIS_URL": "redis://127.0.0.1:1"}, "HOLDFAST_DATABASE_URL"),
        (["migrate"], {}, "HOLDFAST_DATABASE_URL"),
        (["migrate"], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "Postgres cannot be"),
        (["migrate"], {"DATABASE_URL": "mysql://127.0.0.1:1/x"}, "HOLDFAST_DATABASE_URL"),
        (["serve"], {"REDIS_URL": "http://x", "DATABASE_URL": "x"}, "HOLDFAST_REDIS_URL"),
        (["account", "list"], {}, "HOLDFAST_URL"),
        (["account", "list"], {"HOLDFAST_URL": "http://127.0.0.1:1"}, "HOLDFAST_API_KEY"),
        (["account", "list"], {"HOLDFAST_URL": "x", "HOLDFAST_API_KEY": "k"}, "http"),
        (["inspect", "acme"], {}, "HOLDFAST_DATABASE_URL"),
        (["key", "list"], {"REDIS_URL": "redis://x"}, "HOLDFAST_DATABASE_URL"),
        (["reconcile"], {"DATABASE_URL": "postgresql://x/y"}, "HOLDFAST_REDIS_URL"),
        (["reconcile"], {"DATABASE_URL": "x", "REDIS_URL": "http://x"}, "HOLDFAST_REDIS_URL"),
        (["dev"], {"HOLDFAST_SHARDS": "many"}, "HOLDFAST_SHARDS"),
    ],
)
def test_wrong_configuration_is_78_and_one_line(
    arguments: list[str],
    environment: dict[str, str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(arguments) == 78
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert named in printed.err


def test_a_service_that_is_away_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    away = ["--url", "http://127.0.0.1:1", "--api-key", "k"]
    assert cli.main(["charge", "acme", "1cr", "--key", "once", *away]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "repeated with --key once" in printed.err


def test_what_is_not_confirmed_is_not_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    away = ["--url", "http://127.0.0.1:1", "--api-key", "k"]
    assert cli.main(["account", "close", "acme", *away]) == 1
    printed = capsys.readouterr()
    assert "Close acme for good?" in printed.err
    assert printed.out == ""


def test_a_bug_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(services, "configuration", broken)
    assert cli.main(["migrate"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


# ── finding the service and the stores ───────────────────────────────────────────────────────────


def write_dev_state(directory: Path) -> None:
    state = {
        "url": "http://127.0.0.1:4711",
        "api_key": "dev-key",
        "redis_url": "redis://127.0.0.1:4712/0",
        "database_url": "postgresql://127.0.0.1:4713/holdfast",
    }
    (directory / "dev.json").write_text(json.dumps(state))


def test_a_running_dev_is_found(tmp_path: Path) -> None:
    write_dev_state(tmp_path)
    assert places.address(None, None) == ("http://127.0.0.1:4711", "dev-key")
    assert places.address(None, "mine") == ("http://127.0.0.1:4711", "mine")
    assert places.store_configuration().redis_url == "redis://127.0.0.1:4712/0"


def test_the_key_of_dev_goes_nowhere_else(tmp_path: Path) -> None:
    write_dev_state(tmp_path)
    with pytest.raises(output.Failure, match="HOLDFAST_API_KEY"):
        places.address("http://elsewhere", None)


def test_options_go_before_the_environment_and_that_before_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dev_state(tmp_path)
    monkeypatch.setenv("HOLDFAST_URL", "http://configured")
    monkeypatch.setenv("HOLDFAST_API_KEY", "configured")
    monkeypatch.setenv("HOLDFAST_REDIS_URL", "redis://configured")
    assert places.address(None, None) == ("http://configured", "configured")
    assert places.address("http://given", "given") == ("http://given", "given")
    stores = places.store_configuration()
    assert stores.redis_url == "redis://configured"
    assert stores.database_url == "postgresql://127.0.0.1:4713/holdfast"


def test_a_broken_dev_json_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text("[1")
    assert places.dev_state(config.Config()) == {}


# ── help ─────────────────────────────────────────────────────────────────────────────────────────


def commands(command: Any = None, *path: str) -> list[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its path."""
    command = command or get_command(cli.app)
    found = []
    for name, inner in getattr(command, "commands", {}).items():
        found += commands(inner, *path, name)
    return found or [(path, command)]


def test_every_command_that_ends_can_answer_in_json() -> None:
    running = {("dev",), ("serve",), ("settle",)}
    without = {
        path
        for path, command in commands()
        if not any("--json" in each.opts for each in command.params)
    }
    assert without == running


def test_every_command_and_option_says_what_it_is_for() -> None:
    for path, command in commands():
        assert command.help, path
        for each in command.params:
            is_plain = each.param_type_name == "argument" and each.name != "of"
            assert each.help or is_plain or each.name in _SELF_EVIDENT, (path, each.name)


_SELF_EVIDENT = {"state", "expires_at", "rounds"}


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 refused", "2 could not be decided", "64 wrong usage", "78 wrong"):
        assert code in shown


def test_the_command_is_there_before_what_it_needs_is_imported() -> None:
    heavy = ("asyncpg", "pydantic", "uvicorn", "starlette", "structlog", "hiredis", "httpx2")
    script = f"import sys, holdfast.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_release_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("holdfast ")
