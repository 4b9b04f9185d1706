"""What an operator does, with the command as it is run, on a service with a worker."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import redis

from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from tests.site import Site, until


@pytest.fixture(scope="module")
def service(
    valkey_server: Valkey,
    postgres_server: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A whole holdfast: migrated, a worker, two API processes, and a key in the environment."""
    made = Site(valkey_server.url, postgres_server.url, tmp_path_factory.mktemp("site"))
    made.create()
    assert made.run("migrate").code == 0
    made.env["HOLDFAST_URL"] = made.url
    made.env["HOLDFAST_API_KEY"] = made.ok("key", "create", "--name", "t", "--scopes", "all")["key"]
    serve = ("serve", "--port", str(made.port), "--workers", "2")
    with made.running("settle"), made.running(*serve) as api:
        made.ready(api)
        yield made
    made.drop()


def test_metrics_are_of_all_processes(service: Site) -> None:
    calls = 40
    for _ in range(calls):
        # A connection each, so that both processes get some.
        httpx2.get(f"{service.url}/livez", trust_env=False)

    def counted() -> float:
        text = httpx2.get(f"{service.url}/metrics", trust_env=False).text
        lines = (line for line in text.splitlines() if "holdfast_call_seconds_count" in line)
        return sum(float(line.split()[-1]) for line in lines if 'call="livez"' in line)

    assert counted() >= calls


# ── accounts, holds and money ────────────────────────────────────────────────────────────────────


def test_a_hold_from_its_reserve_to_its_refund(service: Site) -> None:
    ok = service.ok
    assert ok("account", "open", "a1", "--daily-limit", "50cr", "--plan", "gold")["plan"] == "gold"
    assert ok("grant", "a1", "10cr", "--source", "promo", "--key", "g1")["amount"] == 10_000_000
    hold = ok("hold", "reserve", "a1", "2.5cr", "--key", "h1", "--member", "bob")
    assert (hold["state"], hold["amount"], hold["replayed"]) == ("held", 2_500_000, False)
    assert ok("hold", "reserve", "a1", "2.5cr", "--key", "h1", "--member", "bob")["replayed"]
    assert ok("hold", "extend", "a1", "h1", "--add", "1cr", "--ttl", "600")["amount"] == 3_500_000
    part = ok("hold", "commit", "a1", "h1", "1000000", "--partial", "--key", "p1")
    assert (part["committed"], part["remaining"]) == (1_000_000, 2_500_000)
    assert ok("hold", "commit", "a1", "h1", "0.5cr")["committed"] == 1_500_000
    assert ok("charge", "a1", "1cr", "--key", "c1")["amount"] == 1_000_000
    assert ok("refund", "a1", "h1", "--amount", "0.25cr")["amount"] == 250_000
    ok("hold", "reserve", "a1", "1cr", "--key", "h2")
    assert ok("hold", "release", "a1", "h2", "--reason", "failed")["state"] == "released"
    account = ok("account", "show", "a1")
    assert account["available"] == 10_000_000 - 1_500_000 - 1_000_000 + 250_000
    assert account["held"] == 0

    shown = service.run("account", "show", "a1")
    assert "7.750000" in shown.out
    assert shown.err == ""
    held = until(lambda: ok("hold", "list", "a1", "--state", "released")["data"])
    assert [each["id"] for each in held] == ["h2"]
    assert "3.500000" in service.run("hold", "show", "a1", "h1").out


def test_usage_and_forecast_of_an_account(service: Site) -> None:
    ok = service.ok
    ok("account", "open", "u1")
    ok("grant", "u1", "10cr", "--key", "g1")
    ok("charge", "u1", "1.5cr", "--key", "c1", "--member", "bob", "--model", "a/large")
    ok("charge", "u1", "0.5cr", "--key", "c2")
    usage = ("usage", "u1", "--by", "day,member")
    lines = until(lambda: len(found := ok(*usage)["data"]) == 2 and found)
    assert [(each["member"], each["spent"]) for each in lines] == [
        (None, 500_000),
        ("bob", 1_500_000),
    ]
    today = lines[0]["day"]
    shown = service.run(*usage, "--from", today, "--to", today, "--member", "bob")
    assert [line.split() for line in shown.out.splitlines() if "bob" in line] == [
        [today, "bob", "1.500000", "1.500000", "1"]
    ]
    models = ok("usage", "u1", "--by", "model")["data"]
    assert [(each["model"], each["spent"]) for each in models] == [
        (None, 500_000),
        ("a/large", 1_500_000),
    ]
    ok("account", "set", "u1", "--models", "a/small,b:1")
    assert "a/small, b:1" in service.run("account", "show", "u1").out
    other = service.run("hold", "reserve", "u1", "1cr", "--model", "a/large")
    assert (other.code, "models does not allow this reserve" in other.err) == (1, True)
    assert ok("account", "set", "u1", "--models", "none")["limits"]["models"] is None
    refused = service.run("usage", "u1", "--from", "2024-01-01")
    assert (refused.code, refused.out) == (1, "")
    assert "at most 365 days before `to`" in refused.err
    for wrong in (("--by", "hour"), ("--from", "yesterday")):
        assert service.run("usage", "u1", *wrong).code == 64

    forecast = ok("account", "forecast", "u1")
    assert (forecast["available"], forecast["burn_per_day"]) == (8_000_000, 2_000_000)
    assert "2.000000" in service.run("account", "forecast", "u1").out
    assert service.run("account", "forecast", "u1x").code == 1


