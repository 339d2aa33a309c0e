"""Reading cookies as leniently as browsers do (RFC 6265bis section 5.6), and writing them."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions.backends.cookie import CookieStore
from sessions.cookies import RequestCookies, is_cookie_path, parse, request_cookies
from sessions.events import unsubscribe
from sessions.registry import registry
from sessions.testing import a_record
from tests.support.application import Counter, application
from tests.support.backends import BACKENDS, SECRET, options_of
from tests.support.client import Response, WsgiClient
from tests.support.members import able


@contextmanager
def watching(name: str, subscriber: Callable[[sessions.Event], None]) -> Iterator[None]:
    """Hand the events of this name to a function."""

    def watch(event: sessions.Event) -> None:
        if event.name == name:
            subscriber(event)

    sessions.subscribe(watch)  # to all of them: some are published only while somebody watches all
    try:
        yield
    finally:
        unsubscribe(watch)


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
            return repr(request_cookies())

    client = WsgiClient(application(Root()), {name.encode().decode("latin-1"): "1", "b": '{"x":1}'})
    answer = client.get()
    assert answer.status == 200
    assert answer.text == repr([(name, "1"), ("b", '{"x":1}')])


def test_a_session_is_found_behind_cookies_of_other_programs() -> None:
    client = WsgiClient(application(Counter()))
    assert client.get().text == "1"
    client.cookies = {"prefs": '{"a":1}', "br(oken": "1", "session_id ": " ", **client.cookies}
    assert client.get().text == "2"


# -------------------------------------------------------------------- attributes


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
    answer = WsgiClient(application(Counter(), path_header="X-Mounted")).get(x_mounted=sent)
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
    answer = WsgiClient(application(Counter(), **options)).get()
    morsel = answer.cookies[options.get("name", "session_id")]
    assert {name: morsel[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("mount", "options", "path"),
    [
        ("", {}, "/"),
        ("/shop", {}, "/shop"),
        ("/shop/office", {"path_header": "X-Mounted"}, "/shop/office"),
        ("/shop", {"path": "/"}, "/"),
        ("/shop", {"name": "__Host-sid", "secure": True}, "/"),
        ("/ö", {}, "/"),  # no header can hold it
    ],
)
def test_the_path_is_where_the_application_is_mounted_unless_configured(
    mount: str, options: dict[str, Any], path: str
) -> None:
    """Of two applications of one host, each with a cookie of this name, neither takes the other's place."""
    client = WsgiClient(application(Ending(), mount, **options))
    for page in ("/", "/end"):
        (cookie,) = client.get(page).cookies.values()
        assert cookie["path"] == path, page


class Ending(Counter):
    """The page, and one that ends the session."""

    @cherrypy.expose
    def end(self) -> str:
        cherrypy.session.delete()
        return "ended"

    @cherrypy.expose
    def sign_out(self) -> str:
        cherrypy.session["left"] = 1
        cherrypy.session.sign_out()
        cherrypy.session["left"] = 2
        return "signed out"

    @cherrypy.expose
    def read_and_end(self) -> str:
        return str(cherrypy.session.get("n")) + self.end()


def test_expires_is_a_date_by_the_clock_of_the_store_as_the_deadline_is() -> None:
    app = application(Counter())
    [store] = registry.stores(app)
    store.clock = lambda: 2_000_000_000.0
    assert WsgiClient(app).get().cookies["session_id"]["expires"] == "Wed, 18 May 2033 04:33:20 GMT"


class Fails:
    @cherrypy.expose
    def index(self) -> str:
        raise RuntimeError(cherrypy.request.headers["Cookie"][:5])


def test_the_headers_that_cherrypy_logs_of_a_failing_page_hold_no_cookie(caplog: pytest.LogCaptureFixture) -> None:
    client = WsgiClient(application(Fails()), {"session_id": "an-id-that-nobody-may-see-in-any-log"})
    assert client.get(x_test="seen").status == 500
    assert "X_TEST: seen" in caplog.text.upper().replace("-", "_").replace("SEEN", "seen")
    assert "nobody-may-see" not in caplog.text


# -------------------------------------------------------------------- several cookies of the session's name


@pytest.fixture(params=BACKENDS)
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WsgiClient]:
    """Somebody with a session whose count is 1."""
    app = application(Ending(), **options_of(request.param, tmp_path))
    client = WsgiClient(app)
    client.get()
    yield client
    sessions.close_stores(app)


revoking = pytest.mark.parametrize("several", able("revokes"), indirect=True)
DEAD = "d{}" + "a" * 41 + "." + "b" * 120  # what each backend takes for a cookie of its own, but for the number


def of_nobody(client: WsgiClient, n: int) -> str:
    """Return what could be the value of a session's cookie, and is none."""
    dead = DEAD.format(n)
    return dead if "." in client.cookies["session_id"] else dead.partition(".")[0]


