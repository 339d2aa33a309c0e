"""What was written for CherryPy's own session tool works under this one (issue 11, point 6).

A subclass of one of CherryPy's classes runs as it was written, with the safer cookie. A stock class itself is answered
by ours of its name.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import cherrypy
import cherrypy.lib.sessions as theirs
import pytest

import sessions
from sessions.registry import backend, registry
from tests.support.application import Counter, application, logged
from tests.support.backends import BACKENDS, options_of
from tests.support.client import WsgiClient
from tests.support.process import ROOT


class OwnRamSession(theirs.RamSession):
    """A subclass, as applications have them."""

    set_up: list[dict[str, Any]] = []

    @classmethod
    def setup(cls, **options: Any) -> None:
        cls.set_up.append(options)


class OwnFileSession(theirs.FileSession):
    pass


class Pages(Counter):
    @cherrypy.expose
    def rotate(self) -> str:
        cherrypy.tools.sessions.regenerate()
        return ""

    @cherrypy.expose
    def logout(self) -> str:
        sessions.expire()
        return ""

    @cherrypy.expose
    def broken(self) -> str:
        cherrypy.session["n"] = 100
        raise cherrypy.HTTPRedirect("/elsewhere")

    @cherrypy.expose
    def crash(self) -> str:
        raise RuntimeError("the lock must go all the same")


@pytest.fixture(params=[OwnRamSession, OwnFileSession], ids=lambda cls: cls.__name__)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return options_for(request.param, tmp_path)


def options_for(storage_class: type, folder: Path) -> dict[str, Any]:
    needed = {"storage_path": str(folder)} if issubclass(storage_class, theirs.FileSession) else {}
    return {"storage_class": storage_class, **needed}


@pytest.fixture
def client(options: dict[str, Any]) -> WsgiClient:
    return WsgiClient(application(Pages(), **options))


def test_it_counts(client: WsgiClient) -> None:
    assert [client.get().text for _ in range(4)] == ["1", "2", "3", "4"]
    assert WsgiClient(client.app).get().text == "1"


def test_an_option_for_another_backend_replaces_no_method(options: dict[str, Any]) -> None:
    functions = {name: f"pages.sqlite_sessions.{name}" for name in ("load", "save", "delete")}
    client = WsgiClient(application(Pages(), **options, **functions))
    assert [client.get().text for _ in range(2)] == ["1", "2"]


def test_the_cookie_is_the_safer_one(client: WsgiClient) -> None:
    morsel = client.get().cookies["session_id"]
    assert (morsel["httponly"], morsel["samesite"], morsel["secure"], morsel["path"]) == (True, "Lax", "", "/")


def test_the_cookie_is_as_configured(options: dict[str, Any]) -> None:
    app = application(Pages(), **options, httponly=False, samesite="Strict", secure=True, name="other")
    morsel = WsgiClient(app).get().cookies["other"]
    assert (morsel["httponly"], morsel["samesite"], morsel["secure"]) == ("", "Strict", True)


@pytest.mark.parametrize("secure", ["auto", False, True])
def test_a_new_id_keeps_the_data_and_the_cookie_as_safe(options: dict[str, Any], secure: Any) -> None:
    client = WsgiClient(application(Pages(), **options, secure=secure))
    client.get()
    client.get()
    old = dict(client.cookies)
    morsel = client.get("/rotate").cookies["session_id"]
    assert client.cookies != old
    assert (morsel["httponly"], morsel["samesite"], morsel["secure"]) == (True, "Lax", True if secure is True else "")


@pytest.mark.parametrize("locking", ["implicit", "early", "explicit"])
def test_it_locks_as_configured_and_releases(options: dict[str, Any], locking: str) -> None:
    class Locked:
        @cherrypy.expose
        def index(self) -> str:
            locked = bool(cherrypy.session.locked)
            if not locked:
                cherrypy.session.acquire_lock()
            cherrypy.session["n"] = 1
            return str(locked)

    client = WsgiClient(application(Locked(), **options, locking=locking))
    assert [client.get().text for _ in range(2)] == [str(locking != "explicit")] * 2


def test_a_redirect_saves_and_releases(client: WsgiClient) -> None:
    client.get()
    assert client.get("/broken").status == 303
    assert client.get().text == "101"


def test_a_crash_releases(client: WsgiClient) -> None:
    client.get()
    assert client.get("/crash").status == 500
    assert client.get().text == "2"


def test_expire_destroys_what_is_stored(client: WsgiClient) -> None:
    client.get()
    stolen = dict(client.cookies)
    assert client.get("/logout").status == 200
    assert WsgiClient(client.app, stolen).get().text == "1"


def test_two_classes_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """Nor with the sessions of this package."""
    theirs_two = [options_for(storage_class, tmp_path) for storage_class in (OwnRamSession, OwnFileSession)]
    clients = [WsgiClient(application(Pages(), **options)) for options in ({}, *theirs_two)]
    assert [client.get().text for _ in range(3) for client in clients] == ["1"] * 3 + ["2"] * 3 + ["3"] * 3
    for one, other in itertools.permutations(clients, 2):
        assert WsgiClient(one.app, other.cookies).get().text == "1"


def test_each_class_is_set_up_once() -> None:
    """CherryPy's own tool sets up the first class only that any application uses."""
    for _ in range(2):
        client = WsgiClient(application(Pages(), storage_class=OwnRamSession))
        client.get()
        client.get()
    assert len(OwnRamSession.set_up) <= 1
    assert all("storage_class" not in options for options in OwnRamSession.set_up)


