"""What the documents say of the code is so: links, settings, codes, kinds, commands, numbers."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from holdfast import errors, replies
from holdfast.cli import app
from holdfast.cold import MAX_RECORDS
from holdfast.config import Config
from holdfast.decisions import ROUNDS
from holdfast.errors import HoldfastError
from holdfast.http import problems
from holdfast.http.requests import MAX_BATCH_BYTES, MAX_BODY_BYTES
from holdfast.http.routes import ROUTES
from holdfast.keys import shard_of
from holdfast.model import MAX_AMOUNT, HoldState, Status
from holdfast.telemetry import EVENTS
from settlement.incidents import KINDS
from settlement.rebuild import UNSETTLED_MAX
from settlement.state import StateName
from settlement.upkeep import KEPT_MAX
from tests.sources import LUA, ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
} | {"lua/README.md": (ROOT / "lua" / "README.md").read_text(encoding="utf-8")}

CONFIGURATION = PAGES["docs/configuration.md"]
API = PAGES["docs/api.md"]
RUNBOOK = PAGES["docs/runbook.md"]
STATES = PAGES["docs/state-machine.md"]
ARCHITECTURE = PAGES["docs/architecture.md"]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def prose(text: str) -> str:
    return _FENCED.sub("", text)


# ── links ────────────────────────────────────────────────────────────────────────────────────────

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchors(text: str) -> set[str]:
    """What a heading is linked by: lower case, no punctuation, hyphens for spaces."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(text))
    }


def links() -> list[tuple[str, str]]:
    return [(page, target) for page, text in PAGES.items() for target in _LINK.findall(prose(text))]


