"""Where tries are counted: storages of the library `limits` that can also give a try back."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from limits.storage import MemcachedStorage, MovingWindowSupport, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from sessions.events import log_event

T = TypeVar("T")

ENTRIES = 50_000  # windows in the memory of a process, however many names are tried
_OLDEST = 8  # of which the one with the fewest tries has to go
_CONNECT, _ANSWER = 0.5, 1.0  # seconds
_RETRY = 10.0  # seconds after which a server that did not answer is asked again


class Memory(Storage, MovingWindowSupport):
    """Keeps moving windows in the memory of this process.

    Rejected: the library's MemoryStorage (5.8). It keeps every key for ever, and walks through all of them, in a thread
    of its own, after each try.
    """

    base_exceptions = ()
    incr = get = get_expiry = check = reset = NotImplemented  # of windows that do not move

    def __init__(self) -> None:
        self._windows, self._lock = OrderedDict[str, list[float]](), threading.Lock()  # used least recently first

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        with self._lock:
            window = self._window(key, expiry)
            if len(window) >= limit:
                return False
            self._windows[key] = [*window, time.time()]
            if len(self._windows) > ENTRIES:
                # If it were always the oldest, made-up names would push out the account that is under attack.
                oldest = islice(self._windows, _OLDEST)
                del self._windows[min(oldest, key=lambda old: len(self._windows[old]))]
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        with self._lock:
            window = self._window(key, expiry)
            return window[0] if window else time.time(), len(window)

    def give_back(self, key: str, expiry: int) -> None:
        with self._lock:
            self._windows[key] = self._window(key, expiry)[:-1]
            self._window(key, expiry)

    def clear(self, key: str) -> None:
        with self._lock:
            self._windows.pop(key, None)

    def _window(self, key: str, expiry: int) -> list[float]:
        """Return what counts still; asking on and on keeps the window that refuses, and an empty one goes."""
        window = [moment for moment in self._windows.pop(key, ()) if moment > time.time() - expiry]
        if window:
            self._windows[key] = window
        return window


class Redis(RedisStorage):
    """Keeps moving windows in Redis or Valkey, under names that the user of the sessions may write."""

    def __init__(self, url: str) -> None:
        from redis.backoff import NoBackoff
        from redis.connection import ConnectionPool, parse_url
        from redis.retry import Retry

        bounds = {"socket_timeout": _ANSWER, "socket_connect_timeout": _CONNECT, "retry": Retry(NoBackoff(), 0)}
        pool = ConnectionPool(**parse_url(url) | bounds | {"retry_on_timeout": False})
        super().__init__("redis://", connection_pool=pool, key_prefix="sessions:throttle")

    def give_back(self, key: str, expiry: int) -> None:
        self.storage.lpop(self.prefixed_key(key))


class Memcached(MemcachedStorage):
    """Keeps two counters for each window in Memcached: in the first server of several, for pymemcache lets through what
    it cannot count on one that has failed."""

    def __init__(self, servers: str | list[str]) -> None:
        from pymemcache.client import PooledClient

        first = min(one.strip() for one in (servers.split(",") if isinstance(servers, str) else servers))
        client = PooledClient(first, connect_timeout=_CONNECT, timeout=_ANSWER, no_delay=True, pool_idle_timeout=60)
        super().__init__(f"memcached://{first}", client_getter=lambda *_: client)
        weakref.finalize(self, client.close)

    def give_back(self, key: str, expiry: int) -> None:
        self.storage.decr(self.sliding_window_keys(key, expiry, time.time())[1], 1)


class Counters:
    """The server of the sessions, where that can count, so that processes do it together; or the memory of this one, as
    where that is a cluster: its client (redis 8.1) waits in the request for each server that hangs.

    While the server does not answer the memory goes on. To let everything through would be a reason to attack the
    server, and to refuse everybody would lock out the owners.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Take the options of the session tool, as the configuration names them."""
        self._options, self._down_until = options, 0.0
        self._memory = MovingWindowRateLimiter(Memory())

    @cached_property
    def _shared(self) -> RateLimiter | None:  # made when it is needed: the session tool says what is wrong at a start
        kind, url = (self._options.get(f"tools.sessions.{option}") for option in ("storage_type", "url"))
        if kind == "redis" and not (self._options.get("tools.sessions.cluster") or "," in url):
            return MovingWindowRateLimiter(Redis(url))
        if kind == "memcached":
            return SlidingWindowCounterRateLimiter(Memcached(self._options["tools.sessions.servers"]))
        return None

    def ask(self, question: Callable[[RateLimiter], T]) -> T:
        """Return the answer to a question: the server's, or else the memory's."""
        down = self._down_until
        if self._shared and time.monotonic() >= down:
            self._down_until = down and time.monotonic() + _RETRY  # one finds out, and the others do not wait for it
            try:
                answer = question(self._shared)
                self._down_until = 0.0
                return answer
            except (OSError, self._shared.storage.base_exceptions) as error:
                if not down:
                    log_event("tries are counted in this process alone", level=logging.WARNING, reason=error)
                self._down_until = time.monotonic() + _RETRY
        return question(self._memory)
