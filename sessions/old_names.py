"""What every CherryPy from 0.9 on called the options of sessions: one table, for the start, `convert` and documents.

It is imported where a configuration has a name that is unknown today, and by no request.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from .errors import ConfigError

TODAY = "tools.sessions."
# The namespaces, as the table below shortens them, and which CherryPy has them where the row does not say it.
_SPACES = {
    "O": ("session", "0.9 to 2.1 alpha"), "F": ("sessionFilter", "2.1"), "f": ("session_filter", "2.2 and 2.3"),
    "N": ("<name>", "2.1 alpha"), "S": ("tools.sessions", "3.0 and later"), "A": ("sessionAuthenticateFilter", "2.1"),
    "a": ("session_authenticate_filter", "2.2 and 2.3"), "T": ("tools.session_auth", "3.0 to 18.10"),
}  # fmt: skip
_VERSIONS = dict(_SPACES.values())
_AUTH = ("sessionAuthenticateFilter", "session_authenticate_filter", "tools.session_auth")
_STORAGES = frozenset({"ram", "file", "cookie", "memcached", "postgresql", "functions"})


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else str(value)


def _number(value: Any) -> float:
    number = float(value)
    return int(number) if number.is_integer() else number


def _timeout(value: Any) -> Any:
    return _number(value) or {"timeout": 60, "persistent": False}


def _seconds(value: Any) -> float:
    return 600 if value is None else _number(value.total_seconds() if isinstance(value, dt.timedelta) else value)


def _truth(value: Any) -> Any:
    return value if value == "auto" else bool(value)


def _locking(value: Any) -> str:
    return value if value in ("implicit", "early") else "explicit"


def _storage(value: Any) -> str:
    if str(value).lower() not in _STORAGES:
        raise ValueError(f"{value!r} is no storage_type of today")
    return str(value).lower()


def _first_storage(value: Any) -> dict[str, Any]:
    on = {"on": True, "storage_type": _storage("functions" if value == "custom" else value or "ram")}
    return {**on, "persistent": False} if value else {"on": False}


class Old(NamedTuple):
    """A row of the table: what one thing was called.

    Attributes:
        names: every spelling, with a short namespace.
        today: the option of `tools.sessions`; where no program can convert the value, what there is instead, in words.
        convert: how the value is said today, or {option: value} where that takes several.
        remark: what a person has to know.
        version: which CherryPy, where the namespace does not say it.
        decide: `convert` gives the remark, though it has converted the value.
    """

    names: str
    today: str
    convert: Callable[[Any], Any] | None = None
    remark: str = ""
    version: str = ""
    decide: bool = False

    def spellings(self) -> Iterator[tuple[str, str]]:
        """Return each whole name, and which CherryPy has it."""
        for name in self.names.split():
            short, dot, bare = name.partition(".")
            space, version = _SPACES.get(short, (short, "2.0"))
            yield f"{space}{dot}{bare}", version if short == "f" else self.version or version

    def value_today(self, value: Any) -> dict[str, Any]:
        """Return the options that say the same today; none where only a person can say it."""
        try:
            made = self.convert(value) if self.convert else {}
        except (ValueError, TypeError, OverflowError):
            return {}
        return made if isinstance(made, dict) else {self.today: made}

    def in_words(self, section: str, value: Any) -> str:
        """Return what to write today, and the remark. A value that no program converts may be a secret: not that."""
        options = ", ".join(f"{TODAY}{option} = {one!r}" for option, one in self.value_today(value).items())
        told = f"write {options} in [{section}]" if options else f"today it is {self.today}"
        if self.convert and not options:
            told = f"{value!r} cannot be the value of {TODAY}{self.today}"
        return "; ".join(filter(None, [told, self.remark]))


_OWN_STORE = "a Store of your own (docs/writing-a-backend.md), or `postgresql`"
_OWN_CLASS = "`tools.sessions.storage_class`: a `sessions.Session` that names its Store (docs/writing-a-backend.md)"
_NOT_READ = "name a new folder: what an old CherryPy stored is not read, and everybody begins anew"
_EVENT = "`sessions.subscribe` (docs/events.md)"
_DSN = "`tools.sessions.dsn`, a text: a function cannot become one. `python -m sessions sql` prints the new table"

TABLE = (
    Old("O.storageType sessionStorageType", "storage_type", _first_storage, "'' was off. `custom` is `functions`, "
        "which have other signatures. `cookie` was signed but readable, and off in 2.0; now it is encrypted"),
    Old("O.timeout sessionTimeout f.timeout N.timeout S.timeout", "timeout", _timeout, "minutes. 0 ended what is "
        "stored at once, and left the cookie without an end: `persistent = False` and a real timeout"),
    Old("F.timeout", "timeout", _timeout, "minutes. The 2.1 beta meant minutes and counted seconds", decide=True),
    Old("F.Timeout", "timeout", _timeout, "an error of CherryPy's wiki: 2.1 read `timeout`, and this had no effect",
        decide=True),
    Old("O.cleanUpDelay sessionCleanUpDelay F.cleanUpDelay f.clean_up_delay N.cleanUpDelay", "clean_freq", _number,
        "minutes; 0 is never"),
    Old("S.clean_freq", "clean_freq", lambda value: _number(value or 0), "minutes; None and False are 0. 3.0.0 to "
        "3.0.2 counted seconds: divide what comes from there by 60", decide=True),
    Old("O.cookieName sessionCookieName F.cookieName f.cookie_name N.cookieName S.name", "name", _text,
        "another one, if the old site runs beside the new", decide=True),
    Old("F.cookiePrefix", "name", _text, "the cookie was `<prefix>_<name>`", "2.1 beta"),
    Old("O.storageFileDir sessionStorageFileDir F.storagePath f.storage_path S.storage_path", "storage_path", _text,
        _NOT_READ, decide=True),
    Old("F.storageFileDir", "storage_path", _text, _NOT_READ, "2.1 alpha", True),
    Old("server.siteKey", "`tools.sessions.secret`", None, "a new one, of 32 characters at least. The old "
        "one only proved what everybody could read", "0.9 and 0.10"),
    Old("F.on", "on", _truth, "2.1 was off, too, where `staticFilter.on` was: say so there", decide=True),
    Old("f.on S.on", "on", _truth),
    Old("F.<name>.on F.default.on", "on", _truth, "a path has one session", "2.1 beta"),
    Old("F.sessionList", "nothing, a path has one session", None, "", "2.1 beta"),
    Old("F.new", "a second application, or another `name`, with its `path`, in that section", None,
        "a path has one session", "2.1 alpha"),
    Old("F.storageType f.storage_type N.storageType S.storage_type", "storage_type", _storage, "`postgresql` needs a "
        f"`dsn`. `anydb` and `sqlobject` are {_OWN_STORE}"),
    Old("F.storageClass f.storage_class", _OWN_CLASS, None, "its methods are others"),
    Old("S.storage_class", "storage_class", lambda value: value, "taken as it is. CherryPy's own classes are answered "
        "by ours", "8.1 and later"),
    Old("F.storageAdaptors N.customStorageClass", _OWN_CLASS, None, "its methods are others", "2.1 alpha and beta"),
    Old("F.dbFile F.tableObject N.dbFile N.dbClassName", _OWN_STORE, None, "", "2.1 alpha and beta"),
    Old("F.getDB f.get_db", _DSN),
    Old("S.get_db", _DSN, None, "", "3.0 to 5.3"),
    Old("S.servers", "servers", lambda value: value, "a list, or a text with commas", "3.1 and later"),
    Old("F.keyGenerator N.keyGenerator f.generate_session_id", "nothing, override `Session.generate_id`", None, "",
        "2.1 alpha and beta"),
    Old("F.cacheTimeout N.cacheTimeout", "nothing, a copy in the process loses updates", None, "seconds",
        "2.1 alpha and beta"),
    Old("F.instantUpdate", "nothing, it is saved at the end of the request", None, "", "2.1 beta"),
    Old("F.timeMultiple", "nothing, drop it", None, "seconds, and for the first cleaning only", "2.1 beta"),
    Old("F.cookieComment", "nothing, browsers ignore it", None, "", "2.1 beta"),
    Old("F.cookiePath f.cookie_path S.path", "path", _text, "without effect in the 2.1 beta"),
    Old("F.cookieDomain f.cookie_domain S.domain", "domain", _text, "without effect in the 2.1 beta"),
    Old("f.cookie_path_from_header S.path_header", "path_header", _text),
    Old("f.cookie_secure", "secure", lambda value: value is True or ("auto" if value else False),
        "only True had an effect. The default is 'auto' now: on https", decide=True),
    Old("S.secure", "secure", _truth, "the default is 'auto' now: on https"),
    Old("S.httponly", "httponly", _truth, "the default is True now", "3.2.1 and later"),
    Old("S.persistent", "persistent", _truth, "", "3.2 and later"),
    Old("S.debug", "debug", _truth, "", "3.2 and later"),
    Old("S.priority", "priority", _number, "of the hook"),
    Old("F.locking f.locking", "locking", _locking, "it was 'explicit' where nothing is said, and is 'implicit' now: "
        "say 'explicit' to keep that, or drop the calls of `acquire_lock`, which work all the same"),
    Old("S.locking", "locking", _locking, "anything unknown was 'explicit'"),
    Old("F.deadlockTimeout f.deadlock_timeout S.lock_timeout", "lock_timeout", _seconds, "seconds, then a 503. None "
        "was for ever: a large number"),
    Old("F.onCreateSession f.on_create_session", f"{_EVENT}: `saved` with `how='created'`", None, "when it is first "
        "stored, not first seen"),
    Old("f.on_renew_session", f"{_EVENT}: `unknown`, then `saved` with `how='created'`", None, "under a new id"),
    Old("F.onDeleteSession f.on_delete_session", f"{_EVENT}: `deleted` when it is ended", None, "its end by time is no "
        "deletion, but `expired`"),
    Old("A.on a.on T.on", "a check of your own: `cherrypy.session.sign_in(user)`, `.sign_out()`, `.user`", None,
        "by default tools.session_auth takes any password"),
    Old("A.checkLoginAndPassword a.check_login_and_password T.check_username_and_password", "a check of your own, such "
        "as `verify` in `auth/accounts.py`", None, "there a true value is right, here a false one was. 3.0 to 18.10 "
        "take any password by default"),
    Old("A.loginScreen a.login_screen T.login_screen", "a page of your own, such as `templates/login.html`", None,
        "the built-in one did not escape the name"),
    Old("A.notLoggedIn a.not_logged_in T.anonymous", "a page of your own", None, "for who is not signed in"),
    Old("A.loadUserByUsername a.load_user_by_username T.on_check", "`cherrypy.session.user` and your accounts"),
    Old("A.sessionKey a.session_key T.session_key", "`cherrypy.session.user`: the package keeps the name"),
    Old("a.on_login a.on_logout T.on_login T.on_logout", f"{_EVENT}: `saved` and `deleted`"),
    Old("T.debug", "`tools.sessions.debug`", None, "", "3.2 to 18.10"),
    Old("logDebugInfoFilter.logSessionSize", "the X-ray of the lessons", None, "", "2.0"),
)  # fmt: skip
_ANY_OTHER = Old("", "one of the options in docs/options.md, or nothing")

_ROWS = {name: (row, version) for row in TABLE for name, version in row.spellings()}
_LAST = {name.rpartition(".")[2]: found for name, found in reversed(_ROWS.items()) if not name.startswith(_AUTH)}
_LAST = {re.sub("(?<=[a-z])(?=[A-Z])", "_", word).lower(): found for word, found in _LAST.items()} | _LAST
_RAW = {name.lower(): found for name, found in _ROWS.items() if name.startswith(("session.", "server."))}  # any case
_ANY_CASE = {word.replace("_", "").lower(): found for word, found in reversed(_LAST.items())}


def find(name: str, named: Collection[str] = ()) -> tuple[Old, str] | None:
    """Return the row of a name and which CherryPy has that name, or None if it is none of sessions.

    Args:
        name: with its namespace, or else its section, before it. In [session] and [server] case does not count.
        named: the sessions that have names of their own (2.1 alpha).
    """
    space, _, bare = name.rpartition(".")
    top = space.partition(".")[0]
    if name in _ROWS or name.lower() in _RAW:
        return _ROWS.get(name) or _RAW[name.lower()]
    if top in named and f"<name>.{bare}" in _ROWS:
        return _ROWS[f"<name>.{bare}"]
    if space == "tools.sessions":
        return _LAST.get(bare)
    close = _LAST.get(bare) or _ANY_CASE.get(bare.replace("_", "").lower())
    if close and top in ("sessionFilter", "session_filter"):
        return close[0], _VERSIONS[top]
    if space in _AUTH:
        return _ROWS[f"{space}.on"]
    return (_ANY_OTHER, _VERSIONS[top]) if top in ("sessionFilter", "session_filter") else None


def names_of_sessions(sections: Mapping[str, Any]) -> set[str]:
    """Return the names that a configuration of the 2.1 alpha gives to its sessions."""
    options = [config for config in sections.values() if isinstance(config, Mapping)]
    return {"sessionMap", *(str(config["sessionFilter.new"]) for config in options if "sessionFilter.new" in config)}


def refuse(section: str, name: str, value: Any, found: tuple[Old, str]) -> None:
    """Raise the ConfigError that says in one line what an old name is called today, and its value."""
    row, version = found
    said = row.in_words(section if section.startswith("/") else "/", value).replace("`", "")
    where = "docs/migrating.md has all old names, and python -m sessions convert FILE rewrites a file"
    place = f" in [{section}]" if section else ""
    raise ConfigError(f"{name}{place} is a name of CherryPy {version}: {said} ({where})")


def check(sections: Mapping[str, Any]) -> None:
    """Refuse an old name in any section that an older CherryPy read. Those under `tools.sessions.` are for the tool."""
    named = names_of_sessions(sections)
    for section, config in sections.items():
        for name, value in config.items() if isinstance(config, Mapping) else ():
            whole = f"{section}.{name}" if section in ("session", "server") else name
            found = None if name.startswith(TODAY) else find(whole, named)
            if found and (section in ("session", "server", "global") or section.startswith("/")):
                refuse(section, name, value, found)
