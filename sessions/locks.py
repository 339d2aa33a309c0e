"""Fair, counted, per-key locks for the threads of one process.

Every backend waits here first: of all the threads that want one session, a single one goes on to the file, the
server or the database. So nobody polls against a neighbour thread and no waiting thread holds a connection.

`threading.Lock` per key was the simpler way. It is not fair (a thread that releases and takes again usually wins over
one that has waited for seconds), and the table of locks either grows with every session ever seen or is cleaned by
guessing who still needs an entry. Here an entry exists exactly while its key is held.

Between processes there is no queue, so the threads of one go through in rounds. The first of a round lets those go
ahead who wait in other processes already, and takes the lock that all of them see. It is then passed on within the
process to those who waited by then; whoever came later belongs to the next round. Two simpler ways failed. Where the
lock went to the next thread as long as anybody waited, a visitor at another process waited for ten turns and more.
Where it was let go at each turn, other processes broke into the rounds by chance, and each time waited some
milliseconds for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

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


class Lock(Protocol):
    """A lock that other processes see."""

    def close(self) -> None:
        """Let go of it."""


class _Queue(deque[_Waiter]):
    """Who waits for a key that is held."""

    turns = 0  # how many of them belong to this round
    passed: Lock | None = None  # what the next one gets from the one before


class FairLocks:
    """Locks by key, first come first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queues: dict[str, _Queue] = {}  # a key is here while it is held

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
                self._queues[key] = _Queue()
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
            self._queues[key] = _Queue()
            return True

    def begin_round(self, key: str) -> None:
        """The holder of `key` has the lock that other processes see. Those who wait now may have it next."""
        queue = self._queues[key]
        queue.turns = len(queue)

    def pass_on(self, key: str, lock: Lock) -> bool:
        """Leave that lock to the next thread, before `release`. False if there is none in this round."""
        queue = self._queues[key]
        if not queue or not queue.turns:
            return False
        queue.turns -= 1
        queue.passed = lock
        return True

    def passed(self, key: str) -> Any:
        """The lock that was left to the holder of `key`; None if it has to take one, as the first of a round."""
        queue = self._queues[key]
        passed, queue.passed = queue.passed, None
        return passed

    def release(self, key: str) -> None:
        """Hand the lock of `key` to the thread that has waited longest, or forget the key."""
        with self._mutex:
            queue = self._queues[key]
            waiter = queue.popleft() if queue else None
            if waiter:
                waiter.owns = True
                waiter.gate.release()
            else:
                del self._queues[key]
        if not waiter:
            if queue.passed:  # to somebody who has stopped waiting meanwhile
                queue.passed.close()
            return
        time.sleep(0)  # let it run now: it would get the interpreter only when this thread has sent its whole answer


def poll(attempt: Callable[[], bool], timeout: float, what: str) -> None:
    """Repeat `attempt` until it is true, for locks that other processes hold and that cannot be waited for otherwise.

    Each pause is an eighth of the time waited so far, so that little is lost when the lock is free, within half a
    millisecond and twenty: under one percent of a core for a wait of seconds. Only the one thread that won the lock of
    the process polls.

    Raises:
        LockTimeout: `attempt` stayed false for `timeout` seconds; the message says `what` was waited for.
    """
    if attempt():
        return
    began = now = time.monotonic()
    with waiting.one_more():
        while True:
            left = began + timeout - now
            if left <= 0:
                raise LockTimeout(f"{what} was locked by another process for {timeout:.3g} seconds")
            time.sleep(min(max((now - began) / 8, 0.0005), 0.02, left))
            if attempt():
                return
            now = time.monotonic()