def test_session_lock_says_that_it_needs_a_class_of_this_package(options: dict[str, Any]) -> None:
    said: list[str] = []

    class Root:
        @cherrypy.expose
        def index(self) -> str:
            with pytest.raises(sessions.SessionError) as caught:
                sessions.session_lock()
            said.append(str(caught.value))
            return ""

    WsgiClient(application(Root(), **options)).get()
    assert "storage class of this package" in said[0]


def test_it_works_in_a_process_that_knows_no_other_class(tmp_path: Path) -> None:
    code = f"""
import cherrypy.lib.sessions
from tests.support.application import Counter, application
from tests.support.client import WsgiClient
class OwnFileSession(cherrypy.lib.sessions.FileSession): pass
app = application(Counter(), storage_class=OwnFileSession, storage_path={str(tmp_path)!r})
client = WsgiClient(app)
print([client.get().text for _ in range(3)])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "['1', '2', '3']"


@pytest.mark.parametrize("folder", [None, "/nowhere/at/all"])
def test_a_folder_that_is_not_there_stops_the_start(folder: str | None) -> None:
    """CherryPy answers each visitor with a 500."""
    with pytest.raises(sessions.ConfigError, match="storage_path"):
        application(Pages(), storage_class=OwnFileSession, storage_path=folder)


# -------------------------------------------------------------------- the stock classes themselves


STOCK = {"ram": theirs.RamSession, "file": theirs.FileSession, "memcached": theirs.MemcachedSession}


@pytest.mark.parametrize("name", [name for name in STOCK if name in BACKENDS])
def test_a_stock_class_is_answered_by_ours_of_its_name_with_one_line_in_the_log(name: str, tmp_path: Path) -> None:
    stock, ours = STOCK[name], backend(name)
    with logged() as lines:
        app = application(Pages(), storage_class=stock, **options_of(name, tmp_path))
        client = WsgiClient(app)
        assert [client.get().text for _ in range(3)] == ["1", "2", "3"]
    try:
        (store,) = registry.stores(app)
        assert type(store) is ours.store_class
        assert [line for line in lines if stock.__name__ in line] == [
            f"{stock.__name__} of CherryPy is answered by sessions.{ours.__name__}"
        ]
        stolen = client.twin()
        client.get("/logout")
        assert stolen.get().text == "1", "it keeps the rules of this package"
    finally:
        sessions.close_stores(app)


def test_a_stock_class_can_be_named_in_a_decorator(tmp_path: Path) -> None:
    class Root(Pages):
        @cherrypy.expose
        @cherrypy.tools.sessions(storage_class=theirs.FileSession, storage_path=str(tmp_path), clean_freq=0)
        def index(self) -> str:
            return str(super().index())

    app = application(Root())
    client = WsgiClient(app)
    assert [client.get().text for _ in range(2)] == ["1", "2"]
    assert "FileStore" in [type(store).__name__ for store in registry.stores(app)]


def test_a_stock_class_needs_the_options_of_ours() -> None:
    with pytest.raises(sessions.ConfigError, match="storage_path is missing: FileSession needs it"):
        application(Pages(), storage_class=theirs.FileSession)


# -------------------------------------------------------------------- classes that add-ons put beside CherryPy's own


class ShelfSession(theirs.RamSession):
    """As the class of an add-on, which keeps the sessions of this test alone."""

    cache: dict[str, Any] = {}
    locks: dict[str, Any] = {}
    host = "nowhere"

    @classmethod
    def setup(cls, **options: Any) -> None:
        cls.host = options.get("host", cls.host)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the documents of such an add-on say."""
    monkeypatch.setattr(theirs, "ShelfSession", ShelfSession, raising=False)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("storage_type", ["shelf", "Shelf", "SHELF"])
