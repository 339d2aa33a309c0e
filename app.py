"""The site: what it is made of, and how it is started from the command line.

    python app.py                          serves http://127.0.0.1:8080 with the profile that site.conf names
    python app.py --profile ram --port 0   the same with another session backend, on any free port
    python app.py --production             refuses every setting that is not safe in public
    python app.py hash-password ada        asks for a password and prints the line of ada for [users]
    create_app()                           the same site as a WSGI application, for any other server

Settings come from site.conf (see settings.py); the HTTP server is CherryPy's own (see server.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import cherrypy

import development
import sessions
from pages import failures, xray
from pages.account import Account, Devices, Password
from pages.accounts import Accounts
from pages.attributes import Attributes
from pages.backends import Backends
from pages.cookies import Cookies
from pages.counter import Counter
from pages.gate import Gate
from pages.health import Health
from pages.identity import Identity
from pages.login import Login, Logout
from pages.name import Hello, Name
from pages.passwords import hash_password
from pages.throttle import Throttle
from pages.tour import Tour
from production import check, check_pages, check_server
from server import Application, SiteHeaders, TrustedProxy, listen, serve, show_what_matters, trusted_proxies, utc
from settings import (
    ABOUT,
    ACCOUNTS_OPTION,
    SITE_CONF,
    USERS_SECTION,
    Sections,
    Source,
    StartError,
    find_profiles,
    load_settings,
    one_line,
    read,
)

# --- the site ---------------------------------------------------------------------------------------------------------


def create_app(profile: str | None = None, config: Source = None, production: bool = False) -> cherrypy.Application:
    """Return the site as a WSGI application, with its session store open.

    profile is the name of a [profile:NAME] section; None takes it from the environment (PROFILE) or site.conf.
    config is the path of one more .conf file, or the same as a dict of sections; what is in [global] is left to the
    other server. production takes [production] as well, and refuses every unsafe setting but those of the server: https
    is for you to see to. Without it the demo account `ada` exists, for this machine alone, when the environment holds
    DEMO_PASSWORD.
    Raises StartError, or sessions.ConfigError for an option of the session tool.
    """
    settings = load_settings(profile, config, os.environ, production)
    if production:
        check(settings, os.environ)
    password = os.environ.get("DEMO_PASSWORD")
    return build(settings, {}, {development.DEMO: password} if password else {}, production=production)


def build(
    settings: Sections,
    profiles: Sections,
    demo: Mapping[str, str],
    hint: str | None = None,
    production: bool = False,
) -> cherrypy.Application:
    """Make the application from its settings: every page has one line here, and can be taken out with it."""
    sessions.install()
    config = {section: dict(options) for section, options in settings.items() if section.startswith("/")}
    path = config["/"].pop("accounts.path")
    make = development.DemoAccounts if demo else Accounts
    accounts = make(settings[USERS_SECTION], path, demo)
    gate = Gate(accounts, Throttle())
    extra = config["/"].pop(development.PAGES, {})

    root = Tour()
    root.cookie = Cookies()
    root.cookie.attributes = Attributes()
    root.counter = Counter()
    root.name = Name()
    root.hello = Hello()
    root.session = Identity()
    root.login = Login(gate, hint)
    root.logout = Logout()
    root.account = Account()
    root.account.password = Password(accounts, gate)
    root.account.sessions = Devices(gate)
    root.backends = Backends(profiles)
    root.healthz = Health()
    vars(root).update(development.extra_pages(extra, profiles) if profiles else {})

    if not profiles:
        for options in config.values():
            options["tools.xray.on"] = False
    if config["/"].get("tools.xray.on"):
        sessions.subscribe(xray.watch)
    config["/"].update(failures.error_pages())
    config["/"][ACCOUNTS_OPTION] = accounts
    config["/"]["operators_paths"] = [path]
    config["/"]["wsgi.proxy.trusted"] = trusted_proxies(config["/"])
    app = Application(root, "", config)
    app.request_class = failures.Request
    app.log.time = cherrypy.log.time = utc
    # In front of CherryPy's own first layer, which answers by itself when everything else has failed.
    app.wsgiapp.pipeline[:0] = [("proxy", TrustedProxy), ("headers", SiteHeaders)]
    if production:
        check_pages(app)
    sessions.open_stores(app)
    return app


# --- the command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse, except that a mistake is one line and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise StartError with the message."""
        raise StartError(f"{message} (--help lists the options)")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line; those that were not given are None. Raises StartError."""
    parser = Parser(prog="app.py", description="Serves the CherryPy sessions demo.", allow_abbrev=False)
    parser.add_argument("--production", action="store_true", help="with [production], and with no setting unsafe")
    parser.add_argument("--profile", metavar="NAME", help="session backend, a [profile:NAME] of site.conf (PROFILE)")
    parser.add_argument("--host", metavar="H", help="address to listen on (HOST)")
    parser.add_argument("--port", metavar="N", help="port to listen on, 0 for any free one (PORT)")
    parser.add_argument("--config", metavar="EXTRA.conf", help="one more file of settings, over site.conf")
    parser.add_argument("--list-profiles", action="store_true", help="show what each profile is for, and stop")
    about = "hash-password [NAME] asks for a password, prints its line for [users] of site.conf, and stops"
    parser.add_argument("command", nargs="*", metavar="COMMAND", help=about)
    options = parser.parse_args(argv)
    if options.command and (options.command[0] != "hash-password" or len(options.command) > 2):
        parser.error(f"there is no command {' '.join(options.command)!r}; did you mean hash-password NAME?")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the site until Ctrl-C or SIGTERM. Returns the exit status: 0, or 2 when it could not start."""
    try:
        options = parse(argv)
        if options.command:
            hash_password(options.command[1] if options.command[1:] else None)
        elif options.list_profiles:
            list_profiles(options.config)
        else:
            run(options)
    except (StartError, sessions.ConfigError, sessions.StoreError) as error:
        print(f"app.py: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass  # Ctrl-C before there was anything to stop
    return 0


def list_profiles(config: str | None) -> None:
    """Print the name and the purpose of each profile."""
    profiles = find_profiles(read(SITE_CONF), read(config))
    width = max(map(len, profiles))
    for name, options in profiles.items():
        print(f"{name:{width}}  {options.get(ABOUT, '')}".rstrip())


def run(options: argparse.Namespace) -> None:
    """Serve until the process is told to stop. Raises StartError before anything has started."""
    given = {"HOST": options.host, "PORT": options.port}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    settings = load_settings(options.profile, options.config, environ, options.production)
    if options.production:
        check(settings, environ)
        check_server(settings)
    try:
        cherrypy.config.update(settings["global"])
    except (AttributeError, TypeError, ValueError) as error:
        raise StartError(f"a setting of [global] is wrong: {one_line(error)}") from error
    if not cherrypy.log.screen:
        show_what_matters()

    server = listen(cherrypy.server.socket_host, cherrypy.server.socket_port)
    in_development = server.local and not options.production
    if not in_development and "engine.autoreload.on" not in settings["global"]:
        cherrypy.config.update({"engine.autoreload.on": False})
    cherrypy.engine.autoreload.files.update(str(Path(name).resolve()) for name in (SITE_CONF, options.config) if name)

    profiles: Sections = {}
    demo: dict[str, str] = {}
    hint = None
    line = "There is no account to sign in with: python app.py hash-password NAME prints the line to put into [users]."
    if in_development:
        profiles = development.session_options(options.config, environ)
        demo, hint, line = development.demo_account(settings[USERS_SECTION], environ)
        if settings["/"].get("tools.sessions.secret") == "":
            settings["/"]["tools.sessions.secret"] = development.development_secret()
    elif settings[USERS_SECTION]:
        line = ""
    if not in_development and settings["/"].get(development.PAGES):
        off = ", ".join(f"/{name}" for name in settings["/"][development.PAGES])
        line = f"{line}\nOff, for it is for development and for this machine alone: {off}.".lstrip()
    cherrypy.tree.graft(build(settings, profiles, demo, hint, options.production), "")
    place = server.url + settings["/"]["wsgi.proxy.prefix"].rstrip("/")
    serve(server, f"Serving {place} with the profile {settings['/']['profile']}.\n{line}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
