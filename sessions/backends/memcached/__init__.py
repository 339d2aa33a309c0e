"""Sessions in Memcached: fast, shared by machines, and gone when the server restarts or has no memory left.

Memcached asks nobody for a password: whoever reaches it has all sessions. Keep it on loopback or a network of its own.

A session is one item, sessions:KEY, and its lock another, sessions:KEY:lock, on the same server. Each request makes two
round trips: 'set the lock if there is none, get the session', and 'set the session if it is as it was read, delete the
lock if it is still ours'.

Rejected: moving the keys of a dead server to another one, as clients for caches do. The sessions there would not be
unreachable for a while but missing, and there again, out of date, when the server is back.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from ...errors import ConfigError, CorruptRecord, TooLarge, Unavailable
from ...events import log
from ...locks import FairLocks, poll
from ...record import INDEX, Record, reference
from ...session import Session
from ...store import Capabilities, Hold, Store, timeout_option
from .. import lease
from ..lease import Heartbeat, Lease
from .server import ANSWER, Reply, Server

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PACKING = 96  # bytes that `Record.pack` adds to the values, about
_MONTH = 30 * 86400  # seconds; the server takes a larger number for a date
_LAST_DATE = 2**31 - 1  # and later ones for the past
_BATCH = 100  # items that are asked for in one send


def item(key: str) -> bytes:
    """Return the server's name for the record of a session."""
    return b"sessions:" + key.encode()


class MemcachedHold(Hold):
    """Holds a session by a lease."""

    __slots__ = ("_cas", "_item", "_lease", "_reply", "_server", "_stale_cas")
    _store: MemcachedStore

    def __init__(self, store: MemcachedStore, key: str) -> None:
        super().__init__(store, key)
        self._server, self._item = store.server(key), item(key)
        self._lease: Lease | None = None
        self._reply: Reply | None = None  # with the record, if that came with the lock
        self._cas = 0  # the number of the state that was read
        self._stale_cas = 0  # of a lock that an earlier request of this process has left behind

    def try_lock(self, question: bytes = b":lock") -> bool:
        """Take the lock if nobody has it. Return whether it is ours.

        The first try asks for the record, too (`question` is empty). That may be large, so later ones ask who has the
        lock. An answer that never came leaves one behind of which nobody knows. It has the token of this process, of
        which the one thread that may lock this session is here: so it is taken away.
        """
        asked, token = time.monotonic(), self._store.token
        commands = [b"md %b:lock C%d" % (self._item, self._stale_cas)] if self._stale_cas else []
        commands.append(b"ms %b:lock %d ME T%d c\r\n%b" % (self._item, len(token), lease.SECONDS, token))
        *_, locked, reply = self._server.send(*commands, b"mg %b%b v c" % (self._item, question))
        if locked.status != b"HD":
            self._stale_cas = reply.cas if reply.value == token else 0
            return False
        self._reply = None if question else reply
        self._lease = Lease(self.key, locked.cas, asked, asked)
        self._store.heartbeat.watch(self._lease)
        return True

    def _read(self) -> Record | None:
        reply = self._reply or self._server.send(b"mg %b v c" % self._item)[0]
        self._cas = reply.cas
        return Record.unpack(self.key, reply.value) if reply.value is not None else None

    def _commit(self, record: Record) -> bool:
        command = self._store.to_set(self.key, record, b"C%d" % self._cas)
        ours, lost = self._lease, False
        if ours and not ours.still_valid:  # maybe the lock is still there, and runs out any moment: it is taken anew
            self._store.heartbeat.forget(ours)
            self._lease, self._stale_cas = None, ours.proof
            lost = not self.try_lock()
        status = b"EX" if lost else self._server.send(command, *self.unlock_command())[0].status
        if status == b"EX":
            what = "session %s: its lock, a lease of %d s, was lost and another request took it; nothing was saved"
            log.warning(what, reference(self.key), lease.SECONDS)
        if status == b"NF" and record.kind == INDEX:  # its time was over since it was read; a session stays dead then
            self._store.save(self.key, record)
            return True
        return status == b"HD"

    def _remove(self) -> None:
        # An index may have got another entry, if the lock was lost; a session goes whatever has become of it.
        unchanged = b" C%d" % self._cas if self.record and self.record.kind == INDEX else b""
        self._server.send(b"md %b%b" % (self._item, unchanged), *self.unlock_command())

    def _quarantine(self) -> None:
        self._server.send(b"md %b C%d" % (self._item, self._cas), *self.unlock_command())

    def unlock_command(self) -> list[bytes]:
        """Return the command that takes the lock away, if it is still ours. It is given once: a server that does not
        answer it is not asked again in the same request, and the lease ends by itself."""
        ours, self._lease = self._lease, None
        if ours is None:
            return []
        self._store.heartbeat.forget(ours)
        return [b"md %b:lock C%d" % (self._item, ours.proof)]

    def _unlock(self) -> None:
        commands = self.unlock_command()
        if commands:
            try:
                self._server.send(*commands)
            except Unavailable as error:  # the page has what it needs
                log.warning("session %s could not be unlocked: %s", reference(self.key), error)


