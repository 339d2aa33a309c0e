"""The options of the tool: one table, and its check when the site starts, before any visitor."""

from __future__ import annotations

import datetime as dt
import inspect
import re
import types
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.cookies import CookieError, Morsel
from typing import Any

import cherrypy

from .cookies import pattern_of
from .errors import ConfigError
from .locks import MAX_WAITING
from .record import Limits, Record
from .users import Accounts

PREFIX = "tools.sessions."

# Of CherryPy 18. A name without one of these is the site's own, or that of an older CherryPy.
_NAMESPACES = (
    "tools.", "request.", "response.", "hooks.", "error_page.", "wsgi.", "engine.", "server.", "log.", "tree.",
    "checker.",
)  # fmt: skip
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ADDRESS_PATH = re.compile(r"(?!.*/\.\.?(?:/|$))/[\w.~!$&'()*+,=:@%/\[\]-]*", re.ASCII)  # as browsers send it
_DOMAIN = re.compile(r"\.?\w(?:[\w-]*\w)?(?:\.\w(?:[\w-]*\w)?)*", re.ASCII)
_SCHEME_AND_PORT = re.compile(r"^\w+://|:\d*$")
LONGEST = 100_000_000  # minutes: 190 years
_MINUTES = f"a number of minutes above 0, at most {LONGEST}"
_REFUSED = object()


def _minutes(value: Any) -> Any:
    """Read a number above zero, and not so far above that no date or clock can hold it."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= LONGEST
    return value if fits else _REFUSED


def _seconds(value: Any) -> Any:
    return _minutes(value.total_seconds() if isinstance(value, dt.timedelta) else value)  # as CherryPy has it


def _boolean(value: Any) -> Any:
    return bool(value) if isinstance(value, int) and value in (0, 1) else _REFUSED  # CherryPy's examples say 1


def _count(value: Any) -> Any:
    return value if type(value) is int and value > 0 else _REFUSED


def _cookie_name(value: Any) -> Any:
    try:
        Morsel[str]().set(value, "", "")  # refuses "path", "expires" and their like
    except (CookieError, AttributeError, TypeError):
        return _REFUSED
    return value if _TOKEN.fullmatch(value) else _REFUSED


def _accounts(value: Any) -> Any:
    known = all(callable(getattr(value, name, None)) for name in ("valid_since", "revoke"))
    return value if known else _REFUSED


def _a_store(value: Any) -> Any:
    return value if isinstance(value, Mapping) and all(isinstance(name, str) for name in value) else _REFUSED


def _text(allowed: Callable[[str], object]) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, str) and allowed(value) else _REFUSED


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


# How each option is read (as the package uses it, or _REFUSED), and what it may be.
_TABLE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "timeout": (_minutes, _MINUTES),
    "lifetime": (_or_none(_minutes), f"{_MINUTES}, or None"),
    "remember_timeout": (_minutes, _MINUTES),
    "remember_lifetime": (_or_none(_minutes), f"{_MINUTES}, or None"),
    "accounts": (_or_none(_accounts), "an object with valid_since and revoke (see sessions.Accounts), or None"),
    "proof_page": (_or_none(_text(_ADDRESS_PATH.fullmatch)), "a path of the application, such as '/login', or None"),
    "name": (_cookie_name, "a cookie name (RFC 9110 token)"),
    "path": (_or_none(_text(_ADDRESS_PATH.fullmatch)), "a path as in an address, such as '/my%20shop', or None"),
    "path_header": (_or_none(_text(_TOKEN.fullmatch)), "the name of a header, or None"),
    "domain": (
        _or_none(_text(_DOMAIN.fullmatch)),
        "a domain such as 'example.org', without scheme, port, path, '*' or space, and an international one in the "
        "form 'xn--...', or None for this host only",
    ),
    "secure": (lambda value: value if value == "auto" else _boolean(value), "True, False or 'auto' (on https)"),
    "httponly": (_boolean, "True or False"),
    "samesite": (_text(("Lax", "Strict", "None").__contains__), "'Lax', 'Strict' or 'None', in quotes"),
    "cross_site": (_boolean, "True or False"),
    "persistent": (_boolean, "True or False"),
    "clean_freq": (lambda value: 0 if value in (None, 0) else _minutes(value), "minutes, or 0 for no cleaning"),
    "locking": (_text(("implicit", "early", "explicit").__contains__), "'implicit', 'early' or 'explicit'"),
    "lock_timeout": (_seconds, "a number of seconds above 0"),
    "max_waiting": (_count, "a whole number above 0"),
    "debug": (_boolean, "True or False"),
    "moving_from": (_or_none(_a_store), "a dict of the options of a store, or None"),
    "moving_to": (_or_none(_a_store), "a dict of the options of a store, or None"),
}

_COOKIE = frozenset({"name", "path", "path_header", "domain", "secure", "httponly", "samesite"})
COMMON = frozenset({"on", "priority", "storage_type", "storage_class", *_TABLE})  # to all backends


@dataclass(frozen=True)
class Settings:
    """The options that every backend has. Each default is the safe choice."""

    storage_class: type[Any]  # the `Session` subclass in use
    timeout: float = 60  # minutes a session lives without being used; fractions are fine
    lifetime: float | None = None  # minutes it lives at most, however busy; None for no limit
    remember_timeout: float = 20160  # `timeout` of a user who asked to stay signed in: two weeks
    remember_lifetime: float | None = 43200  # `lifetime` of such a user: 30 days (NIST SP 800-63B-4, 2.1.3)
    accounts: Accounts | None = None  # what says which accounts there are, and since when their sessions are valid
    proof_page: str | None = None  # the page that asks for the password again, for require_recent()
    name: str = "session_id"  # of the cookie. Browsers guard `__Host-` and `__Secure-` (RFC 6265bis 4.1.3)
    path: str | None = None  # the cookie's Path; None: what `path_header` says, or where the application is mounted
    path_header: str | None = None  # the request header that holds the cookie's Path
    domain: str | None = None  # the cookie's Domain; None keeps it to this host
    secure: bool | str = "auto"  # the cookie travels over https only; 'auto': if this request came by https
    httponly: bool = True  # scripts cannot read the cookie (ASVS 3.3.4)
    samesite: str = "Lax"  # which requests from other sites bring the cookie (ASVS 3.3.2)
    cross_site: bool = False  # a form of another site may begin a session, and so replace the one of the visitor
    persistent: bool = True  # the cookie outlives the browser; where somebody is signed in, `remember` decides
    clean_freq: float = 5  # minutes between two cleanings
    locking: str = "implicit"  # when a session is locked: docs/locking.md
    lock_timeout: float = 10  # seconds to wait for a session that another request holds, then 503
    max_waiting: int = MAX_WAITING  # requests that may wait for sessions in this process, then 503
    debug: bool = False  # log each step of each session
    moving_from: Mapping[str, Any] | None = None  # options of the store that sessions are taken over from, when used
    moving_to: Mapping[str, Any] | None = None  # options of one where other processes have them already
    store: tuple[tuple[str, Any], ...] = ()  # the options of the backend itself

    @cached_property
    def limits(self) -> Limits:
        """When a session ends."""
        return Limits(self.timeout, self.lifetime)

    @cached_property
    def when_remembered(self) -> Limits:
        """When one ends whose user asked to stay signed in."""
        return Limits(self.remember_timeout, self.remember_lifetime)

    @cached_property
    def cookie_pattern(self) -> re.Pattern[str]:
        """What finds the session's cookies in a Cookie header."""
        return pattern_of(self.name)

    @cached_property
    def refusals_logged(self) -> set[str]:
        """What `refusals` returned before."""
        return set()

    def refusals(self, base: str) -> Iterator[tuple[str, str]]:
        """Return the events that say why browsers refuse this cookie from a site at the address `base`, and why."""
        if not base.startswith("https:"):
            if self.secure is True:
                yield "insecure", ""
            elif self.samesite == "None":
                yield "refused", "SameSite=None is for https: serve the site by it; behind a proxy turn tools.proxy on"
        host, domain = _SCHEME_AND_PORT.sub("", base).lower(), (self.domain or "").lower().removeprefix(".")
        above = "." in domain and not domain[-1].isdigit() and host.endswith(f".{domain}")
        if domain and domain != host and not above:
            may = "the host of the site or a domain above it, no top-level one; behind a proxy pass the Host header on"
            yield "refused", f"Domain={domain} is for other hosts: {PREFIX}domain may name {may}"

    def limits_of(self, record: Record) -> Limits:
        """Return when a stored session ends."""
        limits = self.when_remembered if record.remembered else self.limits
        return limits if record.timeout is None else Limits(record.timeout, limits.lifetime)


