"""A month of the journal as a file, and the manifest that says what must be in it.

    journal-2025-01.jsonl.gz    a line an entry, with every column, ordered by shard and seq
    journal-2025-01.json        the manifest: counts, numbers, chains, sizes, sums

The same entries give the same lines, and the same gzip library the same bytes. Each file is written
under another name, synced, and renamed, and the manifest last: a file without one is unfinished. No
module but this one knows the format, and nothing here touches a store.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import file_digest, sha1, sha256
from pathlib import Path
from typing import Any, Final

import orjson

from settlement.reader import raw_bytes

FORMAT: Final = 1
_TIMES: Final = ("at", "settled_at")
# Ten times smaller than the entries; the next levels take twice as long for a few percent.
_LEVEL: Final = 6
# An entry holds at most a body of 64 KiB, and some fields; what is longer is none of ours.
_LINE_MAX: Final = 4 * 2**20


class Damaged(Exception):
    """A file or a manifest is not what was written; the message says in what."""


class NotWritten(Exception):
    """A file cannot be written; the message says why."""


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{directory} takes no file: {error}") from error


@dataclass(frozen=True, slots=True)
class Part:
    """The entries of one shard: numbers without a gap, from one chain to another."""

    shard: int
    entries: int
    first_seq: int
    last_seq: int
    chain_before: str
    """Of the entry before the first; '' where the first is the shard's first."""
    chain: str
    """Of the last entry."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the file of a month holds. `bytes` and `sha256` are those of the file, `lines_sha256` is
    that of its lines, whatever compressed them."""

    month: date
    file: str
    entries: int
    bytes: int
    sha256: str
    lines_sha256: str
    shards: tuple[Part, ...]
    holdfast: str
    created_at: datetime

    def same_entries(self, other: Manifest) -> bool:
        """Whether both are of the same lines."""
        return (self.month, self.lines_sha256, self.shards) == (
            *(other.month, other.lines_sha256, other.shards),
        )


def month_name(month: date) -> str:
    """2025-01"""
    return f"{month:%Y-%m}"


def span_of(month: date) -> tuple[datetime, datetime]:
    """A month from its first moment to that of the next one, in UTC."""
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    after = first + timedelta(days=32)  # in the next month, whichever it is
    return first, after.replace(day=1)


def file_name(month: date) -> str:
    """The file of a month."""
    return f"journal-{month_name(month)}.jsonl.gz"


def manifest_name(month: date) -> str:
    """The manifest of a month."""
    return f"journal-{month_name(month)}.json"


def line_of(row: Mapping[str, Any]) -> bytes:
    """An entry as its line, without the end of it. Times are UTC, to the microsecond."""
    return orjson.dumps(dict(row), option=orjson.OPT_UTC_Z)


def row_of(line: bytes) -> dict[str, Any]:
    """What `line_of` wrote. Raises Damaged."""
    try:
        row = orjson.loads(line)
        for name in _TIMES:
            row[name] = datetime.fromisoformat(row[name])
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"a line is no entry: {error}") from error
    return dict(row)


class MonthWriter:
    """Writes the file of a month: `add` and `end_shard`, shard by shard in order, then
    `finish` and `name_file`.

    Nothing has its name before `name_file`. As a context it removes what is unfinished. Raises
    NotWritten.
    """

    def __init__(self, directory: Path, month: date) -> None:
        self.month = month
        self.directory = directory
        self._unfinished = directory / f".{file_name(month)}.unfinished"
        with _writing(directory):
            _make(directory)
            self._out = self._unfinished.open("wb")
        # Neither a name nor a time: they would make the same entries another file.
        self._packed = gzip.GzipFile("", "wb", _LEVEL, self._out, mtime=0)
        self._sum = sha256()
        self._parts: list[Part] = []
        self._entries = 0

    def __enter__(self) -> MonthWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the disk may be full, which was told already
            self._packed.close()
        self._out.close()
        self._unfinished.unlink(missing_ok=True)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The next entries of a shard."""
        lines = b"".join(line_of(row) + b"\n" for row in rows)
        self._sum.update(lines)
        with _writing(self.directory):
            self._packed.write(lines)

    def end_shard(self, part: Part) -> None:
        """A shard's entries, of which there was at least one, are written."""
        self._parts.append(part)
        self._entries += part.entries

    def finish(self, version: str) -> Manifest:
        """Close and sync the unfinished file; answers its manifest, which is not written yet.

        `version` is that of the holdfast that writes.
        """
        with _writing(self.directory):
            self._packed.close()
            self._out.flush()
            os.fsync(self._out.fileno())
        return Manifest(
            self.month,
            file_name(self.month),
            self._entries,
            self._unfinished.stat().st_size,
            _file_sum(self._unfinished),
            self._sum.hexdigest(),
            tuple(self._parts),
            version,
            datetime.now(UTC).replace(microsecond=0),
        )

    def name_file(self) -> None:
        """Give the finished file its name."""
        with _writing(self.directory):
            _rename(self._unfinished, self.directory / file_name(self.month))