def test_refusals_are_1_and_change_nothing(service: Site) -> None:
    service.ok("account", "open", "a2", "--max-hold", "5cr")
    service.ok("grant", "a2", "3cr", "--key", "g1")
    for arguments, code in (
        (("hold", "reserve", "a2", "4cr"), "insufficient_credits"),
        (("hold", "reserve", "a2", "6cr"), "limit_exceeded"),
        (("grant", "a2", "4cr", "--key", "g1"), "idempotency_key_reused"),
        (("hold", "show", "a2", "none"), "hold_not_found"),
        (("account", "set", "a2x", "--plan", "x"), "account_not_found"),
        (("account", "freeze", "a2x"), "account_not_found"),
        (("account", "close", "a2", "--yes"), "account_not_empty"),
    ):
        refused = service.run(*arguments, "--json")
        assert (refused.code, refused.out) == (1, ""), refused
        assert code in refused.err
    assert service.run("account", "show", "a2x").code == 1
    assert service.ok("account", "show", "a2")["available"] == 3_000_000


def test_settings_are_set_and_taken_away(service: Site) -> None:
    ok = service.ok
    ok("account", "open", "a3", "--daily-limit", "1cr", "--max-open-holds", "3")
    changed = ok("account", "set", "a3", "--daily-limit", "none", "--metadata", '{"team": "x"}')
    assert changed["limits"]["daily_limit"] is None
    assert changed["limits"]["max_open_holds"] == 3
    assert changed["metadata"] == {"team": "x"}
    assert ok("account", "freeze", "a3")["status"] == "frozen"
    assert ok("account", "thaw", "a3")["status"] == "active"
    ok("member", "set", "a3", "bob", "--daily-limit", "2cr", "--max-hold", "1cr")
    assert ok("member", "set", "a3", "bob", "--max-hold", "none")["limits"] == {
        "daily_limit": 2_000_000,
        "monthly_limit": None,
        "max_hold": None,
    }
    assert ok("member", "show", "a3", "bob")["limits"]["daily_limit"] == 2_000_000
    assert ok("account", "close", "a3", "--yes")["status"] == "closed"


def test_lists_go_on_where_they_ended(service: Site) -> None:
    for number in range(3):
        service.ok("account", "open", f"page-{number}")
    until(lambda: len(service.ok("account", "list", "--prefix", "page-")["data"]) == 3)
    page = service.ok("account", "list", "--prefix", "page-", "--limit", "2")
    rest = service.ok("account", "list", "--prefix", "page-", "--after", page["next"])
    assert [each["account"] for each in rest["data"]] == ["page-2"]
    assert (
        f"--after {page['next']}"
        in service.run(*("account", "list", "--prefix", "page-", "--limit", "2")).err
    )


def test_a_wrong_key_is_configuration(service: Site) -> None:
    assert service.run("account", "list", HOLDFAST_API_KEY="hf_no").code == 78


# ── the journal, keys, incidents, quarantine ─────────────────────────────────────────────────────


