"""Reading cookies as leniently as browsers do (RFC 6265bis section 5.6), and writing them."""

from __future__ import annotations

import random
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions.cookies import RequestCookies, is_cookie_path, parse
from sessions.table import stores

from .backends import BACKENDS, options_of
from .wsgi import Client, Counter, application


@pytest.mark.parametrize(
    ("header", "pairs"),
    [
        ("", []),
        (" ; ;;", []),
        ("a=1; b=2", [("a", "1"), ("b", "2")]),
        ("a=1;b=2", [("a", "1"), ("b", "2")]),
        ("\ta = 1\t; b\t=2 ", [("a", "1"), ("b", "2")]),
        ("a=1=2==", [("a", "1=2==")]),
        ("a=", [("a", "")]),
        ("=a", [("", "a")]),
        ("a", [("", "a")]),
        ("=", []),
        ("a=1; a=2", [("a", "1"), ("a", "2")]),
        ('prefs={"a":1}; b=2', [("prefs", '{"a":1}'), ("b", "2")]),
        ("br(oken=1; b=2", [("br(oken", "1"), ("b", "2")]),
        ("<b>=<script>", [("<b>", "<script>")]),
        ("a=1, b=2", [("a", "1, b=2")]),
        ("$Version=1; a=2; $Path=/", [("$Version", "1"), ("a", "2"), ("$Path", "/")]),
        ('a=""', [("a", "")]),
        ('a="', [("a", '"')]),
        ('a="x y"', [("a", "x y")]),
        (r'a="\"\\\054\073"', [("a", '"\\,;')]),

        ('a="open; b=2', [("a", '"open'), ("b", "2")]),
        ("a=é 😀".encode().decode("latin-1"), [("a", "é 😀")]),
        ("é=1".encode().decode("latin-1"), [("é", "1")]),
        ("a=\xe9", [("a", "é")]),
        (r'a="\303\251"', [("a", "é")]),
    ],
)
def test_a_header_is_read_as_browsers_write_it(header: str, pairs: list[tuple[str, str]]) -> None:
    assert parse(header) == pairs


def test_no_header_is_refused() -> None:
    chance = random.Random(6)  # noqa: S311 -- a seed, so that a failure comes back
    alphabet = 'ab=;;  ,"\\\\07{}()<>[]@:/?$\t\0\x7f\x80\xc3\xa9\xff\r\n'
    for _ in range(20_000):
        header = "".join(chance.choice(alphabet) for _ in range(chance.randrange(60)))
        pairs = parse(header)
        cookies = RequestCookies()
        cookies.load(header)
        assert len(cookies) <= len(pairs), repr(header)
        assert all(dict(reversed(pairs))[name] == morsel.value for name, morsel in cookies.items()), repr(header)


@pytest.mark.parametrize(
    "value", ["", "x", "two words", '"', "\\", ";,", "\t\n\0\x7f", "é", "ÿþ", "a=b", '"quoted"', "\\054"]
)
def test_what_http_cookies_writes_is_read_again(value: str) -> None:
    written: SimpleCookie = SimpleCookie()
    written["name"] = value
    assert parse(written.output(attrs=[], header="").strip()) == [("name", value)]


def test_random_values_that_http_cookies_writes_are_read_again() -> None:
    chance = random.Random(7)  # noqa: S311 -- a seed, so that a failure comes back
    for _ in range(3000):
        value = "".join(chr(chance.randrange(128)) for _ in range(chance.randrange(30)))
        test_what_http_cookies_writes_is_read_again(value)


def test_of_two_cookies_of_one_name_the_first_counts() -> None:
    cookies = RequestCookies()
    cookies.load("a=first; a=second")
    assert cookies["a"].value == "first"


@pytest.mark.parametrize("name", ["br(oken", "<b>", "path", "expires", "é", ""])
def test_a_cookie_that_http_cookies_refuses_breaks_nothing(name: str) -> None:
    class Root:
        @cherrypy.expose
        def index(self) -> str:
            return repr(sessions.request_cookies())

    client = Client(application(Root()), {name.encode().decode("latin-1"): "1", "b": '{"x":1}'})
    answer = client.get()
    assert answer.status == 200
    assert answer.text == repr([(name, "1"), ("b", '{"x":1}')])


