"""`holdfast dev` as its user meets it: the command, its HTTP, commands beside it, and deaths."""

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from holdfast.embedded import Valkey
from holdfast.staging import temporary_directory
from tests.acceptance.running import Dev, Service, holdfast, until

# Where nobody listens: for what must not be reached.
NOWHERE = "postgresql://127.0.0.1:1/holdfast"


def new_account() -> str:
    return f"acct-{secrets.token_hex(4)}"


# ── what a caller and an operator see ────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def api(dev_service: dict[str, Any]) -> Iterator[Service]:
    with Service(dev_service["url"], dev_service["api_key"]) as service:
        yield service


def settled(api: Service, account: str, count: int) -> list[dict[str, Any]]:
    """The journal of an account, once it has so many entries."""
    until(lambda: len(api.entries(account)) >= count, f"{count} entries of {account}")
    return api.entries(account)


def test_what_is_answered_is_in_the_journal(api: Service) -> None:
    account = new_account()
    api.open(account, 5_000_000)

    reserved = api.reserve(account, "call-1", 2_000_000)
    committed = api.commit(account, "call-1", 1_250_000)

    assert (reserved.status_code, committed.status_code) == (201, 200)
    assert committed.json()["available"] == 3_750_000
    entries = settled(api, account, 4)
    assert [(entry["type"], entry["amount"]) for entry in entries] == [
        ("open", None),
        ("grant", 5_000_000),
        ("reserve", 2_000_000),
        ("commit", 1_250_000),
    ]
    assert [entry["version"] for entry in entries] == [1, 2, 3, 4]
    assert all(entry["settled_at"] >= entry["at"] for entry in entries)


def test_a_settled_answer_is_in_the_journal_already(dev_service: dict[str, Any]) -> None:
    account = new_account()
    headers = {
        "Authorization": f"Bearer {dev_service['api_key']}",
        "Holdfast-Durability": "settled",
        "Idempotency-Key": "g1",
    }
    with httpx2.Client(base_url=dev_service["url"], headers=headers, trust_env=False) as http:
        http.put(f"/v1/accounts/{account}", json={})
        granted = http.post(f"/v1/accounts/{account}/grants", json={"amount": 100})
        assert granted.json()["durability"] == "settled"
        entries = http.get(f"/v1/accounts/{account}/entries").json()["data"]
    assert [entry["type"] for entry in entries] == ["open", "grant"]


def test_an_operator_sees_the_same(api: Service, dev_service: dict[str, Any]) -> None:
    """Given an account that has spent, I expect every command beside dev to agree about it."""
    account = new_account()
    api.open(account, 5_000_000)
    api.reserve(account, "call-1", 2_000_000)
    settled(api, account, 3)
    beside = {"HOLDFAST_DATA": dev_service["data"]}

    shown = holdfast("account", "show", account, "--json", **beside)
    inspected = holdfast("inspect", account, "--json", **beside)
    reconciled = holdfast("reconcile", "--json", **beside)
    diagnosed = holdfast("doctor", "--json", **beside)

    assert shown.code == 0, shown.err
    assert (shown.json["available"], shown.json["held"]) == (3_000_000, 2_000_000)
    assert inspected.code == 0, inspected.out + inspected.err
    assert inspected.json["account"] == account
    assert reconciled.code == 0, reconciled.out + reconciled.err
    assert (reconciled.json["exit_code"], reconciled.json["findings"]) == (0, [])
    assert diagnosed.code == 0, diagnosed.out + diagnosed.err


# ── deaths ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    """A dev whose programs may be killed; each test leaves it ready."""
    with temporary_directory("holdfast-acceptance-") as directory:
        dev = Dev(directory / "data")
        dev.start()
        yield dev
        assert dev.stop() == 0, dev.said.read_text()


