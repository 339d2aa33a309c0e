"""What only a site in development gets, that is without --production and on an address of this machine alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages import origin
from pages.accounts import Accounts, Proof, folded
from settings import SITE_CONF, Sections, Source, StartError, find_profiles, load_settings, one_line, read

DEMO = "ada"
PAGES = "development.pages"  # {name: dotted name of a class}: pages that only a site in development has
_OWN_PASSWORD = "_DEMO_PASSWORD_OF_THIS_START"  # noqa: S105 - the name of a variable


def demo_account(users: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], str | None, str]:
    """Return the password of the demo account by its name, the hint for the sign-in page, and the line for the console.

    There is no demo account where [users] has one of its name. A password that was given is shown nowhere.
    """
    if DEMO in map(folded, users):
        return {}, None, ""
    given = environ.get("DEMO_PASSWORD")
    if given:
        line = f"Sign in as {DEMO} with the password that DEMO_PASSWORD holds, unless it was changed here."
        return {DEMO: given}, None, line
    # In the environment it outlives a reload, which starts this program again in the same process.
    password = os.environ.setdefault(_OWN_PASSWORD, secrets.token_urlsafe(9))
    line = f"Sign in as {DEMO} with the password {password}"
    return {DEMO: password}, line, line


def development_secret() -> str:
    """Return the secret of this user's cookie sessions in development, made the first time it is asked for.

    It lies outside the project, so that no copy and no commit takes it along. Raises StartError.
    """
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cherrypy-sessions-demo"
    path, new = folder / "secret", folder / f"secret.{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(48))
            with contextlib.suppress(FileExistsError):  # of two sites started at once, the second takes the first's
                os.link(new, path)
            new.unlink()
        if path.stat().st_mode & 0o077:
            raise StartError(f"others can read the secret in {path}; remove it, and a new one is made")
        return path.read_text(encoding="ascii")
    except (OSError, RuntimeError) as error:
        raise StartError(f"no secret can be kept in {folder}: {one_line(error)}; set SESSION_SECRET") from error


def session_options(config: Source, environ: Mapping[str, str]) -> Sections:
    """Return the session tool's options under each profile, to see which of them could run here. Raises StartError."""
    prefix = "tools.sessions."
    profiles: Sections = {}
    for name in find_profiles(read(SITE_CONF), read(config)):
        options = load_settings(name, config, environ)["/"]
        profiles[name] = {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
        if profiles[name].get("secret") == "":
            profiles[name]["secret"] = secrets.token_urlsafe(48)
    return profiles


def extra_pages(wanted: Mapping[str, str], profiles: Sections) -> dict[str, Any]:
    """Return the pages that `development.pages` of site.conf names, each made of the options of all profiles.

    Raises StartError.
    """
    pages = {}
    for name, dotted in wanted.items():
        module, _, cls = dotted.rpartition(".")
        try:
            pages[name] = getattr(importlib.import_module(module), cls)(profiles)
        except (ImportError, AttributeError, ValueError) as error:
            raise StartError(
                f"development.pages names {dotted!r}, which is not there: {one_line(error)}. Take it out of site.conf"
            ) from error
    return pages


class DemoAccounts(Accounts):
    """The accounts of a site with a demo account, which lets in nobody but this machine's users.

    DEMO_PASSWORD may be known to more people than one, and another WSGI server may serve the site to a whole network.
    """

    def __init__(self, users: Mapping[str, str], path: str | Path, demo: Mapping[str, str] | None = None) -> None:
        """Take the accounts, as Accounts does."""
        super().__init__(users, path, demo)
        self._demo = frozenset(demo or ())

    def verify(self, name: str, password: str) -> Proof | None:
        """Check a password as Accounts does; from elsewhere, a demo account has none.

        Another one is checked in its place: the answer is that to a wrong password, and takes as long.
        """
        if self.registered(name) in self._demo and not origin.from_this_machine():
            password = secrets.token_urlsafe()
        return super().verify(name, password)
