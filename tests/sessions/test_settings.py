"""The options: each is checked when the site starts, wherever it is set; no application sees another's (rule 17)."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import ConfigError, options
from sessions.backends.file import FileSession
from sessions.backends.ram import RamSession, RamStore
from sessions.options import Settings
from sessions.record import Limits
from sessions.registry import check_names, registry, session_class
from tests.support.application import Counter, application, logged
from tests.support.client import WsgiClient
from tests.support.process import ROOT, environment

UNSET = object()


class SpareStore(RamStore):
    """A store of the site's own, with an option of its own."""

    def __init__(self, *, colour: str, size: int = 1) -> None:
        super().__init__()
        self.colour, self.size = colour, size


class SpareSession(sessions.Session):
    store_class = SpareStore


@pytest.fixture(autouse=True)
def _installed() -> None:
    sessions.install()


def read(**given: Any) -> Settings:
    """Return the settings that these options make, without opening their store."""
    check_names(given)
    return options.parse(given, session_class(given))


def refused(**given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**given)
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
        ("path", ["", "shop", "/a;b", 5, "/\r\nx", "/a b", "/é", "/a?b", "/a#b", "/a/../b", "/.", "https://site/shop"]),
        ("path_header", [5, True, "", "X Mounted", "X-Mounted:"]),
        (
            "domain",
            [
                5,
                "",
                "a;b",
                "https://example.org",
                "//example.org",
                "example.org:8080",
                "example.org/shop",
                "*.example.org",
                " example.org",
                "example.org ",
                "example.org.",
                "..example.org",
                ".",
                "a..b",
                "-a.org",
                "ada@example.org",
                "münchen.example",
                "example.org,example.com",
                "[::1]",
                "::1",
                "example.org\r\nX: y",
                ["example.org"],
            ],
        ),
        ("secure", ["yes", None, "True", 2, []]),
        ("httponly", ["yes", None, 2]),
        ("samesite", ["lax", "none", "STRICT", None, True, False, "", " Lax", []]),
        ("cross_site", ["yes", None, 2]),
        ("persistent", ["no", None]),
        ("clean_freq", [-1, "5", True, math.inf]),
        ("locking", ["none", None, True, []]),
        ("lock_timeout", [0, -1, None, "10", math.inf, timedelta(0), timedelta(seconds=-1), timedelta.max]),
        ("max_waiting", [0, -1, None, "10", True, 1.5, math.inf]),
        ("debug", ["yes", None]),
        ("storage_type", ["mongo", 5, ["file"], " ram", "cherrys.RedisSession", "FileSession", SpareSession]),
        ("storage_class", ["file", "cherrys.RedisSession", int, RamStore, sessions.Session, ["file"]]),
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
    assert refused(**{wrong: 1}) == f"tools.sessions.{wrong} is an unknown option of sessions: did you mean {nearest}?"


def test_an_option_unlike_any_other_is_refused_with_all_that_are_known() -> None:
    assert "known are " in refused(qqqqqq=1)


@pytest.mark.parametrize("value", [UNSET, None, ""])
def test_a_missing_storage_path_is_named(value: Any) -> None:
    given = {} if value is UNSET else {"storage_path": value}
    assert refused(storage_type="file", **given) == "tools.sessions.storage_path is missing: FileSession needs it"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"storage_type": "file", "storage_path": 5}, "storage_path"), ({"snapshot_path": 5}, "snapshot_path"),
     ({"storage_type": "file", "storage_path": "here", "durable": "yes"}, "durable"),
     *(({"storage_type": "memcached", "servers": "127.0.0.1:1", "server_timeout": wrong},
        "server_timeout is .* at most 1, or None") for wrong in (0, -1, 1.1, True, "1", math.nan)),
     ({"storage_type": "redis", "url": "redis://127.0.0.1:1", "server_timeout": 1.1}, "server_timeout is .* at most 1"),
     ({"storage_type": "postgresql", "dsn": "host=127.0.0.1 port=1", "server_timeout": 3.1},
      "server_timeout is .* at most 3")],
)  # fmt: skip
def test_a_wrong_option_of_a_backend_stops_the_start(
    options: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=named):
        application(Counter(), **options)


