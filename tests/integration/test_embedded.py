"""The embedded servers: real ones, that keep what they acknowledged and are never doubled."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast import embedded
from holdfast.children import ChildError, ClaimedError, free_port
from holdfast.embedded import Postgres, Valkey
from holdfast.staging import remove_data


def client(server: Valkey) -> "redis.Redis[bytes]":
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


def query(server: Postgres, sql: str, url: str | None = None) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(url or server.url, timeout=10, passfile="/no/such/file")
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- Valkey


def test_valkey_keeps_what_it_acknowledged_when_killed(server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey") as server, client(server) as calls:
        before = server.port, server.pid
        spawned: list[int] = []
        server.on_spawn = lambda: spawned.append(server.pid)
        calls.set("kept", "yes")
        server.kill()
        assert server.exited.result(0) == -signal.SIGKILL

        server.restart()

        assert calls.get("kept") == b"yes"
        assert server.port == before[0]
        assert server.pid != before[1]
        assert spawned == [server.pid]


def test_valkey_is_set_up_for_money(server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey", maxmemory=50_000_000) as server, client(server) as c:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "maxmemory": "50000000",
            "bind": "127.0.0.1",
        }
        assert {name: c.config_get(name)[name] for name in wanted} == wanted


def test_valkey_starts_again_on_its_data(server_dir: Path) -> None:
    with Valkey.start(server_dir / "valkey", extra_args=("--maxclients", "77")) as server:
        with client(server) as calls:
            calls.set("kept", "yes")
            assert calls.config_get("maxclients") == {"maxclients": "77"}
        assert server.stop()
        assert not server.running

    with Valkey.start(server_dir / "valkey", appendfsync="everysec") as server:
        with client(server) as calls:
            assert calls.get("kept") == b"yes"
            assert calls.config_get("appendfsync") == {"appendfsync": "everysec"}
        server.restart()  # of one that runs: gracefully
        with client(server) as calls:
            assert calls.get("kept") == b"yes"


def test_a_second_server_on_the_same_data_is_refused(server_dir: Path) -> None:
    refused = pytest.raises(ClaimedError, match=rf"is in use by pid {os.getpid()}")
    with Valkey.start(server_dir / "valkey"), refused:
        Valkey.start(server_dir / "valkey")


def test_data_is_free_at_once_while_another_thread_spawns(server_dir: Path) -> None:
    server = Valkey.start(server_dir / "valkey")
    assert server._owner is not None
    # As a child has it, until it has become its program.
    copy = os.dup(server._owner.fd)
    try:
        server.stop()
        Valkey.start(server_dir / "valkey").stop()
    finally:
        os.close(copy)


def test_a_start_that_fails_shows_the_log_and_frees_the_data(server_dir: Path) -> None:
    with pytest.raises(ChildError, match="Bad directive"):
        Valkey.start(server_dir / "valkey", extra_args=("--nonsense", "1"))

    Valkey.start(server_dir / "valkey").stop()


def test_a_port_in_use_is_refused_if_it_was_asked_for(server_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for server in (Valkey, Postgres):
            with pytest.raises(ChildError, match=f"port {port} on 127.0.0.1 is in use"):
                server.start(server_dir / server.noun, port=port)


def test_a_port_lost_to_another_program_is_replaced(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], free_port()
        ports = iter((taken, free))
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))

        with Valkey.start(server_dir / "valkey") as server:
            assert server.port == free


def test_a_server_outlives_the_thread_that_started_it(server_dir: Path) -> None:
    # Linux sends the death signal when the forking thread ends, not only when its program does.
    started: list[Valkey] = []
    thread = threading.Thread(target=lambda: started.append(Valkey.start(server_dir / "valkey")))
    thread.start()
    thread.join()

    with started[0] as server, pytest.raises(TimeoutError):
        server.exited.result(0.3)


def test_ports_are_not_given_twice() -> None:
    ports = [free_port() for _ in range(50)]

    assert len(set(ports)) == 50


# --- Postgres


def test_postgres_asks_for_its_password(server_dir: Path) -> None:
    with Postgres.start(server_dir / "postgres", fsync=False) as server:
        password = (server_dir / "postgres" / "password").read_text()
        assert mode(server_dir / "postgres" / "password") == 0o600
        assert password not in server.log_path.read_text()
        assert query(server, "SELECT current_database()") == "holdfast"
        for wrong in ("wrong", ""):
            with pytest.raises(asyncpg.InvalidPasswordError):
                query(server, "SELECT 1", server.url.replace(password, wrong))


def test_postgres_keeps_what_it_committed_when_killed(server_dir: Path) -> None:
    with Postgres.start(server_dir / "postgres") as server:
        url, pid = server.url, server.pid
        query(server, "CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()

        server.restart()

        assert query(server, "SELECT one FROM kept") == 1
        assert server.url == url
        assert server.pid != pid
        assert query(server, "SHOW fsync") == "on"
        assert server.stop()

    options = ("-c", "max_connections=20")
    with Postgres.start(server_dir / "postgres", fsync=False, extra_args=options) as server:
        assert query(server, "SELECT one FROM kept") == 1
        assert query(server, "SHOW max_connections") == "20"
        assert query(server, "SHOW fsync") == "off"


def test_postgres_restarts_while_a_killed_one_still_has_backends(server_dir: Path) -> None:
    async def kill_beside_open_connections() -> None:
        idle, busy = [await asyncpg.connect(server.url) for _ in range(2)]
        sleeping = asyncio.create_task(busy.execute("SELECT pg_sleep(60)"))
        while not await idle.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        ):
            pass
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)  # the backends had the data open
        idle.terminate()
        busy.terminate()
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await sleeping

    with Postgres.start(server_dir / "postgres", fsync=False) as server:
        asyncio.run(kill_beside_open_connections())
        assert query(server, "SELECT 1") == 1


def test_postgres_heals_half_made_data(server_dir: Path) -> None:
    data_dir = server_dir / "postgres"
    data_dir.mkdir()
    data_dir.chmod(0o711)  # whatever the umask
    (data_dir / "pgdata.new").mkdir()  # initdb was killed
    (data_dir / "pgdata.new" / "PG_VERSION").write_text("18\n")
    Postgres.start(data_dir, fsync=False).stop()
    (data_dir / "password").unlink()  # killed before the password was written
    (data_dir / "pgdata" / "postmaster.pid").write_text(f"{os.getpid()}\n")  # a pid in new hands

    with Postgres.start(data_dir, fsync=False) as server:
        assert query(server, "SELECT 1") == 1


def test_postgres_refuses_data_of_another_release(server_dir: Path) -> None:
    Postgres.start(server_dir / "postgres", fsync=False).stop()
    (server_dir / "postgres" / "pgdata" / "PG_VERSION").write_text("16\n")

    with pytest.raises(ChildError, match="was made by Postgres 16, this is 18"):
        Postgres.start(server_dir / "postgres", fsync=False)


# --- Data that Postgres's user cannot reach, as root; in place, as anybody else


def test_data_below_a_private_directory(
    server_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = server_dir / "private"
    private.mkdir(mode=0o700)
    data_dir = private / "postgres"
    staged = os.geteuid() == 0

    with Postgres.start(data_dir, fsync=False) as server:
        query(server, "CREATE TABLE kept AS SELECT 1 AS one")
        where = Path(str(query(server, "SHOW data_directory")))
        with pytest.raises(ClaimedError):
            remove_data(data_dir)
    assert where.is_relative_to(data_dir) == (not staged)
    assert (data_dir / "STAGED").exists() == staged
    assert (str(where.parent) in capsys.readouterr().out) == staged

    shutil.copytree(data_dir, private / "copy")
    with contextlib.nullcontext() if not staged else pytest.raises(ChildError, match="is a copy"):
        Postgres.start(private / "copy", fsync=False).stop()

    private.chmod(0o711)  # reachable now, but the data stays where it is
    with Postgres.start(data_dir, fsync=False) as server:
        assert query(server, "SELECT one FROM kept") == 1
        assert str(where) == query(server, "SHOW data_directory")

    remove_data(data_dir)
    assert not data_dir.exists()
    assert not where.exists()


def test_a_deleted_data_directory_starts_empty(server_dir: Path) -> None:
    private = server_dir / "private"
    private.mkdir(mode=0o700)
    data_dir = private / "postgres"
    with Postgres.start(data_dir, fsync=False) as server:
        query(server, "CREATE TABLE gone AS SELECT 1 AS one")
    subprocess.run(("rm", "-rf", data_dir), check=True)

    with Postgres.start(data_dir, fsync=False) as server:
        assert query(server, "SELECT to_regclass('gone')") is None
    remove_data(data_dir)


# --- The death of the program that started them

_STARTER = """
import json, signal, sys
from pathlib import Path
from holdfast.embedded import Postgres, Valkey
directory = Path(sys.argv[1])
valkey, postgres = Valkey.start(directory / "valkey"), Postgres.start(directory / "postgres")
print(json.dumps({"valkey": valkey.pid, "postgres": postgres.pid, "url": valkey.url}), flush=True)
signal.pause()
"""


def start_in_another_program(directory: Path) -> tuple["subprocess.Popen[str]", dict[str, int]]:
    starter = subprocess.Popen(
        (sys.executable, "-c", _STARTER, directory), stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    return starter, json.loads(starter.stdout.readline())


def kill(starter: "subprocess.Popen[str]") -> None:
    starter.kill()
    starter.communicate(timeout=10)


def test_servers_die_with_a_killed_program_and_keep_their_data(server_dir: Path) -> None:
    starter, pids = start_in_another_program(server_dir)
    with pytest.raises(ClaimedError, match=rf"in use by pid {starter.pid}"):
        Postgres.start(server_dir / "postgres")
    with redis.Redis.from_url(str(pids["url"]), retry=Retry(NoBackoff(), 0)) as calls:
        calls.set("kept", "yes")

    kill(starter)

    # A start waits for what is still on its way out.
    with (
        Valkey.start(server_dir / "valkey") as valkey,
        client(valkey) as calls,
        Postgres.start(server_dir / "postgres") as postgres,
    ):
        assert calls.get("kept") == b"yes"
        assert query(postgres, "SELECT 1") == 1
        assert {valkey.pid, postgres.pid}.isdisjoint({pids["valkey"], pids["postgres"]})


def test_a_survivor_is_detected_and_not_doubled(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter, pids = start_in_another_program(server_dir)
    os.kill(pids["valkey"], signal.SIGSTOP)  # it cannot act on its death signal
    kill(starter)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "_SURVIVOR_TIMEOUT_S", 0.1)
            with pytest.raises(ClaimedError, match=rf"in use by pid {pids['valkey']}"):
                Valkey.start(server_dir / "valkey")
    finally:
        os.kill(pids["valkey"], signal.SIGCONT)

    with Valkey.start(server_dir / "valkey") as server:
        assert server.pid != pids["valkey"]
