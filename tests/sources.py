"""Our own files, read once: for tests about the code, not about what it does."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src/holdfast", "settlement", "lua", "tests")
CODE = ("src/holdfast/", "settlement/", "lua/")


def texts(*suffixes: str) -> dict[str, str]:
    """Texts by path, of our own folders; caches and what a build left are not ours."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            inner = path.relative_to(ROOT)
            hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
            if path.suffix in suffixes and not hidden:
                found[inner.as_posix()] = path.read_text(encoding="utf-8")
    return found


PYTHON = texts(".py")
LUA = texts(".lua")
SQL = texts(".sql")
TREES = {path: ast.parse(text) for path, text in PYTHON.items()}
OURS = {path: tree for path, tree in TREES.items() if path.startswith(CODE)}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions, methods and classes of a module, at any depth."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, DEFINITIONS):
            yield node


def strings_of(path: str) -> Iterator[tuple[int, str]]:
    """Lines and values of the strings of a module, f-strings in their parts; not its docstrings."""
    tree = TREES[path]
    words = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, *DEFINITIONS))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in words:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node.value, bytes):
            yield node.lineno, node.value.decode("latin-1")


def imports_of(path: str) -> Iterator[str]:
    """Every module that a file imports, at its top or inside, in full."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            # `from holdfast import keys` names a module, `from holdfast.keys import is_id` not.
            yield from (
                f"{module}.{name.name}" if module in ("holdfast", "settlement") else module
                for name in node.names
            )


def module_of(path: str) -> str:
    """`holdfast.http.app` of `src/holdfast/http/app.py`."""
    inner = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
    return inner.replace("/", ".")


def everything() -> dict[str, str]:
    """Every text that is in the repository."""
    loose = [*ROOT.glob("*"), *(ROOT / "docs").rglob("*"), *(ROOT / ".ci").glob("*")]
    rest = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in loose
        if path.is_file()
    }
    return texts(".py", ".lua", ".sql", ".md", ".html", ".css", ".js", ".json", ".typed") | rest
