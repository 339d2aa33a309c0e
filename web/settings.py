"""Where the settings of the site come from.

A setting is looked up in this order, and the last place that names it wins: site.conf, its [profile:NAME] section, with
--production its [production] section, the file of --config, the environment, the command line.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cherrypy.lib import reprconf

ROOT = Path(__file__).resolve().parent.parent
SITE_CONF = ROOT / "site.conf"
PROFILE_SECTION = "profile:"
PRODUCTION_SECTION = "production"
ACCOUNTS_OPTION = "tools.sessions.accounts"  # no setting: the site itself makes what it stands for
MOVING = ("tools.sessions.moving_from", "tools.sessions.moving_to")  # here a profile; the tool takes a store's options
ABOUT = "profile.about"  # one line for --list-profiles, no setting of the site

Sections = dict[str, dict[str, Any]]  # CherryPy's configuration: {section: {option: value}}
Source = str | Path | Sections | None  # a .conf file, its sections, or nothing


class StartError(ValueError):
    """The site cannot start as it was asked to; the message is one line for the person who started it."""


def port_number(text: str) -> int:
    """Return text as a TCP port; 0 stands for any free one. Raises StartError."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise StartError(f"the port must be a number from 0 to 65535, not {text!r}")
    return int(text)


# Environment variable: (section, option, conversion). An option of [/] is only replaced in a profile that has it.
ENVIRONMENT: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "HOST": ("global", "server.socket_host", str),
    "PORT": ("global", "server.socket_port", port_number),
    "STORAGE_PATH": ("/", "tools.sessions.storage_path", str),
    "SESSION_SECRET": ("/", "tools.sessions.secret", str),
    "MEMCACHED_SERVERS": ("/", "tools.sessions.servers", str),
    "DATABASE_URL": ("/", "tools.sessions.dsn", str),
    "REDIS_URL": ("/", "tools.sessions.url", str),
    "USERS_URL": ("/", "users.url", str),
    "SITE_URL": ("/", "site.url", str),
    "SMTP_URL": ("/", "auth.smtp", str),
    "MAIL_FROM": ("/", "auth.mail_from", str),
    "SCRIPT_NAME": ("/", "wsgi.proxy.prefix", str),
    "TRUSTED_PROXIES": ("/", "wsgi.proxy.trusted", lambda text: [one.strip() for one in text.split(",")]),
    "MOUNT": ("/", "mount.more", str),
}
# Options that hold a path; a relative one starts at the project's folder, wherever the site is started from.
PATHS = ("tools.sessions.storage_path", "tools.sessions.snapshot_path")


def load_settings(
    profile: str | None, config: Source, environ: Mapping[str, str], production: bool = False
) -> Sections:
    """Return all settings as {section: {option: value}}, the chosen profile merged into ["/"].

    With production, [production] is merged into it, too. Raises StartError.
    """
    base, extra = read(SITE_CONF), read(config)
    profiles = find_profiles(base, extra)
    default = extra.get("global", {}).get("profile", base["global"]["profile"])
    name = str(profile or environ.get("PROFILE") or default)
    _check_profile(name, profiles)
    hardening = {**base.get(PRODUCTION_SECTION, {}), **extra.get(PRODUCTION_SECTION, {})} if production else {}
    beside = os.path.join(environ.get("STORAGE_PATH") or "var", "users.sqlite")
    users = {"users.url": environ.get("DATABASE_URL") or f"sqlite:///{beside}"}
    settings = merged({"/": users}, base, {"/": profiles[name]}, {"/": hardening}, extra)
    for section, options in settings.items():
        if ACCOUNTS_OPTION in options:
            raise StartError(
                f"{ACCOUNTS_OPTION} in [{section}] is not for the configuration: take it out. The site sets it"
            )
    settings["/"].pop(ABOUT, None)
    _complete(settings, environ)
    for option in MOVING:
        if isinstance(other := settings["/"].get(option), str):
            _check_profile(other, profiles, f"{option}: ")
            settings["/"][option] = _store_of(profiles[other], {**hardening, **extra.get("/", {})}, environ)

    settings["/"]["profile"] = name  # for the pages, as cherrypy.request.config["profile"]
    settings["/"]["tools.staticdir.root"] = str(ROOT)
    return settings


