"""The contract suite on every backend that comes with the package, and on one written from nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pages import sqlite_sessions
from sessions import Capabilities, Record, Store, Unavailable, testing
from sessions.backends import lease
from sessions.backends.cookie import CookieStore
from sessions.backends.file import FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.memcached import MemcachedStore
from sessions.backends.postgresql import PostgresqlHold, PostgresqlStore
from sessions.backends.ram import RamStore
from sessions.backends.redis import RedisStore, name_of
from sessions.store import Hold
from sessions.testing import LONG, NOW, Clock, Factory, StoreContract, a_record, commit, needs, opened, stored
from tests.support.application import logged
from tests.support.backends import SECRET, memcached, postgresql, redis, table_of
from tests.support.outages import paused


class TestRam(StoreContract):
    store_class = RamStore


class TestRamWithSnapshot(StoreContract):
    store_class = RamStore
    capabilities = replace(RamStore.capabilities, survives_restart=True)

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(RamStore, snapshot_path=str(tmp_path / "snapshot"))

    def test_another_process_sees_a_session_if_that_is_declared(self, store: Store, factory: Factory) -> None:
        """A snapshot belongs to one process; the other is refused when it starts."""
        with pytest.raises(ValueError, match="another process uses"):
            factory()


class TestFile(StoreContract):
    store_class = FileStore

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(FileStore, storage_path=str(tmp_path / "sessions"))

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, FileStore)
        Path(store.path(key)).write_bytes(b"\x80\x04 not one of ours\n")


class TestDurableFile(TestFile):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(FileStore, storage_path=str(tmp_path / "sessions"), durable=True)


class TestCookie(StoreContract):
    store_class = CookieStore

    @pytest.fixture
    def factory(self) -> Factory:
        return partial(CookieStore, secret=SECRET)


class TestFunctions(StoreContract):
    """On the two functions of the profile `functions`."""

    store_class = FunctionStore

    @pytest.fixture
    def factory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
        monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
        load, save, delete = sqlite_sessions.load, sqlite_sessions.save, sqlite_sessions.delete
        return partial(FunctionStore, load=load, save=save, delete=delete)

    def damage(self, store: Store, key: str) -> None:
        sqlite_sessions.save(key, "not one of ours")


class TestFunctionsWithoutDelete(TestFunctions):
    @pytest.fixture
    def factory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
        monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
        return partial(FunctionStore, load=sqlite_sessions.load, save=sqlite_sessions.save)

    def test_a_deleted_session_is_stored_empty(self, store: Store) -> None:
        key = stored(store)
        assert sqlite_sessions.load(key)
        store.delete(key)
        assert sqlite_sessions.load(key) == ""


class ShortLease(MemcachedStore):
    """A killed holder blocks a session until its lease runs out; the test need not wait for the usual one."""

    def __init__(self, servers: str) -> None:
        lease.SECONDS = 3  # in this process, and in those that open the store
        super().__init__(servers=servers)


class TestMemcached(StoreContract):
    store_class = MemcachedStore

    @pytest.fixture
    def factory(self, monkeypatch: pytest.MonkeyPatch) -> Factory:
        memcached().empty()  # the users of the test before had the same names
        monkeypatch.setattr(lease, "SECONDS", lease.SECONDS)  # and is as before after the test
        return partial(ShortLease, memcached().address)

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, MemcachedStore)
        store.server(key).send(b"ms sessions:%b 3 T60\r\n???" % key.encode())

    @contextmanager
    def outage(self, store: Store) -> Iterator[None]:
        with paused(memcached()):
            yield

    def lose_lock(self, hold: Hold) -> None:
        assert isinstance(hold._store, MemcachedStore)
        hold._store.server(hold.key).send(b"md sessions:%b:lock" % hold.key.encode())


class TestPostgresql(StoreContract):
    store_class = PostgresqlStore

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(PostgresqlStore, dsn=postgresql().dsn, table=table_of(tmp_path))

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, PostgresqlStore)
        store.pool.query(f"UPDATE {store._table} SET format = 99 WHERE key = %s", key)  # noqa: S608 -- a test's table

    @contextmanager
    def outage(self, store: Store) -> Iterator[None]:
        assert isinstance(store, PostgresqlStore)
        usual, store.pool._server_timeout, store.pool._pool.timeout = (
            store.pool._server_timeout,
            0.3,
            0.3,
        )  # for each call
        try:
            with paused(postgresql()):
                yield
        finally:
            store.pool._server_timeout = store.pool._pool.timeout = usual

    def lose_lock(self, hold: Hold) -> None:
        assert isinstance(hold, PostgresqlHold)
        hold._store.pool.query("SELECT pg_terminate_backend(%s)", hold._connection.info.backend_pid)


class ShortRedisLease(RedisStore):
    """As `ShortLease`."""

    def __init__(self, url: str) -> None:
        lease.SECONDS = 3
        super().__init__(url=url)


class TestRedis(StoreContract):
    store_class = RedisStore

    @pytest.fixture
    def factory(self, monkeypatch: pytest.MonkeyPatch) -> Factory:
        redis().empty()
        monkeypatch.setattr(lease, "SECONDS", lease.SECONDS)
        return partial(ShortRedisLease, redis().url)

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, RedisStore)
        store._servers.ask("damage", (name_of(key), ("HSET", name_of(key), "record", b"???"), ()))

    @contextmanager
    def outage(self, store: Store) -> Iterator[None]:
        with paused(redis()):
            yield

    def lose_lock(self, hold: Hold) -> None:
        assert isinstance(hold._store, RedisStore)
        name = name_of(hold.key)
        hold._store._servers.ask("forget", (name, ("HDEL", name, "holder", "until"), ()))


class OwnStore(Store):
    """A backend of one's own, of four methods: what else there is comes with the base class."""

    capabilities = Capabilities(
        survives_restart=False, shared=False, locks_processes=False, counts=False,
        keeps="In a dictionary.", sharing="Nobody.", locking="Among the threads of the process.", outage="None.",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, bytes] = {}

    def load(self, key: str) -> Record | None:
        return Record.unpack(key, self.records[key]) if key in self.records else None

    def save(self, key: str, record: Record) -> None:
        self.records[key] = record.pack(key)

    def remove(self, key: str) -> None:
        self.records.pop(key, None)

    def purge(self, limit: int) -> int:
        removed = 0
        for key, line in list(self.records.items()):
            if removed < limit and self.locks.try_acquire(key):
                try:
                    record = Record.unpack(key, line)
                    if record.deadline <= self.clock():
                        self.remove(key)
                        self.ended(key, record)
                        removed += 1
                except ValueError:
                    continue
                finally:
                    self.locks.release(key)
        return removed


