"""Programs written for CherryPy's own sessions, as they are found in the field, on this package's tool."""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import cherrypy
import cherrypy.lib.sessions as theirs
import pytest
from cherrypy.lib import cptools, httputil

import sessions
from sessions.registry import registry
from tests.support.application import Counter, application
from tests.support.backends import BACKENDS, SERVER_SIDE, options_of
from tests.support.client import WsgiClient

TWO_SHAPES = ["ram", "cookie"]  # kept on the server, and in the cookie
FlashMessage = namedtuple("FlashMessage", ["message", "level"])  # noqa: PYI024 -- as such tools write it


@pytest.fixture
def app_of(tmp_path: Path) -> Iterator[Callable[..., cherrypy.Application]]:
    """A function that returns an application with the sessions of a backend, whose stores are closed afterwards."""
    apps: list[cherrypy.Application] = []

    def make(root: Any, backend: str = "ram", mount: str = "", **options: Any) -> cherrypy.Application:
        apps.append(application(root, mount, **{**options_of(backend, tmp_path), **options}))
        return apps[-1]

    yield make
    for app in apps:
        sessions.close_stores(app)


# -------------------------------------------------------------------- the session as a dictionary


class Lists:
    calls = 0

    @cherrypy.expose
    def index(self) -> str:
        cherrypy.session.update({"a": 1, "b": 2})
        counted = 0

        def count(frame: Any, event: str, arg: Any) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            found = list(cherrypy.session)
        finally:
            sys.setprofile(None)
        type(self).calls = counted
        return repr(found)


def test_a_list_of_the_session_asks_for_no_other_sessions(app_of: Callable[..., Any]) -> None:
    """CherryPy's own counts all of them, under the lock."""
    client = WsgiClient(app_of(Lists()))
    assert client.get().text == "['a', 'b']"
    few = Lists.calls
    (store,) = registry.stores(client.app)
    record = next(record for _, record in store.scan())
    for n in range(20_000):
        store.create(store.key_of(f"{n:043}"), record)
    assert client.get().text == "['a', 'b']" and Lists.calls == few
    assert store.count() == 20_001


def test_the_methods_of_a_dictionary_do_what_they_do_there(app_of: Callable[..., Any]) -> None:
    class Root:
        @cherrypy.expose
        def index(self) -> str:
            session = cherrypy.session
            assert session.get("n") is None and session.get("n", 5) == 5 and session.pop("n", 6) == 6
            with pytest.raises(KeyError):
                session.pop("n")
            assert session.setdefault("n", []) == [] and "n" in session and session
            session["n"].append(1)
            session.update({"m": 2})
            assert list(session.keys()) == ["n", "m"] and list(session.values()) == [[1], 2]
            assert dict(session) == dict(session.items()) == {"n": [1], "m": 2}
            del session["m"]
            return repr(dict(cherrypy.serving.session))

        @cherrypy.expose
        def read(self) -> str:
            return repr(dict(cherrypy.session))

    client = WsgiClient(app_of(Root()))
    assert client.get().text == client.get("/read").text == "{'n': [1]}"


# -------------------------------------------------------------------- an id that does not come as a cookie


class Api:
    """Pages of a program that hands out the session's id, and takes it back in a header."""

    @cherrypy.expose
    def login(self, user: str) -> str:
        cherrypy.session["user"] = user
        cherrypy.session.save()
        return "signed in"

    @cherrypy.expose
    def who(self) -> str:
        return str(cherrypy.session.get("user"))

    @cherrypy.expose
    def logout(self) -> str:
        cherrypy.lib.sessions.expire()
        cherrypy.session.regenerate()
        return "out"


def token_of(app: cherrypy.Application, user: str) -> str:
    """Sign in, and return what the client of an API would keep."""
    client = WsgiClient(app)
    client.get(f"/login?user={user}")
    return client.cookies["session_id"]


def assign(cookies: SimpleCookie, token: str) -> None:
    cookies["session_id"] = token


def assign_value(cookies: SimpleCookie, token: str) -> None:
    if "session_id" not in cookies:
        cookies["session_id"] = ""
    cookies["session_id"].set("session_id", token, token)


def load(cookies: SimpleCookie, token: str) -> None:
    cookies.clear()
    cookies.load(f"session_id={token}")


def replace(cookies: SimpleCookie, token: str) -> None:
    cherrypy.serving.request.cookie = SimpleCookie({"session_id": token})


