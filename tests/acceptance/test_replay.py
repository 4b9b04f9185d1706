"""`holdfast replay`: a trace of LLM calls against the real service, whose books are then compared.

The replay compares by itself. Here its verdict is compared with what the service says of the same
accounts, also when the service was killed in between, and when its books were changed behind it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast.staging import temporary_directory
from tests.acceptance.conftest import clean_environment
from tests.acceptance.running import HOLDFAST, PATIENCE_S, Dev, Ended, Service, holdfast, until

ACCOUNTS = "20"


class Replaying:
    """A replay that goes on in the background, at the pace of its trace."""

    def __init__(self, running: subprocess.Popen[str], service: Service) -> None:
        self.running = running
        self._service = service

    def await_spending(self, more_than: int = 0) -> int:
        """Until the journal has spendings above this; how much it has. In microcredits."""
        spent = 0

        def has_spent() -> bool:
            nonlocal spent
            goes_on = self.running.poll() is None  # one that has ended has all in the journal
            spent = sum(account["spent"] for account in self._service.accounts("replay-"))
            assert goes_on or spent > more_than, "the replay ended too soon"
            return spent > more_than

        until(has_spent, "the replay spends")
        return spent

    def ended(self) -> Ended:
        out, err = self.running.communicate(timeout=PATIENCE_S)
        return Ended(self.running.returncode, out, err)


@contextmanager
def replaying(service: Service, data: str, *words: str) -> Iterator[Replaying]:
    """`holdfast replay` of a drawn trace, while the block runs."""
    running = subprocess.Popen(
        (*HOLDFAST, "replay", "--accounts", ACCOUNTS, "--json", *words),
        env=clean_environment() | {"HOLDFAST_DATA": data},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:  # closes its pipes, and waits for it
        try:
            yield Replaying(running, service)
        finally:
            running.kill()


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    """A dev whose programs are killed."""
    with temporary_directory("holdfast-acceptance-") as directory:
        dev = Dev(directory / "data")
        dev.start()
        yield dev
        assert dev.stop() == 0, dev.said.read_text()


def assert_agrees(report: dict[str, Any], calls: int) -> None:
    assert report["differences"] == []
    assert report["agrees"] is True
    assert report["not_compared"] is None
    assert (report["calls"], report["unknown"], report["unfinished"]) == (calls, 0, 0)
    assert report["committed"] + report["released"] == calls
    assert report["committed"] > report["released"] > 0


def assert_journalled(service: Service, report: dict[str, Any]) -> None:
    """Every commit that was acknowledged to the replay is in the journal, and no other is."""
    accounts = [f"{report['prefix']}-{number:05d}" for number in range(int(ACCOUNTS))]
    entries = [
        entry
        for account in accounts
        if service.call("GET", account).status_code == 200
        for entry in service.entries(account)
    ]
    commits = [entry for entry in entries if entry["type"] == "commit"]
    assert len(entries) == report["entries_compared"]
    assert len({entry["hold"] for entry in commits}) == len(commits) == report["committed"]
    assert sum(entry["amount"] for entry in commits) == report["credits_committed"]


def test_a_replay_agrees(dev_service: dict[str, Any]) -> None:
    replay = ("replay", "--limit", "600", "--accounts", ACCOUNTS)
    ended = holdfast(*replay, "--json", HOLDFAST_DATA=dev_service["data"])
    assert ended.code == 0, ended.out + ended.err
    assert_agrees(ended.json, 600)
    with Service(dev_service["url"], dev_service["api_key"]) as service:
        assert_journalled(service, ended.json)

    ended = holdfast(*replay, "--seed", "2", HOLDFAST_DATA=dev_service["data"])
    assert ended.code == 0, ended.out + ended.err
    assert "The service's books agree with every answer it gave" in ended.out


def test_a_replay_survives_deaths(dev: Dev) -> None:
    """Given a replay, If the worker and then Valkey are killed, I expect its books to agree."""
    with (
        dev.service() as service,
        replaying(service, str(dev.data), "--limit", "600", "--speed", "15x") as replay,
    ):
        spent = replay.await_spending()
        for name in ("worker", "redis"):
            dev.await_another(name, dev.kill(name))
            spent = replay.await_spending(spent)
        ended = replay.ended()
        assert ended.code == 0, ended.out + ended.err
        report = ended.json
        assert report["errors"], "nobody noticed a death"
        assert_agrees(report, 600)
        assert_journalled(service, report)
    reconciled = dev.command("reconcile", "--json")
    assert reconciled.code == 0, reconciled.out + reconciled.err


def test_a_replay_finds_what_others_did(dev_service: dict[str, Any]) -> None:
    """Given a replay, If somebody else grants to one of its accounts, I expect it to say which."""
    with (
        Service(dev_service["url"], dev_service["api_key"]) as service,
        replaying(service, dev_service["data"], "--limit", "60", "--speed", "6x") as replay,
    ):
        before = {account["account"] for account in service.accounts("replay-")}
        new: list[str] = []

        def has_begun() -> bool:
            now = {account["account"] for account in service.accounts("replay-")}
            new[:] = sorted(now - before)
            return bool(new)

        until(has_begun, "an account of the replay")
        assert replay.running.poll() is None, "the replay ended too soon"
        granted = service.call("POST", f"{new[0]}/grants", {"amount": 7}, "not-the-replays")
        assert granted.status_code == 201, granted.text
        ended = replay.ended()

    assert ended.code == 1, ended.out + ended.err
    report = json.loads(ended.out)
    assert report["agrees"] is False
    assert {difference["account"] for difference in report["differences"]} == {new[0]}
    (total,) = (found for found in report["differences"] if found["what"] == "granted")
    expected, found = (int(total[side].replace(",", "")) for side in ("expected", "found"))
    assert found - expected == 7
