"""Programs of a place: started, awaited, paused and killed by the test, and by its death.

Every wait has a deadline; what misses it fails with the end of the program's log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from holdfast.children import Child

HOST = "127.0.0.1"
PATIENCE_S = 30.0  # bounds what takes a second, on a machine that is busy
POLL_S = 0.01
HOLDFAST = (sys.executable, "-m", "holdfast")

# The API lets its requests finish within 6 s, the worker settles for 2 s.
_STOP_STEPS = ((signal.SIGTERM, 10.0),)
_NOT_UP = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)

R = TypeVar("R")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


async def to_its_end(call: Callable[[], R]) -> R:
    """Run a blocking call in a thread. A cancellation waits until it has ended, so that nothing is
    started that nobody knows of."""
    running = asyncio.create_task(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


async def together(*works: Coroutine[Any, Any, Any]) -> None:
    """All of them to their end; then the first failure, if there is one."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def children_of(pid: int) -> list[int]:
    """The children of a running program, as /proc has them: a Postgres's backends."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name stands in brackets and may hold anything; state and parent follow it.
            _, parent, *_ = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(parent) == pid:
            found.append(int(status.parent.name))
    return found


class Pause:
    """Programs stopped by SIGSTOP, until `end`.

    What is stopped takes no notice of the signal that it gets when this program dies: a shell waits
    for that, and kills it.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)
        watch = ("sh", "-c", 'read -r _ || kill -KILL "$@"', "sh", *map(str, self._pids))
        self._watch = subprocess.Popen(
            watch,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C must not end it before this program
        )
        self._signal(signal.SIGSTOP)
        for pid in self._pids:
            await_stopped(pid)

    def end(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)
        self._watch.communicate(b"\n", timeout=PATIENCE_S)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # killed meanwhile


def await_stopped(pid: int) -> None:
    """Wait until a SIGSTOP has taken effect: each thread first leaves the kernel, a moment."""
    deadline = time.monotonic() + PATIENCE_S
    tasks = Path(f"/proc/{pid}/task")
    states: list[str] = []
    while time.monotonic() < deadline:
        try:
            states = [(task / "stat").read_text().rpartition(")")[2][1] for task in tasks.iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            return  # it ended
        if set(states) <= set("TtZX"):
            return
    raise AssertionError(f"{pid} does not stop: {states}")


class Pausable:
    """What can be paused and resumed: a program, or a server with all its processes."""

    _pause: Pause | None = None

    @property
    def running(self) -> bool:
        """Whether it is there; a paused one is."""
        raise NotImplementedError

    @property
    def paused(self) -> bool:
        return self._pause is not None

    def _stop_all(self, pids: Sequence[int], what: str) -> None:
        assert self.running and not self.paused, f"{what} cannot be paused"
        self._pause = Pause(pids)

    def resume(self) -> None:
        """SIGCONT, if it is paused."""
        if self._pause is not None:
            self._pause.end()
            self._pause = None


class Program(Pausable):
    """`holdfast` with some arguments: an API or a worker, started as often as a test likes."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        directory: Path,
        env: Mapping[str, str],
        url: str = "",
    ) -> None:
        """`url` is where it serves HTTP, if it does. `env` may be changed between two starts."""
        self.name = name
        self.url = url
        self.log_path = directory / f"{name}.log"
        self.env = dict(env)
        self._command = (*HOLDFAST, *arguments)
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it; `ready` waits until it serves. It must not be running."""
        assert not self.running, f"{self.name} runs already"
        self._child = await to_its_end(self._spawn)

    def _spawn(self) -> Child:
        return Child(
            self.name,
            self._command,
            log_path=self.log_path,
            env=self.env,
            cwd=self.log_path.parent,
            death_signal=signal.SIGKILL,
        )

    async def ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it serves HTTP (GET /livez); shards may still be closed. Workers: no wait."""
        if not self.url:
            return
        async with httpx2.AsyncClient(base_url=self.url, trust_env=False) as client:
            deadline = time.monotonic() + timeout_s
            while True:
                assert self.running, f"{self.name} ended with {self.code}:\n{self.log_tail()}"
                try:
                    if (await client.get("/livez", timeout=1.0)).status_code == 200:
                        return
                except _NOT_UP:
                    pass  # not yet
                if time.monotonic() >= deadline:
                    raise AssertionError(
                        f"{self.name} does not serve {self.url} within {timeout_s:.0f} s:\n"
                        + self.log_tail()
                    )
                await asyncio.sleep(POLL_S)

    async def closed(self, client: httpx2.AsyncClient) -> str:
        """Why this API does not take new spending on every shard, or ''.

        Raises httpx2.TransportError.
        """
        answer = await client.get(f"{self.url}/readyz")
        if answer.status_code == 200 and not answer.json()["closed"]:
            return ""
        return f"{self.name}: {answer.status_code} {answer.text[:500]}"

    @property
    def child(self) -> Child:
        assert self._child is not None, f"{self.name} was never started"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def running(self) -> bool:
        """Whether it is there; a paused one is."""
        return self._child is not None and self._child.running

    @property
    def code(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""
        return self.child.exited.result() if self.child.exited.done() else None

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait until it ends by itself (a fail-point); its exit code."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(self.child.exited)
        except TimeoutError:
            raise AssertionError(
                f"{self.name} has not ended within {timeout_s:.0f} s:\n{self.log_tail()}"
            ) from None

    async def kill(self) -> None:
        """SIGKILL, also of a paused one."""
        if self._child is not None:
            await to_its_end(self._child.kill)
        self.resume()

    async def stop(self) -> None:
        """SIGTERM, and wait for the end; one that is paused is resumed first."""
        self.resume()
        if self.running:
            ended = await to_its_end(lambda: self.child.end(_STOP_STEPS))
            assert ended, f"{self.name} did not end when asked to:\n{self.log_tail()}"

    def pause(self) -> None:
        """SIGSTOP."""
        self._stop_all([self.pid], self.name)

    def log_tail(self) -> str:
        """The end of what its last run said."""
        return self.child.log_tail()
