"""The page on migrating has every old name; what the start and `convert` say to them is in test_old_names.py."""

from __future__ import annotations

import re

import pytest

from tests.sessions.test_old_names import CASES, RAW
from tests.support.process import ROOT

MIGRATING = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")

# What stands in programs, and a piece of what it is today.
PROGRAMS = {
    "saveSessionData": "save(id, text)", "_cpSaveSessionData": "save(id, text)", "loadSessionData": "load(id)",
    "_cpLoadSessionData": "load(id)", "cleanUpOldSessions": "max(lifetime, remember_lifetime)",
    "_cpCleanUpOldSessions": "max(lifetime, remember_lifetime)", "sessionMap": "cherrypy.session",
    "request.sessionMap": "cherrypy.session", "sessionMap['_sessionId']": "cherrypy.session.id",
    "session['_id']": "cherrypy.session.id", "CookieSessionAuthenticate": "sign_in(user)",
    "CSAuthenticate": "sign_in(user)",
    "sessionIdCookieName": "one cookie for both", "timeoutMessage": "your templates",
    "wrongLoginPasswordMessage": "your templates", "noCookieMessage": "your templates",
    "logoutMessage": "your templates",
    "checkLoginAndPassword": "the other way round", "loginScreen": "pages/login.py", "logoutScreen": "pages/login.py",
    "doLogin": "pages/login.py", "doLogout": "pages/login.py", "request.login": "cherrypy.session.user",
    "request.user": "cherrypy.session.user", "configMap=…": "cherrypy.quickstart",
    "configDict=…": "cherrypy.quickstart",
    "cpg.sessions.<name>": "cherrypy.session", ".lastAccess": "live_sessions()", ".timestamp": "live_sessions()",
    ".key": ".id", "cherrypy.session.<name>": "cherrypy.session", "acquireLock()": "acquire_lock()",
    "releaseLock()": "saves first", "SessionDeadlockError": "503", "SessionNotEnabledError": "AttributeError",
    "SessionStoragePathNotConfiguredError": "does not start",
    "cherrypy.filters.sessionfilter.expire()": "sessions.expire()",
    "do_login": "by POST", "do_logout": "by POST", "has_key(key)": "`in`", "pop": "the same", "setdefault": "the same",
    ".loaded": "the same", "generate_id()": "the same", "clean_up()": "the same", "release_lock()": "saves first",
    "session.timeout = 5": "as long as it lives", ".clean_thread": "nothing", ".clean_interrupt()": "nothing",
    "len(cherrypy.session)": "sessions.count()", "regenerate()": "the same", ".id_observers": "sessions.subscribe",
    "Session.setup": "constructor", ".originalid": "the same", ".missing": "the same", ".regenerated": "the same",
    ".now()": "the same", "Session.pickle_protocol": "no pickle", "cherrypy.lib.sessions.expire()": "sessions.expire()",
    "cherrypy.lib.sessions.set_response_cookie": "the same in `sessions`", "SessionAuth": "sign_in(user)",
    "a cookie that ends with the browser": "persistent = False", "a cookie on every answer": "Max-Age and Expires",
    "saved if it was touched": "if it changed", "any other": "nearest name", "SameSite by hand": "samesite",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_stood_in_programs_is_in_the_document(name: str) -> None:
    table = MIGRATING.partition("| In a program |")[2].partition("\n\n")[0]
    rows = [
        row.split(" | ")
        for row in table.splitlines()
        if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", row.split(" | ")[0])
    ]
    assert any(PROGRAMS[name] in today for _, _, today in rows), rows


def test_every_name_of_the_cases_is_in_the_document() -> None:
    table = MIGRATING.partition("<!-- made by make docs: old-names -->")[2].partition("<!-- end -->")[0]
    listed = {name.lower() for name in re.findall(r"`([^`]+)`", table)}
    names = {f"{case.section}.{case.name}" if case.section in RAW else case.name for case in CASES}
    names = {name.replace("sessionMap", "<name>") for name in names if not name.startswith("tools.sessions.")}
    assert {name for name in names if name.lower() not in listed} == {  # of 2.2 in the words of 2.1, or of nobody
        *(f"sessionFilter.{name}" for name in ("onRenewSession", "cookiePathFromHeader", "cookieSecure",
                                               "generateSessionId", "cart.on", "cart.timeout", "unheardOf")),
        "session_filter.unheard_of", "sessionAuthenticateFilter.unheardOf", "session_authenticate_filter.unheard_of",
        "tools.session_auth.unheard_of",
    }  # fmt: skip
