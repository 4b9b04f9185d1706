"""Events by the command line: what docs/events.md says is run as it stands there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.children import free_port
from holdfast.embedded import Postgres, Valkey
from tests.site import Site, until
from tests.sources import ROOT

PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
PATIENCE_S = 60


def block(language: str, number: int = 0) -> str:
    """A block of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)[number]


@pytest.fixture(scope="module")
def site(
    valkey_server: Valkey, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A migrated database and a worker that may send events to this machine."""
    made = Site(valkey_server.url, postgres_server.url, tmp_path_factory.mktemp("site"), shards=1)
    made.create()
    assert made.run("migrate").code == 0
    with made.running("settle", HOLDFAST_ENDPOINTS_PRIVATE="true"):
        yield made
    made.drop()


def here(site: Site, *arguments: str, **env: str) -> tuple[int, str, str]:
    """A command in this process, which is ten times as fast: its code, stdout and stderr."""
    ended = site.run_here(arguments, {**site.env, **env})
    return ended.code, ended.out, ended.err


def ok(site: Site, *arguments: str) -> str:
    code, out, err = here(site, *arguments)
    assert code == 0, err
    return out


def test_the_receiver_of_the_page_gets_what_the_page_sends(site: Site, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "receiver.py").write_text(block("python"))
    # The commands of this interpreter, whatever else the machine has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**site.env, "PATH": path}
    script = block("sh").replace("8099", str(port)) + 'echo "$!" >pid\n'
    subprocess.run(
        ("sh", "-e", "-c", script), cwd=tmp_path, env=env, check=True, timeout=PATIENCE_S
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        until(lambda: listens(port))
        (row,) = ok(site, "endpoint", "list").splitlines()[2:]
        endpoint = row.split()[0]
        tested = subprocess.run(
            ("sh", "-e", "-c", block("sh", 1)),
            check=False,
            env={**env, "ENDPOINT": endpoint},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert (tested.returncode, tested.stdout) == (0, "delivered, it answered 204\n"), tested
        received = (tmp_path / "received.txt").read_text()
        assert received == f"endpoint.test {{'endpoint': '{endpoint}'}}\n"
        # A receiver that has another secret refuses.
        ok(site, "endpoint", "rotate", endpoint)
        ok(site, "endpoint", "rotate", endpoint)
        code, out, err = here(site, "endpoint", "test", endpoint)
        assert (code, out) == (1, "") and "it answered 401" in err
    finally:
        os.kill(pid, signal.SIGTERM)
    ok(site, "endpoint", "remove", endpoint)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_an_endpoint_and_its_deliveries_by_hand(site: Site) -> None:
    code, _, err = here(site, "endpoint", "add", "http://127.0.0.1:1/")
    assert code == 1 and "must begin with https://" in err
    code, _, err = here(site, "endpoint", "add", "https://example.com", "--kinds", "surprise")
    assert code == 1 and "hold.expired" in err

    code, out, err = here(site, "endpoint", "add", "https://hooks.invalid/", "--by", "ann")
    assert code == 0 and out.startswith("whsec_")
    endpoint = err.split("endpoint ")[1].split(";")[0]
    assert out.strip() not in ok(site, "endpoint", "list", "--json")
    code, out, err = here(site, "endpoint", "test", endpoint)
    assert (code, out) == (1, "") and "failed" in err
    number = err.split("delivery ")[1].split()[0]
    assert endpoint in ok(site, "delivery", "list", "--state", "pending", "--endpoint", endpoint)

    ok(site, "endpoint", "disable", endpoint)
    assert "disabled by cli:" in " ".join(ok(site, "endpoint", "list").split())
    assert here(site, "endpoint", "test", endpoint)[0] == 1
    site.execute("UPDATE delivery SET state = 'dead', ended_at = now()")
    assert number in ok(site, "delivery", "list", "--state", "dead")
    assert ok(site, "delivery", "resend", number) == "1 on the way again\n"
    assert here(site, "delivery", "resend", number)[0] == 1
    site.execute("UPDATE delivery SET state = 'dead', ended_at = now()")
    assert ok(site, "delivery", "resend", "--all-dead").startswith("1 on the way")
    assert (
        here(site, "delivery", "resend")[0]
        == here(site, "delivery", "resend", "1", "--all-dead")[0]
    )
    ok(site, "endpoint", "enable", endpoint)
    ok(site, "endpoint", "remove", endpoint)
    assert here(site, "endpoint", "remove", endpoint)[0] == 1
    assert "ann" in ok(site, "audit", "--json")