def _check_profile(name: str, profiles: Sections, where: str = "") -> None:
    if name not in profiles:
        near = difflib.get_close_matches(name, profiles, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise StartError(f"{where}there is no profile {name!r}.{meant} The profiles are: {', '.join(profiles)}")


def _complete(settings: Sections, environ: Mapping[str, str]) -> None:
    """Put in what the environment says, and make paths whole."""
    for variable, (section, option, convert) in ENVIRONMENT.items():
        options = settings.get(section, {})
        if environ.get(variable) and (section == "global" or option in options):
            options[option] = convert(environ[variable])
    for options in settings.values():
        for path in PATHS:
            if options.get(path) and isinstance(options[path], str):
                options[path] = str(ROOT / options[path])


def _store_of(profile: Mapping[str, Any], over: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the session options, as the session tool names them, that a site has with a profile."""
    prefix, which = "tools.sessions.", ("tools.sessions.storage_type", "tools.sessions.storage_class")
    options = {**profile, **{name: value for name, value in over.items() if name not in which}}
    _complete({"/": options}, environ)
    return {name.removeprefix(prefix): value for name, value in options.items()
            if name.startswith(prefix) and name not in MOVING}  # fmt: skip


def merged(*layers: Sections) -> Sections:
    """Return the layers as one, the later ones over the earlier, without what is to be chosen from."""
    settings: Sections = {"global": {}, "/": {}}
    for layer in layers:
        for section, options in layer.items():
            if section != PRODUCTION_SECTION and not section.startswith(PROFILE_SECTION):
                settings.setdefault(section, {}).update(options)
    return settings


def find_profiles(*layers: Sections) -> Sections:
    """Return the options of each profile by its name; a later layer may add to a profile, or add a profile."""
    profiles: Sections = {}
    for layer in layers:
        for section, options in layer.items():
            if section.startswith(PROFILE_SECTION):
                profiles.setdefault(section.removeprefix(PROFILE_SECTION), {}).update(options)
    return profiles


def read(source: Source) -> Sections:
    """Return the sections of a .conf file, of a dict, or of nothing. Raises StartError."""
    if source is None or isinstance(source, dict):
        if not all(isinstance(options, dict) for options in (source or {}).values()):
            raise StartError('a configuration needs sections: {"/": {"tools.sessions.timeout": 5}}')
        return source or {}
    try:
        with open(source, encoding="utf-8") as file:
            sections: Sections = reprconf.Parser.load(file)
    except OSError as error:
        raise StartError(f"the configuration file cannot be read: {one_line(error)}") from error
    except (ValueError, configparser.Error) as error:
        data = Path(source).read_bytes()
        is_old = re.search(rb"^(\[(session|server)\]|session_?filter\.|tools\.sessions\.get_db)", data, re.M | re.I)
        hint = f". For an older CherryPy it may be right: python -m sessions convert {source}" if is_old else ""
        raise StartError(f"the configuration file {source} is malformed: {one_line(error)}{hint}") from error
    return sections


def one_line(error: Exception) -> str:
    """Return what an exception says on a single line, for the person who starts the site."""
    if isinstance(error, OSError) and error.errno is not None:
        # The system's own text is without what Python adds; it has none for the negative number of a failed host name.
        reason = os.strerror(error.errno)
        if reason.startswith("Unknown error"):  # as those of Windows' sockets
            reason = error.strerror
        return f"{reason}: {error.filename}" if error.filename else str(reason)
    # CherryPy's parser raises ValueError(message, cause, its arguments), which as text would be a tuple.
    text = error.args[0] if isinstance(error, ValueError) and len(error.args) == 3 else error
    return " ".join(str(text).split())
