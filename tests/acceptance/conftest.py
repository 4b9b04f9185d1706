"""One real `holdfast dev` for all acceptance tests: the command itself, with its own stores."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.staging import temporary_directory

_PATIENCE_S = 60  # a start takes about four seconds; this is for a machine that is busy
_POLL_S = 0.02


@pytest.fixture(scope="session")
def dev_service() -> Iterator[dict[str, Any]]:
    """What `dev.json` of a running `holdfast dev` says, and `data`, the directory it is in.

    All acceptance tests share it: use accounts of your own, and do not end its programs.
    """
    with temporary_directory("holdfast-acceptance-") as directory:
        data, said = directory / "data", directory / "said"
        command = (sys.executable, "-m", "holdfast", "dev", "--port", "0", "--data", str(data))
        with said.open("wb") as output:
            running = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=clean_environment()
            )
        try:
            state = _await_state(running, data / "dev.json", said)
            yield {**state, "data": str(data)}
        finally:
            running.send_signal(signal.SIGINT)  # of a program that has ended, this does nothing
            code = running.wait(_PATIENCE_S)
        assert code == 0, f"holdfast dev ended with code {code}, saying:\n{said.read_text()}"


def clean_environment() -> dict[str, str]:
    """This process's environment without what would point holdfast at other stores or services."""
    named = ("REDIS_URL", "DATABASE_URL")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOLDFAST_") and name not in named
    }


def _await_state(running: subprocess.Popen[bytes], path: Path, said: Path) -> dict[str, Any]:
    """The content of `path`, which is replaced as a whole, as soon as it is there."""
    pause = threading.Event()  # never set
    for _ in range(int(_PATIENCE_S / _POLL_S)):
        assert running.poll() is None, f"holdfast dev ended, saying:\n{said.read_text()}"
        if path.exists():
            state: dict[str, Any] = json.loads(path.read_text())
            return state
        pause.wait(_POLL_S)
    raise AssertionError(f"no {path.name} within {_PATIENCE_S} s; dev said:\n{said.read_text()}")
