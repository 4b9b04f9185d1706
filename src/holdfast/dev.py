"""`holdfast dev`: Valkey, Postgres, the API and the worker on this machine, kept running.

Below the data directory: `valkey/`, `postgres/`, `logs/`, `api_key`, and, while the service is
ready, `dev.json` with the URL, the key, the stores and the pids.

States of a program: started, ended, started again at once, with the same port and data, and so on
until dev is told to stop. What ends five times in ten seconds waits up to five seconds. Before the
service was ready for the first time, a program that refuses its settings (exit code 78), or that
ends five times, ends dev with what it said. If dev is killed, its programs end with it; what
survives all the same is found by its claim, and waited for or named by the next start.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2

from holdfast import config
from holdfast.children import ChildError, Claim, free_port, write_private
from holdfast.embedded import HOST, Postgres, Valkey
from holdfast.programs import REFUSED_SETTINGS, Service, last_words, run_command

_DEATHS = 5
_DEATHS_WINDOW_S = 10.0
_LONGEST_PAUSE_S = 5.0
_READY_TIMEOUT_S = 120.0  # a first vetting of 64 shards takes a second
_READY_POLL_S = 0.05


# What a client sees of a server that is not up yet, or starts again.
_NOT_UP = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)


class DevError(Exception):
    """holdfast dev cannot go on; the text is the one thing to tell."""


class _Program(Protocol):
    """What dev keeps running."""

    @property
    def pid(self) -> int: ...
    @property
    def exited(self) -> Future[int]: ...
    def restart(self) -> None: ...
    def stop(self) -> bool: ...
    def log_tail(self) -> str: ...


P = TypeVar("P", bound=_Program)
R = TypeVar("R")


class _Supervisor:
    """Starts everything in order, keeps it running, stops it in order."""

    def __init__(self, port: int, data_dir: Path, api_workers: int) -> None:
        settings = config.load()
        self.failed: asyncio.Future[None] = asyncio.Future()
        self._data_dir = data_dir
        self._port = port or free_port()
        self._api_workers = api_workers
        self._redis_url = settings.redis_url
        self._database_url = settings.database_url
        self._api_key: str | None = None  # set once the service is ready
        self._loop = asyncio.get_running_loop()
        self._programs: dict[str, _Program] = {}
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    async def start(self) -> str:
        """Everything up to the first 200 of /readyz; the API key. Raises DevError, ChildError."""
        logs, data_dir, port = self._data_dir / "logs", self._data_dir, self._port
        if self._redis_url is None:
            valkey = await self._begin(
                "redis", lambda: Valkey.start(data_dir / "valkey", log_path=logs / "valkey.log")
            )
            valkey.on_spawn = self._state_changed
            self._redis_url = valkey.url
        if self._database_url is None:
            postgres = await self._begin(
                "postgres",
                lambda: Postgres.start(data_dir / "postgres", log_path=logs / "postgres.log"),
            )
            postgres.on_spawn = self._state_changed
            self._database_url = postgres.url
        env = {
            **os.environ,
            "HOLDFAST_REDIS_URL": self._redis_url,
            "HOLDFAST_DATABASE_URL": self._database_url,
        }
        await run_command(env, "migrate")
        await self._begin("worker", lambda: Service("worker", "settle", data_dir=data_dir, env=env))
        serve = ("serve", "--host", HOST, "--port", str(port), "--workers", str(self._api_workers))
        await self._begin(
            "api", lambda: Service("api", *serve, data_dir=data_dir, env=env, port=port)
        )
        ready = self._answer("/readyz", lambda answer: answer.status_code == 200)
        _, key = await asyncio.gather(ready, self._demo_key(env))
        self._api_key = key
        self._write_state()
        return key

    async def stop(self) -> None:
        """End everything, first what asks, then what answers; bounded by the programs' patience."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._api_key = None
        (self._data_dir / "dev.json").unlink(missing_ok=True)
        for name in ("api", "worker", "redis", "postgres"):
            program = self._programs.get(name)
            if program is not None and not await asyncio.to_thread(program.stop):
                _say(f"{name} did not end when it was asked to, and was killed")

    async def _begin(self, name: str, start: Callable[[], P]) -> P:
        """Start a program, in a thread, and keep it running from then on."""

        def begin() -> P:
            program = start()
            self._programs[name] = program  # here, so that a cancelled start is stopped too
            return program

        program = await _to_its_end(begin)
        keeper = asyncio.create_task(self._keep(name, program))
        keeper.add_done_callback(self._kept)
        self._keepers.append(keeper)
        return program

    async def _keep(self, name: str, program: _Program) -> None:
        """Start it again whenever it ends. The states are in the head of this module."""
        deaths: deque[float] = deque(maxlen=_DEATHS)
        while True:
            code = await asyncio.wrap_future(program.exited)
            deaths.append(self._loop.time())
            window_s = _DEATHS_WINDOW_S - (deaths[-1] - deaths[0])
            often = len(deaths) == _DEATHS and window_s > 0
            if self._api_key is None and (often or code == REFUSED_SETTINGS):
                raise DevError(last_words(name, code, program.log_tail()))
            pause_s = min(window_s, _LONGEST_PAUSE_S) if often else 0.0
            _say(f"{name} ended with code {code}, starts again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            try:
                await _to_its_end(program.restart)
            except (ChildError, OSError) as error:
                _say(f"{name} did not start again: {error}")  # which counts as one more death
            self._write_state()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    async def _answer(
        self, path: str, is_wanted: Callable[[httpx2.Response], bool], key: str = ""
    ) -> httpx2.Response:
        """The first wanted answer to GET `path`. Raises DevError if none comes in time."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        last = "no answer"
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(_READY_TIMEOUT_S),
                httpx2.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client,
            ):
                while True:
                    try:
                        answer = await client.get(path, headers=headers)
                        if is_wanted(answer):
                            return answer
                        last = f"{answer.status_code} {answer.text[:500]}"
                    except _NOT_UP as error:
                        last = str(error)
                    await asyncio.sleep(_READY_POLL_S)
        raise DevError(
            f"not ready within {_READY_TIMEOUT_S:.0f} s, see {self._data_dir / 'logs'};"
            f" GET {path} last said: {last}"
        )

    async def _demo_key(self, env: Mapping[str, str]) -> str:
        """The key of the last run, unless this database does not know it: then a new one."""
        path = self._data_dir / "api_key"
        if path.exists():
            key = path.read_text()
            known = await self._answer("/v1/accounts", lambda answer: answer.status_code < 500, key)
            if known.status_code != 401:
                return key
        created = await run_command(
            env, "key", "create", "--name", "dev", "--scopes", "all", "--json"
        )
        key = str(json.loads(created)["key"])
        write_private(path, key)
        return key

    def _state_changed(self) -> None:
        """Called from the thread that has just started a server."""
        self._loop.call_soon_threadsafe(self._write_state)

    def _write_state(self) -> None:
        """Write dev.json, which is there while the service is ready."""
        if self._api_key is None:
            return
        state = {
            "url": self.url,
            "api_key": self._api_key,
            "redis_url": self._redis_url,
            "database_url": self._database_url,
            "pids": {name: program.pid for name, program in self._programs.items()},
        }
        write_private(self._data_dir / "dev.json", json.dumps(state, indent=2) + "\n")


def run(port: int, data_dir: Path, api_workers: int) -> int:
    """What the command `dev` calls: `run_dev` in an event loop of its own."""
    return asyncio.run(run_dev(port, data_dir, api_workers))


async def run_dev(port: int, data_dir: Path, api_workers: int) -> int:
    """Run everything until SIGINT or SIGTERM; the exit code. A port of 0 is a free one.

    Raises pydantic.ValidationError if the settings are wrong.
    """
    try:
        data_dir = _made(data_dir)
        claim = Claim.take(data_dir / "dev.claim", "holdfast dev")
    except (ChildError, OSError) as error:
        _say(str(error))
        return 1
    claim.note(os.getpid())
    (data_dir / "dev.json").unlink(missing_ok=True)  # left by a dev that was killed
    supervisor = _Supervisor(port, data_dir, api_workers)
    told = asyncio.create_task(_told_to_stop())
    starting = asyncio.create_task(supervisor.start())
    try:
        first: set[asyncio.Future[Any]] = {starting, told, supervisor.failed}
        await asyncio.wait(first, return_when=FIRST_COMPLETED)
        if starting.done():
            _say(_welcome(supervisor.url, starting.result()))
            await asyncio.wait({told, supervisor.failed}, return_when=FIRST_COMPLETED)
        if supervisor.failed.done():
            supervisor.failed.result()
    except (DevError, ChildError, OSError) as error:
        _say(str(error))
        return 1
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop()
        claim.close()
    _say("stopped")
    return 0


def _made(data_dir: Path) -> Path:
    data_dir = data_dir.resolve()
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        # Root's Postgres passes through as `nobody`; everything in it but that is private.
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    (data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
    return data_dir


async def _told_to_stop() -> None:
    """Return at the first SIGINT or SIGTERM; the second one ends this program on the spot."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell() -> None:
        if told.is_set():
            os._exit(130)  # its programs get their death signals
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    await told.wait()
    _say("stopping")


async def _to_its_end(call: Callable[[], R]) -> R:
    """Run a blocking call in a thread. A cancellation waits until it has ended."""
    running = asyncio.create_task(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


def _welcome(url: str, key: str) -> str:
    """What to do now: three lines that work as they stand."""
    curl = f"curl -sS -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    demo = f"{url}/v1/accounts/demo"
    account = f"{curl} -X PUT {demo} -d '{{}}'"
    grant = f"""{curl} {demo}/grants -H 'Idempotency-Key: welcome' -d '{{"amount": 5000000}}'"""
    hold = f"""{curl} {demo}/holds -H 'Idempotency-Key: call-1' -d '{{"amount": 2000000}}'"""
    commit = f"""{curl} {demo}/holds/call-1/commit -d '{{"amount": 1250000}}'"""
    return (
        f"\nholdfast is ready: {url}  (docs: {url}/docs)\n"
        f"demo key: {key}\n\n"
        "An account with 5 credits, a hold of 2, and a commit of what the call really cost:\n\n"
        f"{account} && {grant}\n\n{hold}\n\n{commit}\n"
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our output may be gone; we go on
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
