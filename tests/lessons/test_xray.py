"""The X-ray under a page: what it shows is what happened, it hides what it must, and others never see it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cherrypy
import pytest

import app
import sessions
from lessons.xray import report, source
from sessions import events
from sessions.events import watchers
from sessions.options import Settings
from tests.conftest import PASSWORD, every_profile
from tests.support.backends import SECRET
from tests.support.client import JSON, CheckedClient, Client, WsgiClient
from tests.support.site import Site
from web import rendering as site_pages

SERVERS = ("memcached", "postgresql", "redis")


def xray(page: str) -> str:
    """The text of the panel, its tags left out; a cell ends with a bar."""
    found = re.search(r'<aside class="beside".*?</aside>', page, re.S)
    assert found, "the page has no X-ray"
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</t[hd]>", "|", found[0])))


def steps(shown: str) -> list[str]:
    """The steps of the request that made the page."""
    own = shown.partition("What is stored")[0]
    return [step for step in re.findall(r"^\s*[\d,]+\|(\w+)\|", own, re.M) if step != "trip"]


@every_profile
def test_it_shows_what_the_request_did_and_what_the_store_has(visitor: CheckedClient, profile: str) -> None:
    first = CheckedClient(visitor.url)
    assert [first.count(), first.count()] == [1, 2], "a server of Redis is sent each script once"
    assert steps(xray(visitor.get("/counter").text)) == ["cookie", "handler", "answered", "saved", "cookie_set"]
    shown = xray(visitor.get("/counter").text)
    life = ["cookie", "handler", "asked", "locked", "loaded", "answered", "compared", "saved", "unlocked"]
    assert steps(shown) in (life, [*life, "cookie_set"])  # the cookie profile sets its cookie at each change
    assert re.search(r"count\|1\|2\|", shown)
    assert f"{2 if profile in SERVERS else 0} round trips" in shown
    assert '{"count":2}' in shown and visitor.count() == 3
    assert "Ends at the latest" in shown


@pytest.mark.parametrize("profile", ["file"], indirect=True)
def test_the_record_is_the_one_that_the_file_has(visitor: CheckedClient) -> None:
    visitor.get("/counter")
    shown = xray(visitor.get("/counter").text)
    place, record = re.findall(r"the last line of (\S+)\s*\n(.+)\n", shown)[0]
    assert Path(place).read_text(encoding="ascii").splitlines()[-1] == record.strip()
    assert f"{len(record.strip())} bytes" in shown


@every_profile
def test_a_page_that_leaves_its_session_alone_asks_for_nothing_and_stores_nothing(visitor: CheckedClient) -> None:
    visitor.count()
    answer = visitor.get("/cookie/")
    shown = xray(answer.text)
    assert steps(shown) == ["cookie", "handler", "answered"] and "0 round trips" in shown
    assert "Nothing is stored for this request" in shown and not answer.set_cookie


def test_a_redirect_is_shown_once_under_the_page_that_it_leads_to(visitor: CheckedClient) -> None:
    visitor.count()
    visitor.sign_in(PASSWORD)
    shown = xray(visitor.get("/account").text)
    assert "POST /login, which led here" in shown
    assert "cookie_set|The answer sets the cookie (new)." in shown and "(signed in)|–|ada|" in shown
    assert "which led here" not in xray(visitor.get("/account").text)


@pytest.mark.parametrize("profile", ["file", "cookie"], indirect=True)
def test_a_redirect_is_shown_also_where_the_page_that_it_leads_to_changes_the_session(visitor: CheckedClient) -> None:
    visitor.count()
    visitor.post("/counter/reset")
    assert "POST /counter/reset, which led here" in xray(visitor.get("/counter").text)


def test_every_event_has_its_words() -> None:
    names = re.findall(r"^    (\w+) {2,}", events.__doc__ or "", re.M)
    assert sorted(report._STEPS) == sorted([*names, "handler", "answered"])
    record = sessions.Record("{}", 0.0, 1.0)
    details: dict[str, Any] = dict.fromkeys(("why", "to", "what", "account", "before"), "a word")
    details |= dict.fromkeys(("sent", "well_formed", "locked", "changed"), True)
    details |= {"record": record, "how": "moved", "ahead": 2}
    for words in (report._STEPS, report._STEPS | report._WITHOUT_LOCK):
        assert all(words[name](details) for name in names)


def test_a_redirect_is_shown_to_nobody_else(known: CheckedClient, site: Site) -> None:
    known.post("/name", {"first": "Ada", "last": "Lovelace"})
    stranger = Client(site.url, {"session_id": "s" * 43})
    assert "which led here" not in xray(stranger.get("/hello").text)
    assert "which led here" not in xray(Client(site.url).get("/hello").text)


def test_a_cookie_is_shown_as_it_came_and_as_it_is_set(visitor: CheckedClient) -> None:
    assert "Went: Set-Cookie: tea=green" in xray(visitor.get("/cookie/set?name=tea&value=green").text)
    shown = xray(visitor.get("/cookie/read").text)
    assert "tea|green|" in shown and "Went: no Set-Cookie." in shown
    visitor.post("/counter/reset")
    visitor.count()
    visitor.post("/cookie/delete", {"name": "tea"})
    shown = xray(visitor.get("/cookie/read").text)
    assert "max-age=0|Keep it for 0 seconds" in shown and "POST /cookie/delete, which led here" in shown


def test_what_a_visitor_sends_is_text(visitor: CheckedClient) -> None:
    page = visitor.get("/cookie/read", Cookie="<b>=<script>; a=\x1b[2J").text
    assert "<script>;" not in page and "\x1b" not in page
    assert "<b>|<script>|" in xray(page)


@every_profile
def test_neither_an_id_nor_a_secret_is_in_it(visitor: CheckedClient) -> None:
    """CheckedClient looks for the ids in every answer; here are the secrets of the settings."""
    pages = [visitor.get(path).text for path in ("/counter", "/counter", "/cookie/read", "/name", "/login")]
    visitor.sign_in(PASSWORD)
    pages.append(visitor.get("/account").text)
    assert not [word for page in pages for word in (PASSWORD, SECRET, "postgresql://", "redis://") if word in page]
    assert all("(hidden" in xray(page) for page in pages[1:])


@pytest.mark.parametrize("option", ["store", "moving_from", "moving_to"])
def test_the_secrets_of_a_backend_of_ones_own_are_hidden_too(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    own = {name: f"the {name}" for name in ("secret", "dsn", "url", "password", "api_token", "private_key", "table")}
    settings = Settings(sessions.RamSession, **{option: tuple(own.items()) if option == "store" else own})
    request = SimpleNamespace(session=SimpleNamespace(settings=settings), config={}, handler=None)
    monkeypatch.setattr(cherrypy.serving, "request", request)
    shown = html.unescape(re.sub(r"<[^>]+>", "", source.of_request()["settings"]))
    assert [name for name, value in own.items() if value in shown] == ["table"] and shown.count("(hidden)") == 6


def test_the_code_is_that_of_the_handler_and_the_settings_are_those_in_force(visitor: CheckedClient) -> None:
    shown = xray(visitor.get("/counter").text)
    assert 'count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1' in shown
    assert "lessons/counter/page.py, from line" in shown
    assert "tools.sessions.timeout = 30\n" in shown and "tools.sessions.httponly = True  # default" in shown


def test_it_is_for_this_machine_only(visitor: CheckedClient) -> None:
    assert '<aside class="beside"' in visitor.get("/counter").text
    elsewhere = visitor.get("/counter", Host="pages.example").text
    assert "<aside" not in elsewhere and "xray" not in elsewhere
    assert visitor.get("/counter", **JSON).json["count"] == 3


def test_whoever_comes_through_a_proxy_on_this_machine_does_not_see_it() -> None:
    """It is decided after tools.proxy has found out who asks, and for which host."""
    with Site("ram", config={"/": {"tools.proxy.on": True}}) as site:
        visitor = Client(site.url)
        for header in ({"X-Forwarded-For": "192.0.2.7"}, {"X-Forwarded-Host": "shop.example"}, {"Via": "1.1 proxy"}):
            assert "<aside" not in visitor.get("/counter", **header).text
        assert '<aside class="beside"' in visitor.get("/counter").text


def test_it_gets_into_no_json(visitor: CheckedClient) -> None:
    words = site_pages.PLACEHOLDER.decode()
    assert visitor.get("/cookie/read", Cookie=f"cookieName={words}", **JSON).json["cookies"] == {"cookieName": words}


def test_it_is_on_in_development_only(profile: str = "ram") -> None:
    before = list(watchers)
    application = app.create_app(profile, {"/counter": {"tools.xray.on": True}})
    try:
        assert {application.config[path]["tools.xray.on"] for path in ("/", "/counter")} == {False}
        assert (
            "<aside" not in WsgiClient(application, url="http://127.0.0.1").get("/counter").text and watchers == before
        )
    finally:
        sessions.close_stores(application)


def test_it_can_be_turned_off() -> None:
    with Site("ram", config={"/": {"tools.xray.on": False}}) as site:
        assert "<aside" not in Client(site.url).get("/counter").text


def test_a_page_with_it_is_not_kept_by_the_browser(visitor: CheckedClient) -> None:
    assert visitor.get("/backends").headers["cache-control"] == "no-store"
