"""Flash messages: said once, at the end of the redirects, in the tab that they are for, and lost by nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cherrypy
import pytest

import app
import sessions
from tests.support.client import JSON, Response, WsgiClient
from web import flash, rendering

TOLD = re.compile(r'<p class="note (\w+)" role="(\w+)">(.*?)</p>')


class Say:
    """POST /say says something, and goes on to another page; the others answer in ways of their own."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    def index(self, text: str, kind: str = "info", to: str = "/") -> None:
        flash.flash(text, kind)
        rendering.redirect(to)

    @cherrypy.expose
    def several(self, texts: str) -> None:
        for text in texts.split():
            flash.flash(text)
        rendering.redirect("/")

    @cherrypy.expose
    def here(self) -> bytes:
        flash.flash("said here")
        return rendering.render("tour.html", {})

    @cherrypy.expose
    def on(self, to: str, more: str = "") -> None:
        if more:
            flash.flash(more)
        raise cherrypy.HTTPRedirect(to)

    @cherrypy.expose
    def by_hand(self) -> None:
        flash.flash("said by hand")
        cherrypy.response.status = 303
        cherrypy.response.headers["Location"] = "/"

    @cherrypy.expose
    @cherrypy.tools.etags(autotags=True)
    def now(self) -> bytes:
        """Fail, or be made and then fail, where a header says so."""
        how = cherrypy.request.headers.get("X-Test")
        if how == "fails":
            flash.flash("it is done")
            raise RuntimeError("it is not")
        if how == "late":
            cherrypy.request.hooks.attach("before_finalize", lambda: 1 / 0)
        return rendering.render("tour.html", {})


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[cherrypy.Application]:
    """The site in this process, with that page."""
    monkeypatch.setenv("USERS_URL", f"sqlite:///{tmp_path / 'users.sqlite'}")
    site = app.create_app("ram", {"/": {"mount.lessons": "", "mount.lab": ""}})
    site.root.say = Say()
    yield site
    sessions.close_stores(site)


@pytest.fixture
def visitor(site: cherrypy.Application) -> WsgiClient:
    return WsgiClient(site)


def say(visitor: WsgiClient, text: str = "well done", kind: str = "info", to: str = "/") -> str:
    """Return where this leads."""
    return visitor.post("/say", {"text": text, "kind": kind, "to": to}).redirects_to


def told(answer: Response) -> list[str]:
    """Return the messages of a page."""
    return [text for _, _, text in TOLD.findall(answer.text)]


# --- once, where it is for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "role"), [("success", "status"), ("info", "status"), ("warning", "alert"), ("error", "alert")]
)
def test_a_message_is_shown_once_with_the_role_of_its_kind(visitor: WsgiClient, kind: str, role: str) -> None:
    page = say(visitor, "<b>&", kind)
    assert TOLD.findall(visitor.get(page).text) == [(kind, role, "&lt;b&gt;&amp;")]
    assert told(visitor.get(page)) == told(visitor.get("/")) == []


def test_what_a_page_says_itself_is_shown_on_it_and_needs_no_session(visitor: WsgiClient) -> None:
    answer = visitor.get("/say/here")
    assert told(answer) == ["said here"]
    assert not answer.set_cookie and "vary" in answer.headers and "Cookie" not in answer.headers["vary"]


def test_a_message_is_kept_over_redirects_in_a_row_and_more_are_added(visitor: WsgiClient) -> None:
    page = say(visitor, "first", to="/say/on?to=/say/on/?to=/login")
    for more in ("", "&more=second"):
        page = visitor.get(f"{page}{more}").redirects_to
    assert page == "/login"
    assert told(visitor.get("/")) == []
    assert told(visitor.get("/login")) == ["first", "second"]


def test_a_redirect_that_is_made_by_hand_takes_it_along(visitor: WsgiClient) -> None:
    visitor.get("/say/by_hand")
    assert told(visitor.get("/")) == ["said by hand"]


def test_two_tabs_that_are_sent_to_two_pages_each_get_their_own(visitor: WsgiClient) -> None:
    say(visitor, "first"), say(visitor, "second", to="/login")
    assert told(visitor.get("/say/tagged")) == []
    assert told(visitor.get("/login")) == ["second"]
    assert told(visitor.get("/")) == ["first"]


def test_of_two_tabs_that_are_sent_to_one_page_each_gets_one_in_turn(visitor: WsgiClient) -> None:
    say(visitor, "first"), say(visitor, "second")
    assert [told(visitor.get("/")) for _ in range(3)] == [["first"], ["second"], []]


def test_what_a_form_says_that_is_sent_twice_is_said_once(visitor: WsgiClient) -> None:
    say(visitor), say(visitor)
    assert [told(visitor.get("/")) for _ in range(2)] == [["well done"], []]


def test_the_cookie_is_for_that_page_and_goes_with_the_message(visitor: WsgiClient) -> None:
    answer = visitor.post("/say", {"text": "well done", "to": "/login?next=/a#form"})
    assert answer.headers["location"] == "http://site/login?next=/a#form"
    assert answer.flashes == ["/login"]
    assert visitor.get("/login").flashes == ["-/login"]


