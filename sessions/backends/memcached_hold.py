"""How a session in Memcached is held.

A session is one item, sessions:KEY, and its lock another, sessions:KEY:lock, on the same server. Each request makes two
round trips: 'set the lock if there is none, get the session', and 'set the session if it is as it was read, delete the
lock if it is still mine'.

The lock is a lease: the server drops it after some seconds, in case its holder never comes back. So a holder may lose
it unaware, and what makes its save safe is not the lock but the comparison: the server stores a record only in place
of the very one that was read (compare-and-swap).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..record import Record, reference
from ..store import Hold, log
from .memcached_server import Reply

if TYPE_CHECKING:
    from .memcached import MemcachedStore

_MONTH = 30 * 86400  # seconds; the server takes a larger number for a date
_LAST_DATE = 2**31 - 1  # and later ones for the past


def item(key: str) -> bytes:
    """The server's name for the record of a session."""
    return b"sessions:" + key.encode()


def lock_of(key: str) -> bytes:
    """The server's name for the lock of a session."""
    return item(key) + b":lock"


def to_get(key: str) -> bytes:
    """The command that reads a session."""
    return b"mg %b v c" % item(key)


def expiry(seconds: int) -> int:
    """How the server is told that an item lives so many seconds: as a date, if they are more than a month."""
    return seconds if seconds <= _MONTH else min(int(time.time()) + seconds, _LAST_DATE)


class MemcachedHold(Hold):
    """Holds a session by an item that exists as long as the lock does."""

    __slots__ = ("_cas", "_ends", "_found", "_lock", "_orphan", "_server", "_tried", "_values")

    def __init__(self, store: MemcachedStore, key: str) -> None:
        super().__init__(store, key, None)
        self._values = store
        self._server = store.server(key)
        self._lock = 0  # the number of our lock; 0 while there is none
        self._orphan = 0  # and of one that an earlier request of this process has left behind
        self._ends = 0.0  # when the lease runs out at the earliest, by time.monotonic()
        self._cas = 0  # the number of the state that was read
        self._found: Reply | None = None
        self._tried = False

    def try_lock(self) -> bool:
        """Take the lock if nobody has it. The first try brings the record, too; while others hold the session it may
        be large, and there may be many tries.

        An answer that never came leaves a lock behind of which nobody knows. It has the token of this process, of
        which the one thread that may lock this session is here: so that lock is nobody's, and is taken away.
        """
        commands = [b"md %b C%d" % (lock_of(self._key), self._orphan)] if self._orphan else []
        token = self._values.token
        commands += [
            b"ms %b %d ME T%d c\r\n%b" % (lock_of(self._key), len(token), self._values.lease, token),
            b"mg %b v c" % lock_of(self._key),
        ]
        if not self._tried:
            commands.append(to_get(self._key))
        now = time.monotonic()
        locked, holder, *found = self._server.send(*commands)[1 if self._orphan else 0 :]
        self._tried = True
        if locked.status != b"HD":
            self._orphan = holder.cas if holder.value == token else 0
            return False
        self._lock, self._found = locked.cas, found[0] if found else None
        self._ends = now + self._values.lease - 1  # the server counts whole seconds
        return True

    def read(self) -> None:
        """Load the record, if it did not come with the lock."""
        found = self._found or self._server.send(to_get(self._key))[0]
        self._found, self._cas = None, found.cas
        self.record = self._values.read(self._key, found)

    def _commit(self, record: Record) -> bool:
        if time.monotonic() > self._ends and not self._lock_again():
            return self._too_late()
        command = self._values.to_set(self._key, record, b"C%d" % self._cas)
        status = self._server.send(command, self._to_unlock())[0].status
        if status == b"HD":
            self._list_again(record)
            return True
        return status == b"EX" and self._too_late()

    def _list_again(self, record: Record) -> None:
        """A renewed session is put into the list of its user anew: the list must last as long, and may be lost."""
        before = self.record
        if before and record.user and (record.user, record.deadline) != (before.user, before.deadline):
            try:
                self._values.users.add(self._key, record)
            except Unavailable as error:  # the session is saved; the next renewal does it
                log.warning("session %s may be missing in the list of its user: %s", reference(self._key), error)

    def _lock_again(self) -> bool:
        """Whether the lease can be had anew. The comparison then tells whether the session was changed meanwhile."""
        self._orphan, self._lock = self._lock, 0  # maybe it is still there, and runs out any moment
        return self.try_lock()

    def _too_late(self) -> bool:
        log.warning(
            "session %s: its lock, a lease of %d s, was lost and another request took it; nothing was saved",
            reference(self._key), self._values.lease,
        )  # fmt: skip
        return False

    def _to_unlock(self) -> bytes:
        """The command that lets go, if the lock is still ours. It is given once: a server that does not answer it is
        not asked again in the same request."""
        lock, self._lock = self._lock, 0
        return b"md %b C%d" % (lock_of(self._key), lock)

    def _delete(self) -> None:
        self._server.send(b"md " + item(self._key), self._to_unlock())

    def _unlock(self) -> None:
        if self._lock:
            try:
                self._server.send(self._to_unlock())
            except Unavailable as error:  # the page has what it needs, and the lease ends by itself
                log.warning("session %s could not be unlocked: %s", reference(self._key), error)
