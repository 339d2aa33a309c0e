"""Fair locks by key for the threads of one process, and how many threads may wait for them.

Every backend waits here first: of all the threads that want one session, a single one goes on to the file, the
server or the database. So nobody polls against a neighbour thread and no waiting thread holds a connection.

A `threading.Lock` for each key is not fair (a thread that releases and takes again usually wins over one that has
waited for seconds), and a table of them grows, or is cleaned by guessing. Here an entry exists while its key is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cherrypy

from .errors import LockTimeout, TooManyWaiting, Unavailable
from .events import log, publish

MAX_WAITING = 500  # of which a browser may need many: HAProxy passes 100 requests on at once, nginx 128, Caddy 250
_FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.02  # seconds between two tries for an outer lock
IDLE_SECONDS = 10.0  # without a waiting thread, before the threads that were added for them go


class Waiting:
    """How many threads wait for a session right now, whichever store they wait in."""

    def __init__(self) -> None:
        self.count = 0
        self.changed: Callable[[int], None] | None = None  # called with the new number; it must return quickly
        self._mutex = threading.Lock()

    def _add(self, n: int, limit: int = 0, place: int = 0) -> None:
        with self._mutex:
            if n > 0 and self.count + place > limit:
                they = f"{self.count} requests wait for sessions, {place - 1} of them for this one"
                raise TooManyWaiting(f"{they}: tools.sessions.max_waiting is {limit}")
            self.count += n
            count = self.count
        if self.changed is not None:
            self.changed(count)

    @contextmanager
    def one_more(self, limit: int, place: int = 1) -> Iterator[None]:
        """Count this thread as waiting, or raise TooManyWaiting.

        Args:
            limit: how many threads may wait, for all sessions together.
            place: of this thread among those that wait for the same session. They take at most as many places as they
                leave to others, so there is always room for one more session.
        """
        self._add(1, limit, place)
        try:
            yield
        finally:
            self._add(-1)


waiting = Waiting()  # the one count of this process


class _Waiter:
    """A thread in the queue."""

    __slots__ = ("event", "granted", "refusal")

    def __init__(self) -> None:
        self.event = threading.Lock()  # opens when the wait is over
        self.event.acquire()
        self.granted = False  # whether the key was handed to the thread
        self.refusal: Unavailable | None = None  # why it will not be


class _Queue(deque[_Waiter]):
    turns = 0  # of threads that were handed the key since nobody waited for it
    since = 0.0  # when the last 16 of them began


class FairLocks:
    """Locks by key, first come first served. With `stand_back`, every 16th thread in a row waits for a moment before it
    goes on, so that other processes do not find the outer lock free only by chance (see `poll`)."""

    def __init__(self, stand_back: bool = False) -> None:
        self.max_waiting = MAX_WAITING
        self._stand_back = stand_back
        self._mutex = threading.Lock()
        self._queues: dict[str, _Queue | None] = {}  # a key is here while it is held; None: nobody waits

    def __len__(self) -> int:
        """Return how many keys are held."""
        return len(self._queues)

    def acquire(self, key: str, timeout: float) -> float:
        """Take the lock of `key`, waiting at most `timeout` seconds. Return the seconds that are left.

        Raises:
            LockTimeout: it was not free in time.
            TooManyWaiting: `max_waiting` does not leave a place.
            Unavailable: the holder found that the store does not answer; see `refuse`.
        """
        with self._mutex:
            if key not in self._queues:
                self._queues[key] = None
                return timeout
            queue = self._queues[key]
            if queue is None:
                queue = self._queues[key] = _Queue()
                queue.since = time.monotonic()
            waiter = _Waiter()
            queue.append(waiter)
            ahead = len(queue)
        end = time.monotonic() + timeout
        publish("queued", key, ahead=ahead)
        try:
            with waiting.one_more(self.max_waiting, ahead):
                waiter.event.acquire(timeout=max(timeout, 0))
        except BaseException:
            if self._leave(key, waiter):  # handed over just as this thread was refused
                self.release(key)
            raise
        if not self._leave(key, waiter):
            raise waiter.refusal or LockTimeout(f"the session was locked by another request for {timeout:.3g} seconds")
        if self._stand_back and queue.turns % 16 == 0:
            turns_took = time.monotonic() - queue.since
            time.sleep(min(max(turns_took / 12, 4 * _FIRST_PAUSE), LONGEST_PAUSE + _FIRST_PAUSE))
            queue.since = time.monotonic()
        return end - time.monotonic()

    def _leave(self, key: str, waiter: _Waiter) -> bool:
        """Return whether `waiter` was handed the key; if not, it stops queueing. The mutex decides a photo finish."""
        with self._mutex:
            queue = self._queues.get(key)
            if not waiter.granted and queue and waiter in queue:
                queue.remove(waiter)
            return waiter.granted

    def try_acquire(self, key: str) -> bool:
        """Take the lock of `key` if nobody has it, without waiting. Return whether it was free."""
        with self._mutex:
            if key in self._queues:
                return False
            self._queues[key] = None
            return True

    def refuse(self, key: str, error: Unavailable) -> None:
        """Let those who wait for `key` fail with the error that its holder has met. Each would wait as long as the
        holder has before it knew, and the last of many for a multiple of it."""
        with self._mutex:
            queue, self._queues[key] = self._queues[key], None
            for waiter in queue or ():
                waiter.refusal = Unavailable(*error.args)  # each thread raises one of its own
                waiter.event.release()

    def release(self, key: str) -> None:
        """Hand the lock of `key` to the thread that has waited longest, or forget the key."""
        with self._mutex:
            queue = self._queues[key]
            if not queue:
                del self._queues[key]
                return
            waiter = queue.popleft()
            waiter.granted = True
            queue.turns += 1
            waiter.event.release()
        time.sleep(0)  # let it run now: it would get the interpreter only when this thread has sent its whole answer


def poll(attempt: Callable[[], bool], timeout: float, what: str, max_waiting: int = MAX_WAITING) -> None:
    """Repeat `attempt` until it is true, for locks that other processes hold and that cannot be waited for otherwise.

    The pauses grow with the wait, from one millisecond to twenty: little is lost when the lock is free soon, and a wait
    of seconds takes under one percent of a core. Each is shorter than the moment for which the threads of another
    process stand back in that time, so nobody starves.

    Raises:
        LockTimeout: `attempt` stayed false for `timeout` seconds; the message says `what` was waited for.
        TooManyWaiting: as many threads as may wait do already.
    """
    if attempt():
        return
    end = time.monotonic() + timeout
    with waiting.one_more(max_waiting):
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(max((timeout - left) / 32, _FIRST_PAUSE), LONGEST_PAUSE, left))
            if attempt():
                return
    raise LockTimeout(f"{what} was locked by another process for {timeout:.3g} seconds")


class ThreadPoolScaler:
    """Lets the thread pool of `cherrypy.server` grow while its threads wait for sessions (rule 6): ten requests on one
    session whose page is slow, and a pool of ten has nobody left for other visitors."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Begin to watch. Does nothing under a server of another make."""
        pool = getattr(cherrypy.server.httpserver, "requests", None)
        if hasattr(pool, "grow") and hasattr(pool, "shrink"):
            self._stopped = False
            threading.Thread(target=self._run, args=(pool,), name="session thread pool", daemon=True).start()
            waiting.changed = lambda count: self._wake.set()

    def stop(self) -> None:
        """Stop watching; the server ends its threads itself."""
        waiting.changed = None
        self._stopped = True
        self._wake.set()

    def _run(self, pool: Any) -> None:
        added = 0
        while not self._stopped:
            woken = self._wake.wait(IDLE_SECONDS if added else None)
            self._wake.clear()
            wanted = -(-waiting.count // pool.min) * pool.min  # by whole pools: growing sleeps 0.1 s each time
            try:
                if wanted > added:
                    pool.grow(wanted - added)
                    added = wanted
                elif added and not woken and not wanted:
                    pool.shrink(0)  # forgets those that ended meanwhile, whom cheroot would count against these
                    pool.shrink(added)
                    added = 0
            except RuntimeError:  # the system gives no more threads; those that are there go on, and so does this one
                log.exception("the pool of worker threads could not grow")