class TestOwn(StoreContract):
    store_class = OwnStore

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, OwnStore)
        store.records[key] = b"not one of ours"


# -------------------------------------------------------------------- what is collected


def test_a_backend_is_tested_for_what_it_declares_and_for_nothing_else() -> None:
    assert TestRam.test_count_is_the_number_of_live_sessions is StoreContract.test_count_is_the_number_of_live_sessions
    assert TestCookie.test_count_is_the_number_of_live_sessions is None
    assert TestCookie.test_a_held_session_is_nobody_elses is None
    assert TestCookie.test_a_store_without_locks_lets_nobody_wait is not None
    assert TestRam.test_a_store_without_locks_lets_nobody_wait is None
    assert TestMemcached.test_purge_goes_on_past_an_unreadable_record is None
    assert TestRam.test_an_unreadable_record_is_quarantined_once_and_hides_no_other is None

    class Counting(TestCookie):
        capabilities = replace(CookieStore.capabilities, counts=True)

    assert Counting.test_count_is_the_number_of_live_sessions is not None, "what an ancestor dropped comes back"


def test_each_test_of_the_contract_is_collected_for_some_backend() -> None:
    classes = [cls for cls in globals().values() if isinstance(cls, type) and issubclass(cls, StoreContract)]
    classes.remove(StoreContract)
    for name in vars(StoreContract):
        assert any(getattr(cls, name) is not None for cls in classes), name


