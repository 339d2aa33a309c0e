"""The rules of a lock that the server drops by itself, and of an index that it may drop: Memcached and Redis alike."""

from __future__ import annotations

import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.memcached import Memcached
from services.redis import Redis
from sessions import Record
from sessions.backends.memcached import MemcachedStore
from sessions.backends.redis import RedisStore, name_of
from sessions.testing import LONG, NAMESPACE, add_one, count_of, stored
from tests.support.outages import HOUR, fresh, refused
from tests.support.process import wait_until

LeasedStore = MemcachedStore | RedisStore
Processes = tuple[LeasedStore, LeasedStore]


class Backend(ABC):
    """A server, what it has, and stores on it. A lock is the item `KEY:lock`."""

    server: Memcached | Redis

    @abstractmethod
    def open(self) -> LeasedStore:
        """Return a store, as that of another process."""

    @abstractmethod
    def drop(self, item: str) -> None:
        """Let the server forget an item, as one that is full does."""

    @abstractmethod
    def lasts(self, item: str) -> float:
        """Return the seconds until the server drops an item; 0 if there is none."""

    @abstractmethod
    def shorten(self, item: str) -> None:
        """Leave an item two seconds."""

    @abstractmethod
    def count(self) -> int:
        """Return how many items the server has."""

    def close(self) -> None:
        """End the server."""
        self.server.kill()


class OnMemcached(Backend):
    def __init__(self, folder: Path) -> None:
        self.server = Memcached(folder)

    def open(self) -> MemcachedStore:
        return MemcachedStore(servers=self.server.address)

    def drop(self, item: str) -> None:
        assert "HD" in self._ask(f"md sessions:{item}")

    def lasts(self, item: str) -> float:
        found = re.search(r"HD t(-?\d+)", self._ask(f"mg sessions:{item} t"))
        return int(found[1]) if found else 0

    def shorten(self, item: str) -> None:
        self._ask(f"mg sessions:{item} T2")

    def count(self) -> int:
        found = re.search(r"STAT curr_items (\d+)\r", self._ask("stats"))
        assert found
        return int(found[1])

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self.server.port), 5) as connection:
            connection.sendall(f"{command}\r\nmn\r\n".encode())
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                answer += connection.recv(65536)
        return answer.decode()


class OnRedis(Backend):
    def __init__(self, folder: Path) -> None:
        self.server = Redis(folder)
        self._client = redis.Redis(port=self.server.port, decode_responses=True, protocol=2)

    def open(self) -> RedisStore:
        return RedisStore(url=self.server.url)

    def drop(self, item: str) -> None:
        key, _, lock = item.partition(":")
        name = name_of(key)
        assert self._client.hdel(name, "holder", "until") if lock else self._client.delete(name)

    def lasts(self, item: str) -> float:
        key, _, lock = item.partition(":")
        assert lock
        until = self._client.hget(name_of(key), "until")
        return max(int(until or 0) / 1000 - time.time(), 0)

    def shorten(self, item: str) -> None:
        self._client.hset(name_of(item.partition(":")[0]), "until", int(time.time() * 1000) + 2000)

    def count(self) -> int:
        return int(self._client.dbsize())

    def close(self) -> None:
        self._client.close()
        super().close()


