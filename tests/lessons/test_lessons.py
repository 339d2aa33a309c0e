"""The lessons: what their pages show with curl is run, and so are the solutions of their exercises."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import free_port
from tests.conftest import PASSWORD
from tests.docs.transcript import check, on_page
from tests.support.backends import environment_of
from tests.support.client import JSON, Client
from tests.support.factor import CODE, turn_on
from tests.support.page import Page
from tests.support.process import ROOT, Process, folder
from tests.support.site import Site

LESSON_FOLDERS = ROOT / "lessons"
SOLUTIONS = {"last_visit": "counter", "forget": "name", "members": "signing_in", "dbm_sessions": "backends"}
NEW = "a quite different horse of the same stable"
LESSONS = ["/cookie/", "/cookie/set", "/cookie/read", "/cookie/attributes", "/counter", "/name", "/hello", "/session",
           "/session/off", "/login", "/account", "/backends"]  # fmt: skip
SHELL = {**os.environ, "PASSWORD": PASSWORD, "NEW": NEW}


@pytest.fixture(scope="module", params=["file", "cookie"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site of these tests alone: they sign ada out everywhere. The two profiles differ the most."""
    with Site(request.param, env={"DEMO_PASSWORD": PASSWORD, **environment_of(request.param)}) as site:
        yield site


def shown(site: Site, path: str) -> str:
    """The page as somebody sees it who is signed in where that is needed."""
    visitor = Client(site.url)
    if path.startswith("/account"):
        visitor.post("/login", {"username": "ada", "password": PASSWORD})
    page = visitor.get(path)
    assert page.status == 200
    return page.text


@pytest.mark.parametrize("path", [*LESSONS, "/account/sessions", "/account/second-factor"])
def test_every_command_of_a_lesson_prints_what_the_page_shows(site: Site, path: str, tmp_path: Path) -> None:
    transcripts = on_page(shown(site, path))
    assert len(transcripts[0]) > 1 and any("curl" in command for command, _ in transcripts[0])
    for number, steps in enumerate(transcripts):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(steps, folder, SHELL)


def test_the_commands_that_change_a_password_print_what_the_page_shows(tmp_path: Path) -> None:
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        (steps,) = on_page(shown(site, "/account/password"))
        check(steps, tmp_path, SHELL)


def test_the_commands_of_a_sign_in_in_two_steps_print_what_the_page_shows(tmp_path: Path) -> None:
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        owner = Client(site.url)
        form = {"username": "ada", "password": PASSWORD}
        owner.post("/login", form)
        device = turn_on(owner)
        owner.post("/login", form)
        (steps,) = on_page(owner.get(CODE).text)
        check(steps, tmp_path, {**SHELL, "CODE": device.code(1)})


@pytest.mark.parametrize("path", LESSONS)
def test_every_lesson_has_one_exercise_and_its_solution_folded(site: Site, path: str) -> None:
    page = shown(site, path)
    exercises = re.findall(r'<section class="exercise".*?</section>', page, re.DOTALL)
    assert len(exercises) == 1
    task, folded, solution = exercises[0].partition("<details>")
    assert "<p>" in task and folded and "<summary>The solution</summary>" in solution and len(solution) > 300


def test_every_solution_is_shown_on_a_page_and_run_here(site: Site) -> None:
    pages = "".join(path.read_text() for path in LESSON_FOLDERS.glob("*/exercise*.html"))
    pages += "".join(path.read_text() for path in (LESSON_FOLDERS / "signing_in").glob("*.html"))
    tests = Path(__file__).read_text()
    solutions = [path for path in LESSON_FOLDERS.glob("*/*.*") if path.stem in SOLUTIONS]
    assert len(solutions) >= len(SOLUTIONS)
    for path in solutions:
        assert f"'{path.parent.name}/{path.name}'" in pages and path.stem in tests, path.name


def test_every_link_of_a_lesson_leads_somewhere_also_those_to_the_laboratory(site: Site) -> None:
    links = {link for path in LESSONS for link in Page(shown(site, path)).values("a", "href") if link.startswith("/")}
    assert {"/cookie/attributes", "/session/off"} <= links
    if (ROOT / "lab" / "race.py").exists():
        assert "/lab/race" in links
    visitor = Client(site.url)
    assert {path: visitor.get(path).status for path in links if visitor.get(path).status not in (200, 303)} == {}