@pytest.mark.parametrize(
    ("page", "target"),
    [pytest.param(*each, id=" to ".join(each)) for each in links() if "://" not in each[1]],
)
def test_a_relative_link_leads_somewhere(page: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor:
        assert anchor in anchors(path.read_text(encoding="utf-8"))


def test_other_links_are_https() -> None:
    others = {target for _, target in links() if "://" in target}
    assert {target for target in others if not target.startswith("https://")} == set()


def test_every_page_is_reached_from_the_readme() -> None:
    reached, found = {"README.md"}, ["README.md"]
    while found:
        page = found.pop()
        for target in _LINK.findall(prose(PAGES[page])):
            path = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            pages = sorted(path.glob("*.md")) if path.is_dir() else [path]
            for each in pages:
                name = each.relative_to(ROOT).as_posix()
                if name in PAGES and name not in reached:
                    reached.add(name)
                    found.append(name)
    assert reached == set(PAGES)


# ── mermaid ──────────────────────────────────────────────────────────────────────────────────────

_DIAGRAMS = {"stateDiagram-v2", "flowchart", "sequenceDiagram"}


def mermaids() -> list[list[str]]:
    return [
        [line.strip() for line in text.splitlines() if line.strip()]
        for page in PAGES.values()
        for language, text in _FENCED.findall(page)
        if language == "mermaid"
    ]


@pytest.mark.parametrize("lines", mermaids(), ids=lambda lines: lines[1].partition(":")[2].strip())
def test_a_diagram_is_one(lines: list[str]) -> None:
    assert lines[0].split()[0] in _DIAGRAMS
    assert len(lines) > 2
    arrow = re.compile(r"(?:\[\*\]|\w+) --> (?:\[\*\]|\w+)(?:: \S.*)?")
    alias = re.compile(r"\w+: \S.*")
    assert [ln for ln in lines[1:] if not arrow.fullmatch(ln) and not alias.fullmatch(ln)] == []


@pytest.mark.parametrize(
    ("heading", "states"), [("A hold", HoldState), ("An account", Status), ("A shard", StateName)]
)
def test_a_diagram_has_the_states_of_the_code(heading: str, states: Any) -> None:
    section = STATES.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    diagram = _FENCED.findall(section)[0][1]
    drawn = {name for line in re.findall(r"(\w+) --> (\w+)", diagram) for name in line}
    assert drawn == set(get_args(states))


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def rows(text: str) -> list[list[str]]:
    """Cells of every table's rows, without the backticks around a whole cell."""
    return [
        [cell.strip().strip("`") for cell in line.strip().strip("|").split(" | ")]
        for line in prose(text).splitlines()
        if line.startswith("| ")
    ]


def settings() -> dict[str, list[str]]:
    """The described settings: what each row says, by the name of the field."""
    found = [row for row in rows(CONFIGURATION) if row[0].startswith("HOLDFAST_")]
    named = {row[0].removeprefix("HOLDFAST_").lower(): row[1:] for row in found}
    assert len(named) == len(found), "a setting is described twice"
    return named


def test_exactly_the_settings_that_there_are_are_described() -> None:
    assert set(settings()) == set(Config.model_fields)


@pytest.mark.parametrize("name", sorted(Config.model_fields))
def test_a_setting_has_the_default_and_the_range_that_are_described(name: str) -> None:
    field = Config.model_fields[name]
    default, allowed, meaning = settings()[name]
    told = field.default
    assert default == ("none" if told is None else str(told).lower())
    for bound in field.metadata:
        for end in ("ge", "le"):
            if (value := getattr(bound, end, None)) is not None:
                assert str(value) in allowed.replace("from ", "").split(" to ")
    for word in get_args(field.annotation):
        if isinstance(word, str):
            assert f"{word}`" in f"{allowed}`"
    assert meaning.endswith((".", "`.", "`"))


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def classes(root: type[HoldfastError]) -> list[type[HoldfastError]]:
    return [root, *(found for child in root.__subclasses__() for found in classes(child))]


def codes() -> dict[str, int]:
    """Every code that a refusal of errors.py or a page of problems.py has, with its status."""
    found = {code: each.status for code, each in problems.CODES.items()}
    for each in classes(HoldfastError):
        if each.__module__ == errors.__name__ and each is not errors.Conflict:
            found[each.code] = each.status  # a Conflict is given its code when it is raised
    return found


def test_every_code_is_described_with_its_status() -> None:
    described = {row[1]: int(row[0]) for row in rows(API) if row[0].isdigit() and len(row) == 4}
    assert described == codes()


def stores() -> set[str]:
    """What `store` of a 503 can be, as the docstring of StoreUnavailable lists it."""
    text = (errors.StoreUnavailable.__doc__ or "").partition("why:")[2]
    found = set(re.findall(r"\w+", text))
    refused: set[str] = {
        error.store
        for code, make in replies.REFUSALS.items()
        if isinstance(error := refusal(make), errors.StoreUnavailable)
    }
    assert refused <= found
    return found


def refusal(make: Any) -> HoldfastError | None:
    try:
        made: HoldfastError = make("reserve", [1, 1])
    except (AttributeError, KeyError, IndexError):
        return None  # one that needs other details, which a store's refusal does not
    return made


def test_every_reason_of_a_503_has_its_place_in_the_runbook() -> None:
    headings = {heading.removeprefix("503 ") for heading in _HEADING.findall(prose(RUNBOOK))}
    assert stores() <= headings
    for store in stores():
        assert f"(runbook.md#503-{store})" in API


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/v1/batch"])
def test_a_path_that_is_described_is_a_route(path: str) -> None:
    assert path in API
    assert path in {route.path for route in ROUTES}


# ── operators ────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_incident_is_in_the_runbook() -> None:
    table = RUNBOOK.partition("\n## Incidents\n")[2].partition("\n## ")[0]
    assert {row[0] for row in rows(table) if row[0] != "kind" and "-" not in row[0]} == set(KINDS)


def test_every_symptom_has_two_commands() -> None:
    """A first section of general ones, the list of incidents and of events aside."""
    for section in RUNBOOK.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        if heading in ("Incidents", "Log events worth an alarm"):
            continue
        commands = [text for language, text in _FENCED.findall(section) if not language]
        assert [len(text.splitlines()) for text in commands] == [2], heading


def test_the_events_that_the_runbook_names_are_logged() -> None:
    section = RUNBOOK.partition("\n## Log events")[2]
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", section))
    assert len(named) > 5
    assert named <= EVENTS.keys()


_COMMAND = re.compile(r"\bholdfast((?: [a-z][a-z-]*)+)")


def said_commands(text: str) -> set[str]:
    """`holdfast …` as it stands in code: in blocks line by line, in text over the ends of lines."""
    lines = [line for _, block in _FENCED.findall(text) for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]
    return {command.strip() for line in lines for command in _COMMAND.findall(line)}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_command_that_is_named_exists(page: str) -> None:
    for command in said_commands(PAGES[page]):
        here: Any = typer.main.get_command(app)
        for word in command.split():
            if not hasattr(here, "commands"):
                break  # what follows are arguments
            assert word in here.commands, f"holdfast {command}"
            here = here.commands[word]


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


def in_lua(name: str) -> int:
    found = re.findall(rf"^local {name} = (\d+)", "\n".join(LUA.values()), re.M)
    assert len(found) == 1, name
    return int(found[0])


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("unsettled entries of a shard", UNSETTLED_MAX),
        ("unsettled entries of a shard", in_lua("B1")),
        ("expiring grants of an account", in_lua("MAX_GRANTS")),
        ("keyed calls on one hold", in_lua("MAX_KEYS")),
        ("holds that one call expires", in_lua("MAX_DUE")),
        ("steps of one call (loads, expiries)", ROUNDS),
        ("settled entries kept in a stream", KEPT_MAX),
        ("amount or balance", MAX_AMOUNT),
        ("body of a request", MAX_BODY_BYTES // 1024),
        ("body of a request", MAX_BATCH_BYTES // 1024**2),
        ("commands under way to a node", Config.model_fields["max_in_flight"].default),
    ],
)
def test_a_limit_is_the_one_in_the_code(what: str, number: int) -> None:
    (row,) = (row for row in rows(ARCHITECTURE) if row[0] == what)
    assert f"{number:,}" in row[1]


def test_the_numbers_in_the_rules_are_those_of_the_code() -> None:
    for number in (f"{in_lua('B1'):,}", f"{UNSETTLED_MAX:,}", f"at most {MAX_RECORDS}"):
        assert number in ARCHITECTURE


def test_the_shard_of_the_example_is_right() -> None:
    example = _FENCED.findall(PAGES["docs/redis-keys.md"])[0][1]
    name = re.findall(r'b"(\w+)"', example)[0]
    assert f"# {shard_of(name, 64)}" in example
    assert f"{{{shard_of(name, 64):03d}}}:acct:{name}" in PAGES["docs/redis-keys.md"]


# ── Docker, which no test runs ───────────────────────────────────────────────────────────────────


def test_the_compose_file_sets_what_holdfast_knows_and_redis_must_have() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    named = {name.removeprefix("HOLDFAST_").lower() for name in re.findall(r"HOLDFAST_\w+", text)}
    assert named
    assert named <= set(Config.model_fields)
    words = re.findall(r"^      - \"?([^\"\n]*)\"?$", text, re.M)
    for flag, value in (
        ("--appendonly", "yes"),
        ("--appendfsync", "always"),
        ("--no-appendfsync-on-rewrite", "no"),
        ("--maxmemory-policy", "noeviction"),
    ):
        assert words[words.index(flag) + 1] == value
    assert [port for port in re.findall(r"- (\S+:\d+:\d+)", text) if "127.0.0.1" not in port] == []


def test_the_image_is_built_from_all_that_a_package_needs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", text, re.M))
    names = {name for line in copied for name in line.split()}
    assert {Path(name).name for name in names} == {
        line.removeprefix("!") for line in ignored if line.startswith("!")
    }
    roots = {path.split("/")[0] for path in re.findall(r'= "([a-z]+)/?[\w/]*"', project)}
    assert {name for name in ("lua", "settlement", "src") if name in roots} <= names
    assert "USER 10001" in text
    assert "--constraint constraints.txt '.[server]'" in text
