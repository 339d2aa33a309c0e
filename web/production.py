"""What a site must not be started with in production: one table of checks, with what to do about each."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import cherrypy

from sessions.options import configured
from sessions.registry import is_cherrypy_class
from web.server import UNIX
from web.settings import ACCOUNTS_OPTION, Sections, StartError

THIRTY_DAYS = 43200  # minutes; the longest that NIST SP 800-63B-4 section 2.1.3 lets anybody stay signed in
_YEAR = 31_536_000  # seconds
_SCRIPTS = ("default-src", "script-src", "script-src-elem", "script-src-attr", "worker-src")
# A whole scheme, or any host, by whatever scheme, at whatever port.
_ANYWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|(?:[a-z][a-z0-9+.-]*://)?\*(?:[:/].*)?")
_WIDEST = {4: 8, 6: 16}  # the shortest prefix of a network of proxies; nobody's proxies need a wider one
# What a page must not set for itself: SiteHeaders leaves a header alone that is there already.
_SITE_HEADERS = frozenset({
    "content-security-policy", "x-content-type-options", "referrer-policy", "strict-transport-security",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy",
})  # fmt: skip
_ONE_HEADER = "response.headers."  # CherryPy's other way to set a header
_SESSION = "tools.sessions."
_MAX_AGE = re.compile(r"max-age=\"?(\d{1,15})\"?", re.ASCII | re.IGNORECASE)


class Check(NamedTuple):
    """A rule for one option.

    Attributes:
        option: its name.
        default: what holds where nobody sets it.
        safe: tells whether a value will do.
        remedy: what the value has to be, and why or how.
    """

    option: str
    default: Any
    safe: Callable[[Any], bool]
    remedy: str


def _is(wanted: object) -> Callable[[Any], bool]:
    return lambda value: value is wanted


def _within_30_days(minutes: Any) -> bool:
    return minutes is not None and minutes <= THIRTY_DAYS


def _header(headers: Iterable[tuple[str, str]], name: str) -> str:
    return next((value for header, value in headers if header.lower() == name), "")


def _policy(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The directives of the Content-Security-Policy; of one that is there twice, browsers obey the first."""
    found: dict[str, str] = {}
    for directive in _header(headers, "content-security-policy").lower().split(";"):
        name, *sources = directive.split() or [""]
        found.setdefault(name, " ".join(sources))
    return found


def _confines_scripts(headers: Any) -> bool:
    policy = _policy(headers)
    from_anywhere = any(_ANYWHERE.fullmatch(source) for name in _SCRIPTS for source in policy.get(name, "").split())
    unsafe = any("'unsafe-" in sources for sources in policy.values())
    return bool(policy.get("default-src")) and not from_anywhere and not unsafe


def _leaves_the_headers(headers: Any) -> bool:
    return not _SITE_HEADERS.intersection(name.lower() for name, _ in headers)


def _are_few(networks: Any) -> bool:
    """Whether these can be the networks of proxies, and not everybody."""
    parsed = [ipaddress.ip_network(network) for network in networks if network != UNIX]
    return all(network.prefixlen >= _WIDEST[network.version] for network in parsed)


def _confines_the_rest(headers: Any) -> bool:
    policy = _policy(headers)
    framed = policy.get("frame-ancestors") in ("'none'", "'self'")
    return framed and policy.get("object-src") == policy.get("base-uri") == "'none'"


def _no_sniffing(headers: Any) -> bool:
    return _header(headers, "x-content-type-options").lower() == "nosniff"


def _no_referrer_elsewhere(headers: Any) -> bool:
    return _header(headers, "referrer-policy").lower() in ("no-referrer", "same-origin", "strict-origin",
                                                           "strict-origin-when-cross-origin")  # fmt: skip


def _https_for_a_year(headers: Any) -> bool:
    value = _header(headers, "strict-transport-security")
    age = _MAX_AGE.search(value)
    return age is not None and int(age[1]) >= _YEAR and "includesubdomains" in value.lower()


