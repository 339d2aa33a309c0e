"""The options: each is checked when the site starts, wherever it is set; no application sees another's (rule 17)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import ConfigError, RamSession
from sessions.backends.ram import RamStore
from sessions.limits import Limits
from sessions.settings import Settings
from sessions.table import stores

from .wsgi import Client, Counter, application

UNSET = object()


class SpareStore(RamStore):
    """A stranger's store, with an option of its own."""

    def __init__(self, *, colour: str, size: int = 1) -> None:
        super().__init__()
        self.colour, self.size = colour, size


class SpareSession(sessions.Session):
    store_class = SpareStore


@pytest.fixture(autouse=True)
def _installed() -> None:
    sessions.install()


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.parse(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timeout", [0, -1, "60", None, True, math.inf, math.nan, 1e12, 10**400]),
        ("lifetime", [0, -1, "60", True, math.inf, math.nan]),
        ("remember_timeout", [0, -1, "60", None, True, math.inf, math.nan, 1e12]),
        ("remember_lifetime", [0, -1, "60", True, math.inf, math.nan]),
        ("accounts", ["ada", {"ada": "secret"}, ["ada"], True]),
        ("name", ["", "a b", "a;b", "é", None, 5, "a=b", 'a"', "path", "Expires", "max-age", "domain"]),
        ("path", ["", "shop", "/a;b", 5, "/\r\nx"]),
        ("path_header", [5, True]),
        ("domain", [5, "a;b"]),
        ("secure", ["yes", None, "True", 2, []]),
        ("httponly", ["yes", None, 2]),
        ("samesite", ["lax", None, True, "", []]),
        ("persistent", ["no", None]),
        ("clean_freq", [-1, "5", None, math.inf]),
        ("locking", ["none", None, True, []]),
        ("lock_timeout", [0, -1, None, "10", math.inf]),
        ("debug", ["yes", None]),
        ("storage_type", ["redis", 5, ["file"]]),
        ("storage_class", ["file", int, RamStore, sessions.Session]),
    ],
)
def test_a_wrong_value_is_refused_and_its_option_named(name: str, values: list[Any]) -> None:
    for value in values:
        assert refused(**{name: value}).startswith(f"tools.sessions.{name} is "), value


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("timeuot", "timeout"), ("storage_pth", "storage_path"), ("http_only", "httponly"), ("same_site", "samesite"),
     ("lockng", "locking"), ("snapshot", "snapshot_path"), ("life_time", "lifetime"), ("storagetype", "storage_type")],
)  # fmt: skip
def test_an_unknown_option_is_refused_and_the_nearest_named(wrong: str, nearest: str) -> None:
    assert refused(**{wrong: 1}) == f"tools.sessions.{wrong} is no option of sessions: did you mean {nearest}?"


def test_an_option_like_none_is_refused_with_all_that_are_known() -> None:
    assert "known are " in refused(qqqqqq=1)


@pytest.mark.parametrize("value", [UNSET, None, ""])
def test_a_missing_storage_path_is_named(value: Any) -> None:
    options = {} if value is UNSET else {"storage_path": value}
    assert refused(storage_type="file", **options) == "tools.sessions.storage_path is missing: FileSession needs it"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"storage_type": "file", "storage_path": 5}, "storage_path"), ({"snapshot_path": 5}, "snapshot_path"),
     ({"storage_type": "file", "storage_path": "here", "durable": "yes"}, "durable"),
     *(({"storage_type": "memcached", "servers": "127.0.0.1:1", "patience": wrong}, "patience is .* at most 1, or None")
       for wrong in (0, -1, 1.1, True, "1", math.nan)),
     ({"storage_type": "postgresql", "dsn": "host=127.0.0.1 port=1", "patience": 3.1}, "patience is .* at most 3")],
)  # fmt: skip
def test_a_wrong_option_of_a_backend_stops_the_start(
    options: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=named):
        application(Counter(), **options)


