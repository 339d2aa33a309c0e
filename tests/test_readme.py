"""README.md and CHANGELOG.md: what they show is run, what they list is compared with the code."""

from __future__ import annotations

import ast
import fnmatch
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import app
import sessions
from sessions.options import Settings, store_options
from sessions.registry import BACKENDS, backend
from sessions.tool import SessionTool
from settings import ABOUT, ENVIRONMENT, ROOT, SITE_CONF, find_profiles, read
from tests.site import Site, environment, folder, free_port, run
from tests.transcript import check, in_console
from tests.visitor import Visitor

README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8080"  # of the site in the README


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def blocks(language: str) -> list[str]:
    """The code blocks of a language, without the indentation of a list they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def the_file(name: str) -> str:
    """The code block that the README calls a file of this name."""
    found = re.search(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no file {name}"
    return found[1]


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this title, by their first cell without its backticks."""
    found = re.search(rf"^\| {re.escape(title)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert found, f"README.md has no table '{title}'"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return {first.strip("`"): others for first, *others in rows}


# --- the tour ---------------------------------------------------------------------------------------------------------


def test_every_command_of_the_tour_prints_what_the_readme_shows(scratch: Path) -> None:
    assert shutil.which("curl"), "the tour is followed with curl: sudo apt-get install curl"
    password = re.search(r"^    DEMO_PASSWORD=(\w+) make run$", README, re.MULTILINE)
    assert password
    tour = in_console("".join(blocks("console")))
    assert len([command for command, _ in tour if command.startswith("curl ")]) > 15
    with Site("file", env={"DEMO_PASSWORD": password[1]}) as site:
        (scratch / "var").mkdir()
        (scratch / "var" / "sessions").symlink_to(site.storage)
        check(tour, scratch, os.environ, ADDRESS, site.url.removeprefix("http://"))


# --- what a reader copies ---------------------------------------------------------------------------------------------


def test_the_starter_runs_without_the_lessons_and_no_test_asks_for_them(scratch: Path) -> None:
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    copy = Path(shutil.copytree(ROOT, scratch / "starter", ignore=ignored))
    (deletions,) = blocks("sh")
    subprocess.run(["/bin/sh", "-e", "-c", deletions], cwd=copy, capture_output=True, check=True)
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


def test_the_smallest_program_counts(scratch: Path) -> None:
    (program,) = (block for block in blocks("python") if "quickstart" in block)
    (scratch / "hello.py").write_text(program)
    port = free_port()
    # The program as it stands, on a free port: quickstart leaves alone what is configured before.
    settings = {"server.socket_port": port, "engine.autoreload.on": False}
    launcher = f"import cherrypy, runpy; cherrypy.config.update({settings!r}); runpy.run_path('hello.py')"
    process = subprocess.Popen(
        [sys.executable, "-c", launcher], cwd=scratch, env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        visitor = Visitor(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 30
        while True:
            try:
                answers = [visitor.get("/") for _ in range(3)]
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, "the program did not start"
                time.sleep(0.02)
        assert [answer.text for answer in answers] == ["1", "2", "3"]
        assert answers[0].cookies["session_id"]["samesite"] == "Lax", "these are CherryPy's own sessions"
    finally:
        process.terminate()
        process.wait(30)


def test_the_own_backend_passes_the_contract(scratch: Path) -> None:
    for name in ("own_backend.py", "test_own_backend.py"):
        (scratch / name).write_text(the_file(name))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own_backend.py"]
    env = environment({"PYTHONPATH": f"{ROOT}:{scratch}"})
    result = subprocess.run(command, cwd=scratch, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) > 20


@pytest.mark.parametrize("profile", ["own", "theirs"])
def test_a_backend_is_chosen_by_its_class(scratch: Path, profile: str) -> None:
    for name in ("own_backend.py", "their_sessions.py"):
        (scratch / name).write_text(the_file(name))
    config = the_file(f"{profile}.conf")
    (scratch / "extra.conf").write_text(f"[global]\nengine.autoreload.on = False\n{config}")
    more = ["--config", str(scratch / "extra.conf")]
    storage = folder()  # CherryPy's FileSession wants its folder to exist
    try:
        with Site(profile, args=more, storage=storage, env={"PYTHONPATH": str(scratch)}) as site:
            visitor = Visitor(site.url, headers={"Accept": "application/json"})
            answers = [visitor.get("/counter") for _ in range(3)]
    finally:
        shutil.rmtree(storage)
    assert [answer.json for answer in answers] == [{"count": 1}, {"count": 2}, {"count": 3}]
    cookie = answers[0].cookies["session_id"]
    assert cookie["httponly"] and cookie["samesite"] == "Lax"


def test_production_starts_with_the_file_that_is_shown_and_not_without(scratch: Path) -> None:
    (scratch / "my.conf").write_text(the_file("public.conf"))
    with Site("file", args=["--production", "--config", str(scratch / "my.conf")]) as site:
        assert Visitor(site.url).get("/login").status == 200
    refused = run("--production", "--port", "0")
    assert refused.returncode == 2 and "production needs https" in refused.stderr


# --- what is listed ---------------------------------------------------------------------------------------------------


def defaults() -> dict[str, Any]:
    """Every option of the tool with its default; `Parameter.empty` for a required one."""
    found: dict[str, Any] = {"on": False, "priority": SessionTool()._priority, "storage_class": None}
    found["storage_type"] = inspect.signature(sessions.init).parameters["storage_type"].default
    found |= {field.name: field.default for field in fields(Settings) if field.name not in ("storage_class", "store")}
    for storage_type in BACKENDS:
        found |= {name: parameter.default for name, parameter in store_options(backend(storage_type)).items()}
    return found


def test_every_option_is_listed_with_its_default() -> None:
    listed = {
        name: inspect.Parameter.empty if cells[0] == "required" else ast.literal_eval(cells[0].strip("`"))
        for name, cells in table("Option").items()
    }
    assert listed == defaults()