def test_the_defaults_are_those_of_the_design() -> None:
    settings = read()
    found = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    assert found == {
        "storage_class": RamSession, "timeout": 60, "lifetime": None, "remember_timeout": 14 * 24 * 60,
        "remember_lifetime": 30 * 24 * 60, "accounts": None, "proof_page": None, "name": "session_id", "path": None,
        "path_header": None, "domain": None, "secure": "auto", "httponly": True, "samesite": "Lax", "cross_site": False,
        "persistent": True, "clean_freq": 5, "locking": "implicit", "lock_timeout": 10, "max_waiting": 500,
        "debug": False, "moving_from": None, "moving_to": None,
        "store": (("snapshot_path", None),),
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
    assert isinstance(read(accounts=Accounts()).accounts, Accounts)


def test_the_limits_of_a_remembered_user_are_options_of_their_own() -> None:
    settings = read(timeout=5, lifetime=50, remember_timeout=7, remember_lifetime=None)
    assert (settings.limits, settings.when_remembered) == (Limits(5, 50), Limits(7, None))


# CherryPy's ways to say a thing


@pytest.mark.parametrize("name", ["secure", "httponly", "persistent", "debug"])
def test_one_and_zero_are_true_and_false(name: str) -> None:
    assert getattr(read(**{name: 1}), name) is True
    assert getattr(read(**{name: 0}), name) is False


@pytest.mark.parametrize("never", [None, False, 0])
def test_none_and_false_as_clean_freq_are_no_cleaning(never: Any) -> None:
    assert read(clean_freq=never).clean_freq == 0


def test_lock_timeout_may_be_a_timedelta() -> None:
    assert read(lock_timeout=timedelta(minutes=1, milliseconds=500)).lock_timeout == 60.5


def test_an_option_of_another_backend_passes() -> None:
    """So that a profile is changed by one line."""
    assert read(storage_type="ram", storage_path="unused") == read()


@pytest.mark.parametrize(
    ("storage_type", "storage_class"),
    [("ram", RamSession), ("file", FileSession), (None, RamSession), ("RAM", RamSession), ("File", FileSession)],
)
def test_a_storage_type_names_its_class_in_any_case(storage_type: str | None, storage_class: type) -> None:
    assert read(storage_type=storage_type, storage_path="x").storage_class is storage_class


@pytest.mark.parametrize(
    "given",
    [{}, {"secure": "auto"}, {"secure": False}, {"secure": True, "domain": "x"}, {"secure": True, "path": "/a"},
     {"secure": True, "path_header": "X"}],
)  # fmt: skip
@pytest.mark.parametrize("name", ["__Host-sid", "__HOST-sid"])  # browsers compare without case
def test_a_host_cookie_is_refused_where_browsers_would_drop_it(name: str, given: dict[str, Any]) -> None:
    assert "browsers then want" in refused(name=name, **given)


@pytest.mark.parametrize("name", ["__Http-sid", "__http-sid", "__Host-Http-sid", "__HOST-HTTP-sid"])
def test_a_cookie_for_servers_alone_is_refused_where_browsers_would_drop_it(name: str) -> None:
    """By draft-ietf-httpbis-layered-cookies; Chromium does since 140."""
    assert "secure = True" in refused(name=name)
    assert "httponly = True" in refused(name=name, secure=True, httponly=False)
    assert read(name=name, secure=True).name == name
    if "host" in name.lower():
        assert "no domain" in refused(name=name, secure=True, domain="example.org")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("domain", [None, "example.org", ".example.org", "Example.ORG", "a_b.example.org", "xn--mnchen-3ya.example",
                    "localhost", "127.0.0.1", "org"]),
        ("path", [None, "/", "/shop", "/shop/", "/my%20shop", "/~ada/a.b/!$&'()*+,=:@-_", "/a[b]", "//"]),
        ("path_header", [None, "X-Mounted"]),
    ],
)  # fmt: skip
def test_what_browsers_may_keep_is_accepted(name: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(read(**{name: value}), name) == value


def test_a_host_cookie_is_accepted_with_secure_and_the_root_path() -> None:
    assert read(name="__Host-sid", secure=True, path="/").path == "/"


@pytest.mark.parametrize("secure", ["auto", False])
def test_a_secure_cookie_is_refused_without_secure(secure: Any) -> None:
    assert "__Secure-sid" in refused(name="__Secure-sid", secure=secure)


def test_samesite_none_is_refused_without_secure() -> None:
    assert "samesite" in refused(samesite="None", secure=False)


# -------------------------------------------------------------------- what only an answer shows


@pytest.mark.parametrize(
    ("options", "host", "told"),
    [
        ({"domain": "example.org"}, "shop.example.com", "Domain=example.org"),
        ({"domain": "shop.example.org"}, "example.org", "Domain=shop.example.org"),
        ({"domain": "ample.org"}, "example.org", "Domain=ample.org"),
        ({"domain": "org"}, "example.org:8080", "Domain=org"),
        ({"domain": "localhost"}, "127.0.0.1:8080", "Domain=localhost"),
        ({"domain": "0.0.1"}, "127.0.0.1", "Domain=0.0.1"),
        ({"domain": "example.org"}, "[::1]:8080", "Domain=example.org"),
        ({"samesite": "None"}, "example.org", "SameSite=None"),
        ({"secure": True}, "example.org", "a Secure cookie was set on plain http"),
        ({"samesite": "None", "secure": True}, "example.org", "a Secure cookie was set on plain http"),
    ],
)
def test_a_cookie_that_browsers_refuse_is_logged_at_the_first_answer_only(
    options: dict[str, Any], host: str, told: str
) -> None:
    app = application(Counter(), **options)
    with logged() as lines:
        assert WsgiClient(app).get(host=host).text == "1"
    (line,) = lines
    assert told in line and f"site=http://{host}" in line.replace('"', ""), line
    assert "proxy" in line, "and what to do"
    with logged() as lines:
        for n in range(3):
            assert WsgiClient(app).get(host=f"{n}.{host}" if n else host).text == "1"
    assert lines == []


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({}, "example.org"), ({"domain": "example.org"}, "example.org"),
        ({"domain": "example.org"}, "a.example.org:81"), ({"domain": ".example.org"}, "Example.org"),
        ({"domain": "EXAMPLE.org"}, "b.a.example.org"),
        ({"domain": "localhost"}, "localhost:8080"),
        ({"domain": "127.0.0.1"}, "127.0.0.1:8080"),
        ({"domain": "intranet"}, "intranet"),
    ],
)  # fmt: skip
def test_a_cookie_that_browsers_keep_is_not_logged(options: dict[str, Any], host: str) -> None:
    with logged() as lines:
        WsgiClient(application(Counter(), **options)).get(host=host)
    assert lines == []


