"""Sessions in Redis or Valkey: shared by machines, as lasting as the server's persistence.

A session is one key, sessions:{KEY}, a hash of its `record` and, while a request has it, the lock: its `holder`, and
`until` when by the clock of the server. Each request makes two round trips, a script each: 'take the lock, get the
session', and 'set the session, give the lock back'. The server runs a script as a whole, so nothing comes in between.

A lock is the hold that took it, by process and number. One that was lost (a server that failed over, evicted or forgot
it) is found out by the save: it changes nothing while somebody else has the session, or if the record is another than
the one that was read.

No script is sent again once it may have been run. If it were: a hold that takes or gives back its lock twice changes
nothing; a second save is refused as if the lock were lost, though the first is there; a second creation is refused, for
the key is taken; to delete twice is to delete.

Rejected: a lock of its own key, which expires by itself. While a cluster moves a slot, a script with two keys is only
answered (TRYAGAIN) once both of them are on one server, which a lock that nobody has never is. The client's own lock
(redis.lock), which takes four round trips for these two. Notifications for those who wait, which need a connection of
their own and may be missed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import ConfigError, CorruptRecord, Unavailable
from ...events import log
from ...locks import FairLocks, poll
from ...record import INDEX, SESSION, Record, reference
from ...session import Session
from ...store import Capabilities, Hold, Store, timeout_option
from .. import lease
from ..lease import Heartbeat, Lease

if TYPE_CHECKING:
    from .server import Call, Server

ANSWER = 1.0  # seconds for an answer
_CONNECT = 0.5  # together below two, which is what a visitor may have to wait for the 503
_GRACE = 60  # seconds for which a session is kept after its deadline: a page that began before it can still save
_SCANNED = 1000  # names that a server looks at for one answer
_BATCH = 100  # keys that are asked for in one send
_URL = re.compile(r"(rediss?://(?:[^/?@]*@)?)([^/?@]*)(.*)", re.DOTALL)  # before, at and after the servers


class Script(NamedTuple):
    """What the server runs in one step. KEYS[1] is the session; ARGV[1] is the hold that asks, but for CREATE."""

    name: str
    source: str
    digest: str  # the name by which the server knows it, once it has seen it

    def call(self, key: str, *args: str | bytes | int) -> Call:
        """Return what runs it on a session."""
        name = name_of(key)
        return name, ("EVALSHA", self.digest, 1, name, *args), ("EVAL", self.source, 1, name, *args)


def _script(name: str, source: str, flags: str = "#!lua flags=allow-oom\n") -> Script:
    source = flags + source.strip()
    return Script(name, source, _digest(source.encode()))


def _digest(text: bytes) -> str:
    """Return the SHA-1 of a text, as the server makes it; it protects nothing."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


_NOW = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# A full server still locks, reads and deletes: a lock is small and ends soon. Its flags need Redis 7.
# An answer that never came leaves a lock behind of which nobody knows. One thread of a process at a time may lock a
# session, so an earlier hold of the same process has ended; a later one is there where this is what comes late.
LOCK = _script("lock and get", _NOW + """
local found = redis.call('hmget', KEYS[1], 'record', 'holder', 'until')
local holder = found[2]
if holder and tonumber(found[3]) > now
    and (string.sub(holder, 1, -13) ~= string.sub(ARGV[1], 1, -13) or holder > ARGV[1]) then return {0} end
redis.call('hset', KEYS[1], 'holder', ARGV[1], 'until', now + ARGV[2])
if not found[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end
return {1, found[1]}
""")  # fmt: skip

# 1: saved. 0: the record has gone. -1: the lock was lost, and another hold had it, or has changed the record. No flags:
# a full server refuses to save. It unlocks all the same.
SAVE = _script("set and unlock", """
local holder = redis.call('hget', KEYS[1], 'holder')
if holder ~= ARGV[1] then
    if holder then return -1 end
    local now = redis.call('hget', KEYS[1], 'record')
    if not now then return 0 end
    if redis.sha1hex(now) ~= ARGV[4] then return -1 end
end
local made = redis.pcall('hset', KEYS[1], 'record', ARGV[2])
redis.call('hdel', KEYS[1], 'holder', 'until')
if type(made) == 'table' then return made end
if made == 1 then redis.call('del', KEYS[1]) return 0 end
return redis.call('pexpire', KEYS[1], ARGV[3])
""", flags="")  # fmt: skip

