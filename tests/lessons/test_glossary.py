"""The words of the lessons: each term stands in bold where it is taught, the glossary leads there, and it is used."""

from __future__ import annotations

import inspect
import re
from html import unescape

import pytest

from lessons.counter.page import Counter
from lessons.glossary.page import TERMS
from tests.conftest import PASSWORD
from tests.support.backends import environment_of
from tests.support.client import JSON, CheckedClient, Client
from tests.support.page import Page
from tests.support.site import Site

# In the order in which a visitor sees them. The laboratory may be deleted.
LESSONS = ["/cookie/", "/cookie/set", "/cookie/read", "/cookie/attributes", "/counter", "/name", "/hello", "/session",
           "/session/off", "/login", "/account", "/account/password", "/account/sessions", "/account/second-factor",
           "/backends"]  # fmt: skip
# What says a number and means one.
NUMBERS = re.compile(r"octal numbers|written as a number|numbers and text|number of machines")


def bodies(site: Site) -> dict[str, str]:
    """What is in <main> of each lesson: for a new visitor, and for ada where the page is hers."""
    new, ada = Client(site.url), Client(site.url)
    ada.post("/login", {"username": "ada", "password": PASSWORD})
    found = {}
    for path in LESSONS:
        page = (ada if path.startswith("/account") else new).get(path)
        assert page.status == 200, path
        found[path] = re.findall(r"<main.*?</main>", page.text, re.DOTALL)[0]
    return found


def words(markup: str) -> str:
    """The text of a piece of a page, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_each_term_is_in_bold_once_where_it_is_taught_and_not_used_before(site: Site) -> None:
    pages = bodies(site)
    for term in TERMS:
        bold = rf'<strong id="([\w-]+)">{term.name}</strong>'
        found = [(path, anchor) for path, body in pages.items() for anchor in re.findall(bold, body)]
        assert [f"{path}#{anchor}" for path, anchor in found] == [term.taught]
        before = LESSONS[: LESSONS.index(term.path)]
        if term.name != "session":  # a lesson on cookies cannot do without it
            assert [path for path in before if re.search(rf"\b{term.name}s?\b", words(pages[path]))] == [], term.name
    assert {"session id", "session cookie", "session store", "lock", "expiry", "session fixation"} <= {
        term.name for term in TERMS
    }


@pytest.mark.parametrize("profile", ["file", "cookie"])
def test_a_term_is_in_bold_also_where_a_page_tells_of_a_known_session(profile: str) -> None:
    with Site(profile, env=environment_of(profile)) as site:
        visitor = Client(site.url)
        for path in ("/counter", "/counter", "/session"):
            page = visitor.get(path).text
            taught = [term for term in TERMS if term.path == path]
            assert taught and [page.count(f">{term.name}</strong>") for term in taught] == [1] * len(taught)


def test_the_lessons_say_session_id_and_not_number_coat_or_peg(site: Site) -> None:
    pages = bodies(site)
    for path, body in pages.items():
        text = NUMBERS.sub("", words(body.replace('<abbr title="number">No.</abbr>', "")))
        assert not re.search(r"\b(numbers?|coats?|pegs?)\b", text), path
    assert [path for path in LESSONS[4:] if "session id" not in words(pages[path])] == ["/session/off", "/backends"]


def test_the_glossary_leads_to_each_term_and_is_found_on_every_page(visitor: CheckedClient) -> None:
    told = visitor.get("/glossary", **JSON).json["terms"]
    assert told == [{"term": term.name, "meaning": term.meaning, "taught": term.taught} for term in TERMS]
    page = Page(visitor.get("/glossary").text)
    assert {term.taught for term in TERMS} <= set(page.values("a", "href"))
    assert all(term.name in page.text and term.meaning in page.text for term in TERMS)
    for path in ("/", "/counter", "/account/nothing"):
        assert "/glossary" in Page(visitor.get(path).text).values("a", "href"), path


def test_the_handler_of_the_counter_is_two_lines() -> None:
    lines = inspect.getsource(Counter.index).split('"""')[-1].split("\n")
    assert [line.strip() for line in lines if line.strip()] == [
        'count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1',
        'return self.lesson.page("counter/page.html", count=count)',
    ]
