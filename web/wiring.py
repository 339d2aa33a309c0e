"""How the pages become an application: what they are made from, what is mounted beside them, the layers around them."""

from __future__ import annotations

import importlib
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cherrypy

import sessions
from sessions.options import check_sections
from web import error_pages, flash
from web.production import check_pages
from web.server import Application, SiteHeaders, TrustedProxy, trusted_proxies, utc
from web.settings import ACCOUNTS_OPTION, Sections, StartError, one_line

_MOUNT = "mount."  # mount.lab = "lab" in [/] of site.conf: the package lab adds its pages to the tree


@dataclass
class Site:
    """What the pages are made from.

    Attributes:
        settings: as load_settings() returns them.
        profiles: the session options of each profile, by its name; empty unless the site is in development, where
            pages may show and do what the public is not to see.
        demo: the password of the demo account, if there is to be one.
        hint: what the sign-in page says of it.
        line: what the console says of the accounts.
        production: whether unsafe settings are refused.
        url: where visitors find it, without a slash at the end; empty where nobody has said so.
        config: what CherryPy is given of the settings; a package that is mounted may add to it.
        off: the addresses of what was not mounted, for it is for development alone.
    """

    settings: Sections
    profiles: Sections = field(default_factory=dict)
    demo: str = ""
    hint: str | None = None
    line: str = ""
    production: bool = False
    url: str = field(init=False)
    config: Sections = field(init=False)
    off: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = {name: dict(options) for name, options in self.settings.items() if name.startswith("/")}
        self.url = str(self.config["/"].get("site.url", "")).rstrip("/")
        self.users_url = str(self.config["/"].pop("users.url"))
        if self.settings.get("users") or "accounts.path" in self.config["/"]:
            raise StartError(
                "accounts are in a table now, not in [users] and accounts.path: python app.py user import FILE.conf "
                "takes them over. Then take those lines out of the file"
            )


class Static:
    """The scripts and styles of a package that is mounted."""

    def __init__(self, folder: Path) -> None:
        self._cp_config = {
            "tools.staticdir.on": True,
            "tools.staticdir.dir": str(folder),
            "tools.sessions.on": False,
            "tools.response_headers.on": True,
            "tools.response_headers.headers": [("Cache-Control", "no-cache")],
        }


def mount(root: Any, site: Site) -> None:
    """Let each package that site.conf names add its pages to the tree. Raises StartError."""
    for option in [name for name in site.config["/"] if name.startswith(_MOUNT)]:
        package = site.config["/"][option]
        if package:
            try:
                importlib.import_module(package).mount(root, site)
            except (ImportError, AttributeError, ValueError, TypeError) as error:
                raise StartError(
                    f"{option} names {package!r}, which cannot be mounted: {one_line(error)}. Take it out of site.conf"
                ) from error


def application(root: Any, site: Site, accounts: Any) -> cherrypy.Application:
    """Return the pages as an application, with the site's layers around it and its session store open.

    Raises StartError, or sessions.ConfigError for an option of the session tool.
    """
    sessions.install()
    check_sections(site.settings)
    mimetypes.add_type("text/javascript", ".js")  # whatever a program has written into the registry of Windows
    config = site.config
    config["/"] |= error_pages.error_pages() | flash.TOOL
    config["/"] |= {ACCOUNTS_OPTION: accounts, "operators_paths": [accounts.database.path]}
    config["/"]["wsgi.proxy.trusted"] = trusted_proxies(config["/"])
    app = Application(root, "", config)
    app.request_class = error_pages.Request
    # Or CherryPy's checker takes them for slips.
    app.namespaces |= dict.fromkeys(("site", "mount", "auth"), lambda *_: None)
    app.log.time = cherrypy.log.time = utc
    # In front of CherryPy's own first layer, which answers by itself when everything else has failed.
    app.wsgiapp.pipeline[:0] = [("proxy", TrustedProxy), ("headers", SiteHeaders)]
    if site.production:
        check_pages(app)
    sessions.open_stores(app)
    return app
