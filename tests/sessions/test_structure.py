"""The shape of the package: design section 2. Imports run one way, a backend is imported when it is first named."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sessions
from sessions.registry import BACKENDS, backend

ROOT = Path(sessions.__file__).parent
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
           for path in ROOT.rglob("*.py")}  # fmt: skip
SITE = {"app", "web", "auth", "pages", "lessons", "lab", "examples", "bench", "services", "tests", "docs"}
MOST_LINES = 8_494  # the design wants 5,000; each change that needs fewer lowers it


def imports(module: str) -> set[str]:
    """Return what a module imports, at its top, in functions and under TYPE_CHECKING; of a package above it too."""
    path, found = MODULES[module], set[str]()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{name.name}" if f"{base}.{name.name}" in MODULES else base for name in node.names}
    return found - {module}


def test_no_module_imports_itself_by_way_of_others() -> None:
    below = {module: imports(module) & MODULES.keys() for module in MODULES}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in done:
            for other in below[module]:
                visit(other, [*way, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_the_package_imports_nothing_of_the_site() -> None:
    assert {name for module in MODULES for name in imports(module) if name.split(".")[0] in SITE} == set()


@pytest.mark.parametrize("storage_type", BACKENDS)
def test_a_class_chain_is_session_and_its_backends_subclass(storage_type: str) -> None:
    chosen = backend(storage_type)
    assert chosen.__bases__ == (sessions.Session,)
    assert sessions.Session.__bases__[0].__module__ == "collections.abc"
    assert getattr(sessions, chosen.__name__) is chosen


def test_a_backend_and_its_driver_are_imported_when_it_is_first_named() -> None:
    program = """
import sys, sessions
heavy = {"cryptography", "pymemcache", "psycopg", "psycopg_pool", "redis"}
assert not heavy & sys.modules.keys() and not [name for name in sys.modules if name.startswith("sessions.backends.")]
sessions.FileSession
assert "sessions.backends.file" in sys.modules and "sessions.backends.ram" not in sys.modules
for name in ("CookieSession", "MemcachedSession", "PostgresqlSession", "RedisSession"):
    getattr(sessions, name)
assert not heavy & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT.parent, check=True)


def test_no_code_asks_which_backend_it_is_on() -> None:
    own = {place.split(".")[1] for place in BACKENDS.values()}
    own |= {name.replace("Session", "Store") for name in own}
    types = BACKENDS.keys() - {"cookie"}  # which is also the name of a header
    for module, path in MODULES.items():
        asked = [
            node for node in ast.walk(ast.parse(path.read_text()))
            if (isinstance(node, ast.Compare) and any(isinstance(one, ast.Constant) and one.value in types
                                                      for one in node.comparators))
            or (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
                and getattr(node.args[1], "id", "") in own)
        ]  # fmt: skip
        assert not asked, f"{module} line {asked[0].lineno}"


def test_the_package_stays_small() -> None:
    assert sum(len(path.read_text().splitlines()) for path in MODULES.values()) <= MOST_LINES
