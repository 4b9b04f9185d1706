"""A real Valkey with a directory of its own, and surgery on its append-only file."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from holdfast.embedded import Valkey
from tests.faults.program import HOST, PATIENCE_S, POLL_S, Pausable, to_its_end

AOF_DIRECTORY = "appendonlydir"
_MANIFEST = "appendonly.aof.manifest"
# A rewrite swaps the manifest while its files are copied at most now and then.
_COPY_ATTEMPTS = 20

Address = tuple[str, int]


class RedisNode(Pausable):
    """One Valkey: started, killed and paused by a test, on one directory and one port.

    `appendfsync`, `maxmemory` (such as `"64mb"`), `replica_of`, `min_replicas_to_write` and
    `options` (words of its command line) may be changed between two starts. What a promotion
    changes is not remembered: set `replica_of` before the node starts again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendfsync: str = "always",
        replica_of: RedisNode | Address | None = None,
        maxmemory: str | None = None,
        min_replicas_to_write: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        """`replica_of` may be an address, such as that of a proxy before the primary."""
        self.directory = directory
        self.appendfsync = appendfsync
        self.replica_of = replica_of
        self.maxmemory = maxmemory
        self.min_replicas_to_write = min_replicas_to_write
        self.options = tuple(options)
        self.port = 0  # a free one, from the first start on
        self._server: Valkey | None = None

    # Life

    async def start(self) -> None:
        """Start it on what is in its directory, and wait until it answers."""
        assert not self.running, f"Valkey in {self.directory} runs already"
        await to_its_end(self._start)

    def _start(self) -> None:
        if self._server is not None:
            self._server.stop()  # gives up the claim of a run that was killed
        words = [
            # A replica is fed at once, and a primary that went away is missed at once.
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
            *("--min-replicas-to-write", str(self.min_replicas_to_write)),
        ]
        if self.maxmemory is not None:
            words += ["--maxmemory", self.maxmemory]
        if self.replica_of is not None:
            host, port = _address(self.replica_of)
            words += ["--replicaof", host, str(port)]
        # Noted here, so that `kill` knows of it after a start that was cancelled.
        self._server = Valkey.start(
            self.directory,
            self.port,
            self.appendfsync,
            extra_args=(*words, *self.options),
            log_path=self.log_path,
        )
        self.port = self._server.port

    async def kill(self) -> None:
        """SIGKILL, also of a paused one."""
        if self._server is not None:
            await to_its_end(self._server.kill)
        self.resume()

    async def stop(self) -> None:
        """SIGTERM: it syncs its file, and ends. One that is paused is resumed first."""
        self.resume()
        if self._server is not None:
            ended = await to_its_end(self._server.stop)
            assert ended, f"Valkey did not end when asked to:\n{self.log_tail()}"

    def pause(self) -> None:
        """SIGSTOP."""
        self._stop_all([self.pid], f"Valkey in {self.directory}")

    @property
    def running(self) -> bool:
        """Whether it is there; a paused one is."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def address(self) -> Address:
        return HOST, self.port

    @property
    def log_path(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.log")

    def log_tail(self) -> str:
        """The end of what its last run said."""
        return "" if self._server is None else self._server.log_tail()

    # Commands

    def client(self) -> Redis:
        """A client straight to this node that repeats nothing; `async with` closes it."""
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=10.0)

    async def command(self, *words: Any) -> Any:
        """One command, as an operator would send it."""
        async with self.client() as client:
            answer: Any = await client.execute_command(*words)  # type: ignore[no-untyped-call]
            return answer

    async def replication(self) -> dict[str, Any]:
        """INFO replication."""
        async with self.client() as client:
            found: dict[str, Any] = await client.info("replication")
            return found

    async def promote(self) -> None:
        """Make a replica a primary, with what has reached it."""
        await self.command("REPLICAOF", "NO", "ONE")
        self.replica_of = None

    async def follow(self, primary: RedisNode | Address) -> None:
        """Become a replica of `primary`; what only this node has is thrown away."""
        await self.command("REPLICAOF", *_address(primary))
        self.replica_of = primary

    async def followed(self, primary: RedisNode, timeout_s: float = PATIENCE_S) -> None:
        """Wait until this replica is connected and has all that `primary` has written so far."""
        await self.reached((await primary.replication())["master_repl_offset"], timeout_s)

    async def reached(self, offset: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until this replica is connected, and has what the primary wrote up to `offset`."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen: Any = None
            try:
                seen = await self.replication()
            except (RedisError, OSError) as error:
                seen = error
            else:
                linked = seen.get("master_link_status") == "up"
                if linked and seen["slave_repl_offset"] >= offset:
                    return
            if time.monotonic() >= deadline:
                raise AssertionError(f"no replica of {offset} within {timeout_s:.0f} s: {seen}")
            await asyncio.sleep(POLL_S)

    # The append-only file

    def aof_files(self) -> list[Path]:
        """The files that its manifest names, oldest first: the base, then what was appended."""
        there = self.directory / AOF_DIRECTORY
        files = []
        for line in (there / _MANIFEST).read_text().splitlines():
            words = line.split()
            told = dict(zip(words[::2], words[1::2], strict=True))
            if told["type"] != "h":  # history, about to be deleted
                files.append(there / told["file"].strip('"'))
        return files

    def keep_aof(self, to: Path) -> None:
        """Copy the append-only files, also while it runs: then the end may be half a write."""
        manifest = self.directory / AOF_DIRECTORY / _MANIFEST
        for _ in range(_COPY_ATTEMPTS):
            shutil.rmtree(to, ignore_errors=True)
            before = manifest.read_bytes()
            try:
                shutil.copytree(manifest.parent, to)
            except (shutil.Error, FileNotFoundError):
                continue  # a rewrite took a file away
            if manifest.read_bytes() == before == (to / _MANIFEST).read_bytes():
                return
        raise AssertionError(f"the append-only files in {self.directory} are never at rest")

    def put_back_aof(self, from_: Path) -> None:
        """Have what `keep_aof` copied, and nothing else; only while it does not run."""
        assert not self.running, "a Valkey that runs does not read its file"
        there = self.directory / AOF_DIRECTORY
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(from_, there)


def _address(primary: RedisNode | Address) -> Address:
    return primary.address if isinstance(primary, RedisNode) else primary
