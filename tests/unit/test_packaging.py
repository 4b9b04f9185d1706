"""What `pip install holdfast` brings: everything in the tree, and for the client nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import holdfast

ROOT = Path(__file__).parents[2]
# Where a folder of the tree is in a wheel.
PLACES = {"src/holdfast": "holdfast", "lua": "holdfast/lua", "settlement": "settlement"}
BUILD_TIMEOUT_S = 120
RUN_TIMEOUT_S = 60


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a program that must end well. Python finds only what `environment` adds."""
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": os.defpath, "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=max(BUILD_TIMEOUT_S, RUN_TIMEOUT_S),
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone has and a build reads."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    litter = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")
    for folder in ("src", "lua", "settlement"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=litter)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path) -> zipfile.Path:
    """The wheel, built with what is installed here: nothing is downloaded."""
    directory = tree.parent
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory)
    run(*build, tree, cwd=directory)
    (built,) = directory.glob("*.whl")
    return zipfile.Path(built)


@pytest.fixture(scope="module")
def installed(wheel: zipfile.Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked: what an installer does with it."""
    directory = tmp_path_factory.mktemp("installed")
    # Not wheel.root, which before Python 3.11.3 names folders that the archive does not have.
    with zipfile.ZipFile(str(wheel.root.filename)) as archive:
        archive.extractall(directory)
    return directory


def test_the_wheel_has_what_the_tree_has(tree: Path, wheel: zipfile.Path) -> None:
    names = (name for name in wheel.root.namelist() if not name.endswith("/"))
    packed = {name for name in names if ".dist-info/" not in name}
    there = {
        f"{place}/{path.relative_to(tree / folder).as_posix()}"
        for folder, place in PLACES.items()
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    assert sorted(there - packed) == [], "packages or package-data in pyproject.toml lack these"
    assert sorted(packed - there) == []
    kinds = {Path(name).suffix for name in packed}
    assert kinds >= {".py", ".lua", ".sql", ".html", ".typed"}


def metadata(wheel: zipfile.Path) -> str:
    (path,) = (name for name in wheel.root.namelist() if name.endswith(".dist-info/METADATA"))
    return wheel.root.read(path).decode()


def test_the_wheel_says_what_it_is(wheel: zipfile.Path) -> None:
    head = metadata(wheel).split("\n\n")[0]
    assert f"\nVersion: {holdfast.__version__}\n" in head
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", head, re.M)
    assert needed == ["httpx2"], "what the client does not need belongs in an extra"
    (path,) = (name for name in wheel.root.namelist() if name.endswith("entry_points.txt"))
    assert "holdfast = holdfast.cli:main" in wheel.root.read(path).decode()


READ_ALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import holdfast
from holdfast import queries, scripts
from importlib.resources import files
assert holdfast.__file__.startswith(sys.argv[1]), holdfast.__file__
texts = [scripts.render(name, "0" * 32, test) for name in scripts.LOADED for test in (0, 1)]
for package in ("holdfast", "settlement"):
    read = queries.loader(package)
    for path in files(package).joinpath("sql").iterdir():
        if path.name.endswith(".sql"):
            texts.append(read(path.name[:-4]))
print(json.dumps({"texts": len(texts), "empty": sum(not text for text in texts)}))
"""


def test_scripts_and_statements_are_read_from_what_is_installed(installed: Path) -> None:
    found = json.loads(run(sys.executable, "-c", READ_ALL, installed, cwd=installed))
    assert found["texts"] > 100
    assert found["empty"] == 0


# ── the client alone ─────────────────────────────────────────────────────────────────────────────

# Everything of the client is imported, and a call is made to a port where nobody listens.
CLIENT_ALONE = """
import json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
allowed = set(json.loads(sys.argv[2])) | set(sys.stdlib_module_names)

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, OnlyThese())
import holdfast, holdfast.client
assert holdfast.__file__.startswith(sys.argv[1]), holdfast.__file__
for module in pkgutil.walk_packages(holdfast.client.__path__, "holdfast.client."):
    __import__(module.name)
for name in dir(holdfast.client):
    getattr(holdfast.client, name)
with holdfast.client.Client("http://127.0.0.1:9", "key", retries=0) as client:
    try:
        client.get_account("acme")
    except holdfast.client.HoldfastError as error:
        failure = type(error).__name__
print(json.dumps({"failure": failure, "loaded": sorted(sys.modules)}))
"""


def brought_by(requirement: str) -> set[str]:
    """Distributions that installing a distribution without extras brings, and itself."""
    found: set[str] = set()
    waiting = [requirement]
    while waiting:  # each is asked once
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        here = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if here and name not in found:
            found.add(name)
            waiting += requires(name) or ()
    return found


def test_the_client_needs_nothing_of_the_server(installed: Path) -> None:
    distributions = brought_by("httpx2")
    modules = {
        module
        for module, names in packages_distributions().items()
        if distributions & {canonicalize_name(name) for name in names}
    }
    allowed = json.dumps(sorted(modules | {"holdfast"}))
    found = json.loads(run(sys.executable, "-c", CLIENT_ALONE, installed, allowed, cwd=installed))
    ours = [name for name in found["loaded"] if name.startswith(("holdfast.", "settlement"))]
    assert [name for name in ours if not name.startswith("holdfast.client")] == []
    assert found["failure"] == "ConnectionLost"


def test_the_finder_of_that_test_finds(installed: Path) -> None:
    """Given what the server needs is missing, the server does not import."""
    server = CLIENT_ALONE.replace("import holdfast, holdfast.client", "import holdfast.ledger")
    with pytest.raises(AssertionError, match="is not there"):
        run(sys.executable, "-c", server, installed, '["holdfast"]', cwd=installed)
