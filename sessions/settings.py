"""The options of the tool: one table, checked when the site starts, never at the first visitor."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from http.cookies import CookieError, Morsel
from typing import Any

import cherrypy.lib.sessions

from .cookies import is_cookie_path
from .errors import ConfigError
from .limits import Limits
from .owner import Accounts
from .session import (
    CookieSession,
    FileSession,
    FunctionSession,
    MemcachedSession,
    PostgresqlSession,
    RamSession,
    Session,
)

STORAGE_TYPES: dict[str, type[Session]] = {
    "ram": RamSession,
    "file": FileSession,
    "cookie": CookieSession,
    "memcached": MemcachedSession,
    "postgresql": PostgresqlSession,
    "functions": FunctionSession,
}
"""What `storage_type` may be. A backend of your own needs no entry: name its class in `storage_class`."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MOST = 100_000_000  # minutes: 190 years
_TOOL_OPTIONS = ("on", "priority", "storage_type", "storage_class")


def _positive(value: Any) -> bool:
    """Above zero, and not so far above that no date or clock can hold it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MOST


def _cookie_name(value: Any) -> bool:
    try:
        Morsel[str]().set(value, "", "")  # refuses "path", "expires" and their like
    except (CookieError, AttributeError, TypeError):
        return False
    return bool(_TOKEN.fullmatch(value))


def _text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _lifetime(value: Any) -> bool:
    return value is None or _positive(value)


def _is_accounts(value: Any) -> bool:
    return value is None or all(callable(getattr(value, name, None)) for name in ("valid_since", "revoke"))


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "timeout": (_positive, f"a number of minutes above 0, at most {_MOST}"),
    "lifetime": (_lifetime, f"minutes above 0, at most {_MOST}, or None"),
    "remember_timeout": (_positive, f"a number of minutes above 0, at most {_MOST}"),
    "remember_lifetime": (_lifetime, f"minutes above 0, at most {_MOST}, or None"),
    "accounts": (_is_accounts, "an object with the methods valid_since and revoke (see sessions.Accounts), or None"),
    "name": (_cookie_name, "a cookie name (RFC 9110 token)"),
    "path": (
        lambda value: value is None or (isinstance(value, str) and is_cookie_path(value)),
        "a path that begins with '/', or None",
    ),
    "path_header": (_text_or_none, "the name of a header, or None"),
    "domain": (lambda value: value is None or (isinstance(value, str) and ";" not in value), "a domain, or None"),
    "secure": (lambda value: _is_bool(value) or value == "auto", "True, False or 'auto' (on https)"),
    "httponly": (_is_bool, "True or False"),
    "samesite": (lambda value: value in ("Lax", "Strict", "None"), "'Lax', 'Strict' or 'None'"),
    "persistent": (_is_bool, "True or False"),
    "clean_freq": (lambda value: value == 0 or _positive(value), "a number of minutes, or 0 for no cleaning"),
    "locking": (lambda value: value in ("implicit", "early", "explicit"), "'implicit', 'early' or 'explicit'"),
    "lock_timeout": (_positive, "a number of seconds above 0"),
    "debug": (_is_bool, "True or False"),
}


@dataclass(frozen=True)
class Settings:
    """The options that every backend has, with their defaults. Each default is the safe choice.

    Attributes:
        storage_class: the `Session` subclass in use.
        timeout: minutes a session lives without being used; fractions are fine.
        lifetime: minutes it lives at most since it began, or None.
        remember_timeout: the same for a user who asked to stay signed in: two weeks.
        remember_lifetime: thirty days, after which NIST SP 800-63B-4 section 2.1.3 wants the password again.
        accounts: who says which accounts there are, and since when their sessions are valid; see `Accounts`.
        name: the cookie's name. With the prefix __Host- or __Secure-, browsers guard it (RFC 6265bis section 4.1.3).
        path: the cookie's Path; None takes the request header `path_header`, or '/'.
        path_header: see `path`.
        domain: the cookie's Domain; None keeps it to this host.
        secure: True, False, or 'auto': on https.
        httponly: scripts cannot read the cookie (ASVS 3.3.4).
        samesite: 'Lax', 'Strict' or 'None' (ASVS 3.3.2).
        persistent: the cookie lives as long as the session; False: it ends with the browser.
        clean_freq: minutes between two cleanings; 0 for none.
        locking: 'implicit', 'early' or 'explicit'.
        lock_timeout: seconds to wait for a session that another request holds, then 503.
        debug: log each step of each session.
        store: the options of the backend itself, by name.
    """

    storage_class: type[Session]
    timeout: float = 60
    lifetime: float | None = None
    remember_timeout: float = 20160
    remember_lifetime: float | None = 43200
    accounts: Accounts | None = None
    name: str = "session_id"
    path: str | None = None
    path_header: str | None = None
    domain: str | None = None
    secure: bool | str = "auto"
    httponly: bool = True
    samesite: str = "Lax"
    persistent: bool = True
    clean_freq: float = 5
    locking: str = "implicit"
    lock_timeout: float = 10
    debug: bool = False
    store: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Settings:
        """Check the options of the tool and fill in the defaults.

        Args:
            options: names without the `tools.sessions.` before them.

        Raises:
            ConfigError: one line that names the option and what it may be.
        """
        check_names(options)
        storage_class = session_class(options)
        common = {name: value for name, value in options.items() if name in _CHECKS}
        for name, value in common.items():
            allowed, what = _CHECKS[name]
            if not allowed(value):
                raise ConfigError(f"tools.sessions.{name} is {value!r}: it must be {what}")
        own = store_options(storage_class)
        for name, parameter in own.items():
            if parameter.default is parameter.empty and options.get(name) in (None, ""):
                raise ConfigError(f"tools.sessions.{name} is missing: {storage_class.__name__} needs it")
        # With the defaults filled in: one that is written out does not make another store.
        store = tuple((name, options.get(name, parameter.default)) for name, parameter in own.items())
        settings = cls(storage_class, **common, store=store)
        settings._check_together()
        return settings

    @cached_property
    def limits(self) -> Limits:
        """Both limits of a session."""
        return Limits(self.timeout, self.lifetime)

    @cached_property
    def when_remembered(self) -> Limits:
        """Both limits of a session whose user asked to stay signed in."""
        return Limits(self.remember_timeout, self.remember_lifetime)

    def _check_together(self) -> None:
        if self.samesite == "None" and self.secure is False:
            raise ConfigError("tools.sessions.samesite is 'None': browsers then want tools.sessions.secure = True")
        if self.name.startswith(("__Host-", "__Secure-")) and self.secure is not True:
            raise ConfigError(f"tools.sessions.name is {self.name!r}: browsers then want tools.sessions.secure = True")
        if self.name.startswith("__Host-") and (self.domain or (self.path or "/") != "/" or self.path_header):
            raise ConfigError(f"tools.sessions.name is {self.name!r}: browsers then want no domain, and the path '/'")


def store_options(storage_class: type[Session]) -> dict[str, inspect.Parameter]:
    """The backend's own options: the keyword parameters of its store."""
    parameters = inspect.signature(storage_class.store_class).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def known_options(*classes: type[Session]) -> set[str]:
    """Every option of the tool, of the backends that come with it, and of the given ones."""
    names = {field.name for field in fields(Settings) if field.name != "store"} | set(_TOOL_OPTIONS)
    for storage_class in (*STORAGE_TYPES.values(), *classes):
        names |= set(store_options(storage_class))
    return names


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of any backend. One of another backend passes: changing the profile stays one line.

    Raises:
        ConfigError: it names the option and the nearest known one.
    """
    chosen = options.get("storage_class")
    own = [chosen] if isinstance(chosen, type) and issubclass(chosen, Session) else []
    known = known_options(*(storage_class for storage_class in own if hasattr(storage_class, "store_class")))
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f"tools.sessions.{name} is no option of sessions: {hint}")


def session_class(options: Mapping[str, Any]) -> type[Session]:
    """The class that `storage_class`, or else `storage_type`, names.

    Raises:
        ConfigError: there is no such backend.
    """
    chosen = options.get("storage_class")
    if chosen is None:
        storage_type = options.get("storage_type") or "ram"
        if not isinstance(storage_type, str) or storage_type not in STORAGE_TYPES:
            raise ConfigError(
                f"tools.sessions.storage_type is {storage_type!r}: it must be one of {', '.join(STORAGE_TYPES)}"
            )
        return STORAGE_TYPES[storage_type]
    if not (isinstance(chosen, type) and issubclass(chosen, Session) and hasattr(chosen, "store_class")):
        raise ConfigError(
            f"tools.sessions.storage_class is {chosen!r}: it must be a subclass of sessions.Session that names its "
            "store_class, or one of cherrypy.lib.sessions.Session"
        )
    return chosen


def is_cherrypy_class(options: Mapping[str, Any]) -> bool:
    """Whether `storage_class` was written for CherryPy's own tool."""
    chosen = options.get("storage_class")
    return isinstance(chosen, type) and issubclass(chosen, cherrypy.lib.sessions.Session)
