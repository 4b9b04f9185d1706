"""The README does what it says: its commands are run, in order, and its answers compared.

All blocks run in one shell, in a directory that looks like a clone in which `make run` goes on, so
that a variable which one block exports is there for the next. Only the port, the name of the
account and what is different in every answer (times, ids of requests) are not as printed.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.keys import ShardKeys, shard_of
from tests.acceptance.conftest import clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Why a block is not run; a test below looks at each as far as it can.
NOT_RUN = {
    "a test looks for the targets in the Makefile",
    "takes a minute and wants the machine for itself",
    "needs Docker",
}

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_RUNS = {"sh", "console", "python"}
_ENDED = "@@ ended "  # a line that no command of the README prints
_PATIENCE_S = 60
# What no two answers have in common.
_PASSING = re.compile(r'("(?:created_at|expires_at|request_id)":\s*)"[^"]+"')

# `make test` needs nothing but pip: where there is no curl, this stands for it.
_CURL = """#!{python}
import argparse, httpx2
words = argparse.ArgumentParser()
words.add_argument("-sS", action="store_true", dest="silent")
words.add_argument("-X", default=None)
words.add_argument("-H", action="append", default=[])
words.add_argument("-d", default=None)
words.add_argument("url")
call = words.parse_args()
headers = dict(line.split(": ", 1) for line in call.H)
method = call.X or ("GET" if call.d is None else "POST")
answer = httpx2.request(method, call.url, headers=headers, content=call.d, trust_env=False)
print(answer.text, end="")
"""


@dataclass(frozen=True)
class Block:
    """One fenced block; `answer` is the JSON block right behind it, '' if there is none."""

    language: str
    text: str
    reason: str
    answer: str


def blocks() -> list[Block]:
    found = list(_BLOCK.finditer(README))
    made = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        answer = ""
        if following is not None and following["language"] == "json":
            between = README[match.end() : following.start()]
            answer = following["text"] if not between.strip() else ""
        made.append(Block(match["language"], match["text"], match["reason"] or "", answer))
    return [block for block in made if block.language in _RUNS]


RUN = [block for block in blocks() if not block.reason]


class Clone:
    """What a reader has: a directory with `.venv` and `.data`, and a service that runs."""

    def __init__(self, directory: Path, service: dict[str, Any]) -> None:
        self.service = service
        self.account = f"acme-{secrets.token_hex(4)}"
        self._directory = directory
        (directory / ".data").symlink_to(service["data"])
        (directory / ".venv").symlink_to(sys.prefix)
        self._env = clean_environment()
        if shutil.which("curl") is None:
            curl = directory / "curl"
            curl.write_text(_CURL.replace("{python}", sys.executable))
            curl.chmod(0o755)
            self._env["PATH"] = f"{directory}{os.pathsep}{self._env['PATH']}"

    def as_here(self, text: str) -> str:
        """A text of the README, for this service and this test's own account."""
        address = self.service["url"].removeprefix("http://")
        return re.sub(r"\bacme\b", self.account, text.replace("127.0.0.1:8080", address))

    def run(self, script: str) -> str:
        """What a script prints. Fails with all that it said, if a command of it fails."""
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self._directory,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, dev_service: dict[str, Any]) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"), dev_service)


@pytest.fixture(scope="module")
def printed(clone: Clone) -> list[str]:
    """What each block that runs has printed, in order."""
    script = ""
    for number, block in enumerate(RUN):
        text = clone.as_here(block.text)
        if block.language == "python":
            text = f"python - <<'EOF'\n{text}EOF\n"
        script += f"{text}\nprintf '\\n{_ENDED}{number}\\n'\n"
    parts = re.split(rf"\n{_ENDED}\d+\n", clone.run(script))
    return parts[:-1]


def test_every_command_runs(printed: list[str]) -> None:
    assert len(printed) == len(RUN)
    assert len(RUN) >= 6


def test_the_answers_are_those_that_are_printed(clone: Clone, printed: list[str]) -> None:
    compared = 0
    for block, answer in zip(RUN, printed, strict=True):
        if block.answer:
            said = json.loads(_PASSING.sub(r'\1"…"', answer))
            assert said == json.loads(_PASSING.sub(r'\1"…"', clone.as_here(block.answer)))
            compared += 1
    assert compared == 3


def test_the_python_example_prints_what_the_model_said(printed: list[str]) -> None:
    examples = [
        text for block, text in zip(RUN, printed, strict=True) if block.language == "python"
    ]
    assert examples == ["HELLO 3719000\n"]


def test_nothing_is_skipped_without_a_reason() -> None:
    reasons = [block.reason for block in blocks() if block.reason]
    assert sorted(reasons) == sorted(NOT_RUN)


def skipped(reason: str) -> str:
    (text,) = (block.text for block in blocks() if block.reason == reason)
    return text


def test_the_targets_of_make_exist() -> None:
    wanted = re.findall(
        r"^make (\w+)", skipped("a test looks for the targets in the Makefile"), re.M
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert wanted
    assert set(wanted) <= targets


def test_every_key_in_redis_is_described(clone: Clone, printed: list[str]) -> None:
    """Families of keys and fields of hashes, as the calls above have left them in Redis."""
    page = (ROOT / "docs" / "redis-keys.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z:_<>]+)`", page))
    keys = ShardKeys("hf", shard_of(clone.account, 64))
    families: set[str] = set()
    fields: set[str] = set()
    url = clone.service["redis_url"]
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True) as calls:
        for key in calls.scan_iter(keys.family.decode() + "*", count=1000):
            name = key.removeprefix(keys.family.decode())
            family, _, rest = name.partition(":")
            if rest and clone.account not in rest and family != "lease":
                continue  # of another account
            families.add(family)
            if calls.type(key) == "hash" and family != "members":
                fields |= {re.sub(r"^(g|op):.*", r"\1:<>", field) for field in calls.hkeys(key)}
    assert {"meta", "lease", "stream", "acct", "key"} <= families
    assert {f for f in families if f"{{016}}:{f}" not in page} == set()
    described |= {re.sub(r":<\w+>", ":<>", name) for name in described}
    assert fields - described == set()
