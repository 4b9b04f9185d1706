"""Fixtures of all tests: real servers, in directories that their users can reach."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.embedded import Postgres, Valkey
from holdfast.staging import temporary_directory

# A shell starts what it puts into the background with SIGINT ignored, and so would be all programs
# that tests start and end by it. Who has a handler hands down the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def server_dir() -> Iterator[Path]:
    """An empty directory, below which a test starts servers of its own."""
    with temporary_directory("holdfast-test-") as directory:
        yield directory


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """A Valkey that syncs every write, for the whole session. Do not kill it: start your own."""
    with (
        temporary_directory("holdfast-test-") as directory,
        Valkey.start(directory / "valkey") as server,
    ):
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres without fsync, for the whole session. Do not kill it: start your own."""
    with (
        temporary_directory("holdfast-test-") as directory,
        Postgres.start(directory / "postgres", fsync=False) as server,
    ):
        yield server
