"""CherryPy's own cache of answers, `tools.caching`: what depends on a session is not put into it nor taken from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import cherrypy
import pytest
from cherrypy.lib import caching

import sessions
from tests.support.application import application
from tests.support.backends import BACKENDS, options_of
from tests.support.client import WsgiClient


def count() -> str:
    cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
    return f"{cherrypy.session['n']}"


class Pages:
    """`made` counts how often a page was made, and not taken from the cache."""

    def __init__(self) -> None:
        self.made = 0
        self.under_way, self.goes_on = threading.Event(), threading.Event()

    @cherrypy.expose
    def plain(self) -> str:
        self.made += 1
        return f"made {self.made}"

    @cherrypy.expose
    def count(self) -> str:
        return f"yours: {count()}"

    @cherrypy.expose
    def greet(self) -> str:
        """Look for a session only where the visitor can have one."""
        return str(cherrypy.session.get("n")) if cherrypy.request.headers.get("Cookie") else "stranger"

    @cherrypy.expose
    def late(self) -> str:
        """Used by a hook, when the page is made."""
        return "late"

    @cherrypy.expose
    def stream(self) -> Iterator[bytes]:
        cherrypy.response.stream = True
        yield str(cherrypy.session.get("n")).encode()

    @cherrypy.expose
    def redirect(self) -> None:
        raise cherrypy.HTTPRedirect(f"/plain?n={count()}")

    @cherrypy.expose
    def missing(self) -> None:
        raise cherrypy.HTTPError(404, f"nothing for you, visitor {count()}")

    @cherrypy.expose
    def inside(self) -> None:
        raise cherrypy.InternalRedirect("/count")

    @cherrypy.expose
    def by_hand(self) -> str:
        """A page that begins its session itself."""
        sessions.init(name="by_hand")
        return f"yours: {count()}"

    @cherrypy.expose
    def slow(self) -> str:
        """Begin a session the second time, when the test says so."""
        self.made += 1
        if self.made == 1:
            return "nobody's"
        if self.made == 2:
            self.under_way.set()
            assert self.goes_on.wait(30)
            return count()
        return f"made {self.made}"


@pytest.fixture(scope="module")
def cache() -> caching.MemoryCache:
    """Return the cache of all these tests: each starts a thread that never ends, and looks at it ten times a second."""
    return caching.MemoryCache()


@pytest.fixture(params=BACKENDS)
def app(
    request: pytest.FixtureRequest, cache: caching.MemoryCache, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[cherrypy.Application]:
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
    cache.clear()
    monkeypatch.setattr(cherrypy, "_cache", cache, raising=False)
    app = application(Pages(), **options_of(request.param, tmp_path))
    late = {"hooks.before_finalize": lambda: cherrypy.session.update(seen=cherrypy.session.get("n"))}
    app.merge({"/": {"tools.caching.on": True, "tools.caching.delay": 600}, "/late": late})
    app.merge({"/by_hand": {"tools.sessions.on": False}})
    yield app
    sessions.close_stores(app)


@pytest.mark.parametrize("page", ["count", "redirect", "missing", "inside", "by_hand"])
def test_no_visitor_gets_the_cached_page_of_another(app: cherrypy.Application, page: str) -> None:
    first, second = WsgiClient(app), WsgiClient(app)
    seen = [client.get(f"/{page}") for client in (first, first, second, WsgiClient(app))]
    told = [one.headers.get("location", one.text) for one in seen]
    assert told[0] == told[2] == told[3] != told[1]
    assert first.cookies != second.cookies and second.cookies
    assert all("age" not in one.headers for one in seen)


@pytest.mark.parametrize("page", ["greet", "late", "stream"])
def test_a_visitor_with_a_session_gets_no_page_that_was_cached_for_others(app: cherrypy.Application, page: str) -> None:
    stranger = WsgiClient(app).get(f"/{page}")
    visitor = WsgiClient(app)
    visitor.get("/count")
    answer = visitor.get(f"/{page}")
    assert answer.text == {"greet": "1", "late": "late", "stream": "1"}[page]
    assert "age" not in answer.headers
    if page == "late":  # though the page itself is anybody's, its hook wrote
        assert visitor.cookies and stranger.cookies
    assert WsgiClient(app).get(f"/{page}").text == stranger.text


def test_pages_that_use_no_session_are_cached_for_visitors_who_have_none(app: cherrypy.Application) -> None:
    assert [WsgiClient(app).get("/plain").text for _ in range(3)] == ["made 1"] * 3
    app.merge({"/plain": {"tools.sessions.on": False}})
    known = WsgiClient(app)
    known.get("/count")
    assert known.get("/plain").text == "made 1", "where sessions are off, the cache is everybody's"


def test_a_form_that_is_sent_removes_the_cached_page_also_for_a_visitor_with_a_session(
    app: cherrypy.Application,
) -> None:
    assert WsgiClient(app).get("/plain").text == "made 1"
    known = WsgiClient(app)
    known.get("/count")
    known.post("/plain")
    assert WsgiClient(app).get("/plain").text == "made 3"


def test_a_page_that_begins_a_session_leaves_nothing_behind_that_others_wait_for(
    app: cherrypy.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CherryPy has the next visitors wait five seconds for the one who makes a page that is to be cached."""
    pages: Pages = app.root
    assert WsgiClient(app).get("/slow").text == "nobody's"
    cherrypy._cache.store["http://site/slow"].clear()  # as when it has expired
    answers: dict[str, str] = {}

    def ask(name: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: WsgiClient(app).get("/slow").text}))
        thread.start()
        return thread

    monkeypatch.setattr(cherrypy._cache, "antistampede_timeout", 60)  # more than this test may take
    first = ask("first")
    assert pages.under_way.wait(30)
    others = [ask("second"), ask("third")]
    pages.goes_on.set()
    for thread in (first, *others):
        thread.join(30)
        assert not thread.is_alive(), "it waits for a page that it cannot have"
    assert answers["first"] == "1"
    assert {answers["second"], answers["third"]} <= {"made 3", "made 4"}
    assert not any(isinstance(one, threading.Event) for one in cherrypy._cache.store["http://site/slow"].values())


def test_a_cache_of_the_sites_own_needs_only_its_four_methods(
    monkeypatch: pytest.MonkeyPatch, app: cherrypy.Application
) -> None:
    class Cache(caching.Cache):
        kept: dict[str, Any] = {}

        def get(self) -> Any:
            return self.kept.get(cherrypy.request.path_info)

        def put(self, variant: Any, size: int) -> None:
            self.kept[cherrypy.request.path_info] = variant

        def delete(self) -> None:
            self.kept.pop(cherrypy.request.path_info, None)

    monkeypatch.setattr(cherrypy, "_cache", Cache())
    cherrypy._cache.delay = 600
    assert [WsgiClient(app).get("/count").text for _ in range(2)] == ["yours: 1"] * 2
    assert [WsgiClient(app).get("/plain").text for _ in range(2)] == ["made 1"] * 2
    assert list(Cache.kept) == ["/plain"]
