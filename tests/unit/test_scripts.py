"""The Lua headers are contracts: compared with the code below them and with the Python side."""

import re
from importlib.resources import files

import pytest

from holdfast import scripts, survey
from holdfast.codes import LIMITS, Code
from holdfast.replies import REFUSALS

BARE = (scripts.RAISE, scripts.AHEAD)  # without a nonce
ALL = (*scripts.LOADED, *BARE)
NONCE = "0123456789abcdef" * 2
# Codes that ask the ledger or the loader for a step, and are never shown to a caller.
STEPS = {
    Code.FENCED,
    Code.MISS,
    Code.MISS_KEY,
    Code.MISS_RECORD,
    Code.STALE,
    Code.EXISTS,
    Code.DUE,
}


def source(path: str) -> str:
    return files("holdfast.lua").joinpath(path).read_text(encoding="utf-8")


def code_of(text: str) -> str:
    """The text without comments and without quoted words."""
    return re.sub(r"'[^'\n]*'", "''", re.sub(r"--.*", "", text))


def names_of(part: str) -> set[str]:
    """What a part defines at its top level."""
    text = source(part)
    names = set(re.findall(r"^local function (\w+)", text, re.M))
    for group in re.findall(r"^local ([A-Z][A-Z0-9_, ]*) =", text, re.M):
        names |= {name.strip() for name in group.split(",")}
    return names


def parts() -> list[str]:
    folder = files("holdfast.lua").joinpath("lib")
    return sorted(f"lib/{f.name}" for f in folder.iterdir() if f.name.endswith(".lua"))


def steps(text: str) -> set[str]:
    """What the code at the top level of a part sets for what stands below it."""
    return set(re.findall(r"^local ([a-z_]+)(?: =|$)", text, re.M))


def called(text: str) -> set[str]:
    """Functions called and constants named, which is all that parts offer."""
    return set(re.findall(r"(?<![\w.:])(\w+)\(", text)) | set(
        re.findall(r"\b[A-Z][A-Z0-9_]+\b", text)
    )


def test_every_file_is_a_known_script() -> None:
    found = {f.name for f in files("holdfast.lua").iterdir() if f.name.endswith(".lua")}
    assert found == {f"{name}.lua" for name in ALL}


@pytest.mark.parametrize("name", ALL)
def test_header_says_what_the_script_uses(name: str) -> None:
    head = scripts.header(name)
    text = code_of("\n".join(source(p) for p in scripts.includes(name)) + source(f"{name}.lua"))
    own = re.sub(r"--.*", "", source(f"{name}.lua"))
    highest_key = max(int(n) for n in re.findall(r"KEYS\[(\d+)\]", text))
    assert highest_key <= len(head.keys)
    assert len(head.keys) - highest_key <= 2, "keys that nothing touches"
    if not any("..." in a for a in head.argv) and head.argv:
        highest = max(int(n) for n in re.findall(r"ARGV\[(\d+)\]", text))
        assert highest == len(head.argv)
    written = set(re.findall(r"post\(book, '(\w+)'", own))
    written |= set(re.findall(r"""{"type":"(\w+)",""", own))
    if name == "settings":
        written = {"settings", "freeze"}
    assert written == set(head.appends) - {"nothing"}


@pytest.mark.parametrize("name", ALL)
def test_header_names_every_code(name: str) -> None:
    head = scripts.header(name)
    assert [Code[c] for c in head.codes] == sorted(Code[c] for c in head.codes)
    text = code_of("\n".join(source(p) for p in scripts.includes(name)) + source(f"{name}.lua"))
    text = text.replace(code_of(source("lib/codes.lua")), "")
    # Codes of an unused branch of a shared part do not count: `ended` names three of which
    # each caller meets some, and so does the fence.
    used = {c.name for c in Code if re.search(rf"(?<!\w){c.name}(?!\w)", text)}
    assert set(head.codes) <= used
    assert {
        c
        for c in re.findall(r"\b[A-Z_]{2,}\b", code_of(source(f"{name}.lua")))
        if c in Code.__members__
    } <= set(head.codes)


@pytest.mark.parametrize("name", ALL)
def test_includes_are_those_needed_and_in_order(name: str) -> None:
    included = scripts.includes(name)
    texts = {part: code_of(source(part)) for part in included}
    own = code_of(source(f"{name}.lua"))
    for part in parts():
        if steps(code_of(source(part))):
            continue  # it is code, which does its work where it stands
        needed_by = [p for p in included if p != part and names_of(part) & called(texts[p])]
        wanted = bool(needed_by) or bool(names_of(part) & called(own))
        assert wanted == (part in included), part
        for user in needed_by:
            assert included.index(part) < included.index(user), (part, user)


def test_codes_are_one_table() -> None:
    found: dict[str, int] = {}
    for names, values in re.findall(
        r"^local ([A-Z_, ]+) = ([\d, ]+)$", source("lib/codes.lua"), re.M
    ):
        found |= dict(zip(names.split(", "), map(int, values.split(", ")), strict=True))
    assert found == {c.name: c.value for c in Code}


def test_limits_are_one_table() -> None:
    found: dict[str, int] = {}
    for names, values in re.findall(
        r"^local (LIMIT_[A-Z_, ]+) = ([\d, ]+)$", source("lib/limits.lua"), re.M
    ):
        found |= dict(zip(names.split(", "), map(int, values.split(", ")), strict=True))
    assert sorted(found.values()) == sorted(LIMITS)


def test_every_code_is_answered_refused_or_a_step() -> None:
    assert set(REFUSALS) | STEPS | {Code.OK, Code.REPLAY} == set(Code)
    assert not set(REFUSALS) & STEPS


@pytest.mark.parametrize("name", ALL)
def test_scripts_keep_the_rules(name: str) -> None:
    text = scripts.template(name)
    assert text.startswith("#!lua")
    flags = text.splitlines()[0].removeprefix("#!lua").strip()
    # What frees memory, and what must go on for memory to be freed (docs/decisions/0004).
    free = ("evict", "trim", "settled", "lease", "raise", "ahead", "delete")
    allowed = dict.fromkeys(free, "flags=allow-oom")
    reads = ("account", "hold", "entries", "due")
    assert flags == allowed.get(name, "flags=no-writes" if name in reads else "")
    for command in re.findall(r"redis\.call\('(\w+)'\s*,\s*([^,)]+)", text):
        if command[0] in ("TIME", "INFO"):
            continue
        assert re.match(r"KEYS\[|ACCT|key$", command[1].strip()), command
    assert "redis.pcall" not in text
    assert name in BARE or scripts.render(name, NONCE).count(NONCE) == 1


def test_test_clock_is_not_in_production() -> None:
    for name in ALL:
        assert "test_now_ms" not in scripts.template(name)
    assert "test_now_ms" in scripts.template("reserve", True)


def test_nonce_is_checked() -> None:
    with pytest.raises(ValueError, match="32 lower-case hex"):
        scripts.render("reserve", "' .. evil .. '")
    assert scripts.names(NONCE)["reserve"] != scripts.names(NONCE[::-1])["reserve"]


def test_a_survey_counts_with_the_numbers_of_the_scripts() -> None:
    assert f"local B1 = {survey.BACKLOG_MAX}\n" in source("lib/fence.lua")
    assert f"local CLOCK_SLACK_MS = {survey.CLOCK_SLACK_MS}\n" in source("lib/nonce.lua")