def test_the_journal_is_followed(service: Site) -> None:
    service.ok("account", "open", "j1")
    until(lambda: service.ok("journal", "tail", "j1")["data"])
    with service.running("journal", "tail", "j1", "--follow", "--json") as tail:
        until(lambda: tail.log.read_text().count("\n") >= 1)
        service.ok("grant", "j1", "1cr", "--key", "g1")
        service.ok("charge", "j1", "1", "--key", "c1")
        until(lambda: tail.log.read_text().count("\n") >= 3)
        assert tail.end(signal.SIGINT) == 130
    entries = [json.loads(line) for line in tail.log.read_text().splitlines()]
    assert [each["type"] for each in entries] == ["open", "grant", "charge"]
    assert [each["version"] for each in entries] == [1, 2, 3]

    shard = entries[0]["shard"]
    last = service.ok("journal", "tail", "--shard", str(shard), "--limit", "1")["data"]
    assert [each["shard"] for each in last] == [shard]
    shown = service.run("journal", "tail", "j1", COLUMNS="80")
    assert [line.split()[3] for line in shown.out.splitlines()[2:]] == ["open", "grant", "charge"]
    assert max(map(len, shown.out.splitlines())) <= 80


def test_keys_are_made_listed_and_revoked(service: Site) -> None:
    made = service.ok(
        "key", "create", "--name", "ci", "--scopes", "read,spend", "--accounts", "t-*"
    )
    assert made["scopes"] == ["read", "spend"]
    assert made["key"].startswith(f"hf_{made['id']}_")
    as_made = {"HOLDFAST_API_KEY": made["key"]}
    assert service.run("account", "list", "--json", **as_made).code == 0
    forbidden = service.run("account", "open", "t-1", **as_made)
    assert (forbidden.code, "forbidden" in forbidden.err) == (1, True)
    listed = service.ok("key", "list")["data"]
    assert made["id"] in [each["id"] for each in listed]
    assert "key" not in listed[0]
    assert service.ok("key", "revoke", made["id"])["revoked_at"]
    assert service.run("key", "revoke", "nobody").code == 1
    assert service.run("key", "create", "--name", "x", "--scopes", "root").code == 1


def test_incidents_are_shown_and_closed(service: Site) -> None:
    assert service.run("rebuild", "0", stdin="n\n").code == 1
    rebuilt = service.ok("rebuild", "0", "--yes", "--by", "alice")
    (incident,) = rebuilt["incidents"]
    assert (rebuilt["shards"], incident["details"]["asked_by"]) == ([0], "cli:alice")
    number = str(incident["id"])
    assert service.ok("incident", "show", number)["kind"] == "rebuild"
    assert number in service.run("incident", "list", "--open").out
    assert service.ok("incident", "close", number, "--by", "alice")["closed_by"] == "cli:alice"
    assert service.run("incident", "close", number).code == 1
    assert service.run("incident", "show", "999999").code == 1
    assert service.ok("incident", "list", "--open")["data"] == []
    until(lambda: service.run("account", "list").code == 0)