def take_token(how: Callable[[SimpleCookie, str], None] = assign) -> None:
    token = cherrypy.request.headers.get("X-Auth-Token")
    if token:
        how(cherrypy.request.cookie, token)


class Dispatcher(cherrypy.dispatch.Dispatcher):
    """Takes the token before there is a session."""

    def __call__(self, path_info: str) -> Any:
        take_token()
        return super().__call__(path_info)


PLACES: dict[str, dict[str, Any]] = {
    "on_start_resource": {"hooks.on_start_resource": take_token},
    "before_request_body": {"hooks.before_request_body": take_token},
    "a tool": {"tools.take_token.on": True},
    "a tool before the handler": {"tools.take_token_late.on": True},
    "the dispatcher": {"request.dispatch": Dispatcher()},
    "while somebody watches": {"hooks.on_start_resource": take_token, "tools.sessions.debug": True},
    "early": {"hooks.on_start_resource": take_token, "tools.sessions.locking": "early"},
    "explicit": {"hooks.on_start_resource": take_token, "tools.sessions.locking": "explicit"},
    **{how.__name__: {"hooks.on_start_resource": partial(take_token, how)} for how in (assign_value, load, replace)},
}  # fmt: skip


@pytest.fixture
def api(app_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., cherrypy.Application]:
    early = cherrypy.Tool("before_request_body", take_token, priority=20)
    monkeypatch.setattr(cherrypy.tools, "take_token", early, raising=False)
    monkeypatch.setattr(cherrypy.tools, "take_token_late", cherrypy.Tool("before_handler", take_token), raising=False)

    def make(backend: str, place: str) -> cherrypy.Application:
        app = app_of(Api(), backend)
        app.merge({"/": PLACES[place]})
        return app

    return make


@pytest.mark.parametrize(
    ("backend", "place"),
    [*((name, "on_start_resource") for name in BACKENDS), *(("ram", place) for place in PLACES)][1:],
)
def test_an_id_that_a_hook_puts_among_the_cookies_is_the_sessions(
    api: Callable[..., Any], backend: str, place: str
) -> None:
    app = api(backend, place)
    token, other = (token_of(app, user) for user in ("ada", "bob"))
    assert WsgiClient(app).get("/who", x_auth_token=token).text == "ada"
    browser = WsgiClient(app, {"session_id": other})
    assert browser.get("/who", x_auth_token=token).text == "ada", "it goes before the cookie"
    assert browser.get("/who", x_auth_token="A" * 43).text == "None", "and so does one that nobody has"
    assert browser.get("/who").text == "bob"
    assert WsgiClient(app).get("/who", x_auth_token=other).text == "bob"


@pytest.mark.parametrize("backend", SERVER_SIDE)
def test_such_a_session_ends_by_its_id(api: Callable[..., Any], backend: str) -> None:
    app = api(backend, "on_start_resource")
    token = token_of(app, "ada")
    assert WsgiClient(app).get("/logout", x_auth_token=token).text == "out"
    assert WsgiClient(app).get("/who", x_auth_token=token).text == "None"


def test_a_cookie_that_a_hook_removes_was_not_sent(app_of: Callable[..., Any]) -> None:
    app = app_of(Api())
    client = WsgiClient(app, {"session_id": token_of(app, "ada")})
    app.merge({"/who": {"hooks.on_start_resource": lambda: cherrypy.request.cookie.pop("session_id", None)}})
    assert client.get("/who").text == "None"


def test_a_hook_that_only_reads_the_cookies_changes_nothing(app_of: Callable[..., Any]) -> None:
    """Of two of the session's name, the one that is alive counts."""
    app = app_of(Api())
    live = token_of(app, "ada")
    app.merge({"/who": {"hooks.on_start_resource": lambda: cherrypy.request.cookie["session_id"]}})
    assert WsgiClient(app).get("/who", cookie=f"session_id={'A' * 43}; session_id={live}").text == "ada"


def test_such_an_id_is_found_with_a_request_class_of_the_sites_own(app_of: Callable[..., Any]) -> None:
    app = app_of(Api())
    app.request_class = cherrypy._cprequest.Request
    app.merge({"/": PLACES["on_start_resource"]})
    token = token_of(app, "ada")
    assert WsgiClient(app).get("/who", x_auth_token=token).text == "ada"
    assert WsgiClient(app, {"session_id": token}).get("/who").text == "ada"
    assert WsgiClient(app).get("/who", cookie=f'prefs={{"a":1}}; session_id={token}').text == "ada"


# -------------------------------------------------------------------- tools for login, time-outs and flash messages