def test_a_session_is_found_behind_cookies_of_other_programs() -> None:
    client = Client(application(Counter()))
    assert client.get().text == "1"
    client.jar = {"prefs": '{"a":1}', "br(oken": "1", "session_id ": " ", **client.jar}
    assert client.get().text == "2"


def test_of_two_session_cookies_the_one_that_can_be_ours_counts() -> None:
    client = Client(application(Counter()))
    client.get()
    client.jar = {"session_id": f"planted; session_id={client.jar['session_id']}"}
    assert client.get().text == "2"


@pytest.mark.parametrize(
    ("path", "fine"),
    [("/", True), ("/shop/", True), ("/a b", True), ("", False), ("shop", False), ("/;Domain=x", False),
     ("/\r\nSet-Cookie: a=b", False), ("/\n", False), ("/é", False), ("/\0", False)],
)  # fmt: skip
def test_a_cookie_path_is_printable_and_has_no_semicolon(path: str, fine: bool) -> None:
    assert is_cookie_path(path) is fine


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("/shop", "/shop"),
        ("shop", "/"),
        ("/x; Domain=evil.example", "/"),
        ("=?utf-8?q?/shop?=", "/"),  # CherryPy would decode such words in every header: here they are text
        ("=?utf-8?q?/x=0D=0ASet-Cookie:_planted=3D1?=", "/"),
        ("=?utf-8?q?/x=0D=0Abroken?=", "/"),
    ],
)
def test_a_visitor_cannot_add_to_the_cookie_through_path_header(sent: str, path: str) -> None:
    answer = Client(application(Counter(), path_header="X-Mounted")).get(x_mounted=sent)
    assert answer.status == 200
    assert list(answer.cookies) == ["session_id"]
    assert answer.cookies["session_id"]["path"] == path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"httponly": True, "samesite": "Lax", "path": "/", "max-age": "3600", "secure": "", "domain": ""}),
        ({"httponly": False, "samesite": "Strict", "path": "/a", "domain": "site"},
         {"httponly": "", "samesite": "Strict", "path": "/a", "domain": "site"}),
        ({"secure": True, "samesite": "None", "timeout": 0.5}, {"secure": True, "samesite": "None", "max-age": "30"}),
        ({"persistent": False}, {"max-age": "", "expires": ""}),
        ({"secure": True, "name": "__Host-sid"}, {"secure": True, "path": "/", "domain": ""}),
    ],
)  # fmt: skip
def test_the_cookie_is_as_configured(options: dict[str, Any], expected: dict[str, Any]) -> None:
    answer = Client(application(Counter(), **options)).get()
    morsel = answer.cookies[options.get("name", "session_id")]
    assert {name: morsel[name] for name in expected} == expected


def test_expires_is_a_date_by_the_clock_of_the_store_as_the_deadline_is() -> None:
    app = application(Counter())
    [store] = stores.of(app)
    store.clock = lambda: 2_000_000_000.0
    assert Client(app).get().cookies["session_id"]["expires"] == "Wed, 18 May 2033 04:33:20 GMT"


class Fails:
    @cherrypy.expose
    def index(self) -> str:
        raise RuntimeError(cherrypy.request.headers["Cookie"][:5])


def test_the_headers_that_cherrypy_logs_of_a_failing_page_hold_no_cookie(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(application(Fails()), {"session_id": "an-id-that-nobody-may-see-in-any-log"})
    assert client.get(x_test="seen").status == 500
    assert "X_TEST: seen" in caplog.text.upper().replace("-", "_").replace("SEEN", "seen")
    assert "nobody-may-see" not in caplog.text


# -------------------------------------------------------------------- cookies of several names


class Shop:
    """A page for everybody, and below it one for the staff, with a cookie of its own."""

    class Staff:
        _cp_config = {"tools.sessions.name": "staff_id"}

        @cherrypy.expose
        def index(self) -> str:
            return str(dict(cherrypy.session.items()))

    def __init__(self) -> None:
        self.staff = self.Staff()

    @cherrypy.expose
    def index(self) -> str:
        cherrypy.session["staff"] = "a name that anybody may choose"
        return "kept"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_is_none_under_the_name_of_another_cookie(backend: str, tmp_path: Path) -> None:
    app = application(Shop(), **options_of(backend, tmp_path))
    try:
        visitor = Client(app)
        visitor.get("/")
        forged = Client(app, {"staff_id": visitor.jar["session_id"]})
        assert forged.get("/staff/").text == "{}"
    finally:
        sessions.close_stores(app)
