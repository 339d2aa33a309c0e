"""What an operator does to the sessions of a site from the command line: list, revoke, purge (ASVS 7.4.5).

The commands work on the store itself, while the site runs or not. Nothing is told of a session but what a page may
tell as well: never its values, its id or its key.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cherrypy

from .audit import note, plain
from .errors import CannotList, ConfigError, SessionError
from .live import Directory, LiveSession
from .owner import revoke, valid_since
from .settings import Settings, is_cherrypy_class
from .startup import close_stores, places
from .store import Store
from .stored import ask
from .table import stores

_PATHS = "operators_paths"
_BATCH = 500  # records removed before the site has the store again
_COLUMNS = ("reference", "user", "started", "seen", "ends", "remembered")


@dataclass(frozen=True, slots=True)
class Place:
    """A store of the site, and the settings that its sessions live under."""

    store: Store
    settings: Settings

    @property
    def directory(self) -> Directory:
        """Its sessions.

        Raises:
            CannotList: they are where only the site's own process sees them.
        """
        self.check_shared()
        return Directory(self.store, self.settings)

    def check_shared(self) -> None:
        """Raise CannotList for a store that this process does not share with the site. It would look empty here."""
        facts = self.store.facts
        if not facts.shared:
            what = f"the sessions of {self._name} cannot be reached from another process. Who shares them?"
            raise CannotList(f"{what} {facts.sharing}")

    def purge(self) -> int:
        """Remove what has expired by now; how many sessions it were.

        Raises:
            CannotList: nobody can do that from here.
        """
        self.check_shared()
        if not self.store.facts.purges:
            raise CannotList(f"{self._name} cannot be purged. {self.store.facts.cleaning}")
        total = removed = ask(self.store.purge, _BATCH)
        while removed == _BATCH:
            removed = ask(self.store.purge, _BATCH)
            total += removed
        return total

    def revoke(self, user: str) -> int | None:
        """End all sessions of a user by every means there is; how many were found and deleted, None where only the
        accounts have ended them.

        Raises:
            CannotList: the sessions cannot be found, and no account says that they have ended.
        """
        accounts = self.settings.accounts
        if accounts is None:
            return self.directory.end(user)
        known = valid_since(accounts, user) is not None
        try:
            return self.directory.end_all(user) if known else self.directory.end(user)
        except CannotList as error:
            if not known:
                what = "who is signed in under that name is signed out at the next request"
                raise CannotList(f"the site has no account {plain(user)}; {what}") from error
        revoke(accounts, user)
        note("all sessions of the account were revoked", account=user)
        return None

    @property
    def _name(self) -> str:
        return self.settings.storage_class.__name__


@contextmanager
def site(factory: str, profile: str | None, config: str | None, production: bool = False) -> Iterator[list[Place]]:
    """The stores of a site, open for the length of a block.

    Args:
        factory: MODULE:FUNCTION, as WSGI servers name an application. It is called as FUNCTION(profile), or
            FUNCTION(profile, config), and returns a cherrypy.Application whose stores are open.
        production: call it as FUNCTION(profile, config, production=True): what holds in production may be another
            store, and other accounts.

    Raises:
        ConfigError: there is no such function, it fails, it makes no such application, or this is not the account
            that the site runs as.
    """
    make = _function(factory)
    try:
        if production:
            app = make(profile, config, production=True)
        else:
            app = make(profile, config) if config else make(profile)
    except SessionError:
        raise
    except Exception as error:  # it is the site's: it may raise anything
        raise ConfigError(f"--app {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(app, cherrypy.Application):
        raise ConfigError(f"--app {factory} returned a {type(app).__name__}: it must return a cherrypy.Application")
    try:
        found = _places_of(app, factory)
        _check_account(app, found)
        yield found
    finally:
        close_stores(app)


def _check_account(app: cherrypy.Application, found: list[Place]) -> None:
    """Raise ConfigError unless the files of the site belong to whoever runs this: what root made in their folder, such
    as the first revocation, the site could not read.

    They are the folders of file sessions, and what the site lists as `operators_paths` of its [/]. A folder of root's
    tells nothing: it may be lent to a group.
    """
    stored = [dict(place.settings.store).get("storage_path") for place in found]
    for path in [*stored, *app.config.get("/", {}).get(_PATHS, ())]:
        owner = _owner_of(Path(path)) if path else 0
        if owner not in (0, os.geteuid()):
            raise ConfigError(
                f"{os.fspath(path)!r} is kept by the account {_name_of(owner)}, and this is {_name_of(os.geteuid())}: "
                f"run it as the account of the site, with sudo -u {_name_of(owner)}"
            )


def _owner_of(path: Path) -> int:
    """Whom a path belongs to; while it is not there, the nearest folder above."""
    path = path.absolute()
    # Not Path.exists(): it raises for what is in a closed folder, whose owner it is that counts then.
    return next(place for place in (path, *path.parents) if os.path.exists(place)).stat().st_uid


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container, an account may have no name
        return f"#{uid}"  # which sudo takes as well


def _places_of(app: cherrypy.Application, factory: str) -> list[Place]:
    found: dict[int, Place] = {}
    for options in places(app):
        if not is_cherrypy_class(options):
            settings = Settings.parse(options)
            store = stores.open(app, settings.storage_class.store_class, settings.store, settings.name)
            found.setdefault(id(store), Place(store, settings))  # of two with one store, the one nearer to the root
    if not found:
        raise ConfigError(f"--app {factory}: no page of it uses sessions of this package")
    return list(found.values())


def _function(factory: str) -> Callable[..., Any]:
    module, _, name = factory.partition(":")
    here = os.getcwd()
    if here not in sys.path:  # Python leaves it out with -P and PYTHONSAFEPATH
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--app {factory} cannot be found: {error}; run this in the folder of the site, or name MODULE:FUNCTION"
        ) from error
    if not callable(found):
        raise ConfigError(f"--app {factory} is no function that makes an application")
    return found  # type: ignore[no-any-return]


def listed(found: list[LiveSession]) -> str:
    """Live sessions as a table for people, with a line of titles. Times are in UTC."""
    rows = [_COLUMNS, *(tuple(_word(value) for value in _told(session).values()) for session in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def listed_as_json(found: list[LiveSession]) -> str:
    """The same as a JSON array for programs; the user is null for a visitor who has not signed in."""
    return json.dumps([_told(session) for session in found])


def _told(session: LiveSession) -> dict[str, Any]:
    times = {name: _utc(getattr(session, name)) for name in ("started", "seen", "ends")}
    return {"reference": session.reference, "user": session.user or None, **times, "remembered": session.remembered}


def _word(value: str | bool | None) -> str:
    if isinstance(value, str):
        return plain(value)
    return {None: "-", True: "yes", False: "no"}[value]


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
