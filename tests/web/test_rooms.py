"""The rooms of the site: what each may import. `sessions/` has its own test, tests/sessions/test_structure.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from web.settings import ROOT

# Each imports itself and what stands below it.
BELOW = {
    "app": ("lessons", "lab", "pages", "auth", "web", "sessions"),
    "lessons": ("pages", "auth", "web", "sessions"),
    "lab": ("pages", "auth", "web", "sessions", "services"),  # it pauses the servers that `make services` has started
    "pages": ("auth", "web", "sessions"),
    "auth": ("web", "sessions"),
    "web": ("sessions",),
    "sessions": (),
}
OUTSIDE = ("bench", "docs", "examples", "services", "tests")  # around the site
FILES = [ROOT / "app.py", *(path for room in BELOW for path in sorted((ROOT / room).rglob("*.py")))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imported(module: str) -> Iterator[str]:
    """Yield what a module imports, wherever it does: at its top, in a function, under TYPE_CHECKING, or by its name."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{name.name}" if f"{base}.{name.name}" in MODULES else base for name in node.names)
        elif isinstance(node, ast.Call) and re.search(r"\b(?:import_module|__import__)$", ast.unparse(node.func)):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def test_imports_run_one_way_from_the_page_tree_to_the_package() -> None:
    rooms = {*BELOW, *OUTSIDE}
    for module in MODULES:
        room = module.split(".")[0]
        wrong = {name for name in imported(module) if (other := name.split(".")[0]) in rooms and other != room
                 and other not in BELOW[room]}  # fmt: skip
        assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_no_module_of_the_site_imports_itself_by_way_of_others() -> None:
    below = {module: set(imported(module)) & MODULES.keys() - {module} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in done:
            for other in below[module]:
                visit(other, [*way, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_no_import_of_the_site_is_hidden_under_type_checking() -> None:
    site = [path for module, path in MODULES.items() if not module.startswith("sessions")]
    assert [path.relative_to(ROOT) for path in site if "TYPE_CHECKING" in path.read_text(encoding="utf-8")] == []
