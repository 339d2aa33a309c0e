"""Fair, counted, per-key locks for the threads of one process.

Every backend waits here first: of all the threads that want one session, a single one goes on to the file, the
server or the database. So nobody polls against a neighbour thread and no waiting thread holds a connection.

`threading.Lock` per key was the simpler way. It is not fair (a thread that releases and takes again usually wins over
one that has waited for seconds), and the table of locks either grows with every session ever seen or is cleaned by
guessing who still needs an entry. Here an entry exists exactly while its key is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import LockTimeout
from .events import publish, watchers

MAX_WAITING = 100
"""Threads of this process that may wait for sessions at once; one more is refused at once. It bounds what a visitor
who opens a thousand requests on one busy session can cost everybody else."""

MAX_WAITING_FOR_ONE = 40
"""Of these, how many may wait for one session: the rest is for everybody else's."""


class Waiting:
    """How many threads wait for a session right now, whichever store they wait in.

    `changed` (if somebody sets it) is called with the new number after each change; it must return quickly.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self.limit = limit
        self.count = 0
        self.changed: Callable[[int], None] | None = None
        self._mutex = threading.Lock()

    def _add(self, n: int) -> None:
        with self._mutex:
            if n > 0 and self.count >= self.limit:
                raise LockTimeout(f"{self.count} requests are waiting for sessions already")
            self.count += n
            count = self.count
        if self.changed is not None:
            self.changed(count)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count this thread as waiting.

        Raises:
            LockTimeout: as many threads as may are waiting already.
        """
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)


waiting = Waiting()
"""The one count of this process."""


class _Waiter:
    """A thread in the queue; its gate opens when the key has been handed to it."""

    __slots__ = ("gate", "owns")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.owns = False


class FairLocks:
    """Locks by key, first come first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queues: dict[str, deque[_Waiter]] = {}  # a key is here while it is held

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._queues)

    def acquire(self, key: str, timeout: float) -> None:
        """Take the lock of `key`, waiting at most `timeout` seconds.

        Raises:
            LockTimeout: it was not free in time, or too many threads wait already.
        """
        with self._mutex:
            queue = self._queues.get(key)
            if queue is None:
                self._queues[key] = deque()
                return
            if len(queue) >= MAX_WAITING_FOR_ONE:
                raise LockTimeout(f"{len(queue)} requests are waiting for this session already")
            waiter = _Waiter()
            queue.append(waiter)
            ahead = len(queue)
        if watchers:
            publish("queued", key, ahead=ahead)
        try:
            with waiting.one_more():
                waiter.gate.acquire(timeout=max(timeout, 0))
        except BaseException:
            if self._leave(key, waiter):  # handed over just as this thread was refused
                self.release(key)
            raise
        if not self._leave(key, waiter):
            raise LockTimeout(f"the session was locked by another request for {timeout:.3g} seconds")

    def _leave(self, key: str, waiter: _Waiter) -> bool:
        """Whether `waiter` was handed the key; if not, it stops queueing. The mutex decides a photo finish."""
        with self._mutex:
            if not waiter.owns:
                self._queues[key].remove(waiter)
            return waiter.owns

    def try_acquire(self, key: str) -> bool:
        """Take the lock of `key` if nobody has it; never waits."""
        with self._mutex:
            if key in self._queues:
                return False
            self._queues[key] = deque()
            return True

    def release(self, key: str) -> None:
        """Hand the lock of `key` to the thread that has waited longest, or forget the key."""
        with self._mutex:
            queue = self._queues[key]
            if not queue:
                del self._queues[key]
                return
            waiter = queue.popleft()
            waiter.owns = True
            waiter.gate.release()
        time.sleep(0)  # let it run now: it would get the interpreter only when this thread has sent its whole answer


def poll(attempt: Callable[[], bool], timeout: float, what: str) -> None:
    """Repeat `attempt` until it is true, for locks that other processes hold and that cannot be waited for otherwise.

    The pauses grow from half a millisecond to eight: short against a page, and under one percent of a core for a wait
    of seconds. Only the one thread that won the lock of the process polls.

    Raises:
        LockTimeout: `attempt` stayed false for `timeout` seconds; the message says `what` was waited for.
    """
    if attempt():
        return
    end = time.monotonic() + timeout
    pause = 0.0005
    with waiting.one_more():
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise LockTimeout(f"{what} was locked by another process for {timeout:.3g} seconds")
            time.sleep(min(pause, left))
            if attempt():
                return
            pause = min(pause * 2, 0.008)