def _make(directory: Path) -> None:
    """Make a directory, and those above it, and have them on the disk."""
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in new:
        _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Sync a file, or the names in a directory."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _rename(unfinished: Path, path: Path) -> None:
    """Rename, and have it on the disk: the name itself is the directory's."""
    unfinished.replace(path)
    _to_disk(path.parent)


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of a file that has its name. Raises NotWritten."""
    document = {"format": FORMAT, **asdict(manifest), "month": month_name(manifest.month)}
    unfinished = directory / f".{manifest_name(manifest.month)}.unfinished"
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z) + b"\n"
    with _writing(directory):
        with unfinished.open("wb") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        _rename(unfinished, directory / manifest_name(manifest.month))


def secure(directory: Path, manifest: Manifest) -> None:
    """Have a file and its manifest on the disk that somebody else wrote, who may have been killed
    before they were. Raises NotWritten."""
    with _writing(directory):
        for path in (directory / manifest.file, directory / manifest_name(manifest.month)):
            _to_disk(path)
        _to_disk(directory)


def is_another(directory: Path, manifest: Manifest) -> bool:
    """Whether the name of a manifest's file is taken, by other bytes than the manifest's. Raises
    OSError where they cannot be read."""
    path = directory / manifest.file
    return path.exists() and _file_sum(path) != manifest.sha256


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises Damaged, and OSError where there is none."""
    try:
        document = orjson.loads(path.read_bytes())
        if document.pop("format") != FORMAT:
            raise ValueError("it is of a format that this release does not know")
        month = date.fromisoformat(f"{document['month']}-01")
        manifest = Manifest(
            **document
            | {
                "month": month,
                "shards": tuple(Part(**part) for part in document["shards"]),
                "created_at": datetime.fromisoformat(document["created_at"]),
            }
        )
        if (manifest.file, path.name) != (file_name(month), manifest_name(month)):
            raise ValueError(f"it is of {month_name(month)}, and so must its names be")
        if manifest.entries != sum(part.entries for part in manifest.shards):
            raise ValueError("its entries are not the sum of its shards")
        numbers = [part.shard for part in manifest.shards]
        if numbers != sorted(set(numbers)):
            raise ValueError("its shards are not in order, each once")
        for part in manifest.shards:
            if part.entries != part.last_seq - part.first_seq + 1 or part.entries < 1:
                raise ValueError(f"its numbers of shard {part.shard} do not make its count")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{path.name} is no manifest: {error}") from error
    return manifest


def manifests(directory: Path) -> list[Path]:
    """The manifests in a directory, oldest month first."""
    return sorted(directory.glob("journal-[0-9][0-9][0-9][0-9]-[0-9][0-9].json"))


def check_file(directory: Path, manifest: Manifest) -> None:
    """Read a file again, all of it. Raises Damaged, and OSError where it cannot be read."""
    for _ in read_month(directory, manifest):
        pass


def read_month(directory: Path, manifest: Manifest) -> Iterator[tuple[Part, dict[str, Any]]]:
    """The entries of a month, each with the part that it belongs to, checked as they come.

    Checked are size and SHA-256 of the file, and of each shard the count, the numbers, and the
    chain, computed again. Raises Damaged where something is not as it should be, at the latest
    behind the last entry: only who came that far has read what was written. Raises OSError.
    """
    path = directory / manifest.file
    size = path.stat().st_size
    if size != manifest.bytes:
        raise Damaged(f"{manifest.file} has {size} bytes, not {manifest.bytes}")
    if _file_sum(path) != manifest.sha256:
        raise Damaged(f"{manifest.file} has another SHA-256 than its manifest says")
    told = sha256()
    try:
        with gzip.open(path) as file:
            for part in manifest.shards:
                yield from ((part, row) for row in _part(file, part, manifest.file, told))
            if file.read(1):
                raise Damaged(f"{manifest.file} has more entries than its manifest says")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{manifest.file} cannot be unpacked: {error}") from error
    if told.hexdigest() != manifest.lines_sha256:
        raise Damaged(f"the lines of {manifest.file} have another SHA-256 than its manifest says")


def _part(file: gzip.GzipFile, part: Part, name: str, told: Any) -> Iterator[dict[str, Any]]:
    chain = part.chain_before
    for seq in range(part.first_seq, part.last_seq + 1):
        line = file.readline(_LINE_MAX)
        told.update(line)
        if not line.endswith(b"\n"):
            raise Damaged(f"{name} ends before entry {seq} of shard {part.shard}")
        row = row_of(line)
        if (row.get("shard"), row.get("seq")) != (part.shard, seq):
            raise Damaged(
                f"{name} has entry {row.get('seq')} of shard {row.get('shard')} in the place of"
                f" entry {seq} of shard {part.shard}"
            )
        text = raw_bytes(str(row.get("entry")))
        chain = sha1(chain.encode() + text, usedforsecurity=False).hexdigest()
        if row.get("chain") != chain:
            raise Damaged(f"{name}: entry {seq} of shard {part.shard} does not continue the chain")
        yield row
    if chain != part.chain:
        raise Damaged(f"{name}: shard {part.shard} ends with another chain than its manifest says")
