"""docs/teaching.md: what it quotes of the site is what the site shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from lessons.attributes.page import DEMOS
from sessions.options import Settings
from sessions.registry import known_options
from tests.docs.transcript import check, in_console
from tests.support.client import JSON, Client
from tests.support.process import ROOT
from tests.support.site import Site
from web.settings import SITE_CONF, read

TEXT = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
RUNNING = " ".join(TEXT.split())  # without the ends of the lines
ADDRESS = "127.0.0.1:8080"  # of the site in the text
PASSWORD = re.findall(r"^DEMO_PASSWORD=(\w+) make run$", TEXT, re.MULTILINE)[0]


def is_here(path: str) -> bool:
    """Whether the site has such a page at all: the laboratory may be deleted, and the rest of the plan holds."""
    return (ROOT / "lab").is_dir() or not path.startswith("/lab")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site as the preparation starts it."""
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        yield site


def rows() -> list[list[str]]:
    """The rows of the plan: minutes, page, heading, purpose."""
    found = re.search(r"^\| Minutes \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_the_plan_takes_ninety_minutes_and_each_part_has_its_section() -> None:
    minutes = [int(row[0]) for row in rows()]
    assert sum(minutes) == 90
    assert [int(number) for number in re.findall(r"^### .*, (\d+) minutes$", TEXT, re.MULTILINE)] == minutes


def test_each_page_of_the_plan_has_the_heading_that_is_quoted(site: Site) -> None:
    visitor = Client(site.url)
    pages = {path.strip("`"): heading for _, path, heading, _ in rows()}
    for path, heading in pages.items():
        headings = re.findall(r"<h1[^>]*>(.*?)</h1>", visitor.get(path).text) if is_here(path) else [heading]
        assert [unescape(text) for text in headings] == [heading], path


def test_every_command_prints_what_is_shown(site: Site, tmp_path: Path) -> None:
    steps = in_console("".join(re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)))
    assert len(steps) > 20
    check(steps, tmp_path, os.environ, ADDRESS, site.url.removeprefix("http://"))


def test_every_address_file_button_and_option_that_is_named_exists(site: Site) -> None:
    visitor = Client(site.url)
    for path in set(re.findall(r"`(/[\w/-]*)`", TEXT)):
        assert not is_here(path) or visitor.get(path).status in (200, 303), path
    for name in re.findall(r"`((?:docs|tests|pages)/\S+)`", TEXT):
        assert (ROOT / name).is_file(), name
    options = {"on", *Settings.__dataclass_fields__, *known_options()}
    assert set(re.findall(r"`tools\.sessions\.(\w+)", TEXT)) <= options
    assert "thirteen" in TEXT and len(DEMOS) == 13
    buttons = {"/cookie/attributes": "Set them all", "/session": "Keep something", "/login": "Stay signed in"}
    for path, button in buttons.items():
        assert f"*{button}" in RUNNING and button in Client(site.url).get(path).text


def test_a_number_is_as_long_as_is_told_and_a_dead_one_opens_nothing(site: Site) -> None:
    visitor = Client(site.url)
    visitor.get("/counter")
    assert f"It has {len(visitor.cookies['session_id'])} characters" in RUNNING
    copy = visitor.twin()
    assert visitor.post("/session/end").cookies["session_id"]["max-age"] == "0"
    assert copy.get("/counter", **JSON).json == {"count": 1}


def test_the_limits_that_are_told_are_those_of_the_site() -> None:
    options = read(SITE_CONF)["/"]
    assert f"Here {options['tools.sessions.timeout']} minutes after its last use" in RUNNING
    assert f"and {options['tools.sessions.lifetime'] // 60} hours at most" in RUNNING


def test_the_questions_are_at_least_twenty_and_each_has_an_answer() -> None:
    section = TEXT.partition("## Questions that students ask")[2]
    questions = re.findall(r"^\*\*(.+?)\*\* (\S.*)$", section, re.MULTILINE)
    assert len(questions) >= 20 and all(question.endswith("?") for question, _ in questions)
    assert len({question for question, _ in questions}) == len(questions)
