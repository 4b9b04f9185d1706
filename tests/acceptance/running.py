"""A `holdfast dev` of a test's own, to be killed in parts, and commands beside one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.acceptance.conftest import clean_environment

PATIENCE_S = 60  # bounds a wait for what comes in seconds, on a machine that is busy
POLL_S = 0.02
# An answer comes within 2.5 s. What takes twice that hangs, also on a machine that is busy.
HANG_S = 5.0
HOLDFAST = (sys.executable, "-m", "holdfast")

_pause = threading.Event()  # never set


def until(probe: Callable[[], bool], what: str) -> None:
    """Look again and again, until `probe` is true."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        if probe():
            return
        _pause.wait(POLL_S)
    raise AssertionError(f"never happened: {what}")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def holdfast(*words: str, **environment: str) -> Ended:
    """A command that ends by itself, in the environment of nobody but the test."""
    ended = subprocess.run(
        (*HOLDFAST, *words),
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class Service:
    """The API of a running dev, as a caller sees it."""

    def __init__(self, url: str, api_key: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Any = None, key: str = "") -> httpx2.Response:
        """One request. Raises httpx2.TimeoutException for an answer that does not come."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._http.request(method, f"/v1/accounts/{path}", json=body, headers=headers)

    def open(self, account: str, amount: int) -> None:
        """An account with so much in it, as soon as its shard is open."""
        until(lambda: self._done("PUT", account, {}), f"{account} is opened")
        grant = ("POST", f"{account}/grants", {"amount": amount}, "opening")
        until(lambda: self._done(*grant), f"{account} gets its grant")

    def _done(self, method: str, path: str, body: Any, key: str = "") -> bool:
        answer = self.call(method, path, body, key)
        assert answer.status_code in (200, 201, 503), answer.text
        return answer.status_code != 503

    def reserve(self, account: str, key: str, amount: int) -> httpx2.Response:
        return self.call("POST", f"{account}/holds", {"amount": amount}, key)

    def commit(self, account: str, hold: str, amount: int) -> httpx2.Response:
        return self.call("POST", f"{account}/holds/{hold}/commit", {"amount": amount})

    def accounts(self, prefix: str) -> list[dict[str, Any]]:
        """Accounts whose ids begin so, up to 1,000, as the journal has them; none while it is
        away."""
        answer = self._http.get("/v1/accounts", params={"prefix": prefix, "limit": 1000})
        assert answer.status_code in (200, 503), answer.text
        found: list[dict[str, Any]] = answer.json().get("data", [])
        return found

    def entries(self, account: str) -> list[dict[str, Any]]:
        """The journal of an account, all of it."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.call("GET", f"{account}/entries?limit=1000{after}").json()
            found += page["data"]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"


class Dev:
    """`holdfast dev` on a data directory, started when asked, with what it says in a file."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.said = data.with_name(f"{data.name}.said")
        self.running: subprocess.Popen[bytes] | None = None

    def begin(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start it; whether it comes up is another question."""
        words = ("dev", "--port", "0", "--data", str(self.data))
        with self.said.open("wb") as said:
            self.running = subprocess.Popen(
                (*HOLDFAST, *words),
                stdout=said,
                stderr=subprocess.STDOUT,
                env=clean_environment() | environment,
            )
        return self.running

    def start(self, **environment: str) -> None:
        """Start it, and wait until it is ready."""
        running = self.begin(**environment)
        path = self.data / "dev.json"

        def ready() -> bool:
            assert running.poll() is None, self.said.read_text()
            return path.exists()

        until(ready, "dev.json")

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        assert self.running is not None
        return self.running.wait(PATIENCE_S), self.said.read_text()

    def stop(self) -> int:
        """Ctrl-C."""
        assert self.running is not None
        self.running.send_signal(signal.SIGINT)
        return self.ended()[0]

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.data / "dev.json").read_text())
        return state

    def pid(self, name: str) -> int:
        pid: int = self.state["pids"][name]
        return pid

    def kill(self, name: str) -> int:
        """SIGKILL one of its programs; the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def await_another(self, name: str, old: int) -> None:
        """Until dev.json has another pid for a program."""
        until(lambda: self.pid(name) != old, f"a new {name}")

    def service(self) -> Service:
        return Service(self.state["url"], self.state["api_key"])

    def command(self, *words: str) -> Ended:
        """A command of an operator, beside this dev."""
        return holdfast(*words, HOLDFAST_DATA=str(self.data))
