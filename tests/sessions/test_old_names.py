"""Every name that an older CherryPy had for something of sessions: what the start and `convert` say to it.

The cases are written from the sources of those CherryPys, and not from the table in the package.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cherrypy
import pytest
from cherrypy.lib import reprconf

import sessions
from sessions.convert import convert
from tests.support.application import Counter, application
from tests.support.process import ROOT, environment

RAW = ("session", "server")  # sections of 0.9 to 2.0


class Case(NamedTuple):
    """What one old name with a value is today.

    Attributes:
        today: the options that say the same; or, where a person has to write them, a piece of what that person is told.
        told: what has to be said besides.
        held: an option of `today` that waits for a person in a converted file.
    """

    section: str
    name: str
    value: Any
    version: str
    today: dict[str, Any] | str
    told: str = ""
    held: str = ""

    @property
    def source(self) -> str:
        if self.section in RAW:
            return "" if self.value is None else str(self.value)
        return self.value.__qualname__ if callable(self.value) else repr(self.value)


def storage(value: str | None, today: str, held: str = "") -> Case:
    on = {"on": True, "storage_type": today, "persistent": False}
    return Case("session", "storageType", value, "0.9", on, held=held)


def filtered(
    first: str, second: str, value: Any, today: dict[str, Any] | str, told: str = "", held: str = ""
) -> list[Case]:
    """The same in 2.1, in 2.2 and 2.3, and in their other section."""
    return [
        Case("global", f"sessionFilter.{first}", value, "2.1", today, told, held),
        *([Case("/admin", f"session_filter.{second}", value, "2.2 and 2.3", today, told, held)] if second else []),
    ]


NEW_FOLDER = "a new folder"
OWN_STORE = "a Store of your own"
CASES = [
    # 0.9 and 0.10, and 2.0 but for siteKey
    storage("ram", "ram"), storage("file", "file"), storage("cookie", "cookie"),
    storage("custom", "functions", "storage_type"),
    Case("session", "storageType", "", "0.9", {"on": False}),
    Case("session", "STORAGETYPE", "ram", "0.9", {"on": True, "storage_type": "ram", "persistent": False}),
    Case("session", "timeout", 30, "0.9", {"timeout": 30}, "minutes"),
    Case("session", "Timeout", "0.5", "0.9", {"timeout": 0.5}, "minutes"),
    Case("session", "cleanUpDelay", 0, "0.9", {"clean_freq": 0}, "minutes"),
    Case("session", "cleanupdelay", 60, "0.9", {"clean_freq": 60}),
    Case("session", "cookieName", "MyCookie", "0.9", {"name": "MyCookie"}),
    Case("session", "storageFileDir", "/srv/old", "0.9", {"storage_path": "/srv/old"}, NEW_FOLDER),
    Case("server", "siteKey", "correct horse", "0.9", "tools.sessions.secret", "32 characters"),
    Case("server", "sitekey", "correct horse", "0.9", "tools.sessions.secret", "a new one"),
    # 2.0, as keys of configMap
    Case("global", "sessionStorageType", "file", "2.0", {"on": True, "storage_type": "file", "persistent": False}),
    Case("global", "sessionStorageType", "cookie", "2.0", {"on": True, "storage_type": "cookie", "persistent": False},
         "off in 2.0"),
    Case("global", "sessionTimeout", 60, "2.0", {"timeout": 60}, "minutes"),
    Case("global", "sessionCleanUpDelay", 60, "2.0", {"clean_freq": 60}, "minutes"),
    Case("global", "sessionCookieName", "C", "2.0", {"name": "C"}),
    Case("global", "sessionStorageFileDir", "/srv/old", "2.0", {"storage_path": "/srv/old"}, NEW_FOLDER),
    Case("global", "logDebugInfoFilter.logSessionSize", True, "2.0", "X-ray"),
    # 2.1 alpha
    *(Case("global", f"session.{name}", value, "0.9 to 2.1 alpha", today) for name, value, today in (
        ("storageType", "ram", {"on": True, "storage_type": "ram", "persistent": False}),
        ("timeout", 5, {"timeout": 5}), ("cleanUpDelay", 5, {"clean_freq": 5}), ("cookieName", "C", {"name": "C"}),
        ("storageFileDir", "x", {"storage_path": "x"}),
    )),
    Case("global", "sessionFilter.cleanUpDelay", 60, "2.1", {"clean_freq": 60}, "minutes"),
    Case("global", "sessionFilter.storageType", "anydb", "2.1", "storage_type", OWN_STORE),
    Case("global", "sessionFilter.storageType", "sqlobject", "2.1", "storage_type", OWN_STORE),
    Case("global", "sessionFilter.storageFileDir", ".sessionFiles", "2.1 alpha", {"storage_path": ".sessionFiles"},
         NEW_FOLDER),
    Case("/cart", "sessionFilter.new", "cart", "2.1 alpha", "another name, with its path", "a second application"),
    *(Case("/", f"sessionMap.{name}", value, "2.1 alpha", today, told) for name, value, today, told in (
        ("storageType", "ram", {"storage_type": "ram"}, ""), ("timeout", 5, {"timeout": 5}, "minutes"),
        ("cleanUpDelay", 5, {"clean_freq": 5}, "minutes"), ("cookieName", "C", {"name": "C"}, ""),
        ("customStorageClass", dict, "tools.sessions.storage_class", "names its Store"), ("dbFile", "x", OWN_STORE, ""),
        ("dbClassName", "X", OWN_STORE, ""), ("keyGenerator", len, "Session.generate_id", ""),
        ("cacheTimeout", 5, "loses updates", "seconds"),
    )),
    # 2.1 beta
    Case("global", "sessionFilter.sessionList", ["default"], "2.1 beta", "a path has one session"),
    Case("/", "sessionFilter.default.on", True, "2.1 beta", {"on": True}),
    Case("/", "sessionFilter.cart.on", True, "2.1", {"on": True}),
    Case("/", "sessionFilter.cart.timeout", 5, "2.1", {"timeout": 5}),
    Case("global", "sessionFilter.storageAdaptors", {"x": "y"}, "2.1 alpha and beta", "tools.sessions.storage_class"),
    Case("global", "sessionFilter.timeMultiple", 60, "2.1 beta", "drop it", "the first cleaning only"),
    Case("global", "sessionFilter.timeout", 60, "2.1", {"timeout": 60}, "meant minutes and counted seconds"),
    Case("global", "sessionFilter.cookiePrefix", "C", "2.1 beta", {"name": "C"}, "<prefix>_<name>"),
    Case("global", "sessionFilter.cookieComment", "x", "2.1 beta", "nothing"),
    Case("global", "sessionFilter.storagePath", ".sessiondata", "2.1", {"storage_path": ".sessiondata"}, NEW_FOLDER),
    Case("global", "sessionFilter.dbFile", "x", "2.1 alpha and beta", OWN_STORE),
    Case("global", "sessionFilter.tableObject", dict, "2.1 alpha and beta", OWN_STORE),
    Case("global", "sessionFilter.cacheTimeout", 0, "2.1 alpha and beta", "loses updates", "seconds"),
    Case("global", "sessionFilter.instantUpdate", True, "2.1 beta", "at the end of the request"),
    Case("global", "sessionFilter.keyGenerator", len, "2.1 alpha and beta", "Session.generate_id"),
    # 2.1, 2.2 and 2.3
    *filtered("on", "on", True, {"on": True}),
    Case("/", "sessionFilter.on", True, "2.1", {"on": True}, "staticFilter.on"),
    *filtered("storageType", "storage_type", "Ram", {"storage_type": "ram"}),
    *filtered("storageType", "storage_type", "file", {"storage_type": "file"}),
    *filtered("storageType", "storage_type", "PostgreSQL", {"storage_type": "postgresql"}, "dsn", "storage_type"),
    *filtered("storageClass", "storage_class", dict, "tools.sessions.storage_class", "names its Store"),
    *filtered("storagePath", "storage_path", "/srv/old", {"storage_path": "/srv/old"}, NEW_FOLDER),
    *filtered("getDB", "get_db", len, "tools.sessions.dsn", "python -m sessions sql"),
    *filtered("timeout", "timeout", 2.5, {"timeout": 2.5}, "minutes"),
    *filtered("timeout", "timeout", 0, {"timeout": 60, "persistent": False}),
    Case("global", "sessionFilter.Timeout", 5, "2.1", {"timeout": 5}, "had no effect"),
    *filtered("cleanUpDelay", "clean_up_delay", 5, {"clean_freq": 5}, "minutes"),
    *filtered("cookieName", "cookie_name", "sessionID", {"name": "sessionID"}),
    *filtered("locking", "locking", "explicit", {"locking": "explicit"}, "'implicit' now"),
    *filtered("locking", "locking", "implicit", {"locking": "implicit"}, "'implicit' now"),
    *filtered("deadlockTimeout", "deadlock_timeout", 30, {"lock_timeout": 30}, "seconds"),
    *filtered("onCreateSession", "on_create_session", len, "sessions.subscribe", "created"),
    *filtered("onRenewSession", "on_renew_session", len, "sessions.subscribe", "a new id"),
    *filtered("onDeleteSession", "on_delete_session", len, "sessions.subscribe", "by time"),
    *filtered("cookieDomain", "cookie_domain", "example.org", {"domain": "example.org"}),
    *filtered("cookiePath", "cookie_path", "/shop", {"path": "/shop"}),
    *filtered("cookiePathFromHeader", "cookie_path_from_header", "X-Path", {"path_header": "X-Path"}),
    *filtered("cookieSecure", "cookie_secure", True, {"secure": True}, "'auto' now"),
    *filtered("cookieSecure", "cookie_secure", 1, {"secure": "auto"}, "only True"),
    *filtered("cookieSecure", "cookie_secure", False, {"secure": False}),
    *filtered("generateSessionId", "generate_session_id", len, "Session.generate_id"),
    *filtered("unheardOf", "unheard_of", 1, "docs/options.md"),
    # signing in, from 2.1 to 18.10
    *(Case("/", f"{space}.{name}", value, version, today, told)
      for *names, value, today, told in (
          ("on", "on", "on", True, "sign_in(user)", "any password"),
          ("checkLoginAndPassword", "check_login_and_password", "check_username_and_password", len, "verify",
           "any password"),
          ("loginScreen", "login_screen", "login_screen", len, "templates/login.html", "did not escape"),
          ("notLoggedIn", "not_logged_in", "anonymous", len, "a page of your own", "not signed in"),
          ("loadUserByUsername", "load_user_by_username", "on_check", len, "cherrypy.session.user", ""),
          ("sessionKey", "session_key", "session_key", "username", "cherrypy.session.user", ""),
          ("", "on_login", "on_login", len, "sessions.subscribe", "saved"),
          ("", "on_logout", "on_logout", len, "sessions.subscribe", "deleted"),
          ("", "", "debug", True, "tools.sessions.debug", ""),
          ("unheardOf", "unheard_of", "unheard_of", 1, "sign_in(user)", ""),
      )
      for space, version, name in zip(
          ("sessionAuthenticateFilter", "session_authenticate_filter", "tools.session_auth"),
          ("2.1", "2.2 and 2.3", "3."), names, strict=True) if name),
    # what 3.0 and later had, or what somebody takes for it
    Case("/", "tools.sessions.get_db", len, "3.0 to 5.3", "tools.sessions.dsn", "python -m sessions sql"),
    Case("/", "tools.sessions.cookie_path", "/", "2.2 and 2.3", {"path": "/"}),
    Case("/", "tools.sessions.cookie_name", "C", "2.2 and 2.3", {"name": "C"}),
    Case("/", "tools.sessions.cookieName", "C", "0.9", {"name": "C"}),
    Case("/", "tools.sessions.cookie_domain", "example.org", "2.2 and 2.3", {"domain": "example.org"}),
    Case("/", "tools.sessions.cookie_secure", True, "2.2 and 2.3", {"secure": True}),
    Case("/", "tools.sessions.cookie_path_from_header", "X", "2.2 and 2.3", {"path_header": "X"}),
    Case("/", "tools.sessions.siteKey", "correct horse", "0.9", "tools.sessions.secret", "a new one"),
    Case("/", "tools.sessions.storageFileDir", "x", "0.9", {"storage_path": "x"}, NEW_FOLDER),
    Case("/", "tools.sessions.storageType", "file", "0.9", {"on": True, "storage_type": "file", "persistent": False}),
    Case("/", "tools.sessions.storage_adaptors", {}, "2.1", "tools.sessions.storage_class"),
    Case("/", "tools.sessions.getDB", len, "2.1", "tools.sessions.dsn"),
    Case("/", "tools.sessions.deadlock_timeout", 30, "2.2 and 2.3", {"lock_timeout": 30}),
    Case("/", "tools.sessions.clean_up_delay", 5, "2.2 and 2.3", {"clean_freq": 5}),
    *(Case("/", f"tools.sessions.{name}", len, "2.2 and 2.3", today) for name, today in (
        ("on_create_session", "sessions.subscribe"), ("on_renew_session", "sessions.subscribe"),
        ("on_delete_session", "sessions.subscribe"), ("generate_session_id", "Session.generate_id"),
    )),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _installed() -> None:
    sessions.install()


def refused(*sections: dict[str, Any] | Any, root: Any = None) -> str:
    """Return the one line that stops the start of an application with this configuration."""
    with pytest.raises(sessions.ConfigError) as caught:
        sessions.open_stores(cherrypy.Application(root or Counter(), "", *sections))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named(case: Case) -> str:
    return f"[{case.section}] {case.name} = {case.source}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_old_name_stops_the_start_with_what_it_is_today(case: Case) -> None:
    line = refused({case.section: {case.name: case.value}})
    place = "" if case.name.startswith("tools.sessions.") else rf" in \[{case.section}\]"
    assert re.match(rf"{re.escape(case.name)}{place} is a name of CherryPy {re.escape(case.version)}", line), line
    if isinstance(case.today, dict):
        written = ", ".join(f"tools.sessions.{name} = {value!r}" for name, value in case.today.items())
        assert f": write {written} in [{case.section if case.section in ('/cart', '/admin') else '/'}]" in line
    else:
        assert case.today in line
    assert case.told in line and "docs/migrating.md" in line and "python -m sessions convert" in line
    assert "correct horse" not in line


@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_old_name_is_converted_or_kept_as_a_comment_and_said(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, remarks = convert(f"[{case.section}]\n{case.name} = {case.source}\n")
    found = reprconf.Parser.load(io.StringIO(text))
    place = case.section if case.section.startswith("/") else "/"
    options = {name.removeprefix("tools.sessions."): value for name, value in found[place].items()}
    said = "\n".join(remarks)
    assert "correct horse" not in text + said
    assert all(name.startswith("tools.sessions.") for name in found[place]), "of today"
    if isinstance(case.today, dict):
        assert {
            name: options.get(name, case.today[name] if name == case.held else None) for name in case.today
        } == case.today
        assert not case.held or (case.held not in options and "in memory" in said)
    else:
        assert options.keys() <= {"locking"} and f"{case.name}: " in said and case.today in said and case.told in said
        assert case.name in text, "as a comment"
    found.setdefault("/", {})["tools.sessions.on"] = True
    app = cherrypy.Application(Counter(), "", found)
    assert sessions.open_stores(app)
    sessions.close_stores(app)


# -------------------------------------------------------------------- the names that are still those of today


TODAY = [
    ("on", True), ("storage_type", "ram"), ("timeout", 60), ("clean_freq", 5), ("locking", "implicit"),
    ("locking", "early"), ("path", None), ("path_header", None), ("name", "session_id"), ("domain", None),
    ("secure", False), ("persistent", True), ("debug", False), ("httponly", False), ("priority", 50),
    ("storage_path", "/srv/sessions"), ("servers", ["127.0.0.1:11211"]),
]  # fmt: skip
# What CherryPy's tool took, and what this one takes it for; None where it is refused with what to write instead.
WAYS: list[tuple[str, str, dict[str, Any], bool]] = [
    ("storage_type", "'Ram'", {"storage_type": "ram"}, True),
    ("timeout", "0", {"timeout": 60, "persistent": False}, False),
    ("secure", "1", {"secure": True}, True),
    ("secure", "0", {"secure": False}, True),
    ("secure", "'yes'", {"secure": True}, False),
    ("httponly", "1", {"httponly": True}, True),
    ("httponly", "0", {"httponly": False}, True),
    ("locking", "'none'", {"locking": "explicit"}, False),
    ("locking", "None", {"locking": "explicit"}, False),
    ("lock_timeout", "None", {"lock_timeout": 600}, False),
    ("clean_freq", "None", {"clean_freq": 0}, True),
    ("clean_freq", "False", {"clean_freq": 0}, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TODAY)
def test_a_name_of_today_starts_and_is_not_changed(name: str, value: Any) -> None:
    sessions.close_stores(application(Counter(), **{name: value}))
    line = f"tools.sessions.{name} = {value!r}   # mine"
    text, remarks = convert(f"[/]\n# why\n{line}\n")
    assert text == f"[/]\n# why\n{line}"
    assert len(remarks) == 1 + (name in ("name", "storage_path"))


@pytest.mark.parametrize(("name", "value", "today", "is_understood"), WAYS)
def test_a_way_of_cherrypy_is_understood_or_refused_with_what_to_write(
    name: str, value: str, today: dict[str, Any], is_understood: bool
) -> None:
    given = reprconf.unrepr(value)
    if is_understood:
        sessions.close_stores(application(Counter(), **{name: given}))
    else:
        line = refused({"/": {"tools.sessions.on": True, f"tools.sessions.{name}": given}})
        written = ", ".join(f"tools.sessions.{option} = {one!r}" for option, one in today.items())
        assert line.startswith(f"tools.sessions.{name} is {given!r}: ")
        assert line.endswith(f"; write {written}")
    text, _ = convert(f"[/]\ntools.sessions.{name} = {value}\n")
    found = reprconf.Parser.load(io.StringIO(text))["/"]
    assert found == {f"tools.sessions.{option}": one for option, one in today.items()}
    assert [type(one) for one in found.values()] == [type(one) for one in today.values()]


@pytest.mark.parametrize("value", ["datetime.timedelta(seconds=30)", "cherrypy.lib.sessions.RamSession"])
def test_an_expression_is_kept_as_it_is_written(value: str) -> None:
    name = "lock_timeout" if "time" in value else "storage_class"
    assert convert(f"[/]\ntools.sessions.{name} = {value}")[0] == f"[/]\ntools.sessions.{name} = {value}"


def test_clean_freq_that_may_have_counted_seconds_is_asked_for() -> None:
    for minutes, is_asked in ((5, False), (59, False), (60, True), (300, True)):
        remarks = convert(f"[/]\ntools.sessions.clean_freq = {minutes}")[1]
        assert any("counted seconds" in one for one in remarks) == is_asked


def test_an_option_that_was_no_option_becomes_a_comment() -> None:
    text, remarks = convert("[/]\ntools.sessions.on = True\ntools.sessions.colour = 'red'\n")
    assert "\n# tools.sessions.colour = 'red'" in text and "line 3: tools.sessions.colour: " in remarks[0]


@pytest.mark.parametrize("own", ["storage_class = shop.OwnSession", "storage_type = 'mongo'"])
def test_an_option_of_a_class_of_ones_own_stays(own: str) -> None:
    text = f"[/]\ntools.sessions.{own}\ntools.sessions.colour = 'red'"
    assert convert(text)[0] == text


# -------------------------------------------------------------------- where they are found, and where not


class Page:
    @cherrypy.expose
    @cherrypy.config(**{"session_filter.timeout": 5})
    def old(self) -> str:
        return ""


def test_it_is_found_in_the_code_of_a_page_and_in_the_global_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(root=Page()).startswith("session_filter.timeout in [/old] is a name of CherryPy 2.2 and 2.3")
    monkeypatch.setitem(cherrypy.config, "sessionFilter.on", True)
    assert refused().startswith("sessionFilter.on in [global] is a name of CherryPy 2.1")
    monkeypatch.delitem(cherrypy.config, "sessionFilter.on")
    monkeypatch.setitem(cherrypy.config, "session", {"timeout": 5})
    assert refused().startswith("timeout in [session] is a name of CherryPy 0.9")


def test_it_is_found_where_sessions_are_off_and_in_a_decorator() -> None:
    off = {"/": {"tools.sessions.on": True}, "/static": {"tools.sessions.on": False, "tools.sessions.get_db": len}}
    assert refused(off).startswith("tools.sessions.get_db is a name of CherryPy 3.0 to 5.3")
    with pytest.raises(sessions.ConfigError, match="cookie_path is a name of CherryPy 2.2"):
        cherrypy.tools.sessions(cookie_path="/")


def test_the_sessions_that_are_named_are_those_that_the_configuration_begins() -> None:
    line = refused({"global": {"cart.timeout": 5}, "/cart": {"sessionFilter.new": "cart"}})
    assert line.startswith("cart.timeout in [global] is a name of CherryPy 2.1 alpha")
    own = {"/": {"cart.timeout": 5, "shop.dbFile": "x", "title": "session"}, "cart": {"session.timeout": 5}}
    sessions.open_stores(cherrypy.Application(Counter(), "", own))


@pytest.mark.parametrize(
    ("section", "stops"),
    [({}, True), ({"/": {"tools.sessions.timeout": 30}}, True), ({"/": {"tools.sessions.timeout": 5}}, False)],
)
def test_an_option_of_global_that_has_no_effect_stops_the_start(section: dict[str, Any], stops: bool) -> None:
    config = {"global": {"tools.sessions.timeout": 5}, **section}
    if stops:
        assert refused(config) == "tools.sessions.timeout in [global] has no effect here: write it in [/]"
    else:
        sessions.open_stores(cherrypy.Application(Counter(), "", config))


def test_an_option_of_global_that_cherrypy_was_told_has_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cherrypy.config, "tools.sessions.timeout", 5)
    sessions.open_stores(cherrypy.Application(Counter(), "", {"global": {"tools.sessions.timeout": 5}}))


def test_an_option_of_a_class_of_ones_own_is_no_old_name() -> None:
    class OwnStore(sessions.registry.backend("ram").store_class):  # type: ignore[misc]
        def __init__(self, *, get_db: Any = None) -> None:
            super().__init__()

    own = type("OwnSession", (sessions.Session,), {"store_class": OwnStore})
    theirs = type("TheirSession", (cherrypy.lib.sessions.RamSession,), {})
    for storage_class in (own, theirs):
        options = {"storage_class": storage_class, "get_db": len, "on": True}
        for on in (True, False):
            config = {"/": {f"tools.sessions.{name}": value for name, value in {**options, "on": on}.items()}}
            sessions.open_stores(cherrypy.Application(Counter(), "", config))


def test_the_table_is_not_imported_without_need() -> None:
    program = """
import sys, cherrypy, sessions
sessions.install()
cherrypy.config.update({"server.socket_port": 0, "tools.sessions.timeout": 5})
sessions.open_stores(cherrypy.Application(object(), "", {"/": {"tools.sessions.on": True, "tools.gzip.on": True}}))
assert "sessions.old_names" not in sys.modules and "sessions.convert" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=True)
