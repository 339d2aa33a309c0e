"""Which stores are open, for which application and options; and the threads that clean them."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import cherrypy
import cherrypy.lib.sessions as theirs

from . import compat, options
from .errors import ConfigError, SessionError
from .events import LOGGED, Event, log, subscribe, write_to_log
from .moving import MovingStore
from .options import Settings
from .privileges import as_served, pending_drop, wait_for_drop
from .session import Session
from .store import Store

# What `storage_type` may be. A backend of your own needs no entry: name its class in `storage_class`.
BACKENDS = {
    "ram": "ram.RamSession",
    "file": "file.FileSession",
    "cookie": "cookie.CookieSession",
    "memcached": "memcached.MemcachedSession",
    "postgresql": "postgresql.PostgresqlSession",
    "redis": "redis.RedisSession",
    "functions": "functions.FunctionSession",
}
_STOCK = {theirs.RamSession: "ram", theirs.FileSession: "file", theirs.MemcachedSession: "memcached"}

_BATCH = 100  # records a cleaning removes before it lets others have the store: with 500 files, pages felt it
_PAUSE = 0.01  # seconds it lets them have it


def backend(storage_type: str) -> type[Session]:
    """Return the session class of a backend of this package, and import it now."""
    module, name = BACKENDS[storage_type].split(".")
    return cast(type[Session], getattr(importlib.import_module(f"{__package__}.backends.{module}"), name))


def chosen_class(given: Mapping[str, Any]) -> Any:
    """Return what `storage_class` is, or the class that an add-on for CherryPy's own tool has put where that looks:
    cherrypy.lib.sessions.MongoSession for the `storage_type` 'mongo'."""
    chosen, storage_type = given.get("storage_class"), given.get("storage_type") or "ram"
    if chosen is None and isinstance(storage_type, str) and storage_type.lower() not in BACKENDS:
        return getattr(theirs, f"{storage_type.title()}Session", None)
    return chosen


def session_class(given: Mapping[str, Any]) -> type[Session]:
    """Return the class that `storage_class`, or else `storage_type`, names."""
    chosen, storage_type = chosen_class(given), given.get("storage_type") or "ram"
    if isinstance(chosen, type) and chosen in _STOCK:
        return backend(_STOCK[chosen])
    if isinstance(chosen, type) and issubclass(chosen, Session) and hasattr(chosen, "store_class"):
        return chosen
    if chosen is not None:
        what = "a subclass of sessions.Session that names its store_class, or one of cherrypy.lib.sessions.Session"
        raise ConfigError(f"{options.PREFIX}storage_class is {chosen!r}: it must be {what}: the class, not its name")
    if isinstance(storage_type, str) and storage_type.lower() in BACKENDS:
        return backend(storage_type.lower())
    name = getattr(storage_type, "__qualname__", storage_type if isinstance(storage_type, str) else "your")
    near = difflib.get_close_matches(name.lower().removesuffix("session"), BACKENDS, 1, 0.7)
    hint = f"; did you mean {near[0]}?" if near else ""
    name = name if "." in name or name.endswith("Session") else f"{name.title()}Session"
    what = f"one of {', '.join(BACKENDS)}{hint}; a class of your own, or of an add-on, is {options.PREFIX}storage_class"
    raise ConfigError(f"{options.PREFIX}storage_type is {storage_type!r}: it must be {what} = {name}")


def known_options() -> set[str]:
    """Return the options of every backend of this package."""
    return {name for storage_type in BACKENDS for name in options.store_options(backend(storage_type))}


def check_names(given: Mapping[str, Any], on: bool = True) -> None:
    """Refuse an unknown option. One of another backend passes: changing the profile stays one line.

    Args:
        given: the options.
        on: whether sessions are on with them; if not, only the names of an older CherryPy are refused.
    """
    known = set(options.COMMON)
    try:
        known.update(options.store_options(session_class(given)))
    except ConfigError:  # there is no such class, and so nothing known of its options: that is refused at the start
        return
    if not known.issuperset(given):  # only now all backends are imported
        known |= known_options()
    for name in given:
        if name not in known:
            from . import old_names  # only for who needs it

            if found := old_names.find(options.PREFIX + name):
                old_names.refuse("", options.PREFIX + name, given[name], found)
            if not on:
                continue
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f"{options.PREFIX}{name} is an unknown option of sessions: {hint}")


def is_cherrypy_class(given: Mapping[str, Any]) -> bool:
    """Return whether `storage_class` was written for CherryPy's own tool; its stock classes are answered by ours."""
    chosen = chosen_class(given)
    return isinstance(chosen, type) and issubclass(chosen, theirs.Session) and chosen not in _STOCK


