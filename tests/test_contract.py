"""The contract suite on every backend that comes with the package, and on one written from nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pages import sqlite_sessions
from sessions import Facts, Record, Store
from sessions.backends.cookie import CookieStore
from sessions.backends.file import FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.ram import RamStore
from sessions.testing import Clock, Factory, StoreContract, a_record, opened
from tests.backends import SECRET


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
        return partial(FunctionStore, load=sqlite_sessions.load, save=sqlite_sessions.save, delete=sqlite_sessions.delete)


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


class OwnStore(Store):
    """A backend as a reader of the README would write it."""

    facts = Facts(
        survives_restart=False, shared=False, locks_processes=False, counts=False, keeps="In a dictionary.",
        sharing="Nobody.", locking="Among the threads of the process.", outage="Never.",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, bytes] = {}

    def load(self, key: str) -> Record | None:
        line = self.lines.get(key)
        return None if line is None else Record.unpack(key, line)

    def create(self, key: str, record: Record) -> None:
        self.lines[key] = record.pack(key)

    def replace(self, key: str, record: Record) -> bool:
        before = self.load(key)
        if before is None or not before.data:
            return False
        self.create(key, record)
        return True

    def delete(self, key: str) -> None:
        self.lines.pop(key, None)

    def purge(self, limit: int) -> int:
        expired = [key for key in list(self.lines) if Record.unpack(key, self.lines[key]).deadline <= self.clock()]
        removed = [key for key in expired[:limit] if self.locks.try_acquire(key)]
        for key in removed:
            self.delete(key)
            self.locks.release(key)
        return len(removed)


class TestOwn(StoreContract):
    @pytest.fixture
    def factory(self) -> Factory:
        return OwnStore


def test_a_backend_of_two_applications_keeps_their_counts_apart(tmp_path: Path) -> None:
    store = opened(partial(FileStore, storage_path=str(tmp_path)), Clock())
    for namespace in ("0000000a-", "0000000b-", "0000000b-"):
        store.namespace = namespace
        store.create(store.new_key(), a_record())
    assert store.count() == 2
