"""How a session in Memcached is held.

A session is one item, sessions:KEY, and its lock another, sessions:KEY:lock, on the same server. Each request makes two
round trips: 'set the lock if there is none, get the session', and 'set the session if it is as it was read, delete the
lock if it is still mine'.

The lock is a lease (see `memcached_lease.py`), and a holder may lose it unaware. What makes its save safe is not the
lock but the comparison: the server stores a record only in place of the very one that was read (compare-and-swap).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..record import Record, reference
from ..store import Hold, log
from .memcached_lease import Lease, item
from .memcached_server import Reply

if TYPE_CHECKING:
    from .memcached import MemcachedStore

_MONTH = 30 * 86400  # seconds; the server takes a larger number for a date
_LAST_DATE = 2**31 - 1  # and later ones for the past


def to_get(key: str) -> bytes:
    """The command that reads a session."""
    return b"mg %b v c" % item(key)


def expiry(seconds: int) -> int:
    """How the server is told that an item lives so many seconds: as a date, if they are more than a month."""
    return seconds if seconds <= _MONTH else min(int(time.time()) + seconds, _LAST_DATE)


class MemcachedHold(Hold):
    """Holds a session by a lease."""

    __slots__ = ("_cas", "_found", "_lease", "_passed", "_server", "_tried", "_values")

    def __init__(self, store: MemcachedStore, key: str, lease: Lease) -> None:
        super().__init__(store, key, None)
        self._values = store
        self._server = store.server(key)
        self._lease = lease
        self._cas = 0  # the number of the state that was read
        self._found: Reply | None = None
        self._tried = False
        self._passed = False  # the lease belongs to another thread by now

    def try_lock(self) -> bool:
        """Take the lock if nobody has it. The first try brings the record, too; while others hold the session it may
        be large, and there may be many tries."""
        more = [] if self._tried else [to_get(self._key)]
        self._tried = True
        found = self._lease.take(*more)
        self._found = found[0] if found else None
        return found is not None

    def read(self) -> None:
        """Load the record, if it did not come with the lock."""
        found = self._found or self._server.send(*self._lease.to_leave_line(), to_get(self._key))[-1]
        self._found, self._cas = None, found.cas
        self.record = self._values.read(self._key, found)

    def give_up(self) -> None:
        """Wait no more."""
        commands = self._lease.to_leave_line()
        if commands:
            self._server.send(*commands)

    def _commit(self, record: Record) -> bool:
        if self._lease.may_be_over and not self._lease.take_again():
            return self._too_late()  # else the comparison tells whether the session was changed meanwhile
        commands = [self._values.to_set(self._key, record, b"C%d" % self._cas)]
        if not self._pass_on():
            commands.append(self._lease.to_let_go())
        try:
            status = self._server.send(*commands)[0].status
        except Unavailable:
            self._lease.abandon()
            raise
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

    def _too_late(self) -> bool:
        log.warning(
            "session %s: its lock, a lease of %d s, was lost and another request took it; nothing was saved",
            reference(self._key), self._values.lease,
        )  # fmt: skip
        return False

    def _delete(self) -> None:
        self._server.send(b"md " + item(self._key), self._lease.to_let_go())

    def _unlock(self) -> None:
        if not self._passed and self._lease.is_held and not self._pass_on():
            self._lease.close()

    def _pass_on(self) -> bool:
        self._passed = self._values.locks.pass_on(self._key, self._lease)
        return self._passed