class Careless(OwnStore):
    """Shares its records with another process without a lock, and has a server that can be stopped."""

    def __init__(self, ask: Callable[[], object], records: dict[str, bytes]) -> None:
        super().__init__()
        self.ask, self.records = ask, records

    def load(self, key: str) -> Record | None:
        self.ask()
        return super().load(key)

    def save(self, key: str, record: Record) -> None:
        self.ask()
        super().save(key, record)


def test_the_contract_notices_an_error_of_a_driver_a_wait_without_an_end_and_a_save_without_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    causes, end, clock = list[Callable[[], object]](), threading.Event(), Clock()
    factory: Factory = partial(Careless, lambda: [cause() for cause in causes], {})

    def reset() -> None:
        raise ConnectionResetError("by peer")

    class Contract(StoreContract):
        store_class = Careless
        cause = staticmethod(reset)

        @contextmanager
        def outage(self, store: Store) -> Iterator[None]:
            causes.append(self.cause)
            try:
                yield
            finally:
                causes.clear()
                end.set()

        def lose_lock(self, hold: Hold) -> None:
            pass

    contract = Contract()
    stop = contract.test_while_its_server_is_stopped_a_store_is_unavailable_in_bounded_time
    lose = contract.test_a_save_after_its_lock_was_lost_takes_nothing_from_another_process
    with pytest.raises(ConnectionResetError, match="by peer"):
        stop(opened(factory, clock))
    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(contract, "cause", end.wait, raising=False)
        patch.setattr(testing, "LONG", 0.05)
        end.clear()
        stop(opened(factory, clock))
    for meanwhile in ("saved", "held", "deleted"):
        with pytest.raises(AssertionError):
            lose(opened(factory, clock), factory, meanwhile)


def test_a_capability_that_does_not_exist_is_an_error_and_not_a_test_that_is_never_run() -> None:
    test = needs("cuonts")(lambda: None)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AttributeError, match="cuonts"):
        patch.setattr(StoreContract, "test_misspelled", test, raising=False)
        type("TestMore", (StoreContract,), {"store_class": OwnStore})


# -------------------------------------------------------------------- the index that the base keeps


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> OwnStore:
    store = opened(OwnStore, clock)
    assert isinstance(store, OwnStore)
    return store


def indexed(store: Store, user: str = "ada") -> set[str]:
    """The keys in the index of a user, whatever has become of their sessions."""
    index = store.load(store.user_key(user))
    return {store.namespace + word for word in index.data.split(" ")[1:]} if index else set()


def test_an_index_lasts_as_long_as_the_last_of_its_sessions(store: OwnStore, clock: Clock) -> None:
    last, *_ = [stored(store, a_record(user="ada", deadline=NOW + seconds)) for seconds in (900, 600, 10)]
    clock.now = NOW + 50
    store.purge(100)
    store.live("ada")  # writes it anew, without the one that has ended
    clock.now = NOW + 800
    store.purge(100)
    assert store.live("ada").keys() == indexed(store) == {last}
    clock.now = NOW + 1000
    store.purge(100)
    assert store.records == {}


def test_entering_and_leaving_twice_does_no_harm(store: OwnStore) -> None:
    key, other = stored(store, a_record(user="ada")), stored(store, a_record(user="ada"))
    store.enter(key, a_record(user="ada"))
    store.leave(store.new_key(), "ada")
    store.leave(key, "nobody")
    assert indexed(store) == {key, other}
    store.delete(key)
    store.leave(key, "ada")
    assert store.live("ada").keys() == indexed(store) == {other}


def test_an_index_does_not_grow_with_sessions_that_have_ended_and_were_never_listed(
    store: OwnStore, clock: Clock
) -> None:
    """A program that signs in, uses its session once and throws the cookie away."""
    kept = stored(store, a_record(user="ada", deadline=NOW + 1e6))
    for _ in range(300):
        stored(store, a_record(user="ada", deadline=clock.now + 10))
        clock.now += 1
        store.purge(100)
        assert len(indexed(store)) <= 2 * 12 + 16 + 1
    assert kept in store.live("ada")