def test_a_page_that_sets_no_cookie_warns_of_none() -> None:
    class Root:
        @cherrypy.expose
        def index(self) -> str:
            return str(cherrypy.session.get("n"))

    with logged() as lines:
        WsgiClient(application(Root(), domain="example.com")).get(host="example.org")
    assert lines == []


def test_each_configuration_has_a_line_of_its_own() -> None:
    for domain in ("example.com", "example.net"):
        with logged() as lines:
            WsgiClient(application(Counter(), domain=domain)).get(host="example.org")
        assert len(lines) == 1 and domain in lines[0]


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
    assert len(registry.stores(app)) == 1


def test_a_page_tree_that_leads_back_to_itself_is_walked_once() -> None:
    root = node()
    root.child = Empty()
    root.child.parent = root
    app = cherrypy.Application(root, "", {"/": {"tools.sessions.on": True}})
    sessions.open_stores(app)
    assert len(registry.stores(app)) == 1


def test_an_application_that_is_mounted_nowhere_fixed_can_be_opened() -> None:
    app = cherrypy.Application(Counter(), None, {"/": {"tools.sessions.on": True, "tools.sessions.clean_freq": 0}})
    sessions.open_stores(app)
    client = WsgiClient(app)
    assert [client.get().text for _ in range(2)] == ["1", "2"]


# -------------------------------------------------------------------- the start

SITE = """
import sys
sys.addaudithook(lambda event, args: print("bound a port") if event == "socket.bind" else None)
import cherrypy, sessions
sessions.install()

class Root:
    @cherrypy.expose
    def index(self):
        return ""

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.timeout": 5})
    def page(self):
        return ""

cherrypy.config.update({"server.socket_port": 0, "server.socket_host": "127.0.0.1", "engine.autoreload.on": False})
cherrypy.engine.subscribe("main", cherrypy.engine.exit)  # called once it is up
config = {"/": {"tools.sessions.on": True, **OPTIONS}}
"""
STARTS = {
    "quickstart": "cherrypy.quickstart(Root(), '/', config)",
    "engine": "cherrypy.tree.mount(Root(), '/shop', config); cherrypy.engine.start(); cherrypy.engine.block()",
}
WRONG = {
    "unknown": ({"timeuot": 5}, "tools.sessions.timeuot is an unknown option of sessions: did you mean timeout?"),
    "malformed": ({"locking": "no"}, "tools.sessions.locking is 'no': it must be 'implicit', 'early' or 'explicit'"),
    "missing": ({"storage_type": "file"}, "tools.sessions.storage_path is missing: FileSession needs it"),
    "of the backend": ({"storage_type": "cookie", "secret": "short"}, "secret number 1 has 5 characters and needs"),
    "of an older CherryPy": (
        {"cookie_path": "/x"},
        "tools.sessions.cookie_path is a name of CherryPy 2.2 and 2.3: write tools.sessions.path = '/x' in [/]",
    ),
    "no folder": ({"storage_type": "file", "storage_path": "/dev/null/x"}, "storage_path: cannot keep sessions in"),
}