# 1: saved. 0: the key is taken. It may be locked, and then stays so.
CREATE = _script("set", """
return redis.call('hsetnx', KEYS[1], 'record', ARGV[1]) == 1 and redis.call('pexpire', KEYS[1], ARGV[2]) or 0
""", flags="")  # fmt: skip

# A session goes whatever has become of its lock; what is only to go if it is still ours has ARGV[2].
DELETE = _script("delete and unlock", """
if ARGV[2] == '' or redis.call('hget', KEYS[1], 'holder') == ARGV[1] then redis.call('del', KEYS[1]) end
""")  # fmt: skip

UNLOCK = _script("unlock", """
if redis.call('hget', KEYS[1], 'holder') == ARGV[1] then redis.call('hdel', KEYS[1], 'holder', 'until') end
""")  # fmt: skip

RENEW = _script("renew", _NOW + """
local found = redis.call('hmget', KEYS[1], 'record', 'holder')
if found[2] ~= ARGV[1] then return 0 end
redis.call('hset', KEYS[1], 'until', now + ARGV[2])
if not found[1] then redis.call('pexpire', KEYS[1], ARGV[2]) end
return 1
""")  # fmt: skip


def name_of(key: str) -> str:
    """Return the server's name for a session. What stands in braces says in which slot of a cluster it is."""
    return f"sessions:{{{key}}}"