def with_cookies(client: WsgiClient, *values: str, path: str = "/") -> Response:
    """Ask for a page with all of these as cookies of the session."""
    return client.get(path, cookie="; ".join(f"session_id={value}" for value in values))


@pytest.mark.parametrize("locking", ["implicit", "explicit"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_of_several_cookies_the_first_that_the_store_knows_counts(backend: str, locking: str, tmp_path: Path) -> None:
    """An older one, with another Path or Domain, would keep the visitor out of the session for good."""
    app = application(Counter(), **options_of(backend, tmp_path), locking=locking)
    try:
        client, other = WsgiClient(app), WsgiClient(app)
        for visitor, visits in ((client, 1), (other, 4)):
            for _ in range(visits):
                visitor.get()
        live, second = client.cookies["session_id"], other.cookies["session_id"]
        dead = [of_nobody(client, n) for n in range(3)]
        for before in ([], dead[:1], dead, ["malformed"], ["", *dead], [dead[0], "malformed", dead[0]], ["x"] * 50):
            count = int(WsgiClient(app, {"session_id": live}).get().text)
            answer = with_cookies(WsgiClient(app), *before, live, second)
            assert answer.text == str(count if "." in live else count + 1), before
    finally:
        sessions.close_stores(app)


def test_at_most_four_cookies_are_looked_at(several: WsgiClient) -> None:
    """A visitor who plants more than that cannot make the store look for each of them."""
    live, dead = several.cookies["session_id"], [of_nobody(several, n) for n in range(9)]
    asked: list[str] = []
    with watching("asked", lambda event: asked.append(event.key)):
        assert with_cookies(several.twin(), *dead[:3], live).text == "2"
        assert len(set(asked)) == 4
        del asked[:]
        assert with_cookies(several.twin(), *dead, live).text == "1"
        assert len(asked) == 4


def test_one_cookie_is_looked_at_once(several: WsgiClient) -> None:
    asked: list[str] = []
    with watching("asked", lambda event: asked.append(event.key)):
        for cookies in ([several.cookies["session_id"]], [of_nobody(several, 0)], [of_nobody(several, 0)] * 3):
            del asked[:]
            with_cookies(several.twin(), *cookies)
            assert len(asked) == 1


def test_only_malformed_cookies_are_those_of_a_new_visitor(several: WsgiClient) -> None:
    asked: list[str] = []
    with watching("asked", lambda event: asked.append(event.key)):
        answer = with_cookies(several.twin(), "short", "", "<b>")
    assert (answer.text, list(answer.cookies), asked) == ("1", ["session_id"], [])


@revoking
def test_to_sign_out_ends_all_that_the_browser_names(several: WsgiClient) -> None:
    second = WsgiClient(several.app)
    second.get()
    values = [several.cookies["session_id"], second.cookies["session_id"]]
    browser = several.twin()
    assert with_cookies(browser, *values, path="/sign_out").cookies["session_id"]["max-age"] == "3600"
    assert (
        with_cookies(several.twin(), *values, browser.cookies["session_id"], path="/read_and_end").text == "Noneended"
    )
    for client in (several, second):
        assert client.get().text == "1"


@revoking
@pytest.mark.parametrize("path", ["/end", "/read_and_end"])
def test_to_delete_the_session_ends_all_that_the_browser_names(several: WsgiClient, path: str) -> None:
    """Else who signs out would be signed in again by the second cookie."""
    second = WsgiClient(several.app)
    second.get()
    ids = [of_nobody(several, 0), "malformed", several.cookies["session_id"], second.cookies["session_id"]]
    answer = with_cookies(several.twin(), *ids, path=path)
    assert answer.cookies["session_id"]["max-age"] == "0"
    for client in (several, second):
        assert client.get().text == "1"


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
        visitor = WsgiClient(app)
        visitor.get("/")
        forged = WsgiClient(app, {"staff_id": visitor.cookies["session_id"]})
        assert forged.get("/staff/").text == "{}"
    finally:
        sessions.close_stores(app)


# -------------------------------------------------------------------- sessions in the cookie itself


class Values(Ending):
    """Pages that read and write, and one within which the test sends another request."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

    @cherrypy.expose
    def read(self) -> str:
        return str(dict(cherrypy.session))

    @cherrypy.expose
    def slow(self) -> str:
        cherrypy.session["slow"] = 1
        self.meanwhile()
        return "written"

    @cherrypy.expose
    def quick(self) -> str:
        cherrypy.session["quick"] = 1
        return "written"


def in_cookie(**options: Any) -> WsgiClient:
    """Return somebody with a session in a cookie."""
    client = WsgiClient(application(Values(), storage_type="cookie", **{"secret": SECRET, **options}))
    client.get()
    return client


@pytest.mark.parametrize("locking", ["implicit", "early", "explicit"])
def test_of_two_requests_with_one_session_in_a_cookie_the_last_answer_wins(locking: str) -> None:
    """Nothing locks and nothing is merged: the cookie that was set last is the session (rule 20)."""
    client = in_cookie(locking=locking)
    quick = client.twin()

    def meanwhile() -> None:
        thread = threading.Thread(target=quick.get, args=("/quick",))
        thread.start()
        thread.join()  # it does not wait for the slow one

    client.app.root.meanwhile = meanwhile
    client.get("/slow")
    assert (quick.get("/read").text, client.get("/read").text) == ("{'n': 1, 'quick': 1}", "{'n': 1, 'slow': 1}")


def test_a_cookie_under_an_older_secret_is_read_and_renewed_under_the_newest() -> None:
    newer, old = "a secret that was made later than the other", in_cookie()
    both, new = in_cookie(secret=f"{newer}, {SECRET}"), in_cookie(secret=newer)
    assert WsgiClient(new.app, old.cookies).get("/read").text == "{}"
    moved = WsgiClient(both.app, old.cookies)
    answer = moved.get("/read")
    assert (answer.text, list(answer.cookies)) == ("{'n': 1}", ["session_id"])
    assert moved.get("/read").cookies == {}, "once is enough"
    assert WsgiClient(new.app, moved.cookies).get("/read").text == "{'n': 1}"
    assert WsgiClient(old.app, moved.cookies).get("/read").text == "{}"


def test_a_page_that_does_not_use_the_session_renews_no_secret() -> None:
    both = in_cookie(secret=f"a secret that was made later than the other,{SECRET}")
    both.app.root.untouched = cherrypy.expose(lambda: "nothing")
    assert WsgiClient(both.app, in_cookie().cookies).get("/untouched").cookies == {}


PARTS = {"the id": (0, 43), "key id": (44, 49), "nonce": (50, 65), "ciphertext": (66, 100), "tag": (-22, -1)}


@pytest.mark.parametrize("part", PARTS)
def test_a_cookie_that_was_changed_in_any_part_is_nobodys(part: str) -> None:
    client = in_cookie()
    value = client.cookies["session_id"]
    begin, end = PARTS[part]
    for at in range(begin % len(value), end % len(value), 3):
        forged = value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :]
        assert WsgiClient(client.app, {"session_id": forged}).get("/read").text == "{}", at


def test_a_token_of_another_id_or_cut_or_lengthened_is_nobodys() -> None:
    client = in_cookie()
    other = WsgiClient(client.app)
    other.get()
    value = client.cookies["session_id"]
    id, token = value.split(".")
    others_id = other.cookies["session_id"].partition(".")[0]
    forgeries = [f"{others_id}.{token}", f"{id}.{token}.{token}", f"{id}.{'A' * len(token)}", f"{id}.", f".{token}"]
    for forged in (*forgeries, id, token, value[:-9], value[:110], value + "A", value + "AAAA"):
        assert WsgiClient(client.app, {"session_id": forged}).get("/read").text == "{}", forged
    assert client.get("/read").text == "{'n': 1}"


def test_a_token_of_another_cookie_or_application_is_nobodys() -> None:
    """With one secret for all of them."""
    app = application(Values(), storage_type="cookie", secret=SECRET)
    client = WsgiClient(app)
    client.get()
    for other in (in_cookie(name="staff_id").app, application(Values(), "/b", storage_type="cookie", secret=SECRET)):
        name = "staff_id" if other.config["/"].get("tools.sessions.name") else "session_id"
        assert WsgiClient(other, {name: client.cookies["session_id"]}).get("/read").text == "{}"


def test_a_cookie_shows_nothing_of_what_is_in_it() -> None:
    client = in_cookie()
    client.get("/quick")
    token = client.cookies["session_id"].partition(".")[2]
    assert b"quick" not in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_a_cookie_that_was_copied_works_until_it_expires() -> None:
    """The limitation that its capabilities declare (rule 20)."""
    client = in_cookie()
    copy = client.twin()
    client.get("/end")
    assert client.cookies == {}
    assert copy.get("/read").text == "{'n': 1}"
    (store,) = registry.stores(client.app)
    now = store.clock() + 3601
    store.clock = lambda: now
    assert copy.get("/read").text == "{}"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_token_has_one_spelling_only(size: int) -> None:
    """Base64 of a length that is no multiple of three has bits in its last character that say nothing."""
    store = CookieStore(secret=SECRET)
    id = "a" * 43
    key = store.create(store.key_of(id), a_record({"x": "x" * size}))
    cookie = store.cookie_value(id, key)
    taken = []
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        found = store.find(cookie[:-1] + last)
        if found and store.load(found[1]):
            taken.append(last)
    assert taken == [cookie[-1]]