def test_a_class_put_beside_cherrypys_own_is_found_by_its_storage_type(storage_type: str) -> None:
    client = WsgiClient(application(Pages(), storage_type=storage_type, host="shelf.example"))
    assert [client.get().text for _ in range(3)] == ["1", "2", "3"]
    assert client.cookies["session_id"] in ShelfSession.cache and ShelfSession.host == "shelf.example"
    morsel = client.get("/rotate").cookies["session_id"]
    assert (morsel["httponly"], morsel["samesite"]) == (True, "Lax")


@pytest.mark.usefixtures("registered")
def test_it_is_found_from_a_decorator() -> None:
    class Root(Pages):
        @cherrypy.expose
        @cherrypy.tools.sessions(storage_type="shelf", host="here", clean_freq=0)
        def index(self) -> str:
            return str(super().index())

    client = WsgiClient(application(Root()))
    assert [client.get().text for _ in range(2)] == ["1", "2"]
    assert client.cookies["session_id"] in ShelfSession.cache


def test_it_may_be_put_there_after_the_pages_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Root(Pages):
        @cherrypy.expose
        @cherrypy.tools.sessions(storage_type="late", host="here", clean_freq=0)
        def index(self) -> str:
            return str(super().index())

    with pytest.raises(sessions.ConfigError, match=r"tools\.sessions\.storage_class = LateSession"):
        application(Root())
    monkeypatch.setattr(theirs, "LateSession", ShelfSession, raising=False)
    assert WsgiClient(application(Root())).get().text == "1"


def test_a_class_of_this_package_may_be_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "OursSession", backend("ram"), raising=False)
    app = application(Pages(), storage_type="ours")
    assert [type(store) for store in registry.stores(app)] == [backend("ram").store_class]


def test_what_is_put_there_and_is_no_session_class_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "WrongSession", dict, raising=False)
    with pytest.raises(sessions.ConfigError, match="storage_class is <class 'dict'>"):
        application(Pages(), storage_type="wrong")


def test_a_name_of_this_packages_own_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "RamSession", ShelfSession)
    app = application(Pages(), storage_type="ram")
    assert [type(store) for store in registry.stores(app)] == [backend("ram").store_class]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"domain": "https://example.org"}, "domain"), ({"path": "shop"}, "path"), ({"samesite": "lax"}, "samesite"),
        ({"name": "__Host-x"}, "secure = True"), ({"samesite": "None", "secure": False}, "secure = True"),
    ],
)  # fmt: skip
def test_a_cookie_that_browsers_refuse_stops_the_start(
    options: dict[str, Any], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(sessions.ConfigError, match=said):
        application(Pages(), **options, **wrong)


def test_its_session_has_the_option_locking_as_with_cherrypys_tool(options: dict[str, Any]) -> None:
    class Root:
        @cherrypy.expose
        def index(self) -> str:
            session = cherrypy.serving.session
            if session.locking == "explicit":
                session.acquire_lock()
            session["n"] = 1
            return str(session.locking)

    assert WsgiClient(application(Root(), **options, locking="explicit")).get().text == "explicit"
