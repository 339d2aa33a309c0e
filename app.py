"""The site: its pages, and how it is started.

    python app.py                          serves http://127.0.0.1:8080 with the profile that site.conf names
    python app.py --profile ram --port 0   the same with another session backend, on any free port
    python app.py --production             refuses every setting that is not safe in public
    python app.py user add ada             asks for a password, and adds the account ada
    python app.py new ../shop              makes a site of your own there, without the lessons
    create_app()                           the same site as a WSGI application, for any other server

The settings are in site.conf. What is around the pages is in web/, and who somebody is, in auth/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import web.missing  # noqa: F401 -- first: it says which of the others has to be installed

# isort: split
import cherrypy

import sessions
from auth import commands, demo
from auth.authenticator import Authenticator
from auth.links import Links
from auth.mail import open_mailer
from auth.second_factor import SecondFactor
from auth.throttle import Throttle
from pages.account import Account, Devices, Password
from pages.code import Code
from pages.health import Health
from pages.login import Login, Logout
from pages.mailbox import Mailbox
from pages.recovery import Forgot, Reset
from pages.second_factor import SecondFactorPage
from pages.signup import signup
from pages.tour import Tour
from web import start, starter
from web.production import check
from web.settings import Source, StartError, load_settings, one_line
from web.wiring import Site, application, mount

COMMANDS = ("new FOLDER", *commands.FORMS)


def build(site: Site) -> cherrypy.Application:
    """Make the site: every page has one line here, and can be taken out with it."""
    accounts = demo.open_accounts(site)
    authenticator, factor = Authenticator(accounts, Throttle(site.config["/"])), SecondFactor(accounts.database)
    links, mailer = Links(accounts.database), open_mailer(site)

    root = Tour()  # at /
    root.login = Login(authenticator, site.hint)  # at /login, and so on
    root.login.code = Code(accounts, authenticator, factor)
    root.logout = Logout()
    root.account = Account()
    root.account.password = Password(accounts, authenticator, factor)
    root.account.second_factor = SecondFactorPage(factor)
    root.account.sessions = Devices()
    root.signup = signup(site, accounts, authenticator, links, mailer)
    if mailer:
        root.login.forgot = Forgot(accounts, authenticator, links, mailer)
        root.login.reset = Reset(accounts, authenticator, links, mailer)
    if mailer and mailer.mailbox is not None:
        root.dev = SimpleNamespace(mailbox=Mailbox(mailer))
    root.healthz = Health()

    mount(root, site)  # the lessons and the laboratory, a line each in site.conf
    return application(root, site, accounts)


def create_app(profile: str | None = None, config: Source = None, production: bool = False) -> cherrypy.Application:
    """Return the site as a WSGI application, with its session store open.

    Args:
        profile: the name of a [profile:NAME] section; None takes it from the environment (PROFILE) or site.conf.
        config: the path of one more .conf file, or the same as a dict of sections; what is in [global] is left to the
            other server.
        production: take [production] as well, and refuse every unsafe setting but those of the server: https is for
            you to see to. Without it the demo account `ada` exists, for this machine alone, when the environment holds
            DEMO_PASSWORD.

    Raises:
        StartError, or sessions.ConfigError for an option of the session tool.
    """
    site = Site(load_settings(profile, config, os.environ, production), production=production)
    if production:
        check(site.settings, os.environ)
    else:
        site.demo = os.environ.get("DEMO_PASSWORD", "")
    return build(site)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the site until Ctrl-C or SIGTERM. Return the exit status: 0, or 2 when it could not start."""
    try:
        options = start.parse(argv, COMMANDS)
        if options.command[:1] == ["new"]:
            starter.new(options.command[1], options.name)
        elif options.command:
            settings = load_settings(options.profile, options.config, os.environ, options.production)
            commands.run(options.command[1:], settings, os.environ)
        elif options.list_profiles:
            start.list_profiles(options.config)
        else:
            start.run(options, build, demo.demo_account)
    except (StartError, sessions.ConfigError, sessions.StoreError) as error:
        print(f"app.py: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass  # Ctrl-C before there was anything to stop
    return 0


if __name__ == "__main__":
    sys.exit(main())
