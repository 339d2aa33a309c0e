"""A form that another site sends brings no SameSite cookie: it may not begin a session over the one of the visitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cherrypy
import pytest

import sessions
from sessions import Session
from tests.support.application import application, logged
from tests.support.backends import BACKENDS, options_of
from tests.support.client import WsgiClient

CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}


class Shop:
    """What a bank sends the visitor back to."""

    @cherrypy.expose
    def read(self) -> str:
        return str(dict(cherrypy.session.items()))

    @cherrypy.expose
    def write(self) -> str:
        cherrypy.session["paid"] = True
        return "paid"

    allowed = write

    @cherrypy.expose
    def block(self) -> str:
        with sessions.session_lock() as session:
            session["paid"] = True
        return "paid"

    @cherrypy.expose
    def load(self) -> str:
        cherrypy.session.load()
        return "loaded"

    @cherrypy.expose
    def sign_in(self) -> str:
        cherrypy.session.sign_in("ada")
        return "signed in"

    @cherrypy.expose
    def regenerate(self) -> str:
        cherrypy.session.regenerate()
        return "moved"

    @cherrypy.expose
    def timeout(self) -> str:
        cherrypy.session.timeout = 5
        return "set"

    @cherrypy.expose
    def redirected(self) -> str:
        raise cherrypy.InternalRedirect("/write")

    @cherrypy.expose
    def elsewhere(self) -> str:
        raise cherrypy.HTTPRedirect("/read", 303)


@pytest.fixture(scope="module", params=BACKENDS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cherrypy.Application]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp(request.param)
        patch.setenv("STORAGE_PATH", str(place))
        app = application(Shop(), **options_of(request.param, place))
        app.merge({"/allowed": {"tools.sessions.cross_site": True}})
        app.merge({"/lax": {"tools.sessions.samesite": "None", "tools.sessions.secure": True}})
        yield app
        sessions.close_stores(app)


WRITES = ["write", "block", "sign_in", "regenerate", "timeout", "redirected"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("page", WRITES)
def test_a_cross_site_form_that_would_begin_a_session_is_a_403_that_names_the_way(
    shop: cherrypy.Application, page: str, method: str
) -> None:
    with logged() as lines:
        answer = WsgiClient(shop).ask(method, f"/{page}", None, CROSS_SITE)
    assert (answer.status, list(answer.cookies)) == (403, [])
    assert "from another site" in answer.text
    (line,) = [line for line in lines if "CrossSiteRequest" in line]
    assert "303 to a page of the site" in line and "tools.sessions.cross_site" in line


@pytest.mark.parametrize("page", ["read", "load"])
def test_a_cross_site_form_finds_an_empty_session_and_begins_none(shop: cherrypy.Application, page: str) -> None:
    answer = WsgiClient(shop).post(f"/{page}", **CROSS_SITE)
    assert (answer.status, list(answer.cookies)) == (200, [])


def test_a_visitor_whom_a_bank_sends_back_by_post_keeps_their_session(shop: cherrypy.Application) -> None:
    """The browser leaves its Lax cookie out, and sends it with the GET that the 303 asks for."""
    visitor = WsgiClient(shop)
    visitor.get("/write")
    jar = dict(visitor.cookies)
    visitor.cookies.clear()
    visitor.post("/write", **CROSS_SITE)
    assert visitor.post("/elsewhere", **CROSS_SITE).status == 303
    visitor.cookies = jar | visitor.cookies
    assert visitor.get("/read", sec_fetch_site="cross-site").text == "{'paid': True}"


def test_a_page_may_allow_it(shop: cherrypy.Application) -> None:
    visitor = WsgiClient(shop)
    assert visitor.post("/allowed", **CROSS_SITE).text == "paid"
    assert visitor.get("/read").text == "{'paid': True}"


@pytest.mark.parametrize(
    ("method", "site"),
    [("GET", "cross-site"), ("HEAD", "cross-site"), ("POST", "same-origin"), ("POST", "same-site"), ("POST", "none")],
)
def test_what_brings_the_cookie_if_there_is_one_begins_a_session(
    shop: cherrypy.Application, method: str, site: str
) -> None:
    assert list(WsgiClient(shop).ask(method, "/write", None, {"Sec-Fetch-Site": site}).cookies) == ["session_id"]
    assert list(WsgiClient(shop).ask(method, "/write").cookies) == ["session_id"], "an old browser does not say"


def test_a_cross_site_form_that_brings_a_live_session_uses_it(shop: cherrypy.Application) -> None:
    """Of a site whose cookie has SameSite=None, or whose visitor came a moment ago (a browser's two minutes)."""
    visitor = WsgiClient(shop)
    visitor.get("/load")
    assert visitor.post("/write", **CROSS_SITE).status == 200
    assert visitor.get("/read").text == "{'paid': True}"


def test_a_cookie_that_browsers_send_from_every_site_may_be_set_from_every_site(tmp_path: Path) -> None:
    app = application(Shop(), samesite="None", secure=True)
    assert list(WsgiClient(app).post("/write", **CROSS_SITE).cookies) == ["session_id"]
    sessions.close_stores(app)


def test_an_error_page_may_not_begin_one_either(shop: cherrypy.Application) -> None:
    def page(**shown: str) -> str:
        session: Session = cherrypy.session
        session["seen"] = shown["status"]
        return "not here"

    shop.merge({"/nothing": {"error_page.404": page}})
    answer = WsgiClient(shop).post("/nothing", **CROSS_SITE)
    assert (answer.status, answer.text.strip(), list(answer.cookies)) == (404, "not here", [])
