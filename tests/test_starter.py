"""The site without its lessons: what is left of it runs, and so do its tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings import ROOT
from tests.site import Site, environment, folder
from tests.visitor import Visitor

DELETIONS = r"""
rm pages/cookies.py pages/attributes.py pages/counter.py pages/name.py pages/identity.py pages/backends.py
rm templates/cookies.html templates/cookie_read.html templates/cookie_set.html templates/attributes.html
rm templates/counter.html templates/hello.html templates/name.html templates/session.html
rm templates/session_off.html templates/backends.html static/attributes.js
rm -r templates/exercises
rm -rf lab tests/test_lab*.py tests/test_xray.py
sed -i '/^development.pages/d' site.conf
sed -i -E '/^(from pages\.|    root\.).*\b(Attributes|Backends|Cookies|Counter|Hello|Identity|Name)\b/d' app.py
rm -f tests/test_browser*.py tests/test_site*.py tests/test_lifecycle.py tests/test_profiles.py
rm -f tests/test_attacks.py tests/test_cluster.py tests/balancer.py tests/test_gunicorn.py tests/test_production.py
rm -f tests/test_leaks.py tests/test_security.py tests/test_docs.py tests/screenshots.py tests/test_proxies.py
grep -lE "[\"'](/counter|/cookie/|/hello|/name)\b" tests/test_*.py | xargs rm -f
rm -f tests/surroundings_app.py
rm -f tests/test_starter.py tests/test_lessons.py tests/test_teaching.py tests/transcript.py tests/laboratory.py
rm -rf docs README.md CHANGELOG.md SECURITY.md bench requirements-bench.txt tests/test_bench.py
sed -i -E '/^# What is compared/d; /^(bench|bench-peers|docs|screenshots|\.venv-bench.stamp):/,/^$/d' Makefile
sed -i -E '/make (bench|docs|screenshots)/d; s/ (screenshots|docs|bench-peers|bench)\b| \.venv-bench//g' Makefile
sed -i '/"screenshots":/d' tests/test_make.py
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def test_the_starter_runs_without_the_lessons_and_no_test_asks_for_them(scratch: Path) -> None:
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    copy = Path(shutil.copytree(ROOT, scratch / "starter", ignore=ignored))
    subprocess.run(["/bin/sh", "-e", "-c", DELETIONS], cwd=copy, capture_output=True, check=True)
    with Site("file", root=copy, env={"DEMO_PASSWORD": "cloakroom"}) as site:
        visitor = Visitor(site.url, headers={"Accept": "text/html"})
        signed_in = visitor.post("/login", {"username": "ada", "password": "cloakroom"})
        assert (signed_in.status, signed_in.headers["location"]) == (303, f"{site.url}/account")
        assert [visitor.get(path).status for path in ("/", "/login", "/account", "/healthz")] == [200] * 4
        lessons = ("/cookie/", "/counter", "/name", "/hello", "/backends")
        assert [visitor.get(path).status for path in lessons] == [404] * 5
        tour = site.request("GET", "/", {"Accept": "application/json"})[1]
        assert [lesson["path"] for lesson in json.loads(tour)["lessons"]] == ["/login"]
    collect = [sys.executable, "-m", "tests", "--collect-only", "-q"]  # what make test does there
    found = subprocess.run(collect, cwd=copy, env=environment(), capture_output=True, text=True)
    assert found.returncode == 0 and "tests/test_rules.py::" in found.stdout, found.stdout
    for test in (copy / "tests").glob("test_*.py"):
        assert not re.search(r"[\"'](/counter|/cookie/|/hello|/name)\b", test.read_text()), test.name
    helpers = [path.stem for path in (copy / "tests").glob("*.py") if not path.stem.startswith(("test_", "_", "conf"))]
    used = " ".join(path.read_text() for path in (copy / "tests").glob("*.py"))
    imports = r"(tests|from )\.{0}\b|from (tests|\.) import ([^(\n]*|\([^)]*)\b{0}\b"
    assert [name for name in helpers if not re.search(imports.format(name), used)] == []
    assert not re.search("bench|screenshots", (copy / "Makefile").read_text())
