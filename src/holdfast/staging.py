"""Where Postgres can live when root starts it.

Postgres refuses to run as root, so root starts it as `nobody`, who must be able to reach the data
and the binaries. A clone or a virtual environment below a home of mode 0700 is out of its reach:
then data and binaries are staged in a directory that root owns, and a note in the data directory
says where. An ordinary user runs Postgres as himself, in place.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.children import ChildError, Claim, RunAs, write_private

# The first that root can make and `nobody` can reach. /var/tmp may be tidied by the system after a
# month, so it only stands in where /var/lib is read-only.
_STAGES = (Path("/var/lib/holdfast-embedded"), Path("/var/tmp/holdfast-embedded"))
_NOTE = "STAGED"  # in the data directory: where its data is
_NOTE_BACK = "STAGED_FOR"  # there: whose it is
POSTGRES_MAJOR = "18"
_INSTALLED = f"pginstall{POSTGRES_MAJOR}"  # in the wheel, which brings an older one too
_PROBE_TIMEOUT_S = 10.0


def unprivileged_user() -> RunAs | None:
    """Whom Postgres must run as: `nobody` if we are root, else None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ChildError(
            "Postgres does not run as root, and there is no user `nobody` to run it as;"
            " run holdfast as an ordinary user"
        ) from None
    return RunAs(nobody.pw_name, nobody.pw_uid, nobody.pw_gid)


def staged_home(data_dir: Path, run_as: RunAs | None) -> Path:
    """The directory that holds the Postgres of `data_dir`: itself, or its place on the stage.

    What was decided when the data was made stays, for else a change of a parent's mode would look
    like an empty database. Raises ChildError if that place is gone or not safe.
    """
    note = data_dir / _NOTE
    if note.exists():
        home = Path(note.read_text().splitlines()[0])
        if not home.is_dir():
            raise ChildError(
                f"the data of {data_dir} was staged in {home}, which is gone;"
                f" put it back, or remove {data_dir} to start empty"
            )
        _check_safe(home)
        original = Path((home / _NOTE_BACK).read_text().strip())
        if original != data_dir and (original / _NOTE).exists():
            raise ChildError(
                f"{data_dir} is a copy of {original}, whose Postgres data is in {home} and was not"
                f" copied with it; remove {data_dir} to start empty"
            )
        return home
    if run_as is None or _reaches(run_as, data_dir):
        return data_dir
    if (data_dir / "pgdata").exists():
        raise ChildError(
            f"the user `{run_as.name}` no longer reaches {data_dir}: make the directories above it"
            " searchable again (chmod o+x)"
        )
    home = _stage(run_as) / hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    _safe_dir(home)
    return home


def note_home(data_dir: Path, home: Path) -> None:
    """Say, and write down in both places, that the data of `data_dir` is in `home`."""
    if home == data_dir:
        return
    write_private(home / _NOTE_BACK, f"{data_dir}\n")
    write_private(
        data_dir / _NOTE,
        f"{home}\n\nPostgres runs as `nobody`, who cannot reach this place: its data is there.\n",
    )
    _say(f"Postgres cannot reach {data_dir}: its data is in {home}")


def set_aside_orphan(data_dir: Path, home: Path) -> None:
    """Move away staged data whose data directory was deleted and is now made again, empty."""
    pgdata = home / "pgdata"
    if home == data_dir or (data_dir / _NOTE).exists() or not pgdata.exists():
        return
    aside = home / "pgdata.old"
    if aside.exists():
        shutil.rmtree(aside)  # one is kept
    pgdata.rename(aside)
    _say(f"Postgres starts empty: {data_dir} was deleted, its old data is in {aside}")


def reachable_binaries(package: Path, version: str, run_as: RunAs | None) -> Path:
    """Where `postgres` and `initdb` are: in the wheel's `package`, or in a staged copy of it."""
    inside = Path(_INSTALLED, "bin")
    if run_as is None or _reaches(run_as, package / inside):
        return package / inside
    copy = _stage(run_as) / f"{package.name}-{version}"
    if not copy.exists():
        # Copied aside and renamed, so that what is there is whole; a second copier loses the race.
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".copying-") as scratch:
            whole = Path(scratch, "whole")
            for part in ("bin", "lib", "share"):
                shutil.copytree(
                    package / _INSTALLED / part,
                    whole / package.name / _INSTALLED / part,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("*.a", "pkgconfig"),
                )
            # The binaries look for their libraries beside the package, by a relative path.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, whole / libraries.name, symlinks=True)
            _open_to_readers(whole)
            try:
                whole.rename(copy)
            except OSError:
                if not copy.exists():
                    raise
    _check_safe(copy)
    return copy / package.name / inside


def remove_data(data_dir: Path) -> None:
    """Delete a data directory of Postgres or of `holdfast dev`, with what was staged for it.

    Raises ClaimedError if something runs on it, and ChildError if the stage is not safe.
    """
    notes = (data_dir / _NOTE, *data_dir.glob(f"*/{_NOTE}"))
    staged = [Path(note.read_text().splitlines()[0]) for note in notes if note.exists()]
    homes = [home for home in staged if home.parent in _STAGES and home.is_dir()]
    for home in homes:
        _check_safe(home)
    claims = [
        *data_dir.glob("*.claim"),
        *data_dir.glob("*/*.claim"),
        *(claim for home in homes for claim in home.glob("*.claim")),
    ]
    # By name: who supervises comes before what runs. What a killed server left goes in a moment.
    for claim in sorted(claims, key=lambda path: path.name):
        Claim.take(claim, "a server", 5.0 if claim.name == "server.claim" else 0.0).close()
    for directory in (*homes, data_dir):
        if directory.exists():
            shutil.rmtree(directory)


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory for servers: unprivileged users can pass through, unlike mkdtemp's."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        remove_data(directory)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _stage(run_as: RunAs) -> Path:
    refusals = []
    for stage in _STAGES:
        try:
            _safe_dir(stage)
        except (OSError, ChildError) as error:
            refusals.append(str(error))
            continue
        if _reaches(run_as, stage):
            return stage
        refusals.append(f"`{run_as.name}` does not reach {stage}")
    raise ChildError("no place to stage Postgres in: " + "; ".join(refusals))


def _safe_dir(path: Path) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        _check_safe(path)
    else:
        path.chmod(0o711)  # whatever the umask: others pass through to what is theirs, list nothing


def _open_to_readers(tree: Path) -> None:
    """Let everybody read a copy of what was installed under a strict umask."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o755 if mode & 0o100 else 0o644))


def _check_safe(path: Path) -> None:
    """Refuse a directory that somebody else made, or could change, or that is a symbolic link."""
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != 0 or status.st_mode & 0o022:
        raise ChildError(f"{path} is not a directory that only root can change; not using it")


def _reaches(run_as: RunAs, directory: Path) -> bool:
    """Ask by trying, as that user: mode bits alone do not tell of ACLs and mounts."""
    probe = subprocess.run(
        ("/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)),
        user=run_as.uid,
        group=run_as.gid,
        extra_groups=(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PROBE_TIMEOUT_S,
        check=False,
    )
    return probe.returncode == 0


if __name__ == "__main__":  # `make clean-data`
    try:
        remove_data(Path(sys.argv[1]).resolve())
    except ChildError as error:
        sys.exit(str(error))
