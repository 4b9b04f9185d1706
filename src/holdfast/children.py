"""Programs that this one starts: they die with it, and none is ever silently doubled.

A `Claim` is a file that the kernel keeps for whoever has it open (flock). A server inherits the
claim on its data, so the claim lasts exactly as long as some process of that server does, whatever
became of the program that started it; the next start sees it and waits, or refuses.
"""

import contextlib
import fcntl
import importlib.util
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # whoever starts it

_LAUNCH = Path(__file__).with_name("launch.py")
_TAIL_BYTES = 4096  # of a log, in an error: about the last forty lines
_POLL_S = 0.01
_REAP_TIMEOUT_S = 10.0  # from SIGKILL to a reaped child; more means that the kernel is stuck


class ChildError(Exception):
    """A program could not be started, claimed or stopped; the text says which and why."""


class ClaimedError(ChildError):
    """Somebody else uses this directory; the text says who."""


@dataclass(frozen=True)
class RunAs:
    """The operating-system user that a child becomes."""

    name: str
    uid: int
    gid: int


class Claim:
    """An exclusive, advisory claim on a file, freed by the kernel with its last holder."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path, what: str, timeout_s: float = 0.0) -> "Claim":
        """Claim `path`, waiting up to `timeout_s` for a holder that is on its way out.

        Raises ClaimedError, which names `what` and the pid that the holder noted.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    os.close(fd)
                    raise ClaimedError(
                        f"{what} in {path.parent} is in use by pid {holder}"
                    ) from None
                time.sleep(_POLL_S)  # flock has no timeout; the deadline bounds this
            else:
                return cls(fd)

    def note(self, pid: int) -> None:
        """Write who holds the claim, for the message that a second one gets."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{pid}\n".encode("ascii"), 0)

    def close(self) -> None:
        """Let go; children that inherited the claim keep it."""
        os.close(self.fd)

    def end(self) -> None:
        """Let go for whoever else has it too: what another thread spawns just now has everything
        that is open here, until it has become its program."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


class Child:
    """A running program. `exited` resolves to its exit code as soon as it ends, and it is reaped.

    It has its own session, so that a Ctrl-C in the terminal reaches only the program that
    supervises it; on Linux it gets `death_signal` when that program dies, however it dies.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str],
        cwd: Path = Path("/"),
        run_as: RunAs | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it; what it writes is appended to `log_path`. Raises ChildError."""
        self.name = name
        self.log_path = log_path
        who = ("-", "-") if run_as is None else (str(run_as.uid), str(run_as.gid))
        launch = (sys.executable, "-I", "-S", str(_LAUNCH))
        argv = [*launch, str(os.getpid()), str(int(death_signal)), *who, *command]
        try:
            with log_path.open("ab") as log:
                self._log_start = log.tell()
                self._popen = _from_spawner(
                    lambda: subprocess.Popen(
                        argv,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=env,
                        cwd=cwd,
                        pass_fds=pass_fds,
                        start_new_session=True,
                    )
                )
        except OSError as error:
            raise ChildError(f"{name} could not be started: {error}") from error
        self.exited: Future[int] = Future()
        self.exited.set_running_or_notify_cancel()  # who waits for it cannot cancel it
        threading.Thread(target=self._reap, name=f"{name}-exit", daemon=True).start()

    def _reap(self) -> None:
        if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            # Wait without reaping: its number is still its own when what it leaves is killed. Where
            # SIGCHLD is ignored the kernel has reaped it already.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._kill_group()
            code = self._popen.wait()
        else:
            code = self._popen.wait()
            self._kill_group()
        self.exited.set_result(code)

    def _kill_group(self) -> None:
        """SIGKILL the session's group: the workers of a dead server would keep its port."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return not self.exited.done()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, at most `timeout_s`; True if it has come."""
        with contextlib.suppress(TimeoutError):
            self.exited.result(timeout_s)
        return self.exited.done()

    def end(self, steps: Sequence[tuple[signal.Signals, float]]) -> bool:
        """Send each signal and wait its seconds for the end; SIGKILL if none sufficed.

        True if it ended by one of the steps. Raises ChildError if even SIGKILL did nothing.
        """
        for number, patience_s in steps:
            if self.running:
                with contextlib.suppress(ProcessLookupError):  # it ends at this moment
                    os.kill(self.pid, number)
            if self.wait(patience_s):
                return True
        self.kill()
        return False

    def kill(self) -> None:
        """SIGKILL it and what it started in its session, and wait until it is reaped."""
        if self.running:
            self._kill_group()
        if not self.wait(_REAP_TIMEOUT_S):
            raise ChildError(f"{self.name} (pid {self.pid}) does not die of SIGKILL")

    def log_tail(self) -> str:
        """The end of what this run has logged."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode("utf-8", "replace").strip()


class _Spawner:
    """The one thread that forks.

    The kernel sends a child its death signal when the thread that forked it ends, so a worker
    thread of some pool must not fork: this daemon thread lives as long as the program.
    """

    def __init__(self) -> None:
        # As long as its callers are many: each waits for its own answer.
        self._requests: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="spawner", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def run(self, spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((spawn, answer))
        return answer.result()

    def _serve(self) -> None:
        while True:
            spawn, answer = self._requests.get()
            try:
                answer.set_result(spawn())
            except BaseException as error:  # the caller's to raise, whatever it is
                answer.set_exception(error)


_spawner: _Spawner | None = None
_spawner_guard = threading.Lock()


def _from_spawner(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _spawner  # noqa: PLW0603 - one thread a program is the point
    with _spawner_guard:
        if _spawner is None or not _spawner.alive:  # a fork leaves the thread behind
            _spawner = _Spawner()
        spawner = _spawner
    return spawner.run(spawn)


_given: set[int] = set()  # ports this program was given, at most one a server it ever started


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now and that was not given out before.

    Taken from below the kernel's ephemeral range where there is room, so that no outgoing
    connection takes it meanwhile. Another program still may: who starts a server there must look
    whether it came up.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_ephemeral = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 0
    for _ in range(64):  # a machine with half its ports in use fails all of these once in 2^64
        wanted = random.randrange(15_000, first_ephemeral) if first_ephemeral > 20_000 else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
    raise ChildError("no free TCP port on 127.0.0.1")


def wheel(package: str) -> Path:
    """Where a wheel's package is, without importing it. Raises ChildError if it is missing."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ChildError(f"the package `{package}` is missing: pip install 'holdfast[dev]'")
    return Path(found.submodule_search_locations[0]).resolve()


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read: whole or not at all, whatever happens meanwhile."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
