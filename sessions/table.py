"""The table of open stores: one per application and settings, open from the start of the site to its end."""

from __future__ import annotations

import hashlib
import threading
import weakref
from typing import Any

from .store import Store, log

_BATCH = 100  # records a cleaning removes before it lets others have the store: with 500 files, pages felt it
_PAUSE = 0.01  # seconds it lets them have it


class Cleaner(threading.Thread):
    """Removes expired sessions every so often. Only the store knows how; no visitor ever pays for it (rule 18)."""

    def __init__(self, store: Store, seconds: float) -> None:
        super().__init__(name=f"cleaner of {type(store).__name__}", daemon=True)
        self._store = store
        self._seconds = seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Clean until `stop`. What goes wrong is logged and tried again the next time."""
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
        if self.is_alive():
            self.join()


def _namespace(app: Any, cookie_name: str) -> str:
    """What the keys of an application begin with; those for cookies of another name do not open these. Else an id that
    somebody has for the shop would open what the pages of its staff keep under a cookie of their own."""
    # The private name: the property asks the current request where an application is mounted nowhere fixed.
    place = f"{app._script_name or ''} {cookie_name}"
    return hashlib.sha256(place.encode()).hexdigest()[:8] + "-"


class OpenStores:
    """Finds the store of an application and its settings, or opens it.

    Applications do not see each other's sessions: each has stores of its own in the process, and where two of them keep
    their sessions in one place, a prefix of the keys, made from the path the application is mounted at. Two processes
    of one application have the same prefix, and share.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._stores: weakref.WeakKeyDictionary[Any, dict[str, Store]] = weakref.WeakKeyDictionary()
        self._cleaners: weakref.WeakKeyDictionary[Store, Cleaner] = weakref.WeakKeyDictionary()

    def open(self, app: Any, store_class: type[Store], options: tuple[tuple[str, Any], ...], cookie_name: str) -> Store:
        """The store of `app` (a cherrypy.Application) with these options, for cookies of this name.

        Raises:
            ConfigError, Unavailable: it cannot be opened.
        """
        settings = f"{store_class.__module__}.{store_class.__qualname__} {cookie_name} {options!r}"
        with self._mutex:
            stores = self._stores.setdefault(app, {})
            if settings not in stores:
                store = store_class(**dict(options))
                store.namespace = _namespace(app, cookie_name)
                store.cookie_name = cookie_name
                stores[settings] = store
            return stores[settings]

    def of(self, app: Any) -> list[Store]:
        """The open stores of an application."""
        with self._mutex:
            return list(self._stores.get(app, {}).values())

    def clean_every(self, store: Store, minutes: float) -> None:
        """Start the store's cleaner unless it has one. Not at the start of the site: a server that forks its workers
        afterwards would leave the threads behind."""
        if not minutes or store in self._cleaners:
            return
        with self._mutex:
            if store not in self._cleaners:
                cleaner = self._cleaners[store] = Cleaner(store, minutes * 60)
                cleaner.start()

    def close(self, app: Any = None) -> None:
        """Close the stores of an application, or all."""
        with self._mutex:
            closing = [
                (store, self._cleaners.pop(store, None))
                for owner in ([app] if app is not None else list(self._stores))
                for store in self._stores.pop(owner, {}).values()
            ]
        for store, cleaner in closing:
            if cleaner:
                cleaner.stop()
            try:
                store.close()
            except Exception:  # the others still have to be closed
                log.exception("closing a %s failed", type(store).__name__)


stores = OpenStores()
"""The one table of this process."""
