"""The Redis backend on a cluster whose servers hang, die and are replaced, and whose slots move meanwhile."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from services import free_port
from services.redis import Redis
from sessions import ConfigError, Store, Unavailable
from sessions.backends import lease
from sessions.backends.redis import _CONNECT, ANSWER, RedisStore, name_of
from sessions.backends.redis.server import _REDIRECTING, _REDIRECTS, _SLOTS
from sessions.events import Event
from sessions.testing import LONG, NAMESPACE, Factory, add_one, count_of, hearing, stored
from tests.sessions import test_contract
from tests.support.backends import redis
from tests.support.members import Browser, SignInApp, sign_in_app
from tests.support.outages import fresh, paused, refused
from tests.support.process import wait_until
from tests.support.redis_cluster import RedisCluster

Open = Callable[..., RedisStore]


def started() -> Iterator[RedisCluster]:
    folder = Path(tempfile.mkdtemp(prefix="sessions-redis-cluster-"))
    folder.chmod(0o755)  # the servers run as another account
    cluster = RedisCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def healthy() -> Iterator[RedisCluster]:
    """A cluster for tests that leave it as it was."""
    yield from started()


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """A cluster of the test's own."""
    yield from started()


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens a store, as a process of a site would."""
    stores = []

    def open_store(url: str, **options: Any) -> RedisStore:
        store = RedisStore(url=url, **options)
        store.namespace = NAMESPACE
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


def slot_of(key: str) -> int:
    return key_slot(name_of(key).encode())


def key_in(store: RedisStore, *slots: int) -> str:
    """Return a key, in one of these slots."""
    return next(key for key in iter(store.new_key, "") if slot_of(key) in slots)


def server_of(store: RedisStore, key: str) -> str:
    """Return the address of the server that has a session, as far as the store knows."""
    return store._servers.of(name_of(key)).address


def on_each(store: RedisStore, user: str = "") -> dict[str, str]:
    """Store a session on each server, and return their keys by its address."""
    keys: dict[str, str] = {}
    while len(keys) < 3:
        key = stored(store, fresh(1, user))
        keys.setdefault(server_of(store, key), key)
    return keys


class TestContract(test_contract.TestRedis):
    @pytest.fixture
    def factory(self, healthy: RedisCluster, monkeypatch: pytest.MonkeyPatch) -> Factory:
        healthy.empty()
        self.cluster = healthy
        monkeypatch.setattr(lease, "SECONDS", lease.SECONDS)
        return partial(test_contract.ShortRedisLease, healthy.url)

    @contextmanager
    def outage(self, store: Store) -> Iterator[None]:
        with paused(*self.cluster.servers):
            yield
        self.cluster.wait_until_agreed()


# ---------------------------------------------------------------- options and start


def test_a_cluster_is_known_by_one_of_its_servers_or_by_several(healthy: RedisCluster, open_store: Open) -> None:
    masters = {server.address for server in healthy.masters()}
    dead = f"127.0.0.1:{free_port()}"
    for store in (
        open_store(healthy.url),
        open_store(f"redis://{dead},{healthy.servers[4].address}"),
        open_store(f"redis://{healthy.servers[5].address}", cluster=True),
    ):
        assert set(store.addresses) == masters
        assert set(on_each(store)) == masters


@pytest.mark.parametrize(("place", "options"), [("{one}", {}), ("{single}", {"cluster": True}), ("{single},{one}", {})])
def test_a_server_that_is_in_a_cluster_unexpectedly_or_in_none_stops_the_start(
    healthy: RedisCluster, place: str, options: dict[str, Any]
) -> None:
    url = f"redis://{place.format(one=healthy.servers[0].address, single=redis().address)}"
    with pytest.raises(ConfigError, match="cluster to (True|False)"):
        RedisStore(url=url, **options)


@pytest.mark.parametrize("url", ["redis://a:1,b:2/3", "unix:///run/redis.sock", "redis://a,b?db=1"])
def test_what_a_cluster_does_not_have_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="no database but 0"):
        RedisStore(url=url, cluster=True)


def test_a_cluster_that_is_not_there_is_named_by_all_the_servers_of_the_url() -> None:
    one, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with pytest.raises(Unavailable, match=rf"{one}.*refused.*{other}.*refused.*make services") as caught:
        RedisStore(url=f"redis://:secret@{one},{other}")
    assert "secret" not in str(caught.value)


def test_a_user_with_the_rights_of_the_documents_is_enough(healthy: RedisCluster, open_store: Open) -> None:
    text = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
    rule = re.search(r"^(ACL SETUSER .*)$", text, re.M)
    assert rule
    for server in healthy.servers:
        healthy.ask(server, *rule[1].replace("PASSWORD", "p,w").split())
    store = open_store(healthy.url.replace("//", "//sessions:p,w@"))
    for key in on_each(store, "ada").values():
        add_one(store, key, 1)


# ---------------------------------------------------------------- what goes over the wire


def test_each_script_is_one_round_trip_and_a_list_one_to_each_server(healthy: RedisCluster, open_store: Open) -> None:
    store, events = open_store(healthy.url), list[Event]()
    healthy.empty()
    for key in on_each(store).values():  # every server has every script
        store.acquire(key, LONG).commit(fresh())
        store.delete(key)
    keys = [stored(store, fresh(n)) for n in range(250)]
    with hearing(events.append, "trip"):
        store.load(keys[0])
        assert store.acquire(keys[0], LONG).commit(fresh())
        assert len(events) == 3
        assert set(store.load_all(keys)) == set(keys)
    assert {event.details["to"] for event in events} == {f"Redis at {address}" for address in store.addresses}
    assert len(events) <= 3 + 6, "a hundred at a time"


# ---------------------------------------------------------------- a server that dies or hangs


class Visitors:
    """Visitors of a site, in threads, who count in their sessions without a pause until they are stopped.

    Attributes:
        statuses: what each visitor was answered, in turn.
    """

    def __init__(self, site: SignInApp, threads: int = 4, each: int = 6) -> None:
        self.site, self._stop = site, threading.Event()
        groups = [[site.browser() for _ in range(each)] for _ in range(threads)]
        self.statuses: dict[Browser, list[int]] = {browser: [] for group in groups for browser in group}
        for browser in self.statuses:
            self._visit(browser)
        self._threads = [threading.Thread(target=self._run, args=(group,)) for group in groups]

    def _visit(self, browser: Browser) -> None:
        self.statuses[browser].append(browser.do(lambda session: session.update(n=session.get("n", 0) + 1)).status)

    def _run(self, group: list[Browser]) -> None:
        while not self._stop.is_set():
            for browser in group:
                self._visit(browser)

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, visits: int = 5) -> None:
        """Wait until each has been served this many times more."""
        before = {browser: Counter(found)[200] for browser, found in self.statuses.items()}
        wait_until(lambda: all(Counter(found)[200] >= before[one] + visits for one, found in self.statuses.items()))

    def of(self, address: str) -> list[Browser]:
        """Return those whose sessions are on a server now."""
        store = self.site.store
        assert isinstance(store, RedisStore)
        return [one for one in self.statuses if server_of(store, store.key_of(one.cookies["session_id"])) == address]

    def count(self, browser: Browser) -> int:
        return int(browser.run(lambda session: session["n"]))


@pytest.mark.parametrize("end", ["kill", "pause"])
def test_only_the_sessions_of_a_dead_server_are_unavailable_and_only_until_its_replica_has_taken_over(
    cluster: RedisCluster, tmp_path: Path, end: str
) -> None:
    with sign_in_app("redis", tmp_path, url=cluster.url) as site:
        with Visitors(site) as visitors:
            visitors.wait_for()
            server = cluster.servers[0]
            hit = visitors.of(server.address)
            assert 0 < len(hit) < len(visitors.statuses)
            getattr(server, end)()
            wait_until(lambda: any(503 in visitors.statuses[browser] for browser in hit))
            visitors.wait_for()  # as long as it takes: until all are served again
            if end == "pause":
                server.resume()  # a replica of its replica
                wait_until(lambda: "role:slave" in cluster.ask(server, "INFO", "replication"))
                visitors.wait_for()
        assert server.address not in site.store.addresses
        for browser, statuses in visitors.statuses.items():
            served = Counter(statuses)[200]
            if browser in hit:
                assert re.fullmatch("(200 )+(503 )*(200 )+", "".join(f"{status} " for status in statuses))
                # One that was under way may have been saved all the same, or may not have reached the replica.
                assert served - 1 <= visitors.count(browser) <= served + 1
            else:
                assert {*statuses} == {200}
                assert visitors.count(browser) == served, "a visit was lost"


def test_a_server_that_hangs_ends_no_lease_of_the_others_and_no_health_check(
    cluster: RedisCluster, open_store: Open, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
    store = open_store(cluster.url, server_timeout=0.2)
    holds = {address: store.acquire(key, LONG) for address, key in on_each(store).items()}
    hung, *others = (server for server in cluster.servers if server.address in holds)
    hung.pause()
    wait_until(lambda: any("leases could not be renewed" in line for line in logged))
    for server in others:
        key, asked = holds[server.address].key, time.monotonic()
        wait_until(lambda key=key, asked=asked: any(  # type: ignore[misc]
            one.key == key and one.renewed > asked for one in store.heartbeat.leases
        ))  # fmt: skip
        assert holds[server.address].commit(fresh(2))
    store.ping()
    hung.resume()


def test_a_redirect_or_a_question_before_it_does_not_make_a_visitor_wait_longer_than_one_server() -> None:
    assert _REDIRECTING + _CONNECT + ANSWER < 2, "as the capabilities promise"


def test_a_slot_that_nobody_serves_is_an_outage_of_its_sessions_alone(cluster: RedisCluster, open_store: Open) -> None:
    store = open_store(cluster.url)
    key = stored(store, fresh())
    other = key_in(store, *(slot for slot in range(_SLOTS) if store._servers._slots[slot] is store._servers._slots[0]
                            and slot != slot_of(key)))  # fmt: skip
    for server in cluster.servers[:3]:
        cluster.ask(server, "CLUSTER", "DELSLOTS", slot_of(key))
    assert "not served" in refused(lambda: store.load(key))
    assert all(not server.outage.is_down for server in store._servers.all())
    add_one(store, store.create(other, fresh()), 1)


# ---------------------------------------------------------------- slots that move


def half_move(cluster: RedisCluster, slot: int, source: Redis, target: Redis) -> None:
    cluster.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))


def move(cluster: RedisCluster, source: Redis, target: Redis, *keys: str) -> None:
    for key in keys:
        cluster.ask(source, "MIGRATE", "127.0.0.1", target.port, name_of(key), 0, 5000)


@pytest.mark.usefixtures("quick_heart")
def test_sessions_go_on_while_their_slot_is_half_moved_to_a_new_server_and_after(
    cluster: RedisCluster, open_store: Open
) -> None:
    store, other = open_store(cluster.url), open_store(cluster.url)  # as of two processes
    source, target = cluster.servers[0], cluster.grow()
    slot = next(slot for slot in range(_SLOTS) if store._servers._slots[slot].address == source.address)
    moved, held, stays, ended = (store.create(key_in(store, slot), fresh()) for _ in range(4))
    half_move(cluster, slot, source, target)
    hold = store.acquire(held, LONG)
    move(cluster, source, target, moved, held, ended)
    made = store.create(key_in(store, slot), fresh())
    unknown = key_in(store, slot)
    for one in (store, other):
        for key in (moved, stays, made):  # by ASK where it was moved
            add_one(one, key, 5)
        assert not one.acquire(unknown, LONG).commit(fresh())
    asked = time.monotonic()
    wait_until(lambda: any(one.renewed > asked for one in store.heartbeat.leases))
    assert hold.commit(fresh(2))
    store.delete(ended)
    everybody = [moved, held, stays, ended, made, unknown]
    counts = {moved: 11, held: 2, stays: 11, made: 11}
    assert {key: count_of(record) for key, record in store.load_all(everybody).items()} == counts
    assert server_of(store, moved) == source.address, "ASK is for once"
    move(cluster, source, target, stays)
    for server in (target, source, *cluster.servers[1:3]):
        cluster.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))
    assert {key: count_of(record) for key, record in other.load_all(everybody).items()} == counts
    for key in (moved, held, stays, made):
        add_one(store, key, 1)
    assert server_of(store, moved) == server_of(other, moved) == target.address, "MOVED is for good"


def test_servers_that_send_a_session_back_and_forth_are_an_outage(cluster: RedisCluster, open_store: Open) -> None:
    store, events = open_store(cluster.url), list[Event]()
    slot = next(slot for slot in range(_SLOTS) if store._servers._slots[slot].address == cluster.servers[0].address)
    target = cluster.id_of(cluster.servers[1])
    cluster.ask(cluster.servers[0], "CLUSTER", "SETSLOT", slot, "MIGRATING", target)  # which knows nothing of it
    with hearing(events.append, "trip"):
        refused(lambda: store.load(key_in(store, slot)))
    assert len(events) == _REDIRECTS


def test_sessions_go_on_when_their_server_has_left_the_cluster(cluster: RedisCluster, open_store: Open) -> None:
    """It still answers, but knows nothing of the others."""
    store = open_store(cluster.url)
    left = cluster.servers[0]
    key = on_each(store)[left.address]
    (replica,) = (one for one in cluster.servers if str(left.port) in cluster.ask(one, "INFO", "replication"))
    cluster.ask(replica, "CLUSTER", "FAILOVER")
    wait_until(lambda: all(cluster.has(one, slot_of(key)) == replica.port for one in cluster.servers))
    cluster.run("del-node", replica.address, cluster.id_of(left))
    add_one(store, key, 1)
    assert server_of(store, key) == replica.address


def test_no_visit_is_lost_while_slots_are_moved(cluster: RedisCluster, tmp_path: Path) -> None:
    source, target = cluster.servers[:2]
    with sign_in_app("redis", tmp_path, url=cluster.url) as site:
        with Visitors(site, each=20) as visitors:
            visitors.wait_for(2)
            before = visitors.of(source.address)
            cluster.run("reshard", target.address, "--cluster-from", cluster.id_of(source), "--cluster-to",
                        cluster.id_of(target), "--cluster-slots", "2000")  # fmt: skip
            visitors.wait_for(2)
            assert len(visitors.of(source.address)) < len(before), "some were moved"
        for browser, statuses in visitors.statuses.items():
            assert {*statuses} == {200}
            assert visitors.count(browser) == len(statuses)