def test_without_the_laboratory_no_lesson_leads_there() -> None:
    with Site("ram", config={"/": {"mount.lab": ""}}, env={"DEMO_PASSWORD": PASSWORD}) as site:
        assert not [path for path in LESSONS if 'href="/lab' in shown(site, path)]


def test_a_host_in_the_address_cannot_break_out_of_a_command(site: Site) -> None:
    page = Client(site.url).get("/counter", Host="<b>x</b>$(id)").text
    assert "<b>x" not in page


# --- the solutions ----------------------------------------------------------------------------------------------------


def test_last_visit_tells_the_time_of_the_visit_before(tmp_path: Path) -> None:
    port = free_port()
    program = (LESSON_FOLDERS / "counter" / "last_visit.py").read_text().replace("8000", str(port))
    (tmp_path / "last_visit.py").write_text(program)
    command, env = [sys.executable, "last_visit.py"], {"PYTHONPATH": str(ROOT)}
    with Process(command, cwd=tmp_path, env=env, url=f"http://127.0.0.1:{port}") as process:
        visitor, new = Client(process.url), Client(process.url)
        assert visitor.get("/").text == new.get("/").text == "I have not seen you before.\n"
        assert re.fullmatch(r"You were here on \d\d \w+ \d{4} at \d\d:\d\d:\d\d UTC.\n", visitor.get("/").text)


@pytest.fixture(scope="module")
def extended() -> Iterator[Site]:
    """The site with the pages that two exercises ask for, put in as their solutions say."""
    place = folder()
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    copy = Path(shutil.copytree(ROOT, place / "copy", ignore=ignored))
    program = (copy / "app.py").read_text()
    for name in ("forget", "members"):
        shutil.copy(LESSON_FOLDERS / SOLUTIONS[name] / f"{name}.py", copy / "pages")
        line = f"    root.{name} = {name.title()}()\n"
        program = program.replace("    root.healthz", f"{line}    root.healthz")
        program = program.replace("from pages.tour", f"from pages.{name} import {name.title()}\nfrom pages.tour")
    (copy / "app.py").write_text(program)
    with Site("file", root=copy, env={"DEMO_PASSWORD": PASSWORD}) as site:
        yield site
    shutil.rmtree(place)


def test_forget_takes_the_name_and_leaves_the_count(extended: Site) -> None:
    visitor = Client(extended.url, headers=JSON)
    visitor.get("/counter")
    visitor.post("/name", {"first": "Ada", "last": "Lovelace"})
    assert visitor.get("/forget").status == 405
    assert visitor.get("/hello").json["first"] == "Ada"
    answer = visitor.post("/forget")
    assert (answer.status, answer.headers["location"]) == (303, f"{extended.url}/hello")
    assert visitor.get("/hello").json == {"first": "", "last": ""} and visitor.get("/counter").json == {"count": 2}


def test_members_sends_a_stranger_to_sign_in_and_back(extended: Site) -> None:
    visitor = Client(extended.url)
    assert visitor.get("/members").headers["location"] == f"{extended.url}/login?next=/members"
    signed_in = visitor.post("/login", {"username": "ada", "password": PASSWORD, "next": "/members"})
    assert signed_in.redirects_to == "/members"
    answer = visitor.get("/members")
    assert answer.text == "Only members see this, ada.\n" and answer.headers["cache-control"] == "no-store"
    visitor.post("/logout")
    assert visitor.get("/members").status == 303


def test_dbm_sessions_outlive_a_restart_and_can_be_ended() -> None:
    args = ["--config", str(LESSON_FOLDERS / "backends" / "dbm_sessions.conf")]
    place = folder()
    env = {"DBM_PATH": str(place / "sessions.dbm"), "DEMO_PASSWORD": PASSWORD}
    env["PYTHONPATH"] = str(LESSON_FOLDERS / "backends")
    with Site("functions", args=args, env=env) as site:
        visitor = Client(site.url, headers=JSON)
        assert [visitor.get("/counter").json["count"] for _ in range(3)] == [1, 2, 3]
        site.restart()
        assert visitor.get("/counter").json == {"count": 4}
        copy = visitor.twin()
        visitor.post("/session/end")
        assert copy.get("/counter").json == {"count": 1}
    assert any(file.name.startswith("sessions.dbm") for file in place.iterdir())
    shutil.rmtree(place)
