"""Which of the profiles could run here: for pages that compare them, or start a site with one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cherrypy

import sessions
from sessions import options, registry

_LOOK_AGAIN = 60.0  # seconds: looking for servers that are not there takes some


class Availability:
    """Which profiles could run here.

    Args:
        profiles: the session options of each profile, without `tools.sessions.`, as they would be used here. It opens
            the store of each for a moment; empty for a site that others visit.
    """

    def __init__(self, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        self._profiles = profiles
        self._mutex = threading.Lock()
        self._looked_at = float("-inf")
        self._states: dict[str, str] = {}

    def states(self, running: str) -> dict[str, str]:
        """What would become of each profile, were the site started with it now; the one that is running is."""
        with self._mutex:
            if time.monotonic() - self._looked_at > _LOOK_AGAIN:
                others = [name for name in self._profiles if name != running]
                with ThreadPoolExecutor(len(others) or 1) as pool:
                    self._states = dict(zip(others, pool.map(self._try, others), strict=True))
                self._looked_at = time.monotonic()
            return {**self._states, running: "running"}

    def _try(self, name: str) -> str:
        """Open the store of a profile for a moment. What is wrong goes to the log: it may name paths and servers."""
        try:
            given = self._profiles[name]
            settings = options.parse(given, registry.session_class(given))
            store = settings.storage_class.store_class(**dict(settings.store))
            try:
                store.ping()
            finally:
                store.close()
        except (sessions.ConfigError, sessions.StoreError) as error:
            cherrypy.log(f"The profile {name} could not run here: {error}", "BACKENDS", logging.WARNING)
            return "unset" if isinstance(error, sessions.ConfigError) else "away"
        return "ready"