def assert_not_now(answer: httpx2.Response) -> None:
    """A refusal that says what is wrong, and when to come again."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json()
    assert problem["code"] in ("store_unavailable", "outcome_unknown", "overloaded"), problem
    assert problem["retryable"] is True


class Caller:
    """Reserves, one hold after the other, each under its key until it is answered."""

    def __init__(self, service: Service, account: str) -> None:
        self.account = account
        self.held: list[str] = []
        self.refused = 0
        self._service = service

    def try_once(self, *, may_be_away: bool = False) -> bool:
        """One request, which must be answered in time: with a hold, or with "not now"."""
        key = f"h{len(self.held)}"
        try:
            answer = self._service.reserve(self.account, key, 1)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):  # a time-out is neither
            assert may_be_away, "only a killed API may leave a request without an answer"
            return False
        if answer.status_code in (200, 201):
            self.held.append(key)
            return True
        assert_not_now(answer)
        self.refused += 1
        return False

    def assert_kept(self) -> None:
        """What was answered is there, once, also in the journal."""
        entries = settled(self._service, self.account, 2 + len(self.held))
        reserved = [
            entry["hold"] or entry["key"] for entry in entries if entry["type"] == "reserve"
        ]
        assert reserved == self.held
        account = self._service.call("GET", self.account).json()
        assert account["held"] == len(self.held)

    def is_settled(self, hold: str) -> bool:
        """Whether the journal has a hold, which only a worker that lives brings there."""
        entries = self._service.call("GET", f"{self.account}/entries?limit=1000")
        if entries.status_code != 200:
            assert_not_now(entries)
            return False
        return any(hold in (entry["hold"], entry["key"]) for entry in entries.json()["data"])


@pytest.fixture
def caller(dev: Dev) -> Iterator[Caller]:
    account = new_account()
    with dev.service() as service:
        service.open(account, 1_000_000)
        caller = Caller(service, account)
        for _ in range(5):
            assert caller.try_once()
        yield caller


@pytest.mark.parametrize("name", ["worker", "redis", "postgres", "api"])
def test_what_is_killed_comes_back(dev: Dev, caller: Caller, name: str) -> None:
    """Given a caller at work, If a program is killed, I expect "not now" at worst, never silence,
    and all that was answered to be there afterwards."""
    before, held = dev.state, len(caller.held)
    old = dev.kill(name)

    def goes_on() -> bool:
        return caller.try_once(may_be_away=name == "api") and dev.pid(name) != old

    until(goes_on, f"a hold after another {name} was started")
    # A lease that was still good may have let it through: what is settled shows that all is back.
    until(lambda: goes_on() and caller.is_settled(caller.held[held]), "a hold that is settled")

    if name == "redis":  # closed until a worker has vetted what came back
        assert caller.refused > 0
    assert {**dev.state, "pids": None} == {**before, "pids": None}
    assert {**dev.state["pids"], name: None} == {**before["pids"], name: None}
    caller.assert_kept()
    reconciled = dev.command("reconcile", "--json")
    assert reconciled.code == 0, reconciled.out + reconciled.err


def test_a_store_that_is_silent_is_not_waited_for(dev: Dev, caller: Caller) -> None:
    """Given a Redis that takes requests and answers none, I expect "not now", in time."""
    pid = dev.pid("redis")
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert not caller.try_once()
    finally:
        os.kill(pid, signal.SIGCONT)

    until(caller.try_once, "a hold")
    caller.assert_kept()
    assert dev.pid("redis") == pid


# ── starts ───────────────────────────────────────────────────────────────────────────────────────


def assert_one_line(said: str, *words: str) -> None:
    (line,) = said.splitlines()
    for word in words:
        assert word in line


def test_a_restart_keeps_everything(dev: Dev, caller: Caller) -> None:
    """Given data made for 64 shards, If dev is stopped, told 32, and started as it was, I expect
    it to refuse the second of these with a line, and to have all of its data after the third."""
    before = dev.state
    assert dev.stop() == 0
    assert not (dev.data / "dev.json").exists()
    lost = dev.command("account", "show", caller.account)
    dev.begin(HOLDFAST_SHARDS="32")
    code, said = dev.ended()
    dev.start()

    assert lost.code == 78, "a command needs to be told where the service is"
    assert code != 0
    assert_one_line(said, "HOLDFAST_SHARDS", "32", "64")
    assert dev.state["api_key"] == before["api_key"]
    with dev.service() as service:
        account = service.call("GET", caller.account).json()
        assert (account["available"], account["held"]) == (1_000_000 - 5, 5)
        assert service.commit(caller.account, "h0", 1).status_code == 200
        replayed = service.reserve(caller.account, "h1", 1)
        assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (200, "true")


def test_a_second_dev_is_refused(dev: Dev) -> None:
    second = Dev(dev.data)
    second.said = dev.said.with_name("second.said")
    before = dev.state
    second.begin()
    code, said = second.ended()
    assert code == 1
    assert dev.running is not None
    assert said == f"holdfast dev in {dev.data} is in use by pid {dev.running.pid}\n"
    assert dev.state == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HOLDFAST_SHARDS", "many"), ("HOLDFAST_DURABILITY", "forever"), ("HOLDFAST_PREFIX", "Ü")],
)
def test_a_setting_that_is_none_ends_every_start(tmp_path: Path, variable: str, value: str) -> None:
    ended = holdfast("dev", "--data", str(tmp_path / "data"), **{variable: value})
    assert ended.code == 78
    assert_one_line(ended.err, variable, value)


# ── stores that others run ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Valkey]:
    """A Valkey that evicts what it has no room for."""
    with (
        temporary_directory("holdfast-acceptance-") as directory,
        Valkey.start(
            directory / "valkey", extra_args=("--maxmemory-policy", "allkeys-lru")
        ) as server,
    ):
        yield server


@pytest.mark.parametrize("program", ["migrate", "settle", "serve", "dev"])
def test_a_redis_that_evicts_is_refused(forgetful: Valkey, tmp_path: Path, program: str) -> None:
    words = (program, "--data", str(tmp_path / "data")) if program == "dev" else (program,)
    ended = holdfast(*words, REDIS_URL=forgetful.url, DATABASE_URL=NOWHERE)
    assert ended.code == (1 if program == "dev" else 78), ended.out + ended.err
    assert_one_line(ended.out + ended.err, "maxmemory-policy", "allkeys-lru", "noeviction")


def test_doctor_says_how_to_mend_it(forgetful: Valkey, dev_service: dict[str, Any]) -> None:
    stores = {"REDIS_URL": forgetful.url, "HOLDFAST_DATA": dev_service["data"]}
    ended = holdfast("doctor", "--json", **stores)
    assert ended.code == 1, ended.out + ended.err
    assert "noeviction" in json.dumps(ended.json)
