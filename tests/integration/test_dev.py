"""The supervisor behind `holdfast dev`: what it starts, keeps running, refuses and leaves behind.

The stores are real. Most tests put small programs in the place of `holdfast serve` and the others,
because they are about programs that refuse to start or die at a chosen moment.
"""

import contextlib
import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import httpx2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.children import free_port
from holdfast.embedded import Valkey

_PATIENCE_S = 60  # for things that take far less, on a machine that is busy

# `holdfast COMMAND ...` as the supervisor sees it. A file `COMMAND` in its directory holds Python
# that runs first, so that a test can make a command fail.
_STAND_IN = """
import http.server, json, os, secrets, signal, sys
from pathlib import Path

here, (command, *arguments) = Path(__file__).parent, sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (here / command).exists():
    exec((here / command).read_text())

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = (here / "key-known").exists() and (here / "key-known").read_text()
        refused = self.path != "/readyz" and self.headers["Authorization"] != f"Bearer {known}"
        self.send_response(401 if refused else 200)
        self.end_headers()

def leave(number, frame):
    with (here / "calls").open("a") as calls:
        calls.write(f"end {command}\\n")
    os._exit(0)

signal.signal(signal.SIGTERM, leave)
if command == "key":
    key = secrets.token_hex(8)
    (here / "key-known").write_text(key)
    print(json.dumps({"id": "k1", "key": key}))
elif command == "serve":
    port = int(arguments[arguments.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
elif command == "settle":
    signal.pause()
"""

_RUN = """
import sys
from pathlib import Path
from holdfast import dev, programs
programs.HOLDFAST = (sys.executable, sys.argv[1])
sys.exit(dev.run(int(sys.argv[3]), Path(sys.argv[2]), 1))
"""