def test_the_defaults_are_those_of_the_design() -> None:
    settings = Settings.parse({})
    found = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    assert found == {
        "storage_class": RamSession, "timeout": 60, "lifetime": None, "remember_timeout": 14 * 24 * 60,
        "remember_lifetime": 30 * 24 * 60, "accounts": None, "name": "session_id", "path": None, "path_header": None,
        "domain": None, "secure": "auto", "httponly": True, "samesite": "Lax", "persistent": True, "clean_freq": 5,
        "locking": "implicit", "lock_timeout": 10, "debug": False, "store": (("snapshot_path", None),),
    }  # fmt: skip


class Accounts:
    """The least that `accounts` may be."""

    def valid_since(self, user: str) -> float | None:
        return 0.0

    def revoke(self, user: str) -> None:
        pass


@pytest.mark.parametrize("lacking", ["valid_since", "revoke"])
def test_accounts_need_both_methods(lacking: str) -> None:
    methods = {name: lambda self, user: None for name in ("valid_since", "revoke") if name != lacking}
    assert "valid_since and revoke" in refused(accounts=type("Half", (), methods)())
    assert isinstance(Settings.parse({"accounts": Accounts()}).accounts, Accounts)


def test_the_limits_of_a_remembered_user_are_options_of_their_own() -> None:
    settings = Settings.parse({"timeout": 5, "lifetime": 50, "remember_timeout": 7, "remember_lifetime": None})
    assert (settings.limits, settings.when_remembered) == (Limits(5, 50), Limits(7, None))


def test_an_option_of_another_backend_passes() -> None:
    """So that a profile is changed by one line."""
    assert Settings.parse({"storage_type": "ram", "storage_path": "unused"}) == Settings.parse({})


@pytest.mark.parametrize(
    ("storage_type", "storage_class"), [("ram", RamSession), ("file", sessions.FileSession), (None, RamSession)]
)
def test_a_storage_type_names_its_class(storage_type: str | None, storage_class: type) -> None:
    assert Settings.parse({"storage_type": storage_type, "storage_path": "x"}).storage_class is storage_class


@pytest.mark.parametrize(
    "options",
    [{}, {"secure": "auto"}, {"secure": False}, {"secure": True, "domain": "x"}, {"secure": True, "path": "/a"},
     {"secure": True, "path_header": "X"}],
)  # fmt: skip
def test_a_host_cookie_is_refused_where_browsers_would_drop_it(options: dict[str, Any]) -> None:
    assert "browsers then want" in refused(name="__Host-sid", **options)


def test_a_host_cookie_is_accepted_with_secure_and_the_root_path() -> None:
    assert Settings.parse({"name": "__Host-sid", "secure": True, "path": "/"}).path == "/"


@pytest.mark.parametrize("secure", ["auto", False])
def test_a_secure_cookie_is_refused_without_secure(secure: Any) -> None:
    assert "__Secure-sid" in refused(name="__Secure-sid", secure=secure)


def test_samesite_none_is_refused_without_secure() -> None:
    assert "samesite" in refused(samesite="None", secure=False)


# -------------------------------------------------------------------- where options are set


def test_a_decorator_with_an_unknown_option_fails_at_import() -> None:
    with pytest.raises(ConfigError, match="did you mean locking"):
        cherrypy.tools.sessions(lockin="explicit")


def node(**options: Any) -> Any:
    """A page with these options on its handler."""

    class Page:
        @cherrypy.expose
        @cherrypy.config(**{f"tools.sessions.{name}": value for name, value in options.items()})
        def index(self) -> str:
            return ""

    return Page()


class Empty:
    """A node of the page tree without a page."""


def tree(*path: str, leaf: Any) -> Any:
    for name in reversed(path):
        above = Empty()
        setattr(above, name, leaf)
        leaf = above
    return leaf