_SITE_CONF = "leave it as it is in site.conf, and add to it what you need"

_UNTRUSTED = "take it out, and let your proxy send the usual header: visitors could send this one themselves (4.1.3)"

# For [/] and what any path below it changes. The numbers are those of OWASP ASVS 5.0. How long a session may be idle is
# not among them: 7.3.1 leaves that to the site, which says it in site.conf, and `lifetime` ends it in any case.
CHECKS = (
    Check("tools.sessions.name", "session_id", lambda name: str(name).startswith("__Host-"),
          "it must begin with __Host-, so that no other host can set the cookie (3.3.3)"),
    Check("tools.sessions.secure", "auto", _is(True), "it must be True: the cookie is for https only (3.3.1)"),
    Check("tools.sessions.httponly", True, _is(True), "it must be True: scripts have no use for the cookie (3.3.4)"),
    Check("tools.sessions.samesite", "Lax", lambda value: value in ("Lax", "Strict"),
          "it must be 'Lax' or 'Strict', so that forms of other sites come without the cookie (3.3.2)"),
    Check("tools.sessions.domain", None, lambda value: not value, "take it out: other hosts get the cookie (3.3.3)"),
    Check("tools.sessions.path", None, lambda value: value in (None, "/"), "take it out: the path of __Host- is /"),
    Check("tools.sessions.path_header", None, lambda value: not value, "take it out: the path of __Host- is /"),
    Check("tools.sessions.lifetime", None, _within_30_days,
          f"it must be a number of minutes, at most {THIRTY_DAYS}, however busy the visitor is (7.3.2)"),
    Check("tools.sessions.remember_lifetime", THIRTY_DAYS, _within_30_days,
          f"it must be a number of minutes, at most {THIRTY_DAYS} (7.3.2)"),
    Check("tools.sessions.storage_class", None, lambda kind: not is_cherrypy_class({"storage_class": kind}),
          "it must be a class of the package sessions: those of CherryPy's tool keep plain ids, and pickles (1.5.2)"),
    Check("tools.sessions.storage_type", "ram", lambda name: not is_cherrypy_class({"storage_type": name}),
          "it must be one of the package sessions: an add-on for CherryPy's tool keeps plain ids, and pickles (1.5.2)"),
    Check("tools.sessions.debug", False, _is(False), "it must be False: it logs each step of each visitor (13.4.2)"),
    Check("tools.same_origin.on", False, _is(True), "it must be True, or other sites' forms are obeyed (3.5.1)"),
    Check("tools.log_headers.on", True, _is(False), "it must be False: cookies would get into the log (16.2.5)"),
    Check("tools.response_headers.headers", (), _leaves_the_headers,
          "it must not set what wsgi.headers.always and wsgi.headers.https of [/] set for every page (3.4)"),
    Check("tools.proxy.remote", "X-Forwarded-For", lambda name: name == "X-Forwarded-For", _UNTRUSTED),
    Check("tools.proxy.local", "X-Forwarded-Host", lambda name: name == "X-Forwarded-Host", _UNTRUSTED),
    Check("tools.proxy.scheme", "X-Forwarded-Proto", lambda name: name == "X-Forwarded-Proto", _UNTRUSTED),
    Check("request.show_tracebacks", True, _is(False), "it must be False: visitors would read them (16.5.1)"),
    Check("request.show_mismatched_params", True, _is(False), "it must be False: visitors would read them (16.5.1)"),
)  # fmt: skip