@contextmanager
def their_lock() -> Iterator[Any]:
    """Lock as such tools do: they look at the option, and lock and save by hand where nobody else does."""
    session = cherrypy.serving.session
    if getattr(session, "locking", "implicit") != "explicit" or session.locked:
        yield session
        return
    session.acquire_lock()
    try:
        yield session
    finally:
        session.save()


def keep_alive(remembered: int = 10_080) -> None:
    """Give the session as many minutes as it may have, and its cookie the same, by hand."""
    with their_lock() as session:
        if not isinstance(session.get("began"), dt.datetime):
            session["began"] = session.now()
        left = session["began"] + dt.timedelta(minutes=43_200) - session.now()
        minutes = remembered if session.get("remember") else 60
        session.timeout = math.ceil(min(left.total_seconds() / 60, minutes))
        if session.get("remember"):
            cookie = cherrypy.response.cookie
            if "session_id" not in cookie:
                cookie["session_id"] = session.id
            cookie["session_id"]["max-age"] = str(session.timeout * 60)
            cookie["session_id"]["expires"] = httputil.HTTPDate(dt.datetime.now().timestamp() + 60 * session.timeout)


class Club:
    """Pages that use such tools."""

    _cp_config = {"tools.keep_alive.on": True}

    @cherrypy.expose
    def login(self, remember: str = "") -> str:
        with their_lock() as session:
            session["login"], session["at"] = "ada", session.now()
            session["remember"] = bool(remember)
            session.regenerate()
        with their_lock() as session:
            session.setdefault("flash", []).append(FlashMessage("welcome", "info"))
        raise cherrypy.HTTPRedirect("/")

    @cherrypy.expose
    def index(self) -> str:
        with their_lock() as session:
            assert session.now() - session["at"] < dt.timedelta(minutes=1)
            told = [f"{one.level}: {one.message}" for one in session.pop("flash", [])]
            return f"{session['login']} {session.timeout:g} {told}"

    @cherrypy.expose
    def logout(self) -> str:
        with their_lock() as session:
            session.clear()
            session.regenerate()
        return "out"

    @cherrypy.expose
    def who(self) -> str:
        return str(cherrypy.session.get("login"))


@pytest.mark.parametrize(("backend", "locking"), [
    *((backend, "explicit") for backend in BACKENDS), ("ram", "implicit"), ("cookie", "early"),
])  # fmt: skip
def test_login_timeout_and_flash_tools_work(
    app_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, backend: str, locking: str
) -> None:
    tool = cherrypy.Tool("before_handler", keep_alive, priority=75)
    monkeypatch.setattr(cherrypy.tools, "keep_alive", tool, raising=False)
    client = WsgiClient(app_of(Club(), backend, locking=locking))
    client.get("/who")
    before = client.twin()
    assert client.get("/login").status == 303
    assert client.get().text == "ada 60 ['info: welcome']"
    assert client.get().text == "ada 60 []"
    if backend != "cookie":
        assert before.get("/who").text == "None", "the old id is dead"
    assert client.get("/login?remember=1").status == 303
    assert client.get().text == "ada 10080 ['info: welcome']"
    for _ in range(2):  # the cookie is set by hand at each visit, and by the tool at some
        (morsel,) = client.get().cookies.values()
        assert (morsel["max-age"], morsel["path"], morsel["samesite"]) == ("604800", "/", "Lax")
        assert morsel["httponly"] is True
        assert client.get("/who").text == "ada"
    client.get("/logout")
    assert client.get("/who").text == "None"


class LockPage:
    @cherrypy.expose
    def index(self) -> str:
        return f"{cherrypy.session.locking} {cherrypy.session.debug}"


@pytest.mark.parametrize("locking", ["implicit", "early", "explicit"])
@pytest.mark.parametrize("options", [{}, {"storage_class": type("Own", (theirs.RamSession,), {})}], ids=["ours", "own"])
def test_the_options_that_tools_ask_for_are_attributes(
    app_of: Callable[..., Any], locking: str, options: dict[str, Any]
) -> None:
    assert WsgiClient(app_of(LockPage(), locking=locking, **options)).get().text == f"{locking} False"


# -------------------------------------------------------------------- the cookie, set by hand


def by_hand(value: str | None = None, **attributes: Any) -> None:
    cookie = cherrypy.response.cookie
    cookie["session_id"] = cherrypy.session.id if value is None else value
    for name, one in attributes.items():
        cookie["session_id"][name.replace("_", "-")] = one


