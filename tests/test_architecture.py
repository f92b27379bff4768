"""The rules that keep the packages apart and the modules readable."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from errata.cli.settings_reference import all_settings

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "problems": set[str](),
    "malmen_core": set[str](),
    "ledger": {"migrations", "problems"},
    "migrations": {"ledger"},
    "broker": {"ledger", "problems"},
    "service": {"broker", "ledger", "malmen_core", "problems"},
    "worker": {"broker", "ledger", "malmen_core", "problems"},
    "errata": {"broker", "ledger", "malmen_core", "problems", "service", "worker"},
}
STRANGERS = {
    "malmen_core": {"fastapi", "httpx", "psycopg", "redis", "rq", "sqlalchemy", "starlette", "uvicorn"},
    "ledger": {"fastapi", "httpx", "redis", "rq", "starlette", "torch", "transformers", "uvicorn"},
    "broker": {"fastapi", "httpx", "starlette", "torch", "transformers", "uvicorn"},
    "service": {"rq"},
    "worker": {"fastapi", "starlette", "uvicorn"},
}
MODULE_LINES = 400
FUNCTION_LINES = 50
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    """A module, parsed once for all tests."""
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """The top-level names that a module imports, anywhere in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_every_package_is_under_the_rules() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert found == set(MAY_IMPORT)


def test_the_wheel_has_every_file() -> None:
    """What is not a module is in a wheel only where `package-data` names it."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = {
        file for package, globs in data.items() for glob in globs for file in (ROOT / package).glob(glob)
    }
    files = {file for package in MAY_IMPORT for file in (ROOT / package).rglob("*") if file.is_file()}
    others = {file for file in files if file.suffix not in (".py", ".pyc")}
    assert sorted(map(name_of, others - named)) == []
    folders = {module.parent for module in MODULES}
    assert sorted(name_of(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_imports_point_inward() -> None:
    outward = {}
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0]
        forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package} | STRANGERS.get(package, set())
        found = set(imports(path)) & (forbidden | {"tests", "benchmarks"})
        if found:
            outward[name_of(path)] = found
    assert outward == {}


LAYERS = (
    ("errors",),
    ("facts",),
    ("serialization", "settings", "resources"),
    ("models",),
    ("generation",),
    ("editing",),
    ("training", "evaluation", "export"),
    ("baselines",),
)
"""Parts of the core, the lowest first: each may import those of the layers below it, and itself."""
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}
CORE = sorted((ROOT / "malmen_core").rglob("*.py"))


def part_of(module: str) -> str:
    """The part of the core that a dotted name lies in."""
    return module.split(".")[1]


def core_imports(path: Path) -> Iterator[str]:
    """The modules of the core that one of them imports, anywhere in it, by their dotted names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno} is relative"
            if node.module == "malmen_core":
                yield from (f"malmen_core.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("malmen_core."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("malmen_core."))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_core_imports_strictly_downward() -> None:
    own = {dotted(path) for path in CORE} - {"malmen_core"}
    assert {part_of(module) for module in own} == set(LAYER)
    upward = [
        f"{name_of(path)} imports {module}"
        for path in CORE
        if dotted(path) != "malmen_core"
        for module in core_imports(path)
        if part_of(module) != part_of(dotted(path)) and LAYER[part_of(module)] >= LAYER[part_of(dotted(path))]
    ]
    assert upward == []


def test_no_import_is_hidden_from_the_running_program() -> None:
    hidden = [
        f"{name_of(path)}:{node.lineno}"
        for path in CORE
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
        or (isinstance(node, ast.ImportFrom) and any(alias.name == "TYPE_CHECKING" for alias in node.names))
    ]
    assert hidden == []


def test_no_modules_of_the_core_import_each_other() -> None:
    graph = {dotted(path): set(core_imports(path)) for path in CORE}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines >= MODULE_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = body_lines(node)
                if lines >= FUNCTION_LINES:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert long == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's code, without its signature and its docstring."""
    code = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0


def test_nothing_is_printed_but_through_the_console() -> None:
    printing = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "pprint")
    ]
    assert printing == []


def test_no_handler_swallows_everything() -> None:
    """`except Exception` must raise again, or hand the error on."""
    broad = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node.type):
                uses = any(
                    isinstance(inner, ast.Raise) or (isinstance(inner, ast.Name) and inner.id == node.name)
                    for inner in ast.walk(ast.Module(node.body, []))
                )
                if not uses:
                    broad.append(f"{name_of(path)}:{node.lineno}")
    assert broad == []


def is_broad(kind: ast.expr | None) -> bool:
    return kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))


def test_every_setting_is_documented() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages if page.exists())
    names = [setting.name for setting in all_settings({})]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
