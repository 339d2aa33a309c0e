"""Which sessions a user has, in Memcached.

Each user has one item, sessions:HASH-OF-THE-NAME:user, on the server that this name chooses, so often on another one
than the sessions: a list of session keys, one in each line. There is no item that names all users.

A key is appended after its session was stored, and again at each renewal of the session: one round trip more. So a list
that the server dropped grows again by itself, and no page has to read a list to see whether it is whole. Keys of dead
sessions, and those named twice, stay until somebody lists the sessions, or the list is 4 KiB longer than twice its
length when it was last tidied up. That length stands in the item's flags, which an append leaves as they are.

Tidying up is a compare-and-swap. It is done again if anybody has appended meanwhile, so that nobody's key is lost. A
key that was found dead can be left out at any later time: keys are never used twice, and none was in the list before
its session was there. That is why the session is stored first. A list tidied up between the two steps would lose the
key otherwise, and nobody would find the session. If the second step fails, the session is deleted; nobody has its id.

The item is made to last twice as long as a session when it would end before that session, so that few renewals have to
do it. This is a compare-and-swap, too. Two touch commands at the same time, for a session of half an hour and one of a
month, might leave the half hour.

What this cannot do. A server that is out of memory drops lists, too. Each session of the user is then hidden until it
is renewed, and one that is not used, or stands at the end of its lifetime, is not renewed. What ends it all the same is
the moment since which its user's sessions are valid (option `accounts`). And one user can have as many sessions as an
item has room for names, about 16000 in 1 MiB; another sign-in is refused until one of them has ended.

Rejected: `ms` with N, to make a list by appending to none (Memcached 1.6.18 answers NS); and an age at which a key
without a session may be left out (a process that was paused for longer, between the two steps, would lose its session).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..record import Record, reference
from ..store import log
from .memcached_hold import expiry, to_get
from .memcached_lease import item
from .memcached_server import Reply, Server

if TYPE_CHECKING:
    from .memcached import MemcachedStore

_NAME = re.compile(rb"^[0-9a-f]{64}$", re.MULTILINE)  # a key without the namespace, which all keys of a list share
_GROWTH = 4096  # bytes
_BATCH = 100  # sessions that are asked for in one send
_TRIES = 100  # to tidy up before anybody appends; under a crowd of sign-ins about one in five is in time


def list_of(user_key: str) -> bytes:
    """The server's name for the list of a user's sessions."""
    return item(user_key) + b":user"


class UserLists:
    """The lists of a store. Each method may raise `Unavailable`."""

    def __init__(self, store: MemcachedStore) -> None:
        self._store = store

    def add(self, key: str, record: Record) -> None:
        """Put a stored session into the list of its user, which then lasts at least as long as the session.

        Raises:
            Unavailable: the server of the list does not answer, or the user has as many sessions as it can name.
        """
        seconds = self._store.seconds(record)
        if not self._append(key, record.user, seconds):
            self._tidy(record.user, seconds)
            if not self._append(key, record.user, seconds):
                raise Unavailable(f"session {reference(key)}: the list of its user's sessions is full")

    def _append(self, key: str, user: str, seconds: int) -> bool:
        """Whether there was room for the key. An empty list is made first if there is none."""
        server, name = self._where(user)
        line = b"%b\n" % key.removeprefix(self._store.namespace).encode()
        _, added, now = server.send(
            b"ms %b 0 ME T%d\r\n" % (name, expiry(2 * seconds)),
            b"ms %b %d MA\r\n%b" % (name, len(line), line),
            b"mg %b s t f" % name,
        )
        if added.status != b"HD":
            return False
        if now.status == b"HD" and (now.ttl < seconds or now.size > 2 * now.flags + _GROWTH):
            self._tidy(user, seconds)
        return True

    def live(self, user: str) -> Iterator[tuple[str, Record]]:
        """The sessions in the list of a user. What is found dead is then left out of it."""
        dead = set[str]()
        for server, keys in self._by_server(self._keys(self._read(user))):
            for key, found in zip(keys, server.send(*map(to_get, keys)), strict=True):
                record = self._store.read(key, found)
                if record is None:
                    dead.add(key)
                elif record.user == user:
                    yield key, record
        if dead:
            try:
                self._leave_out(user, dead, 0)
            except Unavailable as error:  # the sessions were found, and the next reader can do it
                log.warning("a list of sessions could not be tidied up: %s", error)

    def _tidy(self, user: str, seconds: int) -> None:
        self._leave_out(user, self._dead(self._keys(self._read(user))), seconds)

    def _dead(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that have no session."""
        dead = set[str]()
        for server, some in self._by_server(keys):
            try:
                found = server.send(*(b"mg " + item(key) for key in some))
            except Unavailable as error:  # its sessions may be there again when it is
                log.warning("sessions stay in the list of their user, dead or not: %s", error)
            else:
                dead |= {key for key, reply in zip(some, found, strict=True) if reply.status == b"EN"}
        return dead

    def _leave_out(self, user: str, dead: set[str], seconds: int) -> None:
        """Take dead keys out of a list, and make it last `seconds` at least."""
        server, name = self._where(user)
        for _ in range(_TRIES):
            found = self._read(user)
            if found.value is None:
                return
            keys = [key.removeprefix(self._store.namespace) for key in self._keys(found) if key not in dead]
            lines = "".join(f"{key}\n" for key in keys).encode()
            lasts = expiry(2 * seconds if found.ttl < seconds else max(found.ttl, 1))
            command = b"ms %b %d C%d T%d F%d\r\n%b" % (name, len(lines), found.cas, lasts, len(lines), lines)
            if server.send(command)[0].status == b"HD":
                return
        raise Unavailable(f"memcached at {server.address}: a list of sessions changes too fast to be tidied up")

    def _where(self, user: str) -> tuple[Server, bytes]:
        key = self._store.user_key(user)
        return self._store.server(key), list_of(key)

    def _read(self, user: str) -> Reply:
        server, name = self._where(user)
        return server.send(b"mg %b v c t" % name)[0]

    def _keys(self, found: Reply) -> list[str]:
        """The keys in a list, each once."""
        return [self._store.namespace + name.decode() for name in dict.fromkeys(_NAME.findall(found.value or b""))]

    def _by_server(self, keys: Iterable[str]) -> Iterator[tuple[Server, list[str]]]:
        """The keys in handy batches, each with the server that has their sessions."""
        of = dict[Server, list[str]]()
        for key in keys:
            of.setdefault(self._store.server(key), []).append(key)
        for server, all_of in of.items():
            for n in range(0, len(all_of), _BATCH):
                yield server, all_of[n : n + _BATCH]
