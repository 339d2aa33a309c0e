"""Sessions in Redis or Valkey: shared by machines, as lasting as the server's persistence.

A session is one key, sessions:{KEY}, and its lock another, sessions:{KEY}:lock; what stands in braces puts both into
one slot of a cluster. Each request makes two round trips, a script each: 'take the lock, get the session', and 'set the
session, delete the lock'. The server runs a script as a whole, so nothing comes in between.

A lock is the hold that took it, by process and number. One that was lost (a server that failed over, evicted or forgot
it) is found out by the save: it changes nothing while somebody else has the session, or if the record is another than
the one that was read.

Rejected: the client's own lock (redis.lock), which takes four round trips for these two; notifications for those who
wait, which need a connection of their own and may be missed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from ..errors import ConfigError, CorruptRecord, NoRoom, Unavailable
from ..events import log, publish, watchers
from ..locks import FairLocks, poll
from ..record import INDEX, Record, reference
from ..session import Session
from ..store import Capabilities, Hold, Store, timeout_option
from . import lease
from .lease import Heartbeat, Lease

T = TypeVar("T")

ANSWER = 1.0  # seconds for an answer
_CONNECT = 0.5  # together below two, which is what a visitor may have to wait for the 503
_GRACE = 60  # seconds for which a session is kept after its deadline: a page that began before it can still save
_BATCH = 100  # keys that are asked for in one send


class Script(NamedTuple):
    """What the server runs in one step. KEYS are the record and its lock; ARGV[1] is the hold that asks."""

    name: str
    source: str
    digest: str  # the name by which the server knows it, once it has seen it


def _script(name: str, source: str, flags: str = "#!lua flags=allow-oom\n") -> Script:
    source = flags + source.strip()
    return Script(name, source, _digest(source.encode()))


def _digest(text: bytes) -> str:
    """Return the SHA-1 of a text, as the server makes it; it protects nothing."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


# A full server still locks, reads and deletes: a lock is small and ends soon. Its flags need Redis 7.
# An answer that never came leaves a lock behind of which nobody knows. One thread of a process at a time may lock a
# session, so an earlier hold of the same process has ended; a later one is there where this is what comes late.
LOCK = _script("lock and get", """
local holder = redis.call('get', KEYS[2])
if holder and (string.sub(holder, 1, -13) ~= string.sub(ARGV[1], 1, -13) or holder > ARGV[1]) then return {0} end
redis.call('set', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {1, redis.call('get', KEYS[1])}
""")  # fmt: skip

# 1: saved. 0: the record has gone. -1: the lock was lost, and another hold has it, or has changed the record. No flags:
# a full server refuses to save. It unlocks all the same.
SAVE = _script("set and unlock", """
local holder = redis.call('get', KEYS[2])
if holder ~= ARGV[1] then
    if holder then return -1 end
    local now = redis.call('get', KEYS[1])
    if not now then return 0 end
    if redis.sha1hex(now) ~= ARGV[4] then return -1 end
end
local saved = redis.pcall('set', KEYS[1], ARGV[2], 'XX', 'PX', ARGV[3])
redis.call('del', KEYS[2])
if saved and saved.err then return saved end
return saved and 1 or 0
""", flags="")  # fmt: skip

# A session goes whatever has become of its lock; what is only to go if it is still ours has ARGV[2].
DELETE = _script("delete and unlock", """
local ours = redis.call('get', KEYS[2]) == ARGV[1]
if ours or ARGV[2] == '' then redis.call('del', KEYS[1]) end
if ours then redis.call('del', KEYS[2]) end
""")  # fmt: skip

UNLOCK = _script("unlock", """
if redis.call('get', KEYS[2]) == ARGV[1] then redis.call('del', KEYS[2]) end
""")  # fmt: skip

RENEW = _script("renew", """
return redis.call('get', KEYS[2]) == ARGV[1] and redis.call('pexpire', KEYS[2], ARGV[2]) or 0
""")  # fmt: skip