def test_every_option_of_the_command_line_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.main(["--help"])
    known = re.findall(r"^  (?:-\w, )?(--[\w-]+(?: [A-Z]\S*)?)", capsys.readouterr().out, re.MULTILINE)
    assert set(table("Option of `app.py`")) == set(known)


def test_every_environment_variable_is_listed() -> None:
    code = "".join(path.read_text() for path in ROOT.glob("*.py"))
    asked = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', code))
    assert set(table("Variable")) == {*ENVIRONMENT, *asked}


def test_every_profile_is_listed_with_its_purpose() -> None:
    listed = {name: cells[0] for name, cells in table("Profile").items()}
    assert listed == {name: options[ABOUT] for name, options in find_profiles(read(SITE_CONF)).items()}


def test_what_a_backend_can_do_and_cannot_is_said_in_its_own_words() -> None:
    text = re.sub(r"\n  (?=\S)", " ", README)
    for name, (_, *cells) in table("Profile").items():
        can = backend(name).store_class.capabilities
        declared = [can.survives_restart, can.shared, can.locks_processes, can.revokes, can.lists]
        assert [cell[:2] for cell in cells[:5]] == ["ye" if one else "no" for one in declared], name
        words = {"Keeps": can.keeps, "Shared by": can.sharing, "Locking": can.locking}
        words |= {"Cleaning": can.cleaning, "When it is down": can.outage, "Cannot": can.limitations}
        quoted = "\n".join(f"* **{label}**: {word}" for label, word in words.items() if word)
        assert f"### `{name}`\n\n{quoted}\n" in text, f"README.md should say of {name}:\n{quoted}"


def test_every_rule_names_tests_that_exist() -> None:
    section = README.partition("## The rules of a session")[2].partition("\n## ")[0]
    rules = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", section, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _ in rules] == list(range(1, 21))
    for number, text in rules:
        named = re.findall(r"`(\S+\.py)::(test_\S+)`", text)
        assert named, f"rule {number} names no test"
        for file, pattern in named:
            assert fnmatch.filter(proofs_in(file), pattern), f"rule {number}: no {pattern} in {file}"
    numbered = {name[:8] for name in proofs_in("tests/test_rules.py") if re.match(r"test_\d\d_", name)}
    assert all(f"tests/test_rules.py::{name}" in section for name in numbered)


def proofs_in(file: str) -> list[str]:
    return re.findall(r"^ *def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)


def test_the_guide_to_the_package_lists_every_module() -> None:
    modules = {path.name for path in (ROOT / "sessions").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert modules == set(re.findall(r"^    (\w+\.py) ", str(sessions.__doc__), re.MULTILINE))


def test_every_name_and_link_leads_somewhere() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README + changes):
        assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:pages|sessions|static|templates|tests)/[\w./]*)(?:::\S+)?`", README + changes):
        assert (ROOT / path).exists(), path
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_the_differences_are_those_of_the_installed_cherrypy() -> None:
    assert f"| | CherryPy {cherrypy.__version__} | here |" in README