class ByHand(Counter):
    @cherrypy.expose
    def keep(self) -> str:
        by_hand(max_age=99)
        return "kept"

    @cherrypy.expose
    def write_and_keep(self) -> str:
        by_hand(max_age=99)
        cherrypy.session["n"] = 100
        cherrypy.session.regenerate()
        return "kept"

    @cherrypy.expose
    def leave(self) -> str:
        """Sign out by the cookie alone, without a look at the session."""
        by_hand("", max_age=0, expires=0)
        return "left"

    @cherrypy.expose
    def write_and_leave(self) -> str:
        cherrypy.session.regenerate()
        by_hand("", max_age=0)
        return "left"

    @cherrypy.expose
    def theirs(self) -> str:
        theirs.set_response_cookie(path="/", timeout=2)
        return "set"

    @cherrypy.expose
    def ours(self) -> str:
        sessions.set_response_cookie(path="/x", timeout=3, httponly=False, samesite="Strict")
        return "set"

    @cherrypy.expose
    def expires_alone(self) -> str:
        cherrypy.session["n"] = 0
        by_hand(expires="Thu, 01 Jan 1970 00:00:00 GMT")
        return "left"

    @cherrypy.expose
    def elsewhere(self) -> str:
        by_hand("handed over")
        return "set"


@pytest.mark.parametrize("backend", TWO_SHAPES)
def test_what_a_cookie_set_by_hand_leaves_out_is_as_configured(app_of: Callable[..., Any], backend: str) -> None:
    """CherryPy's own tool has set it before, with a path, so that programs change the lifetime alone."""
    client = WsgiClient(app_of(ByHand(), backend, "/shop", secure=True, domain="site"))
    client.get()
    for n, page in enumerate(("/keep", "/write_and_keep", "/theirs"), 1):
        (morsel,) = client.get(page).cookies.values()
        given = ("120", "/") if page == "/theirs" else ("99", "/shop")
        assert (morsel["max-age"], morsel["path"]) == given, page
        assert [morsel[name] for name in ("httponly", "secure", "samesite", "domain")] == [True, True, "Lax", "site"]
        assert client.get().text == str(n + 1 if n < 2 else n + 99), f"{page}: the session is the same"
    (morsel,) = client.get("/ours").cookies.values()
    assert (morsel["max-age"], morsel["path"], morsel["httponly"], morsel["samesite"]) == ("180", "/x", "", "Strict")


@pytest.mark.parametrize("backend", TWO_SHAPES)
@pytest.mark.parametrize("page", ["/leave", "/write_and_leave"])
def test_a_cookie_that_was_expired_by_hand_stays_expired(app_of: Callable[..., Any], backend: str, page: str) -> None:
    client = WsgiClient(app_of(ByHand(), backend, "/shop"))
    client.get()
    (morsel,) = client.get(page).cookies.values()
    assert (morsel.value, morsel["max-age"], morsel["path"]) == ("", "0", "/shop")
    assert client.get().text == "1"
    (morsel,) = client.get("/expires_alone").cookies.values()
    assert (morsel["max-age"], morsel["expires"][-17:]) == ("", "1970 00:00:00 GMT"), "Max-Age would go before it"


def test_a_page_that_hands_a_value_over_is_left_to_it(app_of: Callable[..., Any]) -> None:
    (morsel,) = WsgiClient(app_of(ByHand())).get("/elsewhere").cookies.values()
    assert (morsel.value, morsel["max-age"], morsel["path"], morsel["httponly"]) == ("handed over", "", "/", True)


# -------------------------------------------------------------------- the functions of cherrypy.lib.sessions