class MemcachedStore(Store):
    """Keeps each session in one of the servers, chosen by the hash of its key.

    Args:
        servers: 'host:port', several of them with commas between, or a list. All processes of a site must name the same
            ones, in whatever order. A name is looked up at each new connection; an address costs no look-up.
        server_timeout: seconds in which a server has to answer, at most 1; None for that.
    """

    capabilities = Capabilities(
        survives_restart=True, shared=True, locks_processes=True, counts=False, purges=False,
        max_bytes=1024 * 1024 - 512 - _PACKING,
        keeps="In the memory of one or several servers, as long as they run.",
        sharing="All processes, on all machines, that name the same servers.",
        locking="A fair queue among the threads of a process; between processes a lease of 5 seconds that a living "
        "holder renews for 5 minutes, and a save that the server refuses if the session has changed since it was read.",
        cleaning="The server drops each session when its time is over.",
        outage="Sessions of a server that does not answer: 503 within two seconds; those of the other servers go on. "
        "After a restart of the server they are gone.",
        needs="A Memcached server, 1.6 or newer, and the package pymemcache.",
        limitations="MemcachedSession may evict: the server drops sessions when its memory is full or it restarts. "
        "Where it drops the list of a user's sessions, each is hidden from that user until it is next renewed.",
    )  # fmt: skip

    def __init__(self, *, servers: str | Sequence[str], server_timeout: float | None = None) -> None:
        super().__init__()
        self.locks = FairLocks(stand_back=True)
        try:
            from pymemcache.client.rendezvous import RendezvousHash
        except ImportError as error:
            raise ConfigError("MemcachedSession needs a driver: pip install pymemcache") from error
        seconds = timeout_option(server_timeout, ANSWER)
        self._servers = {address: Server(address, seconds) for address in _addresses(servers)}
        self._nodes = RendezvousHash(list(self._servers))
        self._only = next(iter(self._servers.values())) if len(self._servers) == 1 else None
        self.heartbeat = Heartbeat(self._renew)
        self._token = secrets.token_hex(8).encode()
        limits, failures = list[int](), list[str]()
        for server in self._servers.values():
            try:
                limits.append(server.limit)
            except Unavailable as error:
                failures.append(str(error))
            server.close()  # a server that forks its workers after this must not give them one connection
        if not limits:  # one that answers is enough to start
            raise Unavailable(f"{'; '.join(failures)}. `make services` starts one (1.6 or newer is needed)")
        for failure in failures:
            log.warning("%s; its sessions are unavailable until it is back", failure)
        self.capabilities = replace(self.capabilities, max_bytes=min(limits) - _PACKING)

    @property
    def token(self) -> bytes:
        """What this process writes into its locks. A worker that was forked off has its own."""
        return b"%b-%d" % (self._token, os.getpid())

    def server(self, key: str) -> Server:
        """Return the server that has the session `key`, and its lock. It stays the one when it is down."""
        return self._only or self._servers[self._nodes.get_node(key[-16:])]  # hashed in Python: no longer than needed

    def _batches(self, keys: Iterable[str]) -> Iterator[tuple[Server, list[str]]]:
        """Return the keys by server, as many at a time as go in one send. A server that is down comes last."""
        of = dict[Server, list[str]]()
        for key in keys:
            of.setdefault(self.server(key), []).append(key)
        for server in sorted(of, key=lambda server: server.outage.is_down):
            for n in range(0, len(of[server]), _BATCH):
                yield server, of[server][n : n + _BATCH]

    def to_set(self, key: str, record: Record, mode: bytes) -> bytes:
        """Return the command that stores `record`; `mode` is ME to add it, or C and the number of what it replaces."""
        line = record.pack(key)
        limit = self.server(key).limit
        if len(line) > limit:  # the server would refuse it, and drop the one it has
            raise TooLarge(len(line), limit, "a session record")
        # A second longer than needed: the server counts whole ones, and 0 would be for ever.
        seconds = max(math.ceil(record.deadline - self.clock()) + 1, 1)
        if seconds > _MONTH:
            seconds = min(int(time.time()) + seconds, _LAST_DATE)
        return b"ms %b %d T%d %b\r\n%b" % (item(key), len(line), seconds, mode, line)

    def _hold(self, key: str, timeout: float) -> Hold:
        hold = MemcachedHold(self, key)
        if not hold.try_lock(b""):
            poll(hold.try_lock, timeout, f"session {reference(key)}", self.locks.max_waiting)
        return hold

    def load(self, key: str) -> Record | None:
        value = self.server(key).send(b"mg %b v" % item(key))[0].value
        return Record.unpack(key, value) if value is not None else None

    def load_all(self, keys: Iterable[str]) -> dict[str, Record]:
        found = {}
        for server, batch in self._batches(keys):
            for key, reply in zip(batch, server.send(*(b"mg %b v" % item(key) for key in batch)), strict=True):
                if reply.value is not None:
                    with suppress(CorruptRecord):  # whoever holds it next quarantines it
                        found[key] = Record.unpack(key, reply.value)
        return found

    def save(self, key: str, record: Record) -> None:
        """Store a new record; one that is there is replaced by its holder, in comparison with what it has read."""
        if self.server(key).send(self.to_set(key, record, b"ME"))[0].status != b"HD":
            raise Unavailable(f"the key of session {reference(key)} is taken")

    def remove(self, key: str) -> None:
        self.server(key).send(b"md " + item(key))

    def _renew(self, leases: list[Lease]) -> None:
        """Renew leases. A touch and no compare-and-swap, which would give the lock another number just when its holder
        releases it by the old one: one that comes too late makes the lease of somebody else a little longer."""
        due = {one.key: one for one in leases}
        for server, keys in self._batches(due):  # one that hangs must not end the leases of the others
            asked = time.monotonic()
            try:
                answers = server.send(*(b"mg %b:lock c T%d" % (item(key), lease.SECONDS) for key in keys))
            except Unavailable as error:  # the next beat comes before the leases are over
                log.warning("leases could not be renewed: %s", error)
                continue
            for key, answer in zip(keys, answers, strict=True):
                if answer.cas == due[key].proof:
                    due[key].renewed = asked
                else:
                    self.heartbeat.forget(due[key])

    def purge(self, limit: int) -> int:
        return 0  # the server does it

    def describe_location(self, key: str) -> str:
        return f"the item {item(key).decode()} of memcached at {self.server(key).address}"

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._servers)

    def ping(self) -> None:
        """Do nothing if one of the servers answers: a site that can serve most of its visitors is not down."""
        failures = []
        for server in sorted(self._servers.values(), key=lambda server: server.outage.is_down):
            try:
                server.send(b"mg sessions:ping")
                return
            except Unavailable as error:
                failures.append(str(error))
        raise Unavailable("; ".join(failures))

    def close(self) -> None:
        self.heartbeat.close()
        for server in self._servers.values():
            server.close()


class MemcachedSession(Session):
    """A session in Memcached, shared by several machines. It ends early where the server runs out of memory."""

    __slots__ = ()
    store_class = MemcachedStore


def _addresses(servers: object) -> list[str]:
    given = servers.split(",") if isinstance(servers, str) else servers
    if isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        addresses = list(dict.fromkeys(one.strip() for one in given if one.strip()))
        parts = [_ADDRESS.fullmatch(one) for one in addresses]
        if addresses and all(part and 0 < int(part[2]) < 65536 for part in parts):
            return addresses
    raise ConfigError(f"servers is {servers!r}: it must be host:port, several with commas between, or a list of them")
