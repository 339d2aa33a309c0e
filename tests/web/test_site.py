"""Every address of the site over HTTP: what it answers in HTML and in JSON, and whom it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import PASSWORD
from tests.support.client import JSON, CheckedClient, Response
from tests.support.page import Page
from tests.support.process import ROOT
from tests.support.site import Site, mounted

ADDRESSES = {
    "/": {"GET"},
    "/cookie/": {"GET"},
    "/cookie/set": {"GET"},
    "/cookie/read": {"GET"},
    "/cookie/delete": {"POST"},
    "/cookie/attributes": {"GET", "POST"},
    "/cookie/attributes/below": {"GET"},
    "/counter": {"GET"},
    "/counter/reset": {"POST"},
    "/name": {"GET", "POST"},
    "/hello": {"GET"},
    "/session": {"GET"},
    "/session/keep": {"POST"},
    "/session/end": {"POST"},
    "/session/off": {"GET"},
    "/glossary": {"GET"},
    "/login": {"GET", "POST"},
    "/login/code": {"GET", "POST"},
    "/logout": {"POST"},
    "/account": {"GET"},
    "/account/password": {"GET", "POST"},
    "/account/sessions": {"GET", "POST"},
    "/account/second-factor": {"GET", "POST"},
    "/healthz": {"GET"},
}
ADDRESSES = {path: ADDRESSES[path] for path in mounted(ADDRESSES)}
READABLE = [path for path, methods in ADDRESSES.items() if "GET" in methods and path != "/login/code"]  # half signed in
PAGES = [path for path in READABLE if not path.startswith(("/account", "/healthz"))]


# --- every address ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("accept", ["text/html", "*/*", "", "application/json, text/html", "image/png"])
def test_a_page_is_html_unless_json_alone_is_asked_for(visitor: CheckedClient, path: str, accept: str) -> None:
    answer = visitor.get(path, Accept=accept)
    page = Page(answer.text)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html;charset=utf-8"
    assert "Accept" in answer.headers["vary"]
    assert [tag for tag, _ in page.tags if tag in ("h1", "title", "main")] == ["title", "main", "h1"]
    assert page.values("html", "lang") == ["en"]


@pytest.mark.parametrize("accept", ["application/json", "APPLICATION/JSON;q=0.9", "application/json, */*"])
@pytest.mark.parametrize("path", PAGES)
def test_the_same_address_is_json_for_a_program(visitor: CheckedClient, path: str, accept: str) -> None:
    answer = visitor.get(path, Accept=accept)
    assert answer.status == 200 and isinstance(answer.json, dict)
    assert answer.headers["content-type"] == "application/json"
    assert "Accept" in answer.headers["vary"]
    assert answer.body.isascii() and answer.body.endswith(b"}\n")


@pytest.mark.parametrize("path", READABLE)
def test_head_is_get_without_the_body(ada: CheckedClient, path: str) -> None:
    head, get = ada.ask("HEAD", path), ada.get(path)
    assert head.body == b"" and head.status == get.status == 200
    for name in ("content-type", "cache-control", "vary"):
        assert head.headers.get(name) == get.headers.get(name)


@pytest.mark.parametrize("path", ADDRESSES)
def test_another_method_is_405_and_told_which_are_allowed(known: CheckedClient, path: str) -> None:
    allowed = ADDRESSES[path] | ({"HEAD"} if "GET" in ADDRESSES[path] else set())
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - allowed:
        answer = known.ask(method, path, None if method in ("GET", "HEAD") else "", JSON)
        assert answer.status == 405, method
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert method == "HEAD" or (answer.json["status"] == 405 and answer.json["error"])


@pytest.mark.parametrize("path", ["/nothing", "/counter/nothing", "/login/ada", "/static/nothing", "/counter?count=9",
                                  "/cookie/read/x", "/%00"])  # fmt: skip
def test_there_is_nothing_at_other_addresses(visitor: CheckedClient, path: str) -> None:
    answer = visitor.get(path, **JSON)
    assert answer.status == answer.json["status"] == 404 and set(answer.json) == {"status", "error"}
    page = visitor.get(path)
    assert page.status == 404 and "<h1>There is nothing here</h1>" in page.text


@pytest.mark.parametrize("up", ["../", "%2e%2e/", "..%2f", "..\\", "/", "%2f", "../static/../", "%00../"])
def test_static_gives_nothing_from_outside_its_folder(visitor: CheckedClient, up: str) -> None:
    answer = visitor.get(f"/static/{up}app.py")
    assert answer.status in (403, 404) and b"create_app" not in answer.body


def test_static_files_know_no_session(known: CheckedClient) -> None:
    for path in (ROOT / "static").iterdir():
        answer = known.get(f"/static/{path.name}")
        assert (answer.status, answer.body, answer.set_cookie) == (200, path.read_bytes(), [])
        assert known.get(f"/static/{path.name}", if_modified_since=answer.headers["last-modified"]).status == 304


def test_no_page_has_a_script_or_a_style_in_it_or_asks_another_host(ada: CheckedClient) -> None:
    for path in (*PAGES, "/account", "/nothing"):
        page = Page(ada.get(path).text)
        attributes = [(name, str(value)) for _, attrs in page.tags for name, value in attrs.items()]
        links = [value for name, value in attributes if name in ("src", "href", "action")]
        assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in links), path
        assert not [tag for tag, attrs in page.tags if tag == "style" or (tag == "script" and "src" not in attrs)]
        assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]


# --- the front page, and sessions -------------------------------------------------------------------------------------


def test_the_front_page_lists_the_others_and_costs_no_session(visitor: CheckedClient) -> None:
    lessons = [lesson["path"] for lesson in visitor.get("/", **JSON).json["lessons"]]
    assert "/login" in lessons and set(lessons) <= set(Page(visitor.get("/").text).values("a", "href"))
    assert visitor.cookies == {}
    assert [visitor.get(path).status for path in lessons] == [200] * len(lessons)


LOOKED_AT = mounted(["/", "/cookie/", "/cookie/read", "/cookie/attributes", "/name", "/hello", "/session",
                     "/session/off", "/login", "/account", "/healthz", "/nothing", "/static/style.css"])  # fmt: skip


@pytest.mark.parametrize("path", LOOKED_AT)
def test_looking_sets_no_cookie(visitor: CheckedClient, path: str) -> None:
    assert visitor.get(path).set_cookie == []


def test_visitors_do_not_count_for_each_other(known: CheckedClient) -> None:
    assert CheckedClient(known.url).count() == 1
    assert known.count() == 2


# --- health -----------------------------------------------------------------------------------------------------------


def test_healthz_tells_the_profile(site: Site, profile: str, visitor: CheckedClient) -> None:
    for headers in ({}, JSON, {"Accept": "text/html"}):
        answer = visitor.get("/healthz", **headers)
        assert (answer.status, answer.json) == (200, {"status": "ok", "profile": profile})
        assert answer.headers["cache-control"] == "no-store"


def test_without_its_folder_the_store_is_away_and_then_the_session_is_there_again() -> None:
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        visitor = CheckedClient(site.url)
        assert visitor.count() == 1
        gone = Path(site.storage).rename(site.storage.with_name("gone"))
        assert_away(visitor.get("/healthz"), json=True)
        assert_away(visitor.get("/counter", **JSON), json=True)
        assert_away(visitor.get("/counter"), json=False)
        assert_away(CheckedClient(site.url).get("/counter"), json=False)
        assert visitor.get("/").status == 200
        gone.rename(site.storage)
        assert visitor.get("/healthz").status == 200
        assert visitor.count() == 2


def assert_away(answer: Response, *, json: bool) -> None:
    assert answer.status == 503 and int(answer.headers["retry-after"]) > 0 and answer.set_cookie == []
    assert answer.json["status"] == 503 if json else "<h1>Back in a moment</h1>" in answer.text


def test_a_post_without_a_body_needs_no_length(known: CheckedClient) -> None:
    """curl -X POST sends none (RFC 9112 section 6.3)."""
    assert known.ask("POST", "/counter/reset").status == 303
    assert known.count() == 1
