"""The laboratory is for a site in development and this machine's user, and can be taken out whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import JSON, Client
from tests.support.process import account, environment, folder
from tests.support.site import Site, run
from web.settings import ROOT

OFF = "Off, for it is for development and for this machine alone: /lab."
OF_THE_LAB = ("lab", "tests/lab")
PROGRAMS = {".py", ".html", ".css", ".js", ".conf", ".toml"}
# A lesson may lead to an experiment by this macro: it is nothing where the experiment is not.
MAY_NAME_IT = re.compile(r"{{ ui\.experiment\('/lab/[a-z-]+'\) }}")
NEEDS_IT = re.compile(r"\b(?:import|from) (?:lab|tests\.lab\.laboratory)\b|\blab\.[A-Z]|\blab/|[\"'(]/lab\b|Laboratory")
IMPORTS_IT = re.compile(r"\b(?:import|from) (?:lab|tests\.lab\.laboratory)\b")


# --- where it is off --------------------------------------------------------------------------------------------------


def test_it_is_off_on_an_address_that_others_can_reach_and_says_so() -> None:
    with Site("ram", env={"HOST": "0.0.0.0"}) as site:  # noqa: S104 -- that is what is tested
        visitor = Client(site.url)
        assert visitor.get("/lab").status == visitor.get("/lab/static/lab.css").status == 404
        assert visitor.post("/lab/restart", {"profile": "ram"}).status == 404
        assert OFF in site.output() and "/lab" not in visitor.get("/").text


def test_it_is_off_in_production_and_says_so() -> None:
    config = {"/": {"tools.proxy.on": True}}
    with Site("file", args=["--production"], config=config) as site:
        visitor = Client(site.url, headers={"X-Forwarded-Proto": "https"})
        assert visitor.get("/lab").status == visitor.get("/lab/outage").status == 404
        assert OFF in site.output()


# --- whom it refuses --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind() -> Iterator[Site]:
    """A site in development that takes a proxy's word for who asks."""
    with Site("ram", config={"/": {"tools.proxy.on": True}}) as site:
        yield site


def test_whoever_is_not_on_this_machine_or_calls_it_by_another_name_is_refused(behind: Site) -> None:
    visitor = Client(behind.url)
    strangers = {"Host": "rebound.example"}, {"X-Forwarded-Host": "rebound.example"}, {"X-Forwarded-For": "192.0.2.7"}
    for stranger in strangers:
        for path in ("/lab", "/lab/restart", "/lab/outage", "/lab/static/lab.css"):
            assert visitor.get(path, **JSON, **stranger).status == 403
        for path in ("/lab/restart", "/lab/outage", "/lab/outage/count"):
            answer = visitor.post(path, {"profile": "ram", "seconds": "2"}, **JSON, **stranger)
            assert answer.status == 403 and answer.set_cookie == []
    assert "for this machine only" in visitor.get("/lab", Host="rebound.example").text
    assert visitor.get("/lab", Host=f"localhost:{behind.port}").status == 200


def test_whoever_comes_through_a_proxy_on_this_machine_is_refused_even_if_the_site_does_not_know_of_it() -> None:
    told = {"X-Forwarded-For": "192.0.2.7"}, {"X-Forwarded-Proto": "https"}, {"Forwarded": "for=_x"}, {"Via": "1.1 x"}
    with Site("ram") as site:
        visitor = Client(site.url)
        assert [visitor.get("/lab", **header).status for header in ({}, *told)] == [200, 403, 403, 403, 403]


@pytest.mark.parametrize("forwarded", ["", "192.0.2.7:443", "unknown", "127.0.0.1"])
def test_a_proxy_that_does_not_say_for_whom_it_asks_opens_nothing(behind: Site, forwarded: str) -> None:
    answer = Client(behind.url).get("/lab", **{"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"})
    assert answer.status == 403


def test_a_form_of_another_site_starts_nothing(behind: Site) -> None:
    for page, form in (("/lab/restart", {"profile": "ram"}), ("/lab/outage", {"seconds": "2"})):
        assert Client(behind.url).post(page, form, Origin="http://other.example").status == 403


# --- taken out --------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy() -> Iterator[Path]:
    """The project without the laboratory's folder and tests; its line in site.conf is still there."""
    place = folder()
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    project = Path(shutil.copytree(ROOT, place / "project", ignore=ignored))
    for name in OF_THE_LAB:
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield project
    shutil.rmtree(place)


def take_out_the_line(project: Path) -> None:
    conf = project / "site.conf"
    lines = conf.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("mount.lab")]
    assert len(lines) - len(kept) == 1
    conf.write_text("".join(kept))


def test_with_its_folder_and_one_line_the_laboratory_is_gone_and_the_rest_works(copy: Path) -> None:
    take_out_the_line(copy)
    for path in copy.rglob("*"):
        if path.suffix in PROGRAMS and path.is_file():
            names = IMPORTS_IT if path.is_relative_to(copy / "tests") else NEEDS_IT
            assert (path, names.findall(MAY_NAME_IT.sub("", path.read_text(encoding="utf-8")))) == (path, [])
    python = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for arguments in (["--collect-only"], ["tests/web/test_site.py", "-k", "not file"]):
        ended = subprocess.run([*python, *arguments], cwd=copy, env=environment(), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-3000:]
    with Site("ram", root=copy) as site:
        visitor = Client(site.url)
        pages = [visitor.get(path) for path in ("/", "/counter", "/login", "/backends")]
        assert visitor.get("/lab").status == 404
        assert [(page.status, 'href="/lab' in page.text) for page in pages] == [(200, False)] * 4


def test_the_line_without_the_folder_stops_the_start_with_one_line(copy: Path) -> None:
    ended = run("--port", "0", root=copy)
    assert (ended.returncode, ended.stdout) == (2, "")
    said = r"app\.py: mount\.lab names 'lab', which cannot be mounted: No module named 'lab'\. .*site\.conf\n"
    assert re.fullmatch(said, ended.stderr)


def test_nothing_is_started_for_the_laboratory_before_it_is_asked() -> None:
    """And its experiments run without root's rights where the site does."""
    with Site("ram") as site:
        visitor = Client(site.url)
        experiments = re.findall(r'href="(/lab/[a-z-]+)"', visitor.get("/lab").text)
        assert len(experiments) > 1 and [visitor.get(path).status for path in experiments] == [200] * len(experiments)
        assert 'href="/lab/restart"' in visitor.get("/backends").text, "a lesson leads to its experiment"
        children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children").read_text()
        assert children == "" and (Path(f"/proc/{site.process.pid}").stat().st_uid != 0 or not account())
