"""The site: what it is made of, and how it is started from the command line.

    python app.py                          serves http://127.0.0.1:8080 with the profile that site.conf names
    python app.py --profile ram --port 0   the same with another session backend, on any free port
    create_app()                           the same site as a WSGI application, for any other server

Settings come from site.conf (see settings.py); the HTTP server is CherryPy's own (see server.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cherrypy

import sessions
from pages import site
from pages.backends import Backends
from pages.cookies import Cookies
from pages.counter import Counter
from pages.health import Health
from pages.login import Account, Accounts, Login, Logout
from pages.name import Hello, Name
from pages.tour import Tour
from server import SiteHeaders, listen, serve
from settings import (
    ABOUT,
    SITE_CONF,
    Sections,
    Source,
    StartError,
    development_secret,
    find_profiles,
    load_settings,
    one_line,
    read,
    session_options,
)

HINT = "The demo account is ada; its password is on the console, or what DEMO_PASSWORD was set to."

# --- the site ---------------------------------------------------------------------------------------------------------


def create_app(profile: str | None = None, config: Source = None) -> cherrypy.Application:
    """Return the site as a WSGI application, with its session store open.

    profile is the name of a [profile:NAME] section; None takes it from the environment (PROFILE) or site.conf.
    config is the path of one more .conf file, or the same as a dict of sections; what is in [global] is left to the
    other server. The account `ada` exists only when the environment holds DEMO_PASSWORD.
    Raises StartError, or sessions.ConfigError for an option of the session tool.
    """
    return build(load_settings(profile, config, os.environ), {}, os.environ.get("DEMO_PASSWORD"))


def build(
    settings: Sections, profiles: Sections, password: str | None, hint: str | None = None
) -> cherrypy.Application:
    """Make the application from its settings: every page has one line here, and can be taken out with it."""
    sessions.install()
    accounts = Accounts({"ada": password} if password else {})

    root = Tour()
    root.cookie = Cookies()
    root.counter = Counter()
    root.name = Name()
    root.hello = Hello()
    root.login = Login(accounts, hint)
    root.logout = Logout()
    root.account = Account()
    root.backends = Backends(profiles)
    root.healthz = Health()

    config = {section: dict(options) for section, options in settings.items() if section.startswith("/")}
    config["/"].update(site.error_pages())
    app = cherrypy.Application(root, "", config)
    app.request_class = site.Request
    # In front of CherryPy's own first layer, which answers by itself when everything else has failed.
    app.wsgiapp.pipeline.insert(0, ("headers", SiteHeaders))
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
    parser.add_argument("--profile", metavar="NAME", help="session backend, a [profile:NAME] of site.conf (PROFILE)")
    parser.add_argument("--host", metavar="H", help="address to listen on (HOST)")
    parser.add_argument("--port", metavar="N", help="port to listen on, 0 for any free one (PORT)")
    parser.add_argument("--config", metavar="EXTRA.conf", help="one more file of settings, over site.conf")
    parser.add_argument("--list-profiles", action="store_true", help="show what each profile is for, and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the site until Ctrl-C or SIGTERM. Returns the exit status: 0, or 2 when it could not start."""
    try:
        options = parse(argv)
        if options.list_profiles:
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
    settings = load_settings(options.profile, options.config, environ)
    try:
        cherrypy.config.update(settings["global"])
    except (AttributeError, TypeError, ValueError) as error:
        raise StartError(f"a setting of [global] is wrong: {one_line(error)}") from error
    if not cherrypy.log.screen:  # errors are worth a newcomer's attention; the engine's progress is not
        cherrypy.log.error_log.addHandler(logging.StreamHandler())
        cherrypy.log.error_log.setLevel(logging.WARNING)

    server = listen(cherrypy.server.socket_host, cherrypy.server.socket_port)
    if not server.local and "engine.autoreload.on" not in settings["global"]:
        cherrypy.config.update({"engine.autoreload.on": False})
    cherrypy.engine.autoreload.files.update(str(Path(name).resolve()) for name in (SITE_CONF, options.config) if name)

    profiles: Sections = {}  # which other profiles could run here is for the one who tries the site out to know
    if server.local:
        profiles = session_options(options.config, environ)
        if settings["/"].get("tools.sessions.secret") == "":
            settings["/"]["tools.sessions.secret"] = development_secret()
        for others in profiles.values():
            if others.get("secret") == "":
                others["secret"] = secrets.token_urlsafe(48)  # only to see whether the profile could run here
    password, account = demo_account(server.local)
    cherrypy.tree.graft(build(settings, profiles, password, HINT if server.local else None), "")
    serve(server, f"Serving {server.url} with the profile {settings['/']['profile']}.\n{account}")


def demo_account(local: bool) -> tuple[str | None, str]:
    """Return the password of the account `ada`, None for no account, and the line that tells about it."""
    password = os.environ.get("DEMO_PASSWORD")
    if password:
        return password, "Sign in as ada with the password that DEMO_PASSWORD holds."
    if not local:
        return None, "There is no account to sign in with: for a public address, choose a password with DEMO_PASSWORD."
    # In the environment it outlives a reload, which starts this program again in the same process.
    os.environ["DEMO_PASSWORD"] = password = secrets.token_urlsafe(9)
    return password, f"Sign in as ada with the password {password}"


if __name__ == "__main__":
    sys.exit(main())