class Methods:
    """A resource of cherrypy.dispatch.MethodDispatcher."""

    exposed = True

    @cherrypy.config(**{"tools.sessions.on": True, "tools.sessions.timeout": "long"})
    def GET(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("root", "config"),
    [
        (node(on=True, timeout="long"), {}),
        (tree("a", leaf=node(on=True, timeout="long")), {}),
        (tree("a", "b", leaf=node(on=True, timeout="long")), {}),
        (tree("api", leaf=Methods()), {}),
        (node(), {"/": {"tools.sessions.on": True, "tools.sessions.timeout": "long"}}),
        (node(), {"/deep/er": {"tools.sessions.on": True, "tools.sessions.timeout": "long"}}),
        (node(), {"/": {"tools.sessions.on": True}, "/deep/er/": {"tools.sessions.timeout": "long"}}),
        (node(timeout="long"), {"/": {"tools.sessions.on": True}}),
        (node(on=True), {"/": {"tools.sessions.timeout": "long"}}),
    ],
)
def test_a_wrong_option_is_found_wherever_it_is_set(root: Any, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tools\.sessions\.timeout is 'long'"):
        sessions.open_stores(cherrypy.Application(root, "", config))


def test_a_wrong_option_is_found_in_the_global_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cherrypy.config, "tools.sessions.timeout", "long")
    with pytest.raises(ConfigError, match="timeout"):
        sessions.open_stores(cherrypy.Application(node(on=True), ""))


def test_a_wrong_option_where_sessions_are_off_stops_nothing() -> None:
    config = {"/": {"tools.sessions.on": True}, "/static": {"tools.sessions.on": False, "tools.sessions.timeout": "x"}}
    app = cherrypy.Application(node(), "", config)
    sessions.open_stores(app)
    assert len(stores.of(app)) == 1


def test_a_page_tree_that_leads_back_to_itself_is_walked_once() -> None:
    root = node()
    root.child = Empty()
    root.child.parent = root
    app = cherrypy.Application(root, "", {"/": {"tools.sessions.on": True}})
    sessions.open_stores(app)
    assert len(stores.of(app)) == 1


def test_an_application_that_is_mounted_nowhere_fixed_can_be_opened() -> None:
    app = cherrypy.Application(Counter(), None, {"/": {"tools.sessions.on": True, "tools.sessions.clean_freq": 0}})
    sessions.open_stores(app)
    client = Client(app)
    assert [client.get().text for _ in range(2)] == ["1", "2"]


# -------------------------------------------------------------------- storage classes, applications


def test_a_strangers_class_brings_its_own_options() -> None:
    app = application(Counter(), storage_class=SpareSession, colour="red", size=3)
    (store,) = sessions.table.stores.of(app)
    assert (store.colour, store.size) == ("red", 3)
    client = Client(app)
    assert [client.get().text for _ in range(3)] == ["1", "2", "3"]


def test_a_strangers_missing_or_unknown_option_is_named() -> None:
    assert refused(storage_class=SpareSession).startswith("tools.sessions.colour is missing: SpareSession")
    assert "did you mean colour?" in refused(storage_class=SpareSession, color="red")


def test_two_applications_share_neither_sessions_nor_settings(tmp_path: Path) -> None:
    apps = [
        application(Counter(), "/a", storage_type="file", storage_path=str(tmp_path), timeout=5),
        application(Counter(), "/b", storage_type="file", storage_path=str(tmp_path), timeout=7, samesite="Strict"),
        application(Counter(), "/c"),
        application(Counter(), "/c"),
    ]
    answers = [Client(app).get() for app in apps]
    assert [answer.cookies["session_id"]["max-age"] for answer in answers] == ["300", "420", "3600", "3600"]
    assert [answer.cookies["session_id"]["samesite"] for answer in answers] == ["Lax", "Strict", "Lax", "Lax"]
    for n, answer in enumerate(answers):
        jar = {"session_id": answer.cookies["session_id"].value}
        assert [Client(app, dict(jar)).get().text for app in apps] == ["2" if m == n else "1" for m in range(4)]


def test_one_store_that_cannot_be_closed_does_not_keep_the_others_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshot"

    def fail(self: SpareStore) -> None:
        raise OSError("no")

    monkeypatch.setattr(SpareStore, "close", fail)
    config = {
        "/a": {"tools.sessions.on": True, "tools.sessions.storage_class": SpareSession, "tools.sessions.colour": "red"},
        "/b": {"tools.sessions.on": True, "tools.sessions.snapshot_path": str(snapshot)},
    }
    app = cherrypy.Application(Counter(), "", config)
    sessions.open_stores(app)
    sessions.close_stores(app)
    assert snapshot.exists()