class Old(Counter):
    """Pages that call CherryPy's own functions."""

    @cherrypy.expose
    def expire(self) -> str:
        cherrypy.session.pop("n", None)
        theirs.expire()
        return "out"

    @cherrypy.expose
    def delete_and_expire(self) -> str:
        cherrypy.session.delete()
        theirs.expire()
        raise cherrypy.HTTPRedirect("/")

    @cherrypy.expose
    def save(self) -> str:
        cherrypy.session["n"] = 10
        theirs.save()
        assert not cherrypy.session.locked
        cherrypy.session["n"] += 1
        return "saved"

    @cherrypy.expose
    def close(self) -> str:
        cherrypy.session["n"] = 20
        theirs.close()
        assert not cherrypy.session.locked
        return "closed"

    @cherrypy.expose
    def init(self) -> str:
        session = cherrypy.serving.session
        theirs.init(storage_type="ram", timeout=5)
        assert cherrypy.serving.session is session
        cherrypy.session["n"] = 30
        return "there"

    @cherrypy.expose
    def hooked(self) -> str:
        cherrypy.request.hooks.attach("before_finalize", theirs.save)
        cherrypy.request.hooks.attach("before_finalize", lambda: cherrypy.session.update(n=40), priority=70)
        cherrypy.request.hooks.attach("on_end_request", theirs.close)
        return "hooked"

    @cherrypy.expose
    def regenerate(self) -> str:
        cherrypy.tools.sessions.regenerate()
        return "moved"

    @cherrypy.expose
    def facts(self) -> str:
        session = cherrypy.session
        session["n"] = 50
        facts = [session.originalid is not None, session.missing, session.regenerated, session.loaded, session.locked]
        assert isinstance(session.now(), dt.datetime) and session.timeout == 60
        return repr(facts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expire_of_cherrypy_ends_the_session(app_of: Callable[..., Any], backend: str) -> None:
    app = app_of(Old(), backend)
    for page, status in (("/expire", 200), ("/delete_and_expire", 303)):
        client = WsgiClient(app)
        client.get()
        stolen = client.twin()
        answer = client.get(page)
        assert (answer.status, answer.cookies["session_id"]["max-age"], client.cookies) == (status, "0", {})
        if backend != "cookie":
            assert stolen.get().text == "1", "what is stored is destroyed"


@pytest.mark.parametrize("backend", TWO_SHAPES)
@pytest.mark.parametrize(
    ("page", "n"), [("/save", 11), ("/close", 20), ("/init", 30), ("/hooked", 40), ("/regenerate", 1), ("/facts", 50)]
)
def test_the_functions_of_cherrypy_do_on_this_session_what_they_do_on_its_own(
    app_of: Callable[..., Any], backend: str, page: str, n: int
) -> None:
    client = WsgiClient(app_of(Old(), backend))
    client.get()
    answer = client.get(page)
    assert answer.status == 200, answer.text
    assert client.get().text == str(n + 1)
    if page == "/facts":
        assert answer.text == "[True, False, False, True, True]"


def test_expire_still_serves_a_class_of_cherrypys_own(app_of: Callable[..., Any]) -> None:
    client = WsgiClient(app_of(Old(), storage_class=type("Own", (theirs.RamSession,), {"cache": {}, "locks": {}})))
    client.get()
    assert client.get("/expire").status == 200
    assert client.cookies == {} or client.get().text == "1"


def test_a_page_without_the_tool_may_begin_a_session_of_cherrypys_own(app_of: Callable[..., Any]) -> None:
    class Root:
        @cherrypy.expose
        def index(self) -> str:
            theirs.init()
            cherrypy.request.hooks.attach("before_finalize", theirs.save)
            cherrypy.request.hooks.attach("on_end_request", theirs.close)
            cherrypy.session.acquire_lock()
            cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
            assert isinstance(cherrypy.serving.session, theirs.RamSession)
            return str(cherrypy.session["n"])

    client = WsgiClient(app_of(Root(), on=False))
    assert [client.get().text for _ in range(2)] == ["1", "2"]


@pytest.mark.parametrize("backend", TWO_SHAPES)
def test_the_class_session_auth_used_by_hand_signs_in_and_out(app_of: Callable[..., Any], backend: str) -> None:
    """With a check of its own. `tools.session_auth` stops the start: by default it takes any password."""

    class Auth(cptools.SessionAuth):
        def check_username_and_password(self, username: str, password: str) -> str:
            return "" if password == "pw" else "wrong"  # noqa: S105

        def login_screen(self, *args: Any, **shown: Any) -> bytes:
            return b"a form"

    def check() -> None:
        if Auth().run():
            cherrypy.serving.request.handler = None

    class Root:
        @cherrypy.expose
        def index(self) -> str:
            return f"hello {cherrypy.request.login}"

    app = app_of(Root(), backend)
    app.merge({"/": {"hooks.before_handler": check}})
    sessions.open_stores(app)
    client = WsgiClient(app)
    assert client.get().text == "a form"
    assert client.post("/do_login", {"username": "ada", "password": "no", "from_page": "/"}).text == "a form"
    assert client.post("/do_login", {"username": "ada", "password": "pw", "from_page": "/"}).status == 303
    assert client.get().text == "hello ada"
    assert client.post("/do_logout", {"from_page": "/"}).status == 303
    assert client.get().text == "a form"