def parse(options: Mapping[str, Any], storage_class: type[Any]) -> Settings:
    """Check the options of the tool, by their names without `tools.sessions.`, and fill in the defaults."""
    common = _read(options, _TABLE)
    own = store_options(storage_class)
    for name, parameter in own.items():
        if parameter.default is parameter.empty and options.get(name) in (None, ""):
            raise ConfigError(f"{PREFIX}{name} is missing: {storage_class.__name__} needs it")
    # With the defaults filled in: one that is written out does not make another store.
    store = tuple((name, options.get(name, parameter.default)) for name, parameter in own.items())
    settings = Settings(storage_class, **common, store=store)
    _check_together(settings)
    return settings


def check_cookie(options: Mapping[str, Any], storage_class: type[Any]) -> None:
    """Check the options of the cookie alone, for a class that has its own idea of the others."""
    _check_together(Settings(storage_class, **_read(options, _COOKIE)))


def _read(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    found = {}
    for name, value in options.items():
        if name in names:
            read, what = _TABLE[name]
            found[name] = read(value)
            if found[name] is _REFUSED:
                raise ConfigError(f"{PREFIX}{name} is {value!r}: it must be {what}{_as_cherrypy_took_it(name, value)}")
    return found


def is_accepted(name: str, value: Any) -> bool:
    """Return whether an option may have a value, as far as the option alone says it."""
    return name not in _TABLE or _TABLE[name][0](value) is not _REFUSED


def _as_cherrypy_took_it(name: str, value: Any) -> str:
    """Return how to write today what CherryPy's own tool took, such as 0 as timeout; nothing for what means nothing."""
    from . import old_names  # only for who needs it

    row = old_names.find(f"{PREFIX}{name}")
    meant = row[0].value_today(value) if row and isinstance(value, (int, str, type(None))) else {}
    if not meant or not all(is_accepted(option, one) for option, one in meant.items()):
        return ""
    return f"; write {', '.join(f'{PREFIX}{option} = {one!r}' for option, one in meant.items())}"


def _check_together(settings: Settings) -> None:
    name = settings.name.lower()  # browsers compare the prefixes without case
    if name.startswith(("__http-", "__host-http-")) and not settings.httponly:
        raise ConfigError(f"{PREFIX}name is {settings.name!r}: browsers then want {PREFIX}httponly = True")
    if settings.moving_from is not None and settings.moving_to is not None:
        raise ConfigError(f"{PREFIX}moving_from and {PREFIX}moving_to are both set: a process has one of them")
    if settings.samesite == "None" and settings.secure is False:
        raise ConfigError(f"{PREFIX}samesite is 'None': browsers then want {PREFIX}secure = True")
    if name.startswith(("__host-", "__secure-", "__http-")) and settings.secure is not True:
        raise ConfigError(f"{PREFIX}name is {settings.name!r}: browsers then want {PREFIX}secure = True")
    elsewhere = settings.domain or settings.path_header or settings.path not in (None, "/")
    if name.startswith("__host-") and elsewhere:
        raise ConfigError(f"{PREFIX}name is {settings.name!r}: browsers then want no domain, and the path '/'")


def store_options(storage_class: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the backend's own options: the keyword parameters of its store."""
    parameters = inspect.signature(storage_class.store_class).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


# ---------------------------------------------------------------- where a site sets them


def check_sections(sections: Mapping[str, Any]) -> None:
    """Refuse what has no effect today: the names of an older CherryPy, and in [global] of an application the options
    that CherryPy reads in [/] or in its own configuration. Otherwise sessions would be off, or others, in silence.

    Raises:
        ConfigError: one line with the first of them, and what to write.
    """
    for section, config in sections.items():
        for name in config if isinstance(config, Mapping) else ():
            if not name.startswith(_NAMESPACES) or name.startswith("tools.session_auth.") or section == "server":
                from . import old_names  # only for who needs it

                old_names.check(sections)
                break
    root = sections.get("/", {})
    for name, value in sections.get("global", {}).items():
        if name.startswith(PREFIX) and root.get(name, cherrypy.config.get(name, _REFUSED)) != value:
            raise ConfigError(f"{name} in [global] has no effect here: write it in [/]")


def check_app(app: cherrypy.Application) -> None:
    """The same for all that an application is configured by."""
    everywhere = {name: value for name, value in cherrypy.config.items() if isinstance(value, Mapping)}
    check_sections({**everywhere, "global": cherrypy.config})
    check_sections(app.config)
    for path, config in _handlers(app.root, "", set()):
        check_sections({path or "/": config})


def configured(app: cherrypy.Application) -> Iterator[dict[str, Any]]:
    """Return the session options that are in force at each path at which something sets one, where they are on."""
    for options in configured_or_off(app):
        if options.pop("on", False):
            yield options


def configured_or_off(app: cherrypy.Application) -> Iterator[dict[str, Any]]:
    """The same where they are off as well; the option `on` is among them."""
    set_at: dict[str, dict[str, Any]] = {"": _own(cherrypy.config)}
    for path, config in _handlers(app.root, "", set()):
        set_at.setdefault(path, {}).update(_own(config))
    for path, config in app.config.items():
        if path.startswith("/"):
            set_at.setdefault(path.rstrip("/"), {}).update(_own(config))
    for path in sorted(set_at):
        options: dict[str, Any] = {}
        for above in sorted(set_at):
            if path == above or path.startswith(f"{above}/"):
                options |= set_at[above]
        yield options


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in config.items() if name.startswith(PREFIX)}


def _handlers(node: Any, path: str, seen: set[int], levels: int = 5) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the path and configuration of each page below `node` that brings its own (`_cp_config`, decorators).

    Some levels of the page tree may have no page of their own. No more: what a page uses is not walked to its end.
    """
    if id(node) in seen or not levels:
        return
    seen.add(id(node))
    config = getattr(node, "_cp_config", None)
    if isinstance(config, Mapping):
        yield path, config
    if inspect.isroutine(node):
        return
    levels = 4 if config or getattr(node, "exposed", False) else levels - 1
    for name, member in ChainMap(*(getattr(one, "__dict__", {}) for one in (node, *type(node).__mro__))).items():
        is_node = hasattr(member, "__dict__") and not isinstance(member, (type, types.ModuleType))
        if is_node and not name.startswith("_"):
            yield from _handlers(member, f"{path}/{name}", seen, levels)
