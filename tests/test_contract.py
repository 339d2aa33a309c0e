"""The contract suite on every backend that comes with the package; README.md has one written from nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pages import sqlite_sessions
from sessions import Store
from sessions.backends.cookie import CookieStore
from sessions.backends.file import FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.memcached import MemcachedStore
from sessions.backends.postgresql import PostgresqlStore
from sessions.backends.ram import RamStore
from sessions.testing import Clock, Factory, StoreContract, a_record, opened
from tests.backends import SECRET, memcached, postgresql, table_of


class TestRam(StoreContract):
    @pytest.fixture
    def factory(self) -> Factory:
        return RamStore


class TestRamWithSnapshot(StoreContract):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(RamStore, snapshot_path=str(tmp_path / "snapshot"))

    def test_two_processes_count_one_session(self, store: Store, factory: Factory) -> None:
        """A snapshot belongs to one process; the other is refused when it starts."""
        with pytest.raises(ValueError, match="another process uses"):
            factory()


class TestFile(StoreContract):
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
    @pytest.fixture
    def factory(self) -> Factory:
        return partial(CookieStore, secret=SECRET)


class TestFunctions(StoreContract):
    """On the two functions of the profile `functions`."""

    @pytest.fixture
    def factory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
        monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
        load, save, delete = sqlite_sessions.load, sqlite_sessions.save, sqlite_sessions.delete
        return partial(FunctionStore, load=load, save=save, delete=delete)


class TestFunctionsWithoutDelete(TestFunctions):
    @pytest.fixture
    def factory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
        monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
        return partial(FunctionStore, load=sqlite_sessions.load, save=sqlite_sessions.save)

    def test_a_deleted_session_is_stored_empty(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record())
        assert sqlite_sessions.load(key) == a_record().pack(key).decode()
        store.delete(key)
        assert sqlite_sessions.load(key) == ""


class ShortLease(MemcachedStore):
    """A killed holder blocks a session until its lease runs out; the test need not wait for the usual one."""

    lease = 3


class TestMemcached(StoreContract):
    @pytest.fixture
    def factory(self) -> Factory:
        memcached().empty()  # the users of the test before had the same names
        return partial(ShortLease, servers=memcached().address)

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, MemcachedStore)
        store.server(key).send(b"ms sessions:%b 3 T60\r\n???" % key.encode())


class TestPostgresql(StoreContract):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(PostgresqlStore, dsn=postgresql().dsn, table=table_of(tmp_path))


def test_a_backend_of_two_applications_keeps_their_counts_apart(tmp_path: Path) -> None:
    store = opened(partial(FileStore, storage_path=str(tmp_path)), Clock())
    for namespace in ("0000000a-", "0000000b-", "0000000b-"):
        store.namespace = namespace
        store.create(store.new_key(), a_record())
    assert store.count() == 2
