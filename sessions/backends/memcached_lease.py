"""The lock of a session in Memcached: an item that says who has it, kept alive while its holder works.

It is a lease: the server drops it after some seconds, so a killed process blocks nobody for longer than that, which is
well below `lock_timeout`. A page that works longer has its lease renewed: see `memcached_heartbeat.py`. What makes its
save safe is not the lease but the comparison in `MemcachedHold`.

Who waits leaves its name in a second item, so that a process in which there is always somebody who wants the session
does not keep it for itself: see `sessions/locks.py`. It is dropped soon after the one who waits asks no more.

Rejected: a lease of half a minute that nobody renews. The visitors of a killed process waited for it, and got a 503.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..record import reference
from ..store import log
from .memcached_server import Reply, Server

if TYPE_CHECKING:
    from .memcached import MemcachedStore

_IN_LINE = 2  # seconds that the server keeps the name of somebody who waits and asks no more


def item(key: str) -> bytes:
    """The server's name for the record of a session."""
    return b"sessions:" + key.encode()


def lock_of(key: str) -> bytes:
    """The server's name for the lock of a session."""
    return item(key) + b":lock"


def next_of(key: str) -> bytes:
    """The server's name for the item that says which process is the next to have the lock."""
    return item(key) + b":next"


class Lease:
    """The lock of one session, for the one thread of this process that may take it, and those it passes it on to.

    Attributes:
        began: when the thread that has it asked for it, by time.monotonic().
        asked: when the server was last asked that it live on.
    """

    __slots__ = (
        "_ends", "_failed", "_in_line", "_number", "_orphan", "_store", "_token",
        "asked", "began", "key", "server",
    )  # fmt: skip

    def __init__(self, store: MemcachedStore, key: str) -> None:
        self._store = store
        self.server: Server = store.server(key)
        self._token = store.token
        self.key = key
        self.began = self.asked = 0.0
        self._ends = 0.0  # when it runs out at the earliest
        self._number = 0  # of our lock; 0 while there is none
        self._orphan = 0  # and of one that an earlier request of this process has left behind
        self._failed = False
        self._in_line = False  # whether our name is in the item for the next

    @property
    def is_held(self) -> bool:
        return self._number != 0

    @property
    def may_be_over(self) -> bool:
        return time.monotonic() > self._ends

    def take(self, *more: bytes, again: bool = False) -> list[Reply] | None:
        """Take the lock if nobody has it, and no other process waits for it, unless this one had it just now; then the
        answers to the commands `more`, which go along.

        An answer that never came leaves a lock behind of which nobody knows. It has the token of this process, of
        which the one thread that may lock this session is here: so that lock is nobody's, and is taken away.
        """
        if self._failed and not self._queue():
            return None
        lock, token, now = lock_of(self.key), self._token, time.monotonic()
        commands = [
            b"ms %b %d ME T%d c\r\n%b" % (lock, len(token), self._store.lease, token),
            b"mg %b v c" % lock,
            b"mg %b v" % next_of(self.key),
            *more,
        ]
        if self._orphan:
            commands.insert(0, b"md %b C%d" % (lock, self._orphan))
        locked, holder, waits, *answers = self.server.send(*commands)[1 if self._orphan else 0 :]
        self._orphan = 0
        if locked.status != b"HD":
            self._orphan = holder.cas if holder.value == token else 0
            self._failed = True
            return None
        self._number, self.began = locked.cas, now
        self._lives(now)
        if not again and waits.value not in (None, token):
            self._failed = True
            self.server.send(self.to_let_go())
            return None
        self._store.heartbeat.watch(self)
        return answers

    def _lives(self, now: float) -> None:
        self.asked, self._ends = now, now + self._store.lease - 1  # the server counts whole seconds

    def goes_on(self) -> bool:
        """Whether the thread that it was passed on to has it; if so, its time counts anew."""
        if not self._number or self.may_be_over:
            self.abandon()
            return False
        self.began = time.monotonic()
        return True

    def take_again(self) -> bool:
        """Whether the lock can be had anew, after its time was over."""
        self._orphan, self._number = self._number, 0  # maybe it is still there, and runs out any moment
        self._failed = False
        return self.take(again=True) is not None

    def _queue(self) -> bool:
        """Whether no other process is next."""
        name = next_of(self.key)
        if self._in_line:
            found = self.server.send(b"mg %b v T%d" % (name, _IN_LINE))[0]
        else:
            add = b"ms %b %d ME T%d\r\n%b" % (name, len(self._token), _IN_LINE, self._token)
            found = self.server.send(add, b"mg %b v" % name)[1]
        self._in_line = found.value == self._token
        return self._in_line

    def to_leave_line(self) -> list[bytes]:
        """The command that takes our name away, if it is there."""
        in_line, self._in_line = self._in_line, False
        return [b"md " + next_of(self.key)] if in_line else []

    def to_let_go(self) -> bytes:
        """The command that takes the lock away, if it is still ours. It is given once: a server that does not answer it
        is not asked again in the same request."""
        self._store.heartbeat.forget(self)
        number, self._number = self._number, 0
        return b"md %b C%d" % (lock_of(self.key), number)

    def close(self) -> None:
        """Let go."""
        try:
            self.server.send(self.to_let_go())
        except Unavailable as error:  # the page has what it needs, and the lease ends by itself
            log.warning("session %s could not be unlocked: %s", reference(self.key), error)

    def abandon(self) -> None:
        """Let it end by itself. The next request of this process takes it for an orphan."""
        self._store.heartbeat.forget(self)
        self._number = 0

    def to_renew(self) -> bytes:
        return b"mg %b c T%d" % (lock_of(self.key), self._store.lease)

    def renewed(self, answer: Reply, asked: float) -> bool:
        """Take note of the answer. False if the lock is not ours any more."""
        if answer.cas != self._number:
            self._ends = 0.0
            return False
        self._lives(asked)
        return True