def started(how: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run a site with these options to its end; it ends by itself once it is up."""
    code = SITE.replace("OPTIONS", repr({f"tools.sessions.{name}": value for name, value in given.items()}))
    return subprocess.run(
        [sys.executable, "-c", code + STARTS[how]], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env=environment(),
    )  # fmt: skip


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_option_stops_the_start_with_one_line_before_the_port_opens(how: str, wrong: str) -> None:
    given, message = WRONG[wrong]
    ended = started(how, **given)
    assert ended.returncode not in (0, -6, -9, -11), ended
    assert "bound a port" not in ended.stdout
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, said
    assert [message in line for line in said.splitlines()].count(True) == 1, said
    assert ended.stderr.splitlines()[-1].startswith(f"sessions: {message}"), said


@pytest.mark.parametrize("how", STARTS)
def test_a_site_with_right_options_opens_its_port(how: str) -> None:
    """What the test above looks for would be seen."""
    ended = started(how)
    assert (ended.returncode, ended.stdout.count("bound a port")) == (0, 1), ended


# -------------------------------------------------------------------- storage classes, applications


@pytest.mark.parametrize(
    ("storage_type", "written", "near"),
    [
        ("mongo", "MongoSession", ""), ("RedisSession", "RedisSession", "redis"), ("mongo_db", "Mongo_DbSession", ""),
        ("cherrys.RedisSession", "cherrys.RedisSession", ""), (SpareSession, "SpareSession", ""),
        ("FileSession", "FileSession", "file"), ("postgres", "PostgresSession", "postgresql"),
        ("memcache", "MemcacheSession", "memcached"),
    ],
)  # fmt: skip
def test_an_unknown_storage_type_is_refused_with_what_to_write(storage_type: Any, written: str, near: str) -> None:
    for more in ({}, {"host": "127.0.0.1", "port": 6379, "prefix": "x"}):  # the options of such a class are unknown too
        message = refused(storage_type=storage_type, **more)
        assert message.startswith(f"tools.sessions.storage_type is {storage_type!r}: it must be one of ram, file, ")
        assert message.endswith(f"tools.sessions.storage_class = {written}")
        assert (f"did you mean {near}?" in message) == bool(near)


def test_the_name_of_a_class_is_not_the_class() -> None:
    assert refused(storage_class="cherrys.RedisSession").endswith("the class, not its name")


def test_a_class_of_the_sites_own_brings_its_own_options() -> None:
    app = application(Counter(), storage_class=SpareSession, colour="red", size=3)
    (store,) = registry.stores(app)
    assert (store.colour, store.size) == ("red", 3)
    client = WsgiClient(app)
    assert [client.get().text for _ in range(3)] == ["1", "2", "3"]


def test_its_missing_or_unknown_option_is_named() -> None:
    assert refused(storage_class=SpareSession).startswith("tools.sessions.colour is missing: SpareSession")
    assert "did you mean colour?" in refused(storage_class=SpareSession, color="red")


def test_a_class_of_the_sites_own_passes_over_the_options_of_other_backends() -> None:
    settings = read(storage_class=SpareSession, colour="red", storage_path="unused")
    assert settings.store == (("colour", "red"), ("size", 1))


def test_two_applications_share_neither_sessions_nor_settings(tmp_path: Path) -> None:
    apps = [
        application(Counter(), "/a", storage_type="file", storage_path=str(tmp_path), timeout=5),
        application(Counter(), "/b", storage_type="file", storage_path=str(tmp_path), timeout=7, samesite="Strict"),
        application(Counter(), "/c"),
        application(Counter(), "/c"),
    ]
    answers = [WsgiClient(app).get() for app in apps]
    assert [answer.cookies["session_id"]["max-age"] for answer in answers] == ["300", "420", "3600", "3600"]
    assert [answer.cookies["session_id"]["samesite"] for answer in answers] == ["Lax", "Strict", "Lax", "Lax"]
    for n, answer in enumerate(answers):
        jar = {"session_id": answer.cookies["session_id"].value}
        assert [WsgiClient(app, jar).get().text for app in apps] == ["2" if m == n else "1" for m in range(4)]


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
    for _, store in sessions.open_stores(app):
        store.start()
    sessions.close_stores(app)
    assert snapshot.exists()