# Options that are read from [/] alone.
SITE_CHECKS = (
    Check("tools.sessions.secret", None, lambda value: value is None or bool(value), "set SESSION_SECRET to what this "
          "prints: python -c 'import secrets; print(secrets.token_urlsafe(48))'"),
    Check("wsgi.proxy.trusted", (), _are_few, "name the networks of your proxies, at least /8 in IPv4 and /16 in IPv6: "
          "any visitor of a wider one could be a proxy (4.1.3)"),
    Check("wsgi.headers.always", (), _confines_scripts, "its Content-Security-Policy needs default-src, nothing "
          f"'unsafe-...', and no scripts from anywhere (3.4.3); {_SITE_CONF}"),
    Check("wsgi.headers.always", (), _confines_the_rest, "its Content-Security-Policy needs object-src 'none', "
          f"base-uri 'none', and frame-ancestors 'none' or 'self' (3.4.3, 3.4.6); {_SITE_CONF}"),
    Check("wsgi.headers.always", (), _no_sniffing, f"it needs X-Content-Type-Options: nosniff (3.4.4); {_SITE_CONF}"),
    Check("wsgi.headers.always", (), _no_referrer_elsewhere,
          f"it needs a Referrer-Policy such as same-origin (3.4.5); {_SITE_CONF}"),
    Check("wsgi.headers.https", (), _https_for_a_year,
          "it needs Strict-Transport-Security with max-age=31536000 or more, and includeSubDomains (3.4.1)"),
)  # fmt: skip


def check(settings: Sections, environ: Mapping[str, str]) -> None:
    """Refuse what is unsafe wherever the site runs.

    Args:
        settings: as load_settings() returns them for production.
        environ: the environment; a demo account may be asked for there.

    Raises:
        StartError: one line with the first such setting and what to do.
    """
    if environ.get("DEMO_PASSWORD"):
        raise StartError(
            "DEMO_PASSWORD is set, and production has no demo account: take it out of the environment, and make "
            "accounts of your own (python app.py user add NAME)"
        )
    for section in settings:
        if section.startswith("/"):
            above = {name: settings[name] for name in ("global", "/", section)}  # CherryPy looks them up upwards
            _apply(CHECKS, above)
            _leave_the_headers(above)
    _apply(SITE_CHECKS, {"/": settings["/"]})


def check_pages(app: cherrypy.Application) -> None:
    """Refuse what a page sets for its own sessions, by its _cp_config or a decorator. Raises StartError.

    Args:
        app: as it is going to be served; the configuration has passed check() already.
    """
    accounts = app.config["/"][ACCOUNTS_OPTION]
    for options in configured(app):
        if options.get("accounts") is not accounts:
            raise StartError(
                f"a page sets {ACCOUNTS_OPTION} in its code: take it out, or no sessions of an account end there"
            )
        _apply(CHECKS, {"the code of a page": {_SESSION + name: value for name, value in options.items()}}, _SESSION)


def check_server(settings: Sections) -> None:
    """Refuse what is unsafe with the server that app.py itself starts. Raises StartError."""
    options = settings["global"]
    if options.get("engine.autoreload.on"):
        raise StartError("engine.autoreload.on is True: in production a changed file must not become a running one")
    if not (options.get("server.ssl_certificate") or settings["/"].get("tools.proxy.on")):
        raise StartError(
            "production needs https: set tools.proxy.on = True in [production] when a proxy in front does it, or "
            "server.ssl_certificate and server.ssl_private_key in [global]"
        )


def _leave_the_headers(sections: Sections) -> None:
    for section, options in sections.items():
        for option in options:
            if option.lower().removeprefix(_ONE_HEADER) in _SITE_HEADERS:
                raise StartError(
                    f"{option} is set in [{section}]: in production set it for every page, in wsgi.headers.always or "
                    "wsgi.headers.https of [/] (3.4)"
                )


def _apply(checks: Iterable[Check], sections: Sections, prefix: str = "") -> None:
    """Check the options that begin with the prefix. Of an option in several sections, the last one counts."""
    for rule in checks:
        if not rule.option.startswith(prefix):
            continue
        section = next((name for name in reversed(sections) if rule.option in sections[name]), "/")
        value = sections.get(section, {}).get(rule.option, rule.default)
        try:
            safe = rule.safe(value)
        except (AttributeError, TypeError, ValueError):  # not even of the right kind
            safe = False
        if not safe:
            told = f"{rule.option} is {value!r}" if len(repr(value)) < 80 else rule.option
            raise StartError(f"{told} in [{section}]: in production {rule.remedy}")