def test_a_message_is_for_the_visitor_who_has_the_session(site: cherrypy.Application, visitor: WsgiClient) -> None:
    page = say(visitor)
    assert told(WsgiClient(site).get(page, Cookie=f"{flash.COOKIE}=1")) == []
    assert told(visitor.get(page)) == ["well done"]


@pytest.mark.parametrize("value", ["", "x", "1", "A" * 2000, "a; flash=b"])
def test_a_cookie_that_somebody_made_up_says_nothing_and_begins_no_session(
    site: cherrypy.Application, value: str
) -> None:
    answer = WsgiClient(site).get("/", Cookie=f"{flash.COOKIE}={value}")
    assert (answer.status, told(answer), answer.set_cookie) == (200, [], [])


# --- lost by nothing --------------------------------------------------------------------------------------------------


def head(visitor: WsgiClient) -> int:
    return visitor.ask("HEAD", "/say/now").status


def prefetch(visitor: WsgiClient) -> int:
    return visitor.get("/say/now", Sec_Purpose="prefetch;prerender").status


def program(visitor: WsgiClient) -> int:
    return visitor.get("/say/now", **JSON).status


def failing(visitor: WsgiClient) -> int:
    answer = visitor.get("/say/now", X_Test="fails")
    assert told(answer) == []
    return answer.status


def failing_late(visitor: WsgiClient) -> int:
    return visitor.get("/say/now", X_Test="late").status


def unchanged(visitor: WsgiClient) -> int:
    return visitor.get("/say/now", If_None_Match="*").status


def static(visitor: WsgiClient) -> int:
    return visitor.get("/static/style.css").status


ANSWERS = {
    head: 200, prefetch: 200, program: 200, failing: 500, failing_late: 500, unchanged: 304, static: 200,
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_on_which_nobody_reads_it_leaves_a_message_for_the_next(visitor: WsgiClient, answer: object) -> None:
    page = say(visitor, to="/say/now")
    assert answer(visitor) == ANSWERS[answer]  # type: ignore[operator, index]
    assert told(visitor.get(page)) == ["well done"]
    assert told(visitor.get(page)) == []


def test_an_error_of_the_visitor_shows_it(visitor: WsgiClient) -> None:
    answer = visitor.get(say(visitor, to="/nothing"))
    assert (answer.status, told(answer)) == (404, ["well done"])


def test_a_request_that_fails_says_nothing(visitor: WsgiClient) -> None:
    answer = visitor.get("/say/now", X_Test="fails")
    assert (answer.status, told(answer), answer.set_cookie) == (500, [], [])


def test_a_page_with_a_message_is_kept_by_no_cache(visitor: WsgiClient) -> None:
    assert visitor.get(say(visitor)).headers["cache-control"] == "no-store"


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_a_page_that_nobody_is_sent_to_with_a_message_leaves_the_session_alone(visitor: WsgiClient) -> None:
    visitor.get(say(visitor))
    assert visitor.cookies.keys() == {"session_id"}
    answer = visitor.get("/")
    assert "Cookie" not in answer.headers["vary"] and "cache-control" not in answer.headers


def test_of_a_message_that_was_shown_nothing_is_left_in_the_session(
    site: cherrypy.Application, visitor: WsgiClient
) -> None:
    visitor.get(say(visitor))
    [(_, record)] = sessions.registry.registry.stores(site)[0].scan()
    assert record.data == "{}"


def test_a_program_that_asks_for_json_is_told_nothing_and_gets_no_session_for_it(visitor: WsgiClient) -> None:
    answer = visitor.post("/say", {"text": "well done", "to": "/say/on?to=/"}, **JSON)
    assert answer.headers["location"] == "http://site/say/on?to=/" and not answer.set_cookie


def test_a_redirect_to_another_site_takes_nothing_along(visitor: WsgiClient) -> None:
    for to in ("https://elsewhere.example/", "//site.example/", "http://site.example/"):
        page = say(visitor, to=f"/say/on?to={to}")
        assert visitor.get(page).flashes == []
        assert told(visitor.get("/say/on")) == ["well done"], "the page of an error, for it lacks a field"


def test_few_messages_wait_and_a_long_one_is_cut(visitor: WsgiClient) -> None:
    for n in range(flash.MOST + 2):
        say(visitor, f"no. {n}")
    assert [told(visitor.get("/")) for _ in range(flash.MOST)] == [[f"no. {n}"] for n in range(2, flash.MOST + 2)]
    texts = "a b c d e f g h i"
    assert (
        told(visitor.get(visitor.post("/say/several", {"texts": texts}).redirects_to)) == texts.split()[-flash.MOST :]
    )
    [cut] = told(visitor.get(say(visitor, "x" * 10_000)))
    assert len(cut) < flash.MOST_CHARACTERS + 30


def test_a_message_of_no_known_kind_is_a_mistake_of_the_page(visitor: WsgiClient) -> None:
    with pytest.raises(ValueError, match="success, info, warning, error, not 'loud'"):
        flash.flash("well done", "loud")


# --- where the site is ------------------------------------------------------------------------------------------------


def test_it_is_found_below_a_path(site: cherrypy.Application) -> None:
    site._script_name = "/my shop"
    visitor = WsgiClient(site)
    answer = visitor.post("/say", {"text": "well done", "to": "/login"})
    assert answer.flashes == ["/my%20shop/login"]
    assert told(visitor.get("/login")) == ["well done"]
