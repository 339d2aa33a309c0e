"""The pages of the lessons over HTTP: cookies, the counter, the name; what they answer, and what they refuse."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

import app
import sessions
from tests.support.client import JSON, CheckedClient, Response, WsgiClient
from tests.support.page import Page
from tests.support.site import Site
from tests.web.test_site_hostile import OTHERS, VALUES, assert_harmless


def test_the_tour_lists_the_lessons_in_their_order(visitor: CheckedClient) -> None:
    lessons = [lesson["path"] for lesson in visitor.get("/", **JSON).json["lessons"]]
    assert lessons[:4] == ["/cookie/", "/counter", "/name", "/session"]


def test_a_cookie_is_set_read_and_deleted(visitor: CheckedClient) -> None:
    line = visitor.get("/cookie/set").set_cookie[0]
    assert line.startswith("cookieName=cookieValue; ")
    assert {"Path=/", "Max-Age=3600", "Version=1"} <= set(line.split("; "))
    assert visitor.get("/cookie/set?name=a&value=b+c", **JSON).json["value"] == "b c"
    assert visitor.get("/cookie/read", **JSON).json == {"cookies": {"cookieName": "cookieValue", "a": "b c"}}
    assert "name: cookieName, value: cookieValue" in Page(visitor.get("/cookie/read").text).text
    assert visitor.post("/cookie/delete", {"name": "a"}).redirects_to == "/cookie/read"
    assert visitor.get("/cookie/read", **JSON).json == {"cookies": {"cookieName": "cookieValue"}}


@pytest.mark.parametrize("name", ["session_id", "", "a b", "a=b", "<b>", "a;b", "expires", "Path", "ä", "x" * 5000])
def test_a_name_that_cannot_be_a_visitors_cookie_is_refused(visitor: CheckedClient, name: str) -> None:
    answer = visitor.ask("GET", f"/cookie/set?{urlencode({'name': name})}", None, JSON)
    assert answer.status == answer.json["status"] == 400 and answer.set_cookie == []


def test_the_session_cookie_shows_a_reference_only_and_takes_the_session_along(known: CheckedClient) -> None:
    replay = known.twin()
    shown = known.get("/cookie/read", **JSON).json["cookies"]["session_id"]
    assert re.fullmatch(r"\(hidden; reference [0-9a-f]{8}\)", shown)
    assert known.post("/cookie/delete", {"name": "session_id"}).status == 303
    assert known.cookies == {}
    assert replay.count() == 1


def test_the_counter_counts_and_starts_over(visitor: CheckedClient) -> None:
    assert [visitor.get("/counter", **JSON).json for _ in range(3)] == [{"count": 1}, {"count": 2}, {"count": 3}]
    assert '<span class="digits">4</span>' in visitor.get("/counter").text
    assert visitor.post("/counter/reset").redirects_to == "/counter"
    assert visitor.count() == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_is_kept_for_the_next_page(visitor: CheckedClient, method: str) -> None:
    assert visitor.get("/hello", **JSON).json == {"first": "", "last": ""}
    name = {"first": "Grace", "last": "Höpper 🚀"}
    answer = visitor.post("/name", name) if method == "POST" else visitor.get(f"/name?{urlencode(name)}")
    assert answer.redirects_to == "/hello"
    assert visitor.get("/hello", **JSON).json == name == visitor.get("/name", **JSON).json
    assert "Hello, Grace Höpper 🚀" in visitor.get("/hello").text


@pytest.mark.parametrize("form", [{}, {"first": "Ada"}, {"last": "L"}, {"first": " ", "last": "\t"}])
def test_an_incomplete_name_is_400_and_keeps_what_was_typed(visitor: CheckedClient, form: dict[str, str]) -> None:
    answer = visitor.post("/name", form, **JSON)
    assert answer.status == answer.json["status"] == 400 and "Please fill in" in answer.json["error"]
    page = visitor.post("/name", form)
    assert page.status == 400 and page.set_cookie == []
    assert form.get("first", "").strip() in Page(page.text).values("input", "value")


# --- what a visitor can send ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_cookie_value_comes_back_as_it_was_given(visitor: CheckedClient, value: str) -> None:
    given = value.translate({code: None for code in (*range(32), 127)})[:200]
    assert_harmless(visitor.get(f"/cookie/set?{urlencode({'value': given})}"))
    assert visitor.get("/cookie/read", **JSON).json == {"cookies": {"cookieName": given}}
    assert_harmless(visitor.get("/cookie/read"))


@pytest.mark.parametrize("other", OTHERS)
def test_beside_the_cookies_of_other_programs_that_of_the_session_shows_a_reference_only(
    known: CheckedClient, other: str
) -> None:
    text, own = OTHERS[other].decode("latin-1"), f"session_id={known.cookies['session_id']}"
    for header in (f"{text}; {own}", f"{own}; {text}", f"a=1; {text}; {own}; b=2"):
        shown = known.get("/cookie/read", Cookie=header, **JSON).json["cookies"]
        assert re.fullmatch(r"\(hidden; reference \w+\)", shown["session_id"])


def test_a_cookie_with_an_impossible_name_is_listed_and_can_be_deleted(visitor: CheckedClient) -> None:
    for name in ("<b>", "br(oken", '"', "ä", "a b", "'"):
        header = f"{name}=1".encode().decode("latin-1")
        assert visitor.get("/cookie/read", Cookie=header, **JSON).json == {"cookies": {name: "1"}}
        page = Page(visitor.get("/cookie/read", Cookie=header).text)
        assert f"name: {name}, value: 1" in page.text and name in page.values("input", "value")
        line = visitor.post("/cookie/delete", {"name": name}).set_cookie[0]
        assert line.encode("latin-1").decode().startswith(f"{name}=; ") and "Max-Age=0" in line


ELSEWHERE = [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}]


@pytest.mark.parametrize("told", ELSEWHERE)
def test_a_link_of_another_site_sets_no_cookie(visitor: CheckedClient, told: dict[str, str]) -> None:
    """A hundred of them would make every later request too big."""
    for headers in ({}, JSON):
        answer = visitor.get("/cookie/set?name=a&value=1", **told, **headers)
        assert (answer.status, answer.set_cookie) == (403, []) and "/cookie/" in answer.text
    assert visitor.get("/cookie/read", **told).status == 200
    for own in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}):
        assert visitor.get("/cookie/set?name=a&value=1", **own).set_cookie


def test_cookies_that_are_set_one_by_one_never_close_the_site(visitor: CheckedClient) -> None:
    """Where a browser does not say whose link it follows."""
    answers = [visitor.get(f"/cookie/set?name=c{n}&value={'x' * 4000}", **JSON) for n in range(20)]
    assert [answer.status for answer in answers[:4]] == [200] * 4 and answers[-1].status == 400
    assert "Delete some first" in answers[-1].json["error"] and not answers[-1].set_cookie
    assert visitor.get("/cookie/read").status == 200


@pytest.mark.parametrize(("letter", "sent"), [("x", 1), ('"', 2), ("é", 8)])
def test_a_cookie_is_as_big_as_browsers_take_and_no_bigger(visitor: CheckedClient, letter: str, sent: int) -> None:
    """As it is sent, which may be much more than what was typed."""
    name = "name" if sent == 1 else "na"  # with two quotation marks around its value

    def set_cookie(letters: int) -> Response:
        return visitor.get(f"/cookie/set?{urlencode({'name': name, 'value': letter * letters})}", **JSON)

    fits = set_cookie(4092 // sent)
    assert fits.status == 200 and len(fits.set_cookie[0].partition(";")[0]) in range(4090, 4098)  # with an equals sign
    over = set_cookie(4092 // sent + 1)
    assert over.status == 400 and "at most 4096" in over.json["error"] and not over.set_cookie


def test_cookie_delete_wants_a_name(visitor: CheckedClient) -> None:
    for form in ({}, {"name": ""}, {"name": "a\r\nX-Probe: 1"}, {"name": "a;b"}, {"name": "x" * 5000}):
        answer = visitor.post("/cookie/delete", form, **JSON)
        assert answer.status == answer.json["status"] == 400 and answer.set_cookie == []


def test_a_session_that_came_behind_a_comma_is_not_shown() -> None:
    application = app.create_app("ram", production=True)
    try:
        read = WsgiClient(application).get("/cookie/read", cookie="a=1,__Host-session_id=KEY", **JSON).text
        assert "KEY" not in read and '"a": "(hidden' in read
    finally:
        sessions.close_stores(application)


def test_below_a_path_of_a_proxy_the_cookies_of_a_lesson_are_for_that_path() -> None:
    with Site("ram", env={"SCRIPT_NAME": "/demo/"}) as below:
        answer = below.client().post("/demo/cookie/attributes", {"set": "demo_path"})
        paths = {name: morsel["path"] for name, morsel in answer.cookies.items()}
        assert paths == {"demo_path": "/demo/cookie/attributes/below", "demo_set": "/demo/cookie"}