def test_a_session_that_expires_or_moves_is_dropped_when_its_user_is_listed(store: OwnStore, clock: Clock) -> None:
    moved, _, kept = [stored(store, a_record(user="ada", deadline=NOW + seconds)) for seconds in (100, 10, 100)]
    commit(store, moved, Record.tombstone(store.new_key(), NOW))
    clock.now = NOW + 50
    assert len(indexed(store)) == 3
    assert store.live("ada").keys() == indexed(store) == {kept}


def test_only_a_renewal_enters_a_session_anew(store: OwnStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save of other values must not cost two locks."""
    key, entered = stored(store, a_record(user="ada")), list[str]()
    monkeypatch.setattr(store, "enter", lambda key, record: entered.append(key))
    commit(store, key, a_record({"n": 1}, user="ada"))
    assert entered == []
    commit(store, key, a_record({"n": 1}, user="ada", deadline=NOW + 700))
    assert entered == [key]


def test_an_unreadable_index_is_begun_anew(store: OwnStore) -> None:
    first = stored(store, a_record(user="ada"))
    store.records[store.user_key("ada")] = b"not one of ours"
    second = stored(store, a_record(user="ada"))
    assert store.live("ada").keys() == {second}
    commit(store, first, a_record(user="ada", deadline=NOW + 900))
    assert store.live("ada").keys() == {first, second}


def failing(store: OwnStore, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these methods fail for each index."""

    def fail(real: Any, key: str, *args: Any) -> Any:
        if store.is_index(key):
            raise Unavailable("no room")
        return real(key, *args)

    for name in names:
        monkeypatch.setattr(store, name, partial(fail, getattr(store, name)))


def test_a_session_that_cannot_be_entered_is_not_made(store: OwnStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be ended by its user."""
    with monkeypatch.context() as patch:
        failing(store, patch, "save")
        with pytest.raises(Unavailable):
            stored(store, a_record(user="ada"))
    assert store.records == {}
    assert len(store.locks) == 0
    assert {stored(store, a_record(user="ada"))} == store.live("ada").keys()


def test_a_session_has_ended_though_the_index_cannot_be_written(
    store: OwnStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = stored(store, a_record(user="ada")), stored(store, a_record(user="ada"))
    with monkeypatch.context() as patch, logged() as lines:
        failing(store, patch, "save", "load")
        store.delete(key)
    assert len(lines) == 1
    assert "stays in the index" in lines[0]
    assert store.live("ada").keys() == {other}


def test_a_renewal_is_kept_though_the_index_cannot_be_written(store: OwnStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is saved by then; that is no outage to the visitor. The next renewal enters it."""
    key = stored(store, a_record(user="ada"))
    renewed = a_record(user="ada", deadline=NOW + 900)
    with monkeypatch.context() as patch, logged() as lines:
        failing(store, patch, "save")
        commit(store, key, renewed)
    assert len(lines) == 1
    assert store.load(key) == renewed
    commit(store, key, a_record(user="ada", deadline=NOW + 999))
    assert store.live("ada").keys() == {key}


def test_a_request_that_holds_its_session_may_list_and_sign_in(store: OwnStore) -> None:
    """It takes an index while it holds a session; nobody does the reverse, so nobody waits for ever."""
    hold = store.acquire(stored(store, a_record(user="ada")), LONG)
    assert store.live("ada").keys() == {hold.key}
    new = stored(store, a_record(user="ada"))
    assert hold.commit(Record.tombstone(new, NOW))
    assert store.live("ada").keys() == {new}


def test_a_backend_that_does_not_declare_its_capabilities_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(OwnStore, "capabilities")
    with pytest.raises(TypeError, match="OwnStore must declare its capabilities"):
        OwnStore()


@pytest.mark.parametrize("backend", ["file", "postgresql"])
def test_the_sessions_of_another_application_are_not_counted_or_listed(backend: str, tmp_path: Path) -> None:
    factory: Factory = partial(FileStore, storage_path=str(tmp_path))
    if backend == "postgresql":
        factory = partial(PostgresqlStore, dsn=postgresql().dsn, table=table_of(tmp_path))
    with closing(opened(factory, Clock())) as store:
        for store.namespace in ("0000000a-", "0000000b-", "0000000b-"):
            stored(store)
        assert (store.count(), len(dict(store.scan()))) == (2, 2)