def name_of(key: str) -> str:
    """Return the server's name for the record of a session."""
    return f"sessions:{{{key}}}"


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
        locked, *lines = self._store.run(LOCK, self.key, self._store.token(number), lease.SECONDS * 1000)
        if locked:
            self._line = lines[0]
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
    """Keeps the sessions in one server of Redis or Valkey.

    Args:
        url: redis://[user:password@]host:port/database, rediss:// for TLS, or unix:///path of a socket.
        server_timeout: seconds in which the server has to answer, at most 1; None for that.
    """

    capabilities = Capabilities(
        survives_restart=True, shared=True, locks_processes=True, counts=False, purges=False,
        keeps="In the memory of a Redis or Valkey server, and on its disk as often as that is set to write there.",
        sharing="All processes, on all machines, that name the same server.",
        locking="A fair queue among the threads of a process; between processes a lease of 5 seconds that a living "
        "holder renews for 5 minutes, and a save that the server refuses if another request has taken the session.",
        cleaning="The server drops each session a minute after its time is over.",
        outage="503 within two seconds, at once while the server is known to be down. A server that is full refuses "
        "saves and new sessions (503), or drops others, as its maxmemory-policy says.",
        needs="A Redis server, 7.0 or newer, or Valkey, and the package redis.",
        limitations="RedisSession lasts as long as the server's copy: without appendonly a restart loses what was "
        "saved since the last snapshot, with it the last second; a replica that takes over lacks what had not reached "
        "it. Then a visit may be missing, a session that had ended be back, or the list of a user's sessions lack one "
        "until that is renewed.",
    )  # fmt: skip

    def __init__(self, *, url: str, server_timeout: float | None = None) -> None:
        super().__init__()
        self.locks = FairLocks(stand_back=True)
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.connection import parse_url
            from redis.retry import Retry
        except ImportError as error:
            raise ConfigError("RedisSession needs a driver: pip install redis") from error
        seconds = timeout_option(server_timeout, ANSWER)
        try:
            given = parse_url(url)  # type: ignore[no-untyped-call]
        except (ValueError, AttributeError, TypeError):  # its text may quote the password
            raise ConfigError("url must be text such as redis://user:password@localhost:6379/0") from None
        # Last, so that the url cannot undo them. Nothing is sent twice: the first may have arrived. RESP 2: the client
        # greets a server of it in fewer words, and needs none of what the other version adds.
        bounds = {"socket_timeout": seconds, "socket_connect_timeout": min(seconds, _CONNECT), "protocol": 2,
                  "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "decode_responses": False}  # fmt: skip
        self._errors = redis.exceptions
        self._client: Any = redis.Redis.from_pool(redis.ConnectionPool(**given | bounds))
        self.address = given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
        self._down = False  # it did not answer when it was last asked
        self._probe = threading.Lock()  # of the one thread that finds out whether it is back
        self.heartbeat = Heartbeat(self._renew)
        self.numbers = itertools.count(1)  # of the holds
        self._token = secrets.token_hex(8)
        try:
            self.run(UNLOCK, self.new_key(), "-")  # what every request needs: scripts, and the right to run them
        except TypeError as error:  # the driver does not know an option of the url
            raise ConfigError(f"url has an option that the driver refuses: {error}") from None
        except Unavailable as error:
            raise Unavailable(f"{error}. `make services` starts one (7.0 or newer is needed)") from error
        finally:
            self._client.close()  # a server that forks its workers after this must not give them one connection

    def token(self, number: int) -> str:
        """Return what a lock of this process holds. A worker that was forked off has its own."""
        return f"{self._token}-{os.getpid()}-{number:012d}"

    def milliseconds(self, record: Record) -> int:
        """Return how long the server is to keep a record; less than one would be an error."""
        return max(round((record.deadline - self.clock() + _GRACE) * 1000), 1)

    # ---------------------------------------------------------------- the server

    def run(self, script: Script, key: str, *args: Any) -> Any:
        """Run a script on a session; one that the server has forgotten, or never seen, is sent whole."""
        call = (2, name_of(key), f"{name_of(key)}:lock", *args)

        def send() -> Any:
            try:
                return self._client.evalsha(script.digest, *call)
            except self._errors.NoScriptError:
                return self._client.eval(script.source, *call)

        return self._ask(script.name, send)

    def _ask(self, what: str, send: Callable[[], T]) -> T:
        """Return an answer. While the server is down one thread at a time finds out whether it still is: one that hangs
        would soon have every thread of the site."""
        down, errors = self._down, self._errors
        if down and not self._probe.acquire(blocking=False):
            raise Unavailable(f"Redis at {self.address} still does not answer")
        try:
            answer = send()
            self._down = False
        except (errors.RedisError, OSError) as error:
            self._down = isinstance(error, (errors.ConnectionError, errors.TimeoutError, OSError))
            if self._down or isinstance(error, errors.ReadOnlyError):  # a new connection may lead to its successor
                self._client.connection_pool.disconnect(inuse_connections=False)
            kind = NoRoom if isinstance(error, errors.OutOfMemoryError) else Unavailable
            raise kind(f"Redis at {self.address}: {str(error).rstrip('.')}") from error
        finally:
            if down:
                self._probe.release()
        if watchers:
            publish("trip", to=f"Redis at {self.address}", what=what)
        return answer

    def _renew(self, leases: list[Lease]) -> None:
        for one in leases:
            asked = time.monotonic()
            try:
                lives = self.run(RENEW, one.key, self.token(one.proof), lease.SECONDS * 1000)
            except Unavailable as error:  # the next beat comes before the leases are over
                log.warning("leases could not be renewed: %s", error)
                return
            if lives:
                one.renewed = asked
            else:
                self.heartbeat.forget(one)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.address,)

    def close(self) -> None:
        self.heartbeat.close()
        self._client.close()

    # ---------------------------------------------------------------- the records

    def _hold(self, key: str, timeout: float) -> Hold:
        hold = RedisHold(self, key)
        poll(hold.try_lock, timeout, f"session {reference(key)}", self.locks.max_waiting)
        return hold

    def load(self, key: str) -> Record | None:
        line = self._ask("get", lambda: self._client.get(name_of(key)))
        return None if line is None else Record.unpack(key, line)

    def load_all(self, keys: Iterable[str]) -> dict[str, Record]:
        found, left = dict[str, Record](), iter(keys)
        while batch := list(islice(left, _BATCH)):
            lines = self._ask("get", partial(self._lines, batch))
            for key, line in zip(batch, lines, strict=True):
                with suppress(CorruptRecord):  # whoever holds it next quarantines it
                    if line is not None:
                        found[key] = Record.unpack(key, line)
        return found

    def _lines(self, keys: list[str]) -> list[bytes | None]:
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.get(name_of(key))
            return list(pipeline.execute())

    def save(self, key: str, record: Record) -> None:
        """Store a new record; one that is there is replaced by its holder, in comparison with what it has read."""
        line, left = record.pack(key), self.milliseconds(record)
        if not self._ask("set", lambda: self._client.set(name_of(key), line, px=left, nx=True)):
            raise Unavailable(f"the key of session {reference(key)} is taken")

    def remove(self, key: str) -> None:
        self._ask("delete", lambda: self._client.delete(name_of(key)))

    def purge(self, limit: int) -> int:
        return 0  # the server does it

    def describe_location(self, key: str) -> str:
        return f"the key {name_of(key)} of Redis at {self.address}"


class RedisSession(Session):
    """A session in Redis or Valkey, shared by several machines."""

    __slots__ = ()
    store_class = RedisStore
