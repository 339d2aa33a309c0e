"""What no code of the site does, and stands in no single place of it."""

from __future__ import annotations

import ast
import re

from web.settings import ROOT

PARTS = ("auth", "lab", "lessons", "pages", "sessions", "web")
SOURCES = [ROOT / "app.py", *(path for part in PARTS for path in (ROOT / part).rglob("*.py"))]

DANGEROUS = re.compile(
    r"\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|document\.(write|cookie|domain)|postMessage|"
    r"['\"]message['\"]|localStorage|sessionStorage|indexedDB|import\(|setTimeout\(['\"]"
)


def test_scripts_use_nothing_dangerous() -> None:
    folders = [ROOT / folder for folder in ("static", "templates", "lessons", "lab") if (ROOT / folder).exists()]
    scripts = [path for folder in folders for kind in ("js", "svg", "html") for path in folder.rglob(f"*.{kind}")]
    assert any(path.suffix == ".js" for path in scripts)
    places = {str(path.relative_to(ROOT)): path.read_text() for path in scripts}
    found = {(place, match[0]) for place, text in places.items() for match in DANGEROUS.finditer(text)}
    # The lesson on HttpOnly: it reads the names of the cookies that a script can see, and its page says so.
    lesson = {("lessons/static/attributes.js", "document.cookie"), ("lessons/attributes/page.html", "document.cookie")}
    assert found == {(path, word) for path, word in lesson if (ROOT / path).exists()}
    assert not [place for place, _ in lesson if re.search(r"document\.cookie\s*=", places.get(place, ""))]
    assert not [path.name for path in scripts if re.search(r"<(object|embed|applet)\b|\|\s*safe\b", path.read_text())]


def test_no_weak_hash_and_no_predictable_random_number_is_used() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        weak = {"md5", "sha1", "uuid1", "uuid4", "random", "pickle", "ECB"} & names
        # Redis knows a script by its SHA-1, which protects nothing.
        assert weak <= ({"sha1"} if path.parent.name == "redis" else set()), path
