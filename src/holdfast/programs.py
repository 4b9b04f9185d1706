"""holdfast's own commands as programs that `holdfast dev` runs."""

import asyncio
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from holdfast.children import Child, ChildError, Claim
from holdfast.embedded import HOST

HOLDFAST = (sys.executable, "-m", "holdfast")
REFUSED_SETTINGS = 78  # EX_CONFIG of sysexits.h

_STOP_STEPS = ((signal.SIGTERM, 10.0),)  # in less than that the API lets its requests finish
_SURVIVOR_TIMEOUT_S = 20.0  # twice that
_PORT_TIMEOUT_S = 2.0  # the kernel closes what a killed program had open in milliseconds
_PORT_POLL_S = 0.005
_COMMAND_TIMEOUT_S = 120.0  # migrations of a dev database
_SAID_CHARACTERS = 4000  # about fifty lines: a traceback


class Service:
    """One of holdfast's long-running commands; it runs from the start. Raises ChildError."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        data_dir: Path,
        env: Mapping[str, str],
        port: int | None = None,
    ) -> None:
        self._name = name
        self._command = (*HOLDFAST, *arguments)
        self._claim_path = data_dir / f"{name}.claim"
        self._log_path = data_dir / "logs" / f"{name}.log"
        self._env = env
        self._port = port  # that it listens on
        self.restart()

    def restart(self) -> None:
        """Start it, once the one of a dev that was killed is gone. Raises ChildError."""
        claim = Claim.take(self._claim_path, f"the {self._name}", _SURVIVOR_TIMEOUT_S)
        try:
            if self._port is not None:
                _await_free_port(self._port)
            self._child = Child(
                self._name,
                self._command,
                log_path=self._log_path,
                env=self._env,
                cwd=Path.cwd(),
                pass_fds=(claim.fd,),
            )
            claim.note(self._child.pid)
        finally:
            claim.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exited(self) -> Future[int]:
        return self._child.exited

    def stop(self) -> bool:
        """End it gracefully; False if it had to be killed."""
        return not self._child.running or self._child.end(_STOP_STEPS)

    def log_tail(self) -> str:
        return self._child.log_tail()


async def run_command(env: Mapping[str, str], *arguments: str) -> str:
    """Run one of holdfast's short commands to its end; what it printed. Raises ChildError."""
    name = f"holdfast {arguments[0]}"
    running = await asyncio.create_subprocess_exec(
        *(*HOLDFAST, *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            printed, said = await running.communicate()
    except TimeoutError:
        raise ChildError(f"{name} did not end within {_COMMAND_TIMEOUT_S:.0f} s") from None
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode != 0:
        raise ChildError(last_words(name, running.returncode, said.decode(errors="replace")))
    return printed.decode()


def last_words(name: str, code: int | None, said: str) -> str:
    """What to tell of a program that ended: refused settings are told in its own last line."""
    said = said.strip()
    if code == REFUSED_SETTINGS and said:
        return said.splitlines()[-1]
    return f"{name} ended with code {code}: {said[-_SAID_CHARACTERS:] or 'it said nothing'}"


def _await_free_port(port: int) -> None:
    """Wait until killed API workers have closed the port. Raises ChildError if it stays in use."""
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                refusal = f"port {port} on {HOST} cannot be used: {error.strerror}"
            else:
                return
        if time.monotonic() >= deadline:
            raise ChildError(refusal)
        time.sleep(_PORT_POLL_S)  # the kernel tells nobody when a port becomes free
