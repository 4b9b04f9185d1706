"""How programs start, on what they refuse to, and how they end."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from tests.site import Ended, Site, until


@pytest.fixture
def site(valkey_server: Valkey, postgres_server: Postgres, tmp_path: Path) -> Iterator[Site]:
    """A site of which nothing is migrated and nothing runs."""
    made = Site(valkey_server.url, postgres_server.url, tmp_path)
    made.create()
    yield made
    made.drop()


# ── migrate, and what programs look at when they start ───────────────────────────────────────────


def one_line(ended: Ended) -> str:
    """What a program says that refuses its settings."""
    assert ended.code == 78, ended
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("holdfast: ")
    return line


def test_migrate_says_what_it_did_and_does_it_once(site: Site) -> None:
    first = site.ok("migrate")["applied"]
    assert first[0] == "0001_core"
    assert site.ok("migrate") == {"applied": []}
    assert "up to date" in site.run("migrate").out


def test_what_was_fixed_with_the_database_stays(site: Site) -> None:
    site.run("migrate")
    for command in (("migrate",), ("serve",), ("settle",), ("key", "list")):
        assert "HOLDFAST_SHARDS=4" in one_line(site.run(*command, HOLDFAST_SHARDS="8"))
    assert "HOLDFAST_PREFIX" in one_line(site.run("migrate", HOLDFAST_PREFIX="other"))


def test_nothing_starts_on_another_schema(site: Site) -> None:
    for command in (("serve",), ("settle",), ("inspect", "acme")):
        assert "holdfast migrate" in one_line(site.run(*command))
    site.run("migrate")
    site.execute("INSERT INTO migration VALUES (999, 'later', '', now())")
    for command in (("migrate",), ("serve",), ("settle",)):
        assert "release" in one_line(site.run(*command))


def test_migrate_needs_both_stores(site: Site) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert "Redis" in one_line(site.run("migrate", HOLDFAST_REDIS_URL=f"redis://{nobody}/0"))
    away = f"postgresql://holdfast:x@{nobody}/holdfast"
    assert "Postgres" in one_line(site.run("migrate", HOLDFAST_DATABASE_URL=away))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy"),
        (("--appendonly", "no"), "appendonly"),
        (("--appendfsync", "everysec"), "appendfsync"),
    ],
)
def test_a_redis_that_would_lose_money_is_refused(
    site: Site, server_dir: Path, options: tuple[str, ...], named: str
) -> None:
    with Valkey.start(server_dir / "valkey", extra_args=options) as server:
        for command in ("migrate", "serve", "settle"):
            line = one_line(site.run(command, HOLDFAST_REDIS_URL=server.url))
            assert named in line
            assert "CONFIG SET" in line
        if named == "appendfsync":
            memory = {"HOLDFAST_REDIS_URL": server.url, "HOLDFAST_DURABILITY": "memory"}
            assert site.run("migrate", **memory).code == 0


def test_the_service_starts_while_stores_are_away_and_says_so(site: Site) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    away = {
        "HOLDFAST_REDIS_URL": f"redis://{nobody}/0",
        "HOLDFAST_DATABASE_URL": f"postgresql://holdfast:x@{nobody}/holdfast",
    }
    with site.running("serve", "--port", str(site.port), **away) as api:
        assert site.ready(api, "/readyz", 503).json()["code"] == "store_unavailable"
        assert site.ready(api, "/livez").status_code == 200
        assert "Redis cannot be reached" in api.log.read_text()
        assert api.end(signal.SIGINT) == 0


def test_nobody_listens_where_somebody_listens(site: Site) -> None:
    site.run("migrate")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = one_line(site.run("serve", "--port", port))
        assert f"127.0.0.1:{port}: Address already in use" in line
    assert "cannot listen" in one_line(site.run("serve", "--host", "no.such.host.invalid"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_api_ends_as_it_is_told_and_leaves_nothing(
    site: Site, workers: str, number: signal.Signals
) -> None:
    site.run("migrate")
    temporary = site.directory / "tmp"
    temporary.mkdir()
    serve = ("serve", "--port", str(site.port), "--workers", workers)
    with site.running(*serve, TMPDIR=str(temporary)) as api:
        site.ready(api, "/livez")
        assert bool(list(temporary.iterdir())) is (workers == "2")
        assert api.end(number) == 0
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in api.log.read_text()
    assert api.log.read_text().count('"api_stopped"') == int(workers)


def test_the_worker_waits_for_stores_and_ends_when_it_is_told(site: Site) -> None:
    site.run("migrate")
    nobody = f"127.0.0.1:{free_port()}"
    with site.running("settle", HOLDFAST_REDIS_URL=f"redis://{nobody}/0") as worker:
        until(lambda: "worker_waits" in worker.log.read_text() or worker.process.poll())
        assert worker.end() == 0


# ── the API's processes ──────────────────────────────────────────────────────────────────────────


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ("ps", "-o", "pid=", "--ppid", str(pid)), check=False, capture_output=True, text=True
    )
    return [int(word) for word in listed.stdout.split()]


def test_processes_end_with_the_one_that_started_them(site: Site) -> None:
    assert site.run("migrate").code == 0
    with site.running("serve", "--port", str(site.port), "--workers", "2") as api:
        site.ready(api, "/livez")
        started = until(lambda: len(found := children(api.process.pid)) >= 2 and found)
        assert api.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
