"""Sessions in Memcached: fast, shared by machines, and gone when the server restarts or has no memory left.

Memcached asks nobody for a password: whoever reaches it has all sessions. Keep it on loopback or a network of its own.

`memcached_hold.py` and `memcached_lease.py` say how a session is locked, `memcached_users.py` how those of a user are
found, and `memcached_server.py` how the servers are talked to.

Rejected: moving the keys of a dead server to another one, as clients for caches do. The sessions there would not be
unreachable for a while but missing, and there again, out of date, when the server is back.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from ..errors import CannotList, ConfigError, LockTimeout, TooLarge, Unavailable, Unreadable
from ..facts import Facts
from ..locks import poll
from ..record import Record, reference
from ..store import Hold, Store, log, patience_of
from .memcached_heartbeat import Heartbeat
from .memcached_hold import MemcachedHold, expiry, to_get
from .memcached_lease import Lease, item
from .memcached_server import ANSWER, Reply, Server
from .memcached_users import UserLists

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PACKING = 64  # bytes that `Record.pack` adds to the values, at most
_REPLACE_TIMEOUT = 10.0  # seconds


class MemcachedStore(Store):
    """Keeps each session in one of the servers, chosen by the hash of its key, and the list of a user's sessions in one
    chosen by the hash of the name.

    Args:
        servers: 'host:port', several of them with commas between, or a list. All processes of a site must name the same
            ones, in whatever order. A name is looked up at each new connection; an address costs no look-up.
        patience: seconds in which a server has to answer, at most 1; None for that.

    Raises:
        ConfigError: an option is malformed.
        Unavailable: none of the servers answers. One that does is enough to start: the sessions of the others are
            unavailable until they are back.

    Attributes:
        lease: seconds a lock lives whose process has died; well below `lock_timeout`, and more than a server that does
            not answer can take from it.
        heartbeat_every, renewed_for: seconds from one renewal of a lease to the next, and for which a page may hold a
            session that others want. A page that takes longer can still save if nobody else has taken the session.
        connections: to each server, at most. They are held for round trips, not for requests.
    """

    facts = Facts(
        survives_restart=True,
        shared=True,
        locks_processes=True,
        counts=False,
        purges=False,
        max_bytes=1024 * 1024 - 512 - _PACKING,
        keeps="In the memory of one or several servers, as long as they run.",
        sharing="All processes, on all machines, that name the same servers.",
        locking="A fair queue among the threads of a process; between processes a lease of 5 seconds that a living "
        "holder renews for 5 minutes, and a save that the server refuses if the session has changed since it was read.",
        cleaning="The server drops each session when its time is over.",
        outage="Sessions of a server that does not answer: 503 within two seconds; those of the other servers go on. "
        "After a restart of the server they are gone.",
        needs="A Memcached server, 1.6 or newer, and the package pymemcache.",
        cannot="MemcachedSession may evict: the server drops sessions when its memory is full or it restarts. Where it "
        "drops the list of a user's sessions, each is hidden from that user until it is next renewed.",
    )

    lease: ClassVar[int] = 5
    heartbeat_every: ClassVar[float] = 1.0
    renewed_for: ClassVar[float] = 300.0
    connections: ClassVar[int] = 32

    def __init__(self, *, servers: str | Sequence[str], patience: float | None = None) -> None:
        super().__init__()
        try:
            from pymemcache.client.rendezvous import RendezvousHash
        except ImportError as error:
            raise ConfigError("MemcachedSession needs a driver: pip install pymemcache") from error
        seconds = patience_of(patience, ANSWER)
        self._servers = {address: Server(address, self.connections, seconds) for address in _addresses(servers)}
        self._nodes = RendezvousHash(list(self._servers))
        self.users = UserLists(self)
        self.heartbeat = Heartbeat(self.heartbeat_every, self.renewed_for)
        self._token = secrets.token_hex(8)
        self._check()

    def _check(self) -> None:
        """Ask every server for its limit, and go on if one has answered."""
        limits, failures = list[int](), list[str]()
        for server in self._servers.values():
            try:
                limits.append(server.limit())
            except Unavailable as error:
                failures.append(str(error))
            server.close()  # a server that forks its workers after this must not give them one connection
        if not limits:
            raise Unavailable(f"{'; '.join(failures)}. `make services` starts one (1.6 or newer is needed)")
        for failure in failures:
            log.warning("%s; its sessions are unavailable until it is back", failure)
        self.facts = replace(self.facts, max_bytes=min(limits) - _PACKING)

    @property
    def token(self) -> bytes:
        """What this process writes into its locks. A worker that was forked off has its own."""
        return b"%b-%d" % (self._token.encode(), os.getpid())

    def server(self, key: str) -> Server:
        """The server that has the session `key`, and its lock. It stays the one when it is down."""
        if len(self._servers) == 1:
            return next(iter(self._servers.values()))
        return self._servers[self._nodes.get_node(key[-16:])]  # hashed in Python: as much as it takes, and no more

    def to_set(self, key: str, record: Record, mode: bytes) -> bytes:
        """The command that stores `record`.

        Args:
            mode: ME to add it, or C with the number of the state it replaces.

        Raises:
            TooLarge: the server would refuse it, and drop the one it has.
        """
        line = record.pack(key)
        limit = self.server(key).limit()
        if len(line) > limit:
            raise TooLarge(len(line), limit, "a session record")
        return b"ms %b %d T%d %b\r\n%b" % (item(key), len(line), expiry(self.seconds(record)), mode, line)

    def seconds(self, record: Record) -> int:
        """How long the server keeps it: a second longer than needed, for it counts whole ones, and never 0, which
        would be for ever."""
        return max(math.ceil(record.deadline - self.clock()) + 1, 1)

    def read(self, key: str, found: Reply) -> Record | None:
        """The record in an answer, or None. One that makes no sense is taken out of the way."""
        if found.value is None:
            return None
        try:
            return Record.unpack(key, found.value)
        except Unreadable as error:
            log.warning("unreadable record of session %s dropped: %s", reference(key), error)
            self.server(key).send(b"md %b C%d" % (item(key), found.cas))
            return None

    def acquire(self, key: str, timeout: float) -> Hold:
        """As any store does; but when a thread gets no answer, those who waited for it are refused with it. Else the
        last of many requests on one session would find out many seconds later that the server is down."""
        began = time.monotonic()
        self.locks.acquire(key, timeout)
        try:
            self.server(key).check(began)
            return self._hold(key, timeout - (time.monotonic() - began))
        except BaseException:
            self.locks.release(key)
            raise

    def _hold(self, key: str, timeout: float) -> Hold:
        passed: Lease | None = self.locks.passed(key)
        lease = passed if passed and passed.goes_on() else Lease(self, key)
        hold = MemcachedHold(self, key, lease)
        try:
            if lease is not passed:
                poll(hold.try_lock, timeout, f"session {reference(key)}")
                self.locks.begin_round(key)
            hold.read()
        except LockTimeout:
            hold.give_up()
            raise
        except BaseException:
            lease.abandon()
            raise
        return hold

    def load(self, key: str) -> Record | None:
        return self.read(key, self.server(key).send(to_get(key))[0])

    def create(self, key: str, record: Record) -> None:
        if self.server(key).send(self.to_set(key, record, b"ME"))[0].status != b"HD":
            raise Unavailable(f"the key of session {reference(key)} is taken")
        if record.user:
            try:
                self.users.add(key, record)  # after it is stored; memcached_users.py says why
            except Unavailable:
                self.delete(key)
                raise

    def replace(self, key: str, record: Record) -> bool:
        return self.acquire(key, _REPLACE_TIMEOUT).commit(record)

    def delete(self, key: str) -> None:
        self.server(key).send(b"md " + item(key))

    def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        if user is None:
            raise CannotList(
                "MemcachedSession cannot list everybody's sessions: there is a list of each user's, and none of all "
                "users. Ask for those of one user"
            )
        return self.users.live(user)

    def purge(self, limit: int) -> int:
        return 0  # the server does it

    def place(self, key: str) -> str:
        return f"the item {item(key).decode()} of memcached at {self.server(key).address}"

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._servers)

    def ping(self) -> None:
        """Do nothing if one of the servers answers: a site that can serve most of its visitors is not down."""
        failures = []
        for server in sorted(self._servers.values(), key=lambda server: server.is_down):
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


def _addresses(servers: object) -> list[str]:
    found = servers.split(",") if isinstance(servers, str) else servers
    if not isinstance(found, (list, tuple)) or not all(isinstance(address, str) for address in found):
        raise ConfigError(f"servers is {servers!r}: it must be 'host:port', several with commas between, or a list")
    addresses = list(dict.fromkeys(address.strip() for address in found if address.strip()))
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ConfigError(f"servers names {address!r}: it must be host:port, for instance 127.0.0.1:11211")
    if not addresses:
        raise ConfigError("servers is empty: it must name a Memcached server, for instance 127.0.0.1:11211")
    return addresses