class Cleaner:
    """Removes expired sessions every so often (rule 18). Not a subclass of Thread: one that is made before gevent puts
    its own in that place cannot be joined."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._thread = threading.Thread(target=self._run, name=f"cleaner of {type(store).__name__}", daemon=True)
        self._store, self._seconds, self._stopped = store, seconds, threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.clean()
                self._store.checkpoint()
            except Exception:
                log.exception("cleaning the sessions failed; it is tried again in %g s", self._seconds)

    def clean(self) -> None:
        """Remove all that has expired, in batches."""
        while self._store.purge(_BATCH) == _BATCH and not self._stopped.wait(_PAUSE):
            pass

    def stop(self) -> None:
        """End the thread and wait until it has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()


def _name(settings: Settings) -> str:
    """Return what tells the stores of an application apart."""
    store_class = settings.storage_class.store_class
    return f"{store_class.__module__}.{store_class.__qualname__} {settings.name} {settings.store!r}"


def _with_store(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Return the settings of the same sessions in another store, of whose options only those of the store count."""
    check_names(given)
    storage_class = session_class(given)
    store = options.parse({name: one for name, one in given.items() if name not in options.COMMON}, storage_class).store
    return replace(settings, storage_class=storage_class, store=store, moving_from=None, moving_to=None)


Found = tuple[Settings, Store] | None  # None for a class written for CherryPy's own tool


class _Opened:
    """What is open for one application, which has it as an attribute: each request looks here."""

    def __init__(self) -> None:
        self.found: dict[Any, Found] = {}  # by the options of a request
        self.stores: dict[str, Store] = {}
        self.cleaners: dict[Store, Cleaner] = {}
        self.foreign_cookies: set[str] = set()  # of classes written for CherryPy's own tool


class StoreRegistry:
    """Finds the store of an application and its options, or opens it.

    Applications do not see each other's sessions: each has stores of its own in the process, and its keys a prefix,
    made from where it is mounted. Two processes of one application have the same prefix, and share.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._apps: weakref.WeakSet[Any] = weakref.WeakSet()

    def lookup(self, app: Any, given: Mapping[str, Any]) -> Found:
        """Return the settings and the store of a request; worked out once, for they are the same for thousands."""
        found = self._opened(app).found
        key: Any = tuple(given.items())
        try:
            hash(key)
        except TypeError:  # an option that is a list
            key = repr(given)
        if key not in found:
            found[key] = self._build(app, given)
        return found[key]

    def _opened(self, app: Any) -> _Opened:
        with self._mutex:
            if "session_stores" not in vars(app):
                app.session_stores = _Opened()
                self._apps.add(app)
            return cast(_Opened, app.session_stores)

    def _build(self, app: Any, given: Mapping[str, Any]) -> Found:
        if is_cherrypy_class(given):
            return None
        wait_for_drop()
        settings, store = self.open(app, given)
        if not store.capabilities.shared and cherrypy.serving.request.wsgi_environ.get("wsgi.multiprocess"):
            what = "has sessions of its own: start a single one, or choose another storage_type"
            log.warning("%s: each process of the server %s", type(store).__name__, what)
        cleaners = self._opened(app).cleaners
        with self._mutex:  # not at the start of the site: a server that forks afterwards would leave the thread behind
            if settings.clean_freq and store not in cleaners:
                cleaners[store] = Cleaner(store, settings.clean_freq * 60)
                cleaners[store].start()
        if settings.debug:
            subscribe(_log_steps)
        return settings, store

    def open(self, app: Any, given: Mapping[str, Any]) -> tuple[Settings, Store]:
        """Check the options of the tool and open their store, unless it is open."""
        if not isinstance(cherrypy.serving, threading.local):
            why = "what it keeps for each thread, such as the session, would be shared by all visitors"
            raise ConfigError(f"gevent has replaced Python's threads after CherryPy was imported: {why}. Do it before")
        check_names(given)
        settings = options.parse(given, session_class(given))
        name = _name(settings)
        with self._mutex:
            stores = self._opened(app).stores
            if name not in stores:
                stores[name] = self._new_store(app, settings)
                ours, stock = settings.storage_class, chosen_class(given)
                if stock in _STOCK:
                    log.info("%s of CherryPy is answered by sessions.%s", stock.__name__, ours.__name__)
            return settings, stores[name]

    def _new_store(self, app: Any, settings: Settings) -> Store:
        with as_served():
            store: Store = settings.storage_class.store_class(**dict(settings.store))
        # With the cookie's name: an id that somebody has for the shop must not open what the pages of its staff keep
        # under a cookie of their own. `app.script_name` would ask the request, if there is one.
        place = f"{app._script_name or ''} {settings.name}"
        store.namespace = hashlib.sha256(place.encode()).hexdigest()[:8] + "-"
        store.cookie_name = settings.name
        store.locks.max_waiting = settings.max_waiting
        for option in ("moving_from", "moving_to"):
            if (given := getattr(settings, option)) is not None:
                return self._moving(app, settings, store, option, given)
        return store

    def _moving(self, app: Any, settings: Settings, store: Store, option: str, given: Mapping[str, Any]) -> Store:
        """Put a store together with the one that sessions move from, or to."""
        with ExitStack() as opened:
            opened.callback(store.close)
            try:
                others = _with_store(settings, given)
                if _name(others) != _name(settings):
                    other = self._new_store(app, others)
                    opened.callback(other.close)
                    from_there = option == "moving_from"
                    store = MovingStore(*((other, store) if from_there else (store, other)), takes_over=from_there)
                else:  # a site that has gone back, with the option still in a file
                    log.warning("%s names the store that is in use: nothing moves", option)
            except ConfigError as error:
                raise ConfigError(f"{options.PREFIX}{option}: {error}") from error
            opened.pop_all()
        return store

    def stores(self, app: Any) -> list[Store]:
        """Return the open stores of an application."""
        with self._mutex:
            return list(self._opened(app).stores.values())

    def close(self, app: cherrypy.Application = None) -> None:
        """Close the stores of an application, or of all. The next request opens them again."""
        with self._mutex:
            apps = set(self._apps) if app is None else {app}
            closing = [vars(one).pop("session_stores") for one in apps if "session_stores" in vars(one)]
            self._apps -= apps
        for opened in closing:
            for store in opened.stores.values():
                if store in opened.cleaners:
                    opened.cleaners[store].stop()
                try:
                    store.close()
                except Exception:  # the others still have to be closed
                    log.exception("closing a %s failed", type(store).__name__)


registry = StoreRegistry()  # the one of this process
close_stores = registry.close


def _log_steps(event: Event) -> None:  # of the requests that ask for it, by `debug`
    session = getattr(cherrypy.serving.request, "session", None)
    if session is not None and session.settings.debug and event.name not in LOGGED:
        write_to_log(event)


def open_all() -> None:
    """Open the stores of all mounted applications, or end the program with one line that says what is wrong."""
    try:
        if pending_drop():  # what the site has opened as root
            close_stores()
        for app in list(cherrypy.tree.apps.values()):
            if isinstance(app, cherrypy.Application):  # the tree may hold any WSGI application
                for _, store in open_stores(app):
                    with as_served():
                        store.start()
    except SessionError as error:
        cherrypy.engine.stop()
        cherrypy.engine.state = cherrypy.engine.states.EXITING  # else CherryPy warns that it was not stopped
        raise SystemExit(f"sessions: {error}") from error


def open_stores(app: cherrypy.Application) -> list[tuple[Settings, Store]]:
    """Check every session option of an application, wherever it is set, and open its stores.

    Returns:
        Each store with its settings; of two places with one store, those of the one nearer to the root.

    Raises:
        ConfigError: an option is unknown, missing or malformed, or a store cannot be opened.
        Unavailable: a store does not answer.
    """
    found: dict[Store, Settings] = {}
    options.check_app(app)
    for given in options.configured_or_off(app):
        if not given.pop("on", False):
            if not is_cherrypy_class(given):
                check_names(given, on=False)
        elif is_cherrypy_class(given):
            compat.check(given, chosen_class(given))
            registry._opened(app).foreign_cookies.add(given.get("name", "session_id"))
        else:
            settings, store = registry.open(app, given)
            found.setdefault(store, settings)
    return [(settings, store) for store, settings in found.items()]


def cookie_names() -> set[str]:
    """Return the names of the cookies that open sessions of this application: who shows cookies must hide these."""
    request = cherrypy.serving.request
    opened = registry._opened(request.app)
    name = str(request.config.get("tools.sessions.name", "session_id"))
    return {name, *(store.cookie_name for store in registry.stores(request.app)), *opened.foreign_cookies}