def _read(url: str, parse: Callable[[str], dict[str, Any]]) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return host and port of each server that a url names, or the path of a socket and 0; and its other options."""
    try:
        several = _URL.fullmatch(url)
        urls = [f"{several[1]}{one}{several[3]}" for one in several[2].split(",")] if several else [url]
        given = [parse(one) for one in urls]
    except (ValueError, AttributeError, TypeError):  # its text may quote the password
        raise ConfigError("url must be text such as redis://user:password@localhost:6379/0") from None
    path = given[0].pop("path", "")
    return [(path or one.get("host", "localhost"), 0 if path else one.get("port", 6379)) for one in given], given[0]


def _get(key: str) -> Call:
    name = name_of(key)
    return name, ("HGET", name, "record"), ()


class RedisHold(Hold):
    """Holds a session by a lease."""

    __slots__ = ("_lease", "_line")
    _store: RedisStore

    def __init__(self, store: RedisStore, key: str) -> None:
        super().__init__(store, key)
        self._lease: Lease | None = None
        self._line: bytes | None = None  # the record as it was read

    def try_lock(self) -> bool:
        """Take the lock if nobody has it, and read the record. Return whether it is ours."""
        number, asked = next(self._store.numbers), time.monotonic()
        locked, *line = self._store.run(LOCK, self.key, self._store.token(number), lease.SECONDS * 1000)
        if locked:
            self._line = line[0]
            self._lease = Lease(self.key, number, asked, asked)
            self._store.heartbeat.watch(self._lease)
        return bool(locked)

    def _read(self) -> Record | None:
        return None if self._line is None else Record.unpack(self.key, self._line)

    def _commit(self, record: Record) -> bool:
        line, left = record.pack(self.key), self._store.milliseconds(record)
        saved = self._store.run(SAVE, self.key, self._give_up(), line, left, _digest(self._line or b""))
        if saved < 0:
            what = "session %s: its lock, a lease of %d s, was lost and another request took it; nothing was saved"
            log.warning(what, reference(self.key), lease.SECONDS)
        if saved == 0 and record.kind == INDEX:  # its time was over since it was read; a session stays dead then
            self._store.save(self.key, record)
            return True
        return bool(saved == 1)

    def _remove(self) -> None:
        # An index may have got another entry, if the lock was lost.
        only_ours = "index" if self.record and self.record.kind == INDEX else ""
        self._store.run(DELETE, self.key, self._give_up(), only_ours)

    def _quarantine(self) -> None:
        self._store.run(DELETE, self.key, self._give_up(), "unreadable")

    def _give_up(self) -> str:
        """Return what the server knows the lock by, and forget it: a server that does not answer is not asked again in
        the same request, and the lease ends by itself."""
        ours, self._lease = self._lease, None
        if ours is None:
            return ""
        self._store.heartbeat.forget(ours)
        return self._store.token(ours.proof)

    def _unlock(self) -> None:
        if token := self._give_up():
            try:
                self._store.run(UNLOCK, self.key, token)
            except Unavailable as error:  # the page has what it needs
                log.warning("session %s could not be unlocked: %s", reference(self.key), error)


class RedisStore(Store):
    """Keeps the sessions in one server of Redis or Valkey, or in a cluster of them.

    Args:
        url: redis://[user:password@]host:port/database, rediss:// for TLS, or unix:///path of a socket. Of a cluster
            one server or several, redis://one:6379,two:6379: the others are learned from the first that answers.
        cluster: True if `url` names a server of a cluster; several are one in any case.
        server_timeout: seconds in which a server has to answer, at most 1; None for that.
    """

    capabilities = Capabilities(
        survives_restart=True, shared=True, locks_processes=True, counts=False, purges=False,
        keeps="In the memory of a Redis or Valkey server or cluster, and on its disk as often as that is set to write.",
        sharing="All processes, on all machines, that name the same server or cluster.",
        locking="A fair queue among the threads of a process; between processes a lease of 5 seconds that a living "
        "holder renews for 5 minutes, and a save that the server refuses if another request has taken the session.",
        cleaning="The server drops each session a minute after its time is over.",
        outage="503 within two seconds, at once while the server is known to be down; in a cluster until its replica "
        "has taken over, and the sessions of the other servers go on. A server that is full refuses saves and new "
        "sessions (503), or drops others, as its maxmemory-policy says.",
        needs="A Redis server, 7.0 or newer, or Valkey, and the package redis (with hiredis it is quicker).",
        limitations="RedisSession lasts as long as the server's copy: without appendonly a restart loses what was "
        "saved since the last snapshot, with it the last second; a replica that takes over lacks what had not reached "
        "it. Then a visit may be missing, a session that had ended be back, or the list of a user's sessions lack one "
        "until that is renewed.",
    )  # fmt: skip

    def __init__(self, *, url: str, cluster: bool = False, server_timeout: float | None = None) -> None:
        super().__init__()
        self.locks = FairLocks(stand_back=True)
        try:
            from redis import Connection
            from redis.backoff import NoBackoff
            from redis.connection import parse_url
            from redis.retry import Retry

            from .server import Servers
        except ImportError as error:
            raise ConfigError("RedisSession needs a driver: pip install redis") from error
        seconds = timeout_option(server_timeout, ANSWER)
        nodes, options = _read(url, parse_url)
        cluster = cluster or len(nodes) > 1
        if cluster and (not nodes[0][1] or options.get("db")):
            raise ConfigError("url must name no socket, and no database but 0, for a cluster has none")
        # Last, so that the url cannot undo them. Nothing is sent twice: the first may have arrived. RESP 2: the driver
        # greets a server of it in fewer words, and needs none of what the other version adds.
        options |= {
            "socket_timeout": seconds, "socket_connect_timeout": min(seconds, _CONNECT), "protocol": 2,
            "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "decode_responses": False,
        }  # fmt: skip
        kind = options.pop("connection_class", Connection)

        def connection(host: str, port: int) -> Any:
            return kind(**options | ({"host": host, "port": port} if port else {"path": host}))

        try:
            connection(*nodes[0])
        except TypeError as error:
            raise ConfigError(f"url has an option that the driver refuses: {error}") from None
        self._servers = Servers(nodes, cluster, connection)
        self.heartbeat = Heartbeat(self._renew)
        self.numbers = itertools.count(1)  # of the holds
        self._token = secrets.token_hex(8)
        try:
            self._servers.start()
            self.run(UNLOCK, self.new_key(), "-")  # what every request needs: scripts, and the right to run them
        except Unavailable as error:
            raise Unavailable(f"{error}. `make services` starts one (7.0 or newer is needed)") from error
        finally:
            self._servers.close()  # a server that forks its workers after this must not give them one connection

    def token(self, number: int) -> str:
        """Return what a lock of this process holds. A worker that was forked off has its own."""
        return f"{self._token}-{os.getpid()}-{number:012d}"

    def milliseconds(self, record: Record) -> int:
        """Return how long the server is to keep a record; less than one would be an error."""
        return max(round((record.deadline - self.clock() + _GRACE) * 1000), 1)

    def run(self, script: Script, key: str, *args: str | bytes | int) -> Any:
        """Run a script on a session; one that the server has forgotten, or never seen, is sent whole."""
        return self._servers.ask(script.name, script.call(key, *args))

    def _batches(self, keys: Iterable[str]) -> Iterator[tuple[Server, list[str]]]:
        """Return the keys by server, as many at a time as go in one send. A server that is down comes last."""
        of: dict[Server, list[str]] = {}
        self._servers.refresh()
        for key in keys:
            of.setdefault(self._servers.of(name_of(key)), []).append(key)
        for server in sorted(of, key=lambda server: server.outage.is_down):
            for n in range(0, len(of[server]), _BATCH):
                yield server, of[server][n : n + _BATCH]

    def _renew(self, leases: list[Lease]) -> None:
        due = {one.key: one for one in leases}
        for server, keys in self._batches(due):  # one that hangs must not end the leases of the others
            asked, length = time.monotonic(), lease.SECONDS * 1000
            calls = [RENEW.call(key, self.token(due[key].proof), length) for key in keys]
            try:
                answers = self._servers.ask_all(server, RENEW.name, calls)
            except Unavailable as error:  # the next beat comes before the leases are over
                log.warning("leases could not be renewed: %s", error)
                continue
            for key, lives in zip(keys, answers, strict=True):
                if lives:
                    due[key].renewed = asked
                else:
                    self.heartbeat.forget(due[key])

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(server.address for server in self._servers.all())

    def ping(self) -> None:
        """Do nothing if one of the servers answers: a site that can serve most of its visitors is not down."""
        failures = []
        for server in self._servers.all():
            try:
                server.send("ping", ("PING",))
                return
            except Unavailable as error:
                failures.append(str(error))
        raise Unavailable("; ".join(failures))

    def close(self) -> None:
        self.heartbeat.close()
        self._servers.close()

    # ---------------------------------------------------------------- the records

    def _hold(self, key: str, timeout: float) -> Hold:
        hold = RedisHold(self, key)
        poll(hold.try_lock, timeout, f"session {reference(key)}", self.locks.max_waiting)
        return hold

    def load(self, key: str) -> Record | None:
        line = self._servers.ask("get", _get(key))
        return None if line is None else Record.unpack(key, line)

    def load_all(self, keys: Iterable[str]) -> dict[str, Record]:
        found = {}
        for server, batch in self._batches(keys):
            lines = self._servers.ask_all(server, "get", [_get(key) for key in batch])
            for key, line in zip(batch, lines, strict=True):
                with suppress(CorruptRecord):  # whoever holds it next quarantines it
                    if line is not None:
                        found[key] = Record.unpack(key, line)
        return found

    def scan(self) -> Iterator[tuple[str, Record]]:
        scan = "MATCH", name_of(f"{self.namespace}*"), "COUNT", _SCANNED
        for server in self._servers.all():
            cursor: bytes | int = 0
            while cursor != b"0":
                (answer,) = server.send("scan", ("SCAN", cursor, *scan))
                if isinstance(answer, Exception):
                    raise server.unavailable(answer)
                cursor, names = answer
                keys = {name.decode().removeprefix("sessions:{").removesuffix("}") for name in names}
                found = self.load_all(key for key in keys if not self.is_index(key))
                yield from ((key, record) for key, record in found.items() if record.kind == SESSION)

    def save(self, key: str, record: Record) -> None:
        """Store a new record; one that is there is replaced by its holder, in comparison with what it has read."""
        if not self.run(CREATE, key, record.pack(key), self.milliseconds(record)):
            raise Unavailable(f"the key of session {reference(key)} is taken")

    def remove(self, key: str) -> None:
        self.run(DELETE, key, "", "")

    def purge(self, limit: int) -> int:
        return 0  # the server does it

    def describe_location(self, key: str) -> str:
        return f"the key {name_of(key)} of Redis at {self._servers.of(name_of(key)).address}"


class RedisSession(Session):
    """A session in Redis or Valkey, shared by several machines."""

    __slots__ = ()
    store_class = RedisStore
