"""/cookie/attributes and /session: what they set, show, and refuse."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest

from lessons.attributes.page import DEMOS
from tests.conftest import PASSWORD
from tests.support.client import JSON, CheckedClient
from tests.support.page import Page

HOME = "/cookie/attributes"


# --- the attributes ---------------------------------------------------------------------------------------------------


def test_each_demonstration_sets_its_cookie_as_the_table_says_and_notes_its_name(visitor: CheckedClient) -> None:
    page = Page(visitor.get(HOME).text)
    for name, demo in DEMOS.items():
        answer = visitor.post(HOME, {"set": name})
        assert answer.redirects_to == HOME
        assert sorted(line.partition("=")[0] for line in answer.set_cookie) == sorted([name, "demo_set"])
        assert demo.line() in answer.set_cookie and demo.line() in page.text
    assert visitor.get(HOME, **JSON).json["set"] == list(DEMOS)
    assert visitor.cookies["demo_set"] == ".".join(DEMOS)


def test_all_are_set_at_once_and_expired_with_the_same_attributes(visitor: CheckedClient) -> None:
    lines = visitor.post(HOME, {"set": "all"}).set_cookie
    expired = visitor.post(HOME, {"set": "none"})
    assert expired.redirects_to == HOME and len(expired.set_cookie) == len(lines) == len(DEMOS) + 1
    set_as, expired_as = jar(lines), jar(expired.set_cookie)
    for name, morsel in set_as.items():
        assert {**morsel, "max-age": "0", "expires": "Thu, 01 Jan 1970 00:00:00 GMT"} == {**expired_as[name]}
    assert visitor.get(HOME, **JSON).json == {"set": [], "came": {}}


def jar(lines: list[str]) -> SimpleCookie:
    found: SimpleCookie = SimpleCookie()
    for line in lines:
        found.load(line)
    return found


@pytest.mark.parametrize("name", ["", "session_id", "demo_set", "tea", "all ", "demo_plain\r\nX: y", "<b>", "x" * 9000])
def test_no_other_name_can_be_set(visitor: CheckedClient, name: str) -> None:
    answer = visitor.post(HOME, {"set": name}, **JSON)
    assert (answer.status, answer.set_cookie) == (400, []) and "set=all" in answer.json["error"]


def test_a_link_sets_nothing_and_neither_does_another_site(visitor: CheckedClient) -> None:
    assert visitor.get(f"{HOME}?set=all").set_cookie == []
    refused = visitor.post(HOME, {"set": "all"}, Origin="http://evil.example")
    assert (refused.status, refused.set_cookie) == (403, [])
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    twice = visitor.ask("POST", HOME, "set=demo_root&set=demo_root", form)
    assert (twice.status, twice.set_cookie) == (400, [])


@pytest.mark.parametrize("value", ["<script>", '"><b>', "demo_root.<b>.session_id", "." * 3000, "\\073", "é"])
def test_what_the_browser_sends_is_shown_safely_and_believed_only_where_it_names_a_demonstration(
    visitor: CheckedClient, value: str
) -> None:
    cookie = f"demo_set={value}; demo_root={value}; other=1".encode().decode("latin-1")
    shown = visitor.get(HOME, Cookie=cookie, **JSON).json
    assert set(shown["set"]) <= {"demo_root"} and set(shown["came"]) == {"demo_root"}
    page = visitor.get(HOME, Cookie=cookie)
    assert page.status == 200 and page.set_cookie == []
    assert "<script>" not in page.text.replace('<script type="module"', "") and '"><b>' not in page.text


def test_the_page_touches_no_session(known: CheckedClient) -> None:
    for answer in (known.get(HOME), known.get(f"{HOME}/below"), known.post(HOME, {"set": "all"})):
        assert "session_id" not in answer.cookies
    assert known.count() == 2


# --- when a session begins --------------------------------------------------------------------------------------------


def test_an_id_is_another_one_each_time_until_something_is_kept_and_then_it_stays(visitor: CheckedClient) -> None:
    seen = [visitor.get("/session", **JSON) for _ in range(3)]
    assert len({answer.json["reference"] for answer in seen}) == 3
    assert not any(answer.set_cookie or answer.json["kept"] for answer in seen)
    assert visitor.post("/session/keep").redirects_to == "/session"
    kept = [visitor.get("/session", **JSON).json for _ in range(3)]
    assert kept == [kept[0]] * 3 and kept[0]["kept"]
    shown = visitor.get("/cookie/read", **JSON).json["cookies"]["session_id"]
    assert kept[0]["reference"] in shown


def test_an_ended_session_has_no_record_and_its_id_is_not_taken_again(known: CheckedClient, site: object) -> None:
    old = known.get("/session", **JSON).json["reference"]
    replay = known.twin()
    assert known.post("/session/end").redirects_to == "/session" and known.cookies == {}
    answer = replay.get("/session", **JSON).json
    assert not answer["kept"] and answer["reference"] != old
    assert "nothing is stored under its id" in Page(replay.get("/session").text).text


@pytest.mark.parametrize("value", ["", "x", "../../etc/passwd", "A" * 43, "<b>", '"', "A" * 4000])
def test_a_made_up_id_is_never_taken(visitor: CheckedClient, value: str) -> None:
    for _ in range(2):
        answer = visitor.get("/session", Cookie=f"session_id={value}")
        assert answer.status == 200 and answer.set_cookie == []
    assert "<b>" not in answer.text


@pytest.mark.parametrize("path", ["/session", "/counter", "/account", "/session/keep"])
def test_an_id_in_the_address_or_in_a_form_is_no_id(ada: CheckedClient, path: str) -> None:
    """The real one would be in the access log afterwards, so the address has another one: it is not even looked at."""
    stranger = CheckedClient(ada.url, address=ada.address)
    for answer in (stranger.get(f"{path}?session_id={'A' * 43}"), stranger.post(path, dict(ada.cookies))):
        assert answer.status in (303, 400, 404, 405) and answer.set_cookie == []
    assert stranger.user() is None and ada.user() == "ada"


def test_where_sessions_are_off_there_is_none_and_the_page_says_so(known: CheckedClient) -> None:
    answer = known.get("/session/off", **JSON)
    assert answer.status == 200 and answer.set_cookie == []
    assert answer.json["error"].startswith("AttributeError: ") and answer.json["error"].endswith("'session'")
    assert answer.json["error"] in Page(known.get("/session/off").text).text
    assert known.count() == 2


def test_signing_in_again_is_what_an_ended_session_needs(ada: CheckedClient) -> None:
    ada.post("/session/end")
    assert ada.user() is None
    assert ada.sign_in(PASSWORD).status == 303 and ada.user() == "ada"