def quarantined(service: Site, account: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = service.ok("quarantine", "list", account, "--open")["data"]
    return data


def test_an_entry_is_let_out_of_quarantine(service: Site) -> None:
    """An entry that contradicts the tables waits until somebody has looked at it."""
    ok = service.ok
    ok("account", "open", "q1")
    ok("grant", "q1", "1cr", "--key", "g1", "--durability", "settled")
    service.execute("UPDATE account SET version = 7 WHERE account = 'q1'")
    ok("charge", "q1", "0.4cr", "--key", "c1")
    waiting = until(lambda: quarantined(service, "q1"))[-1]
    number = str(waiting["id"])
    assert "version" in waiting["error"]
    assert ok("quarantine", "show", number)["state"] == "open"
    looked = service.run("inspect", "q1")
    assert looked.code == 1
    assert "quarantine" in looked.out

    refused = service.run("quarantine", "apply", number, "--yes")
    assert refused.code == 1
    assert "nothing was changed" in refused.err
    assert service.run("quarantine", "apply", number, stdin="\n").code == 1
    service.execute("UPDATE account SET version = 2 WHERE account = 'q1'")
    until(lambda: ok("account", "show", "q1")["status"] == "frozen")
    assert ok("quarantine", "apply", number, "--yes", "--by", "bob")["account"] == "q1"
    assert ok("quarantine", "show", number)["ended_by"] == "cli:bob"
    assert service.run("quarantine", "show", "999999").code == 1
    ok("account", "thaw", "q1")
    until(lambda: service.run("reconcile", "q1").code == 0)


def test_an_entry_is_voided(service: Site) -> None:
    ok = service.ok
    ok("account", "open", "q2")
    ok("grant", "q2", "1cr", "--key", "g1", "--durability", "settled")
    wrong = "available = 2, granted = 2, base = 2"
    service.execute(f"UPDATE account SET {wrong} WHERE account = 'q2'")
    ok("charge", "q2", "0.4cr", "--key", "c1")
    waiting = until(lambda: quarantined(service, "q2"))[-1]
    until(lambda: ok("account", "show", "q2")["status"] == "frozen")
    number = str(waiting["id"])
    assert service.run("quarantine", "void", number, "--yes").code == 64  # no reason
    ok("quarantine", "void", number, "--reason", "a test", "--yes")
    shown = ok("quarantine", "show", number)
    assert (shown["state"], bool(shown["correction"])) == ("voided", True)


# ── reconcile and inspect ────────────────────────────────────────────────────────────────────────


def test_a_wrong_balance_is_found_in_two_commands(service: Site, valkey_server: Valkey) -> None:
    service.ok("account", "open", "w1")
    service.ok("grant", "w1", "5cr", "--key", "g1", "--durability", "settled")
    assert service.run("reconcile", "w1").code == 0
    clean = service.run("inspect", "w1")
    assert (clean.code, clean.out.splitlines()[-1]) == (0, "The stores agree.")

    server = redis.Redis.from_url(valkey_server.url, decode_responses=True)
    (key,) = server.keys(f"{service.name}:*:acct:w1")
    server.hincrby(key, "available", 1)
    differs = service.run("reconcile", "w1")
    assert (differs.code, "holdfast inspect w1" in differs.err) == (1, True)
    assert service.run("reconcile", "w1", "--json").json["exit_code"] == 1
    found = service.run("inspect", "w1")
    assert found.code == 1
    assert found.out.splitlines()[-1] == "The stores disagree in available."
    (line,) = [line.split() for line in found.out.splitlines() if line.startswith("≠")]
    assert line == ["≠", "available", "5.000001", "5.000000"]
    document = service.run("inspect", "w1", "--json").json
    assert document["differs"] is True
    assert document["summary"] == "The stores disagree in available."
    server.hincrby(key, "available", -1)
    server.close()
    assert service.run("inspect", "w1").code == 0
    assert service.run("inspect", "nobody").code == 1
    assert service.run("reconcile", "nobody").code == 2


def test_stores_that_are_away_are_2(service: Site) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    away = {"HOLDFAST_REDIS_URL": f"redis://{nobody}/0"}
    assert service.run("reconcile", **away).code == 2
    assert service.run("inspect", "w1", **away).code == 2
    assert service.run("doctor", "--json", **away).json["exit_code"] in (1, 2)
    away = {"HOLDFAST_DATABASE_URL": f"postgresql://holdfast:x@{nobody}/holdfast"}
    for command in (("journal", "tail"), ("key", "list"), ("incident", "list"), ("doctor",)):
        assert service.run(*command, **away).code == 2, command


def test_doctor_of_a_service_that_is_well(service: Site) -> None:
    """All is well but for what a test does not do: Postgres here does not sync."""
    report = service.run("doctor", "--json").json
    failing = {c["name"] for c in report["checks"] if c["level"] not in ("ok", "warn")}
    assert failing <= {"fsync", "quarantine"}
    shown = service.run("doctor", COLUMNS="80").out
    assert "→ ALTER SYSTEM SET fsync = on" in shown


# ── load ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_replay_is_audited(service: Site) -> None:
    report = service.run("replay", "--limit", "50", "--accounts", "3", "--json")
    assert report.code == 0, report
    assert report.json["agrees"] is True
    assert report.json["calls"] == 50


def test_a_load_is_driven(service: Site) -> None:
    load = ("--seconds", "0.3", "--warm-up", "0.1", "--connections", "2", "--accounts", "5")
    assert service.ok("bench", "drive", *load)["errors"] == {}
    assert "requests/s" in service.run("bench", "drive", *load).out
    assert service.run("bench", "drive", *load[2:], "--seconds", "9999").code == 64


def test_a_plan_gives_credits_and_limits(service: Site) -> None:
    service.ok("plan", "put", "gold", "--credits", "5cr", "--max-hold", "2cr")
    service.ok("account", "open", "p1", "--plan", "gold")
    states = ("allowance", "history", "p1")
    until(lambda: [each["state"] for each in service.ok(*states)["data"]] == ["applied"])
    account = service.ok("account", "show", "p1")
    assert (account["available"], account["limits"]["max_hold"]) == (5_000_000, 2_000_000)
    service.ok("plan", "put", "gold", "--credits", "5cr", "--max-hold", "3cr")
    until(lambda: service.ok("account", "show", "p1")["limits"]["max_hold"] == 3_000_000)
    assert len(service.ok(*states)["data"]) == 1
