"""A real Postgres of its own, made from a template, and taken back to what it was.

The template has the schema, its shards and one API key; it is made once for this program (1 s), and
copied for each place (0.1 s).
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from holdfast import api_keys, staging
from holdfast.children import write_private
from holdfast.config import Config
from holdfast.embedded import Postgres
from holdfast.pgdata import PgData
from holdfast.postgres import open_pool
from settlement import schema
from tests.faults.program import HOST, PATIENCE_S, Pausable, await_stopped, children_of, to_its_end

_PASSWORD = "password"  # the file beside the data in which holdfast keeps it
_KEY = "api_key"  # the file beside it in which the template keeps a key with every scope
# Segments are files in its data directory, which goes; in /dev/shm each kill would leave 1 MB.
_OPTIONS = ("-c", "dynamic_shared_memory_type=mmap")
_IPC_RMID = 0  # sys/ipc.h
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


_templates: dict[tuple[int, str], Path] = {}  # data directories of what was stopped cleanly
_making = threading.Lock()


def template(shards: int, prefix: str) -> Path:
    """The template for these fixed settings, made when it is first asked for; not in a loop."""
    with _making:
        if (shards, prefix) not in _templates:
            directory = Path(tempfile.mkdtemp(prefix="holdfast-faults-template-"))
            atexit.register(staging.remove_data, directory)
            directory.chmod(0o711)  # Postgres's own user passes through
            data_dir = directory / "postgres"
            _make_template(data_dir, shards, prefix)
            _templates[shards, prefix] = data_dir
        return _templates[shards, prefix]


def _make_template(data_dir: Path, shards: int, prefix: str) -> None:

    async def fill(url: str) -> str:
        await schema.migrate(url, shards=shards, prefix=prefix)
        connection = await asyncpg.connect(url)
        try:
            # Three quarters of what is copied for each place, and of no use to it.
            await connection.execute("UPDATE pg_database SET datistemplate = false")
            for name in ("postgres", "template1", "template0"):
                await connection.execute(f"DROP DATABASE {name}")
        finally:
            await connection.close()
        pool = await open_pool(Config(database_url=url))
        try:
            _, key = await api_keys.create(pool, "faults", api_keys.SCOPES)
        finally:
            await pool.close()
        return key

    with Postgres.start(data_dir, fsync=False) as server:
        write_private(data_dir / _KEY, asyncio.run(fill(server.url)))


class PostgresNode(Pausable):
    """One Postgres with fsync: started, stopped, killed and paused by a test, on one port."""

    def __init__(
        self,
        directory: Path,
        *,
        shards: int = 4,
        prefix: str = "hf",
        options: Sequence[str] = (),
    ) -> None:
        """`options` are of `postgres`, such as `("-c", "max_connections=20")`."""
        self.directory = directory
        self.shards = shards
        self.prefix = prefix
        self.options = tuple(options)
        self.port = 0  # a free one, from the first start on
        self._server: Postgres | None = None

    # Life

    async def start(self) -> None:
        """Start it, from the template the first time, and wait until it accepts connections."""
        assert not self.running, f"Postgres in {self.directory} runs already"
        self._server = await to_its_end(self._start)
        self.port = self._server.port

    def _start(self) -> Postgres:
        if self._server is not None:
            self._server.stop()  # gives up the claim of a run that was killed
        elif not self.directory.exists():
            self._copy_template()
        return Postgres.start(
            self.directory,
            self.port,
            extra_args=(*_OPTIONS, *self.options),
            log_path=self.log_path,
        )

    def _copy_template(self) -> None:
        source = template(self.shards, self.prefix)
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        data = PgData(self.directory)
        _copy(PgData(source).path, data.path)
        for name in (_PASSWORD, _KEY):
            write_private(self.directory / name, (source / name).read_text())
        staging.note_home(self.directory, data.home)

    async def stop(self, mode: str = "fast") -> None:
        """End it: `fast` cuts connections and writes a checkpoint, `immediate` leaves recovery."""
        self.resume()
        server = self._server
        if server is not None:
            if server.running:
                os.kill(server.pid, _SIGNALS[mode])
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.wrap_future(server.exited)
            await to_its_end(server.stop)

    async def kill(self) -> None:
        """SIGKILL of the postmaster and all its backends, also of paused ones."""
        server = self._server
        if server is not None and server.running:
            segment = self._segment()
            for pid in self._backends():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended by itself
            await to_its_end(server.kill)
            # Which a start on other data would not find, nor clear away: a machine has 4,096.
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
        self.resume()

    def _backends(self) -> list[int]:
        """All that the postmaster has started; it is stopped first, so that it starts no other."""
        os.kill(self.pid, signal.SIGSTOP)
        await_stopped(self.pid)
        return children_of(self.pid)

    def _segment(self) -> int:
        """The System V segment by which a Postgres sees that another one has its data."""
        key_and_id = PgData(self.directory).pid_path.read_text().splitlines()[6]
        return int(key_and_id.split()[1])

    def pause(self) -> None:
        """SIGSTOP of the postmaster and all its backends."""
        self._stop_all([self.pid, *self._backends()], f"Postgres in {self.directory}")

    @property
    def running(self) -> bool:
        """Whether it is there; a paused one is."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    @property
    def dsn(self) -> str:
        return self.dsn_at(self.port)

    def dsn_at(self, port: int) -> str:
        """Its URL by way of another port: a proxy's."""
        password = (self.directory / _PASSWORD).read_text()
        return f"postgresql://holdfast:{password}@{HOST}:{port}/holdfast"

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def key(self) -> str:
        """An API key with every scope, which the template brought."""
        return (self.directory / _KEY).read_text()

    @property
    def log_path(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.log")

    def log_tail(self) -> str:
        """The end of what its last run said."""
        return "" if self._server is None else self._server.log_tail()

    async def connect(self) -> asyncpg.Connection:
        """A connection straight to it, to be closed."""
        return await asyncpg.connect(self.dsn, timeout=10, server_settings={"timezone": "UTC"})

    # Going back

    async def keep_base(self, to: Path) -> None:
        """Copy its data as it is at one moment, also while it runs: then it is paused meanwhile.

        A copy of a running one is what a power cut leaves, and is recovered from when it starts.
        """
        freeze = self.running and not self.paused
        if freeze:
            self.pause()
        try:
            await to_its_end(lambda: _copy(PgData(self.directory).path, to))
        finally:
            if freeze:
                self.resume()

    async def put_back_base(self, from_: Path) -> None:
        """Have what `keep_base` copied, and nothing else; only while it does not run."""
        assert not self.running, "the data of a Postgres that runs is its own"
        path = PgData(self.directory).path
        await to_its_end(lambda: _copy(from_, path))


def _copy(source: Path, to: Path) -> None:
    """Copy a tree, owners and modes too, over whatever is there."""
    shutil.rmtree(to, ignore_errors=True)
    copied = subprocess.run(
        # A segment of WAL is 16 MB, and mostly zeros.
        ("cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(to)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert copied.returncode == 0, copied.stderr