@pytest.fixture(params=[OnMemcached, OnRedis], ids=["memcached", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend: Backend = request.param(tmp_path)
    backend.server.start()
    yield backend
    backend.close()


@pytest.fixture
def processes(backend: Backend) -> Iterator[Processes]:
    """The stores of two processes."""
    one, other = backend.open(), backend.open()
    one.namespace = other.namespace = NAMESPACE
    yield one, other
    one.close()
    other.close()


# ---------------------------------------------------------------- the index of a user


def test_an_index_that_the_server_dropped_grows_again_with_each_renewal(backend: Backend, processes: Processes) -> None:
    store, _ = processes
    keys = [stored(store, fresh(1, "ada")) for _ in range(3)]
    backend.drop(store.user_key("ada"))
    assert store.live("ada") == {}, "this is what its limitations say"
    for n, key in enumerate(keys, 1):
        assert store.acquire(key, LONG).commit(fresh(2, "ada", HOUR + 60))
        assert set(store.live("ada")) == set(keys[:n])


@pytest.mark.parametrize("before", [0, 1])
def test_a_sign_in_whose_index_another_process_took_meanwhile_is_refused_and_leaves_nothing(
    backend: Backend, processes: Processes, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    one, other = processes
    keys, save = {stored(one, fresh(1, "ada")) for _ in range(before)}, one.save

    def save_late(key: str, record: Record) -> None:
        monkeypatch.undo()
        save(key, record)
        backend.drop(f"{one.user_key('ada')}:lock")
        keys.add(stored(other, fresh(1, "ada")))

    monkeypatch.setattr(one, "save", save_late)
    refused(lambda: stored(one, fresh(1, "ada")))
    assert set(one.live("ada")) == keys
    assert backend.count() == len(keys) + 1


def test_an_index_that_another_process_took_meanwhile_is_not_dropped(backend: Backend, processes: Processes) -> None:
    one, other = processes
    keys = {stored(one, fresh(1, "ada"))}
    late = one.acquire(one.user_key("ada"), LONG)
    backend.drop(f"{one.user_key('ada')}:lock")
    keys.add(stored(other, fresh(1, "ada")))
    late.delete()
    assert set(one.live("ada")) == keys


def test_an_index_whose_time_is_over_between_reading_and_saving_is_made_anew(
    backend: Backend, processes: Processes
) -> None:
    store, _ = processes
    key = stored(store, fresh(1, "ada"))
    with store._index("ada") as (hold, checked, keys):
        backend.drop(hold.key)
        store._put_index(hold, "ada", checked, keys, time.time() + HOUR)
    assert list(store.live("ada")) == [key]


# ---------------------------------------------------------------- leases


@pytest.mark.usefixtures("quick_heart")
def test_a_lease_is_renewed_while_its_holder_works_and_not_longer(backend: Backend, processes: Processes) -> None:
    store, _ = processes
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    for _ in range(3):
        backend.shorten(f"{key}:lock")
        wait_until(lambda: backend.lasts(f"{key}:lock") > 3)
    assert hold.commit(fresh(2)), "it is still the same lock"
    assert backend.lasts(f"{key}:lock") == 0
    assert not store.heartbeat.leases
    wait_until(lambda: all(thread.name != "session leases" for thread in threading.enumerate()))


@pytest.mark.usefixtures("quick_heart")
def test_a_holder_whose_lock_was_lost_learns_it_at_the_next_beat(
    backend: Backend, processes: Processes, logged: list[str]
) -> None:
    slow, other = processes
    key = stored(slow, fresh())
    late = slow.acquire(key, LONG)
    backend.drop(f"{key}:lock")
    holder = other.acquire(key, LONG)
    wait_until(lambda: not slow.heartbeat.leases)
    assert not late.commit(fresh(99)), "the other one's save would be lost"
    assert "was lost and another request took it" in logged[-1]
    assert holder.commit(fresh(2)) and count_of(slow.load(key)) == 2


@pytest.mark.usefixtures("short_lease")
def test_a_save_after_the_lease_has_ended_is_refused_if_another_request_had_the_session(
    processes: Processes, logged: list[str]
) -> None:
    slow, other = processes
    key = stored(slow, fresh())
    late = slow.acquire(key, LONG)
    add_one(other, key, 1)  # waits for the end of the lease
    assert not late.commit(fresh(99))
    # Not the last line: the heartbeat may say at the same moment that the lease ends.
    assert any("lease of 1 s, was lost" in line for line in logged)
    assert count_of(slow.load(key)) == 2


@pytest.mark.usefixtures("short_lease")
def test_a_save_after_the_lease_has_ended_is_stored_if_nobody_else_wants_the_session(
    backend: Backend, processes: Processes
) -> None:
    store, _ = processes
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    wait_until(lambda: backend.lasts(f"{key}:lock") == 0)
    assert hold.commit(fresh(2))
    assert count_of(store.load(key)) == 2
    assert backend.lasts(f"{key}:lock") == 0


@pytest.mark.parametrize("deleted", [True, False])
def test_a_save_whose_lock_the_server_dropped_unnoticed_overwrites_nothing_and_revives_nothing(
    backend: Backend, processes: Processes, logged: list[str], deleted: bool
) -> None:
    one, other = processes
    key = stored(one, fresh())
    hold = one.acquire(key, LONG)
    backend.drop(f"{key}:lock")
    other.delete(key) if deleted else add_one(other, key, 1)
    assert not hold.commit(fresh(99))
    assert count_of(other.load(key)) == (-1 if deleted else 2)
    assert deleted or "was lost and another request took it" in logged[-1]