class Dev:
    """A running `holdfast dev`, and the lines it has printed."""

    def __init__(self, command: tuple[object, ...], data: Path, **env: str) -> None:
        self.data = data
        clean = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "DATABASE_URL")}
        self.running = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean, **env},
        )
        self.said = ""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self._lines.put(line)
        self._lines.put("")

    def await_line(self, pattern: str) -> str:
        while True:
            line = self._lines.get(timeout=_PATIENCE_S)
            self.said += line
            if re.search(pattern, line):
                return line
            assert line, f"ended without /{pattern}/, after saying:\n{self.said}"

    @property
    def state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads((self.data / "dev.json").read_text())
        return state

    @property
    def pids(self) -> dict[str, int]:
        pids = self.state["pids"]
        assert isinstance(pids, dict)
        return pids

    def await_new_pid(self, name: str, old: int) -> None:
        """dev.json is replaced as a whole; wait for one with another pid."""
        changed = threading.Event()
        for _ in range(_PATIENCE_S * 100):
            if self.pids[name] != old:
                return
            changed.wait(0.01)
        raise AssertionError(f"no new {name}: {self.said}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.running.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.running.wait(_PATIENCE_S)
        self._reader.join()
        assert self.running.stdout is not None
        self.running.stdout.close()
        while not self._lines.empty():
            self.said += self._lines.get()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running.poll() is None:
            self.end()


class Workbench:
    """A data directory, and the stand-in for holdfast's own commands."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.commands = directory / "commands"
        self.commands.mkdir()
        (self.commands / "holdfast.py").write_text(_STAND_IN)

    def calls(self) -> list[str]:
        return (self.commands / "calls").read_text().splitlines()

    def dev(self, port: int = 0, **env: str) -> Dev:
        command = (sys.executable, "-c", _RUN, self.commands / "holdfast.py", self.data, port)
        return Dev(command, self.data, **env)


@pytest.fixture
def bench(server_dir: Path) -> Workbench:
    return Workbench(server_dir)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


def client(url: object) -> "redis.Redis[bytes]":
    return redis.Redis.from_url(str(url), retry=Retry(NoBackoff(), 0))


def test_it_says_how_to_begin_and_stops_in_order(bench: Workbench) -> None:
    port = free_port()
    with bench.dev(port) as dev:
        dev.await_line("holdfast is ready")
        dev.await_line("/commit")
        state, pids = dev.state, dev.pids
        assert (bench.data / "dev.json").stat().st_mode & 0o777 == 0o600
        assert set(state) == {"url", "api_key", "redis_url", "database_url", "pids"}
        assert state["url"] == f"http://127.0.0.1:{port}"
        assert set(pids) == {"redis", "postgres", "api", "worker"}
        assert str(state["api_key"]) in dev.said
        assert dev.said.count("curl -sS") == 4  # the first line makes an account and grants
        assert httpx2.get(f"{state['url']}/readyz").status_code == 200

        assert dev.end() == 0

    assert not any(alive(pid) for pid in pids.values())
    assert not (bench.data / "dev.json").exists()
    first, *started, api_end, worker_end = bench.calls()
    assert first == "migrate"
    assert sorted(started) == [  # these start side by side
        "key create --name dev --scopes all --json",
        f"serve --host 127.0.0.1 --port {port} --workers 1",
        "settle",
    ]
    assert (api_end, worker_end) == ("end serve", "end settle")
    assert "User requested shutdown" in (bench.data / "logs" / "valkey.log").read_text()
    assert "database system is shut down" in (bench.data / "logs" / "postgres.log").read_text()


def test_data_and_key_stay_over_a_restart_of_dev(bench: Workbench) -> None:
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        key = dev.state["api_key"]
        with client(dev.state["redis_url"]) as calls:
            calls.set("kept", "yes")
        assert dev.end(signal.SIGINT) == 0

    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        assert dev.state["api_key"] == key
        with client(dev.state["redis_url"]) as calls:
            assert calls.get("kept") == b"yes"
        dev.end()

    (bench.commands / "key-known").unlink()  # as with another database
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        assert dev.state["api_key"] != key


def test_what_dies_is_started_again(bench: Workbench) -> None:
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        before = dev.state
        with client(before["redis_url"]) as calls:
            calls.set("kept", "yes")

        for name in ("redis", "postgres", "api", "worker"):
            pids = dev.pids
            os.kill(pids[name], signal.SIGKILL)
            dev.await_new_pid(name, pids[name])

            assert {**dev.state, "pids": None} == {**before, "pids": None}
            assert {**dev.pids, name: None} == {**pids, name: None}
            assert alive(dev.pids[name])
            dev.await_line(f"{name} ended with code -9, starts again in 0.0 s")
        assert dev.end() == 0
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        with client(dev.state["redis_url"]) as calls:
            assert calls.get("kept") == b"yes"


def test_what_a_dead_api_leaves_behind_does_not_keep_its_port(bench: Workbench) -> None:
    (bench.commands / "serve").write_text(
        "serve_alone = http.server.HTTPServer.serve_forever\n"
        "def serve_as_two(server):\n"
        "    os.fork()\n"
        "    serve_alone(server)\n"
        "http.server.HTTPServer.serve_forever = serve_as_two\n"
    )
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        old = dev.pids["api"]
        os.kill(old, signal.SIGKILL)
        dev.await_new_pid("api", old)
        assert dev.end() == 0
    assert "did not start again" not in dev.said


def test_what_dies_again_and_again_is_slowed_down(bench: Workbench) -> None:
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        (bench.commands / "settle").write_text("sys.exit(3)")
        os.kill(dev.pids["worker"], signal.SIGKILL)
        for _ in range(4):
            dev.await_line(r"worker ended with code -?\d+, starts again in 0\.0 s")
        dev.await_line(r"worker ended with code 3, starts again in 5\.0 s")
        assert dev.end() == 0  # without waiting for that


@pytest.mark.parametrize("command", ["migrate", "settle", "serve"])
def test_refused_settings_end_dev_with_their_line(bench: Workbench, command: str) -> None:
    (bench.commands / command).write_text(
        "print('loading'); sys.stdout.flush()\n"
        "print('HOLDFAST_SHARDS: not a number', file=sys.stderr); sys.exit(78)"
    )
    with bench.dev() as dev:
        assert dev.ended() == 1
        assert dev.said == "HOLDFAST_SHARDS: not a number\n"
        assert not (bench.data / "dev.json").exists()


def test_a_program_that_never_comes_up_ends_dev(bench: Workbench) -> None:
    (bench.commands / "serve").write_text("sys.exit('nothing works')")
    with bench.dev() as dev:
        assert dev.ended() == 1
        assert dev.said.endswith("api ended with code 1: nothing works\n")


def test_a_failed_migration_is_told(bench: Workbench) -> None:
    (bench.commands / "migrate").write_text("sys.exit('migration 0007 was changed')")
    with bench.dev() as dev:
        assert dev.ended() == 1
        assert dev.said == "holdfast migrate ended with code 1: migration 0007 was changed\n"


def test_a_second_dev_on_the_same_data_is_refused(bench: Workbench) -> None:
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        state = dev.state
        with bench.dev() as second:
            assert second.ended() == 1
            assert second.said == (
                f"holdfast dev in {bench.data} is in use by pid {dev.running.pid}\n"
            )
        assert dev.state == state


def test_a_port_in_use_is_told(bench: Workbench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with bench.dev(port) as dev:
            assert dev.ended() == 1
            assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in dev.said


def test_stopping_while_it_starts(bench: Workbench) -> None:
    (bench.commands / "migrate").write_text("signal.pause()")
    with bench.dev() as dev:
        waiting = threading.Event()
        for _ in range(_PATIENCE_S * 100):
            if (bench.commands / "calls").exists():
                break
            waiting.wait(0.01)
        assert dev.end(signal.SIGINT) == 0
    assert bench.calls() == ["migrate"]


def test_given_stores_are_used_and_left_alone(bench: Workbench) -> None:
    (bench.commands / "serve").write_text(
        "(here / 'urls').write_text(os.environ['HOLDFAST_REDIS_URL'] + ' '"
        " + os.environ['HOLDFAST_DATABASE_URL'])"
    )
    given = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    with bench.dev(**given) as dev:
        dev.await_line("holdfast is ready")
        assert set(dev.pids) == {"api", "worker"}
        assert (bench.commands / "urls").read_text() == " ".join(given.values())
        assert (dev.state["redis_url"], dev.state["database_url"]) == tuple(given.values())
    assert not (bench.data / "valkey").exists()
    assert not (bench.data / "postgres").exists()


def in_words(line: str) -> tuple[str, str, dict[str, str], str]:
    """Method, URL, headers and body of a `curl` line, as a shell and curl would read it."""
    words = shlex.split(line)
    assert words[:2] == ["curl", "-sS"]
    options: dict[str, list[str]] = {"-X": [], "-H": [], "-d": []}
    urls = []
    rest = iter(words[2:])
    for word in rest:
        if word in options:
            options[word].append(next(rest))
        else:
            urls.append(word)
    (url,), (body,) = urls, options["-d"]
    headers = dict(header.split(": ", 1) for header in options["-H"])
    return (options["-X"] or ["POST"])[0], url, headers, body


def test_the_real_thing(server_dir: Path) -> None:
    data = server_dir / "data"
    command = (sys.executable, "-m", "holdfast", "dev", "--port", 0, "--data", data)
    with Dev((*command, "--api-workers", 2), data) as dev, httpx2.Client(trust_env=False) as http:
        dev.await_line("/commit")
        lines = [line for line in dev.said.splitlines() if line.startswith("curl")]
        calls = [in_words(call) for line in lines for call in line.split(" && ")]

        answers = [await_answer(http, *call) for call in calls]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 200]
        for name, pid in dev.pids.items():
            os.kill(pid, signal.SIGKILL)
            dev.await_new_pid(name, pid)
        again = await_answer(http, *calls[-1])

        # The commit was kept through the death of everything, and so was its key.
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json()["committed"] == answers[-1].json()["committed"] == 1_250_000
        assert dev.end() == 0
        assert "did not" not in dev.said


def await_answer(
    http: httpx2.Client, method: str, url: str, headers: dict[str, str], body: str
) -> httpx2.Response:
    """The first answer that is no "not now"; the outcome of a call is asked for with its key."""
    pause = threading.Event()
    for _ in range(_PATIENCE_S * 20):
        with contextlib.suppress(httpx2.TransportError):
            answer = http.request(method, url, headers=headers, content=body)
            if answer.status_code != 503:
                return answer
        pause.wait(0.05)
    raise AssertionError("the service never came back")


def test_wrong_settings_of_the_real_thing(server_dir: Path) -> None:
    data = server_dir / "data"
    command = (sys.executable, "-m", "holdfast", "dev", "--port", 0)
    evicting = ("--maxmemory-policy", "allkeys-lru")
    with Valkey.start(server_dir / "valkey", extra_args=evicting) as server:
        for name, value, told in (
            ("HOLDFAST_CALL_TIMEOUT_MS", "soon", "HOLDFAST_CALL_TIMEOUT_MS"),
            ("REDIS_URL", server.url, "noeviction"),
        ):
            with Dev(command, data, HOLDFAST_DATA=str(data), **{name: value}) as dev:
                assert dev.ended() != 0
                assert told in dev.said
                assert len(dev.said.splitlines()) == 1, dev.said


def test_everything_ends_with_a_killed_dev(bench: Workbench) -> None:
    with bench.dev() as dev:
        dev.await_line("holdfast is ready")
        pids = dev.pids
        dev.end(signal.SIGKILL)
        assert (bench.data / "dev.json").exists()  # it could not take it away

    with bench.dev() as dev:  # waits for what is on its way out
        dev.await_line("holdfast is ready")
        assert set(dev.pids.values()).isdisjoint(pids.values())
        assert not any(alive(pid) for pid in pids.values())
