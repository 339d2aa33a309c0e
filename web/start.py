"""How the site is started from the command line: its options, its server, and what it prints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import cherrypy

from web import development
from web.production import check, check_server
from web.server import listen, serve, show_what_matters
from web.settings import ABOUT, SITE_CONF, StartError, find_profiles, load_settings, one_line, read
from web.wiring import Site


class Parser(argparse.ArgumentParser):
    """argparse, except that a mistake is one line and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise StartError with the message."""
        raise StartError(f"{message} (--help lists the options)")


def parse(argv: Sequence[str] | None, commands: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line; those that were not given are None. Raises StartError.

    Args:
        argv: its words; None takes those of this process.
        commands: the form of each, such as "new FOLDER": a word as it stands, what is to be given in capitals, and in
            brackets if it may be left out.
    """
    parser = Parser(prog="app.py", description="Serves the site.", allow_abbrev=False)
    parser.add_argument("--production", action="store_true", help="with [production], and with no setting unsafe")
    parser.add_argument("--profile", metavar="NAME", help="session backend, a [profile:NAME] of site.conf (PROFILE)")
    parser.add_argument("--host", metavar="H", help="address to listen on (HOST)")
    parser.add_argument("--port", metavar="N", help="port to listen on, 0 for any free one (PORT)")
    parser.add_argument("--config", metavar="EXTRA.conf", help="one more file of settings, over site.conf")
    parser.add_argument("--list-profiles", action="store_true", help="show what each profile is for, and stop")
    parser.add_argument("--name", metavar="NAME", help="what the site of `new` is called, if not as its folder")
    about = "instead of serving: " + "; ".join(commands)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help=about)
    options = parser.parse_intermixed_args(argv)
    given = options.command
    if given and not any(_fits(given, form) for form in commands):
        parser.error(f"there is no command {' '.join(given)!r}; the commands are: {'; '.join(commands)}")
    if options.name is not None and given[:1] != ["new"]:
        parser.error("--name is for new FOLDER")
    return options


def _fits(given: Sequence[str], form: str) -> bool:
    words = form.split()
    needed = sum(not word.startswith("[") for word in words)
    right = all(one == word for one, word in zip(given, words, strict=False) if word.islower())
    return needed <= len(given) <= len(words) and right


def list_profiles(config: str | None) -> None:
    """Print the name and the purpose of each profile."""
    profiles = find_profiles(read(SITE_CONF), read(config))
    width = max(map(len, profiles))
    for name, options in profiles.items():
        print(f"{name:{width}}  {options.get(ABOUT, '')}".rstrip())


def run(
    options: argparse.Namespace,
    build: Callable[[Site], cherrypy.Application],
    demo_account: Callable[[Mapping[str, str]], tuple[str, str | None, str]],
) -> None:
    """Serve until the process is told to stop.

    Args:
        options: as parse() returns them.
        build: makes the application, when it is known where it is served.
        demo_account: returns the password of the account that a site in development has, the hint for the sign-in
            page, and a line to print.

    Raises:
        StartError: before anything has started.
    """
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

    if in_development and settings["/"].get("tools.sessions.secret") == "":
        settings["/"]["tools.sessions.secret"] = development.development_secret()
    site = Site(settings, production=options.production)
    place = server.url + settings["/"]["wsgi.proxy.prefix"].rstrip("/")
    if in_development:
        site.url = site.url or place
        site.profiles = development.session_options(options.config, environ)
        site.demo, site.hint, site.line = demo_account(environ)
    cherrypy.tree.graft(build(site), "")
    line = site.line
    if site.off:
        line = f"{line}\nOff, for it is for development and for this machine alone: {', '.join(site.off)}.".lstrip()
    serve(server, f"Serving {place} with the profile {settings['/']['profile']}.\n{line}".rstrip())
