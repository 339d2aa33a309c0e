"""The Memcached backend on real servers that hang, die and come back. Its good days are in `test_contract.py`, what it
shares with Redis in `test_leases.py`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import sessions.store
from services import ServiceError, free_port
from services.memcached import Memcached
from services.proxy import Proxy
from sessions import ConfigError, Record, Unavailable
from sessions.backends import lease
from sessions.backends.memcached import MemcachedHold, MemcachedStore
from sessions.backends.memcached import server as wire
from sessions.backends.memcached.server import Reply, Server, replies
from sessions.errors import TooLarge
from sessions.locks import waiting
from sessions.options import Settings
from sessions.testing import LONG, NAMESPACE, add_one, count_of, stored
from tests.sessions.test_rules import Server as SiteProcess
from tests.support.client import Client
from tests.support.members import sign_in_app
from tests.support.outages import HOUR, fresh, page, refused
from tests.support.process import wait_until

DAY = 86400

Start = Callable[..., Memcached]
Open = Callable[..., MemcachedStore]
Spread = tuple[MemcachedStore, Memcached, Memcached]
Processes = tuple[MemcachedStore, MemcachedStore]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server, with more arguments of its command line."""
    servers = []

    def start(*options: str) -> Memcached:
        server = Memcached(tmp_path, options=options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()  # a gentle end takes it a second


@pytest.fixture
def server(start: Start) -> Memcached:
    return start()


@pytest.fixture
def pair(start: Start) -> list[Memcached]:
    return [start(), start()]


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens a store on servers or proxies, as a process of a site would."""
    stores = []

    def open_store(*servers: Memcached | Proxy, server_timeout: float | None = None) -> MemcachedStore:
        store = MemcachedStore(servers=[server.address for server in servers], server_timeout=server_timeout)
        store.namespace = NAMESPACE
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(server: Memcached, open_store: Open) -> MemcachedStore:
    return open_store(server)


@pytest.fixture
def spread(pair: list[Memcached], open_store: Open) -> Spread:
    """A store on two servers, and these."""
    return open_store(*pair), pair[0], pair[1]


@pytest.fixture
def processes(server: Memcached, open_store: Open) -> Processes:
    """The stores of two processes."""
    return open_store(server), open_store(server)


@pytest.fixture
def proxy(server: Memcached) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def sign_in(store: MemcachedStore, user: str, seconds: float = HOUR) -> str:
    """Store a session as a sign-in does, and return its key."""
    return stored(store, fresh(1, user, seconds))


def user_on(store: MemcachedStore, server: Memcached) -> str:
    """Return a user whose index is on this server."""
    names = (f"user{n}" for n in range(1000))
    return next(name for name in names if store.server(store.user_key(name)).address == server.address)


def key_on(store: MemcachedStore, server: Memcached) -> str:
    """Return the key of a session that is kept on this server."""
    while store.server(key := store.new_key()).address != server.address:
        pass
    return key


def ask(server: Memcached, command: str, end: str = "MN") -> str:
    """Return what the server itself says, up to the line `end`."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall((f"{command}\r\nmn\r\n" if end == "MN" else f"{command}\r\n").encode())
        answer = b""
        while not answer.endswith(f"{end}\r\n".encode()):
            answer += connection.recv(65536)
    return answer.decode()


def stat(server: Memcached, name: str) -> int:
    found = re.search(rf"^STAT {name} (\d+)\r$", ask(server, "stats"), re.M)
    assert found
    return int(found[1])


def names(server: Memcached) -> list[str]:
    """Return the names of all items. A dump of "all", by queues, misses items that move between two of them."""
    return re.findall(r"^key=sessions%3A(\S+) ", ask(server, "lru_crawler metadump hash", "END"), re.M)


def lasts(server: Memcached, key: str) -> int:
    """Return the seconds until the server drops an item; 0 if there is none, -1 for one that it keeps for ever."""
    found = re.search(r"HD t(-?\d+)", ask(server, f"mg sessions:{key} t"))
    return int(found[1]) if found else 0


def drop(server: Memcached, key: str) -> None:
    """Let the server forget an item, as one that is full does."""
    assert "HD" in ask(server, f"md sessions:{key}")


# ---------------------------------------------------------------- options and start


MALFORMED = ["", " , ", [], "host", "host:0", "host:70000", "a b:1", 11211, None, [1], {}, b"a:1"]


@pytest.mark.parametrize("servers", MALFORMED)
def test_a_malformed_option_is_named_in_one_line(servers: object) -> None:
    with pytest.raises(ConfigError, match=r"^servers [^\n]+$"):
        MemcachedStore(servers=servers)  # type: ignore[arg-type]


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_one() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=rf"{address}.*refused.*make services"):
        MemcachedStore(servers=address)


def test_what_is_no_memcached_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"ERROR\r\n" * 3)  # as a Memcached without the meta commands does
                connection.recv(1000)

        greeting = pool.submit(greet)
        with pytest.raises(Unavailable, match="1.6 or newer"):
            MemcachedStore(servers=f"127.0.0.1:{listener.getsockname()[1]}")
        greeting.result(LONG)


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymemcache.client.rendezvous", None)
    with pytest.raises(ConfigError, match="pip install pymemcache"):
        MemcachedStore(servers="127.0.0.1:11211")


def test_servers_are_a_list_or_a_text_and_may_have_names(server: Memcached) -> None:
    key, addresses = "", [server.address, f"localhost:{server.port}"]
    for servers in (addresses, ", ".join(reversed(addresses))):
        store = MemcachedStore(servers=servers)
        key = key or stored(store, fresh())
        assert count_of(store.load(key)) == 1, "the order must not matter"
        assert set(store.addresses) == set(addresses)
        store.close()


def test_one_server_of_several_is_enough_to_start(pair: list[Memcached], open_store: Open, logged: list[str]) -> None:
    down, _ = pair
    down.kill()
    store = open_store(*pair)
    assert [line for line in logged if down.address in line and "unavailable" in line]
    store.ping()
    down.start()
    keys = [stored(store, fresh()) for _ in range(20)]
    assert {store.server(key).address for key in keys} == {server.address for server in pair}
    assert {count_of(store.load(key)) for key in keys} == {1}


def test_workers_that_are_forked_off_after_the_start_share_no_connection_and_no_token(
    store: MemcachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.server(store.new_key())._idle == []
    token = store.token
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert store.token != token, "it would take the lock of another worker for a forgotten one of its own"


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServiceError, match="apt-get install memcached"):
        Memcached(tmp_path).start()


def test_a_server_that_cannot_start_says_why(server: Memcached, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="unrecognized option"):
        Memcached(tmp_path, options=["--nonsense"]).start()
    with pytest.raises(ServiceError, match="in use"):
        Memcached(tmp_path, server.port).start()


# ---------------------------------------------------------------- what goes over the wire


def test_answers_are_taken_apart() -> None:
    assert replies(b"HD c7\r\nVA 4 t60 c8\r\n\r\nEN\r\nEN\r\nNS s65") == [
        Reply(b"HD", 7), Reply(b"VA", 8, b"\r\nEN"), Reply(b"EN"), Reply(b"NS"),
    ]  # fmt: skip
    for nonsense in (b"HD\r\nSERVER_ERROR out of memory", b"HTTP/1.1 400", b"VA x\r\n", b"HD cx"):
        with pytest.raises(ValueError):
            replies(nonsense)


def test_round_trips_of_a_store(proxy: Proxy, open_store: Open) -> None:
    store, key = open_store(proxy), ""
    with proxy.expect(1):
        key = stored(store, fresh())
    with proxy.expect(1):
        store.load(key)
    with proxy.expect(2):
        assert store.acquire(key, LONG).commit(fresh(2))
    with proxy.expect(2):
        store.acquire(key, LONG).release()
    with proxy.expect(2):
        store.delete(key)
    with proxy.expect(4):  # get the index, store the session, make the index, unlock it
        key = sign_in(store, "ada")
    with proxy.expect(3):  # get the index, store the session, store the index
        other = sign_in(store, "ada")
    record = store.load(key)
    assert record
    with proxy.expect(2):  # nothing to do for the index
        assert store.acquire(key, LONG).commit(record._replace(data="{}"))
    with proxy.expect(4):  # a renewal: the index is made to last as long
        assert store.acquire(key, LONG).commit(fresh(2, "ada", HOUR + 60))
    with proxy.expect(3):  # get the index, get all sessions of a server, unlock
        assert set(store.live("ada")) == {key, other}
    with proxy.expect(4):
        store.delete(key)


def test_round_trips_of_a_page(proxy: Proxy, tmp_path: Path) -> None:
    with sign_in_app("memcached", tmp_path, servers=proxy.address) as site:
        browser = site.browser()
        pages = {
            "untouched": lambda session: None,
            "read": lambda session: session.get("n"),
            "write": lambda session: session.update(n=session.get("n", 0) + 1),
            "sign in": lambda session: session.sign_in("ada"),
            "sign out": lambda session: session.sign_out(),
        }

        def trips(*steps: str) -> list[int]:
            found = []
            for step in steps:
                before = proxy.trips
                browser.run(pages[step])
                found.append(proxy.trips - before)
            return found

        assert trips("untouched", "read", "write") == [0, 0, 1], "nobody has a session before the write"
        assert trips("untouched", "read", "write") == [0, 2, 2]
        # Load the old session, get the index, store the new one, make the index and unlock it, end the old one.
        assert trips("sign in", "read", "write") == [6, 2, 2]
        site.ahead = 10 * 60  # more than a tenth of the timeout
        assert trips("read", "read") == [4, 2], "a renewal makes the index last as long"
        assert trips("sign in") == [7], "the index gets the new session, and then loses the old one"
        assert trips("sign out", "read") == [5, 2]
        browser.cookies["session_id"] = "malformed"
        assert trips("read") == [0]
    with sign_in_app("memcached", tmp_path, servers=proxy.address, locking="explicit") as site:
        browser = site.browser()
        assert trips("write", "read") == [1, 1]


def test_the_server_sees_hashes_and_no_ids_and_no_lock_stays(server: Memcached, tmp_path: Path) -> None:
    def fail(session: object) -> None:
        raise RuntimeError

    with sign_in_app("memcached", tmp_path, servers=server.address) as site:
        browser = site.browser()
        for work in (lambda s: s.update(n=1), lambda s: s.get("n"), lambda s: s.update(n=object()), fail):
            browser.do(work)
        browser.sign_in("ada lovelace\r\n")
        found = sorted(names(server))
        assert len(found) == 3, "a session that has moved, where it is now, and an index; there is no lock"
        assert [bool(re.fullmatch("[0-9a-f]{8}-[0-9a-f]{64}", name)) for name in found] == [True, True, False]
        assert re.fullmatch("[0-9a-f]{8}-user-[0-9a-f]{64}", found[2])
        assert browser.cookies["session_id"] not in " ".join(found)


def test_the_server_drops_a_session_when_its_time_is_over(server: Memcached, store: MemcachedStore) -> None:
    for seconds in (100, 30 * DAY - 1, 31 * DAY, 400 * DAY):  # a number above 30 days is a date to the server
        key = stored(store, fresh(seconds=seconds))
        assert seconds - LONG <= lasts(server, key) <= seconds + 3
    for seconds in (-100, 10**11):  # in its last second; longer than the server can count
        assert lasts(server, stored(store, fresh(seconds=seconds))) >= 0, "it would stay for ever"


def test_the_largest_item_of_the_server_is_the_limit(start: Start, open_store: Open) -> None:
    store = open_store(start("-I", "2m"))
    limit = store.capabilities.max_bytes
    assert limit and 2_090_000 < limit < 2 * 1024 * 1024
    key = stored(store, fresh())
    record = Record("x" * limit, time.time() + 0.123456, time.time() + 3600.123456)
    assert store.acquire(key, LONG).commit(record)
    assert store.load(key) == record
    large = record._replace(data="x" * (limit + 100))
    for store_it in (lambda: store.acquire(key, LONG).commit(large), lambda: stored(store, large)):
        with pytest.raises(TooLarge, match=str(limit + 100)[:4]):
            store_it()
    assert store.load(key) == record


def test_the_server_may_evict(start: Start, open_store: Open) -> None:
    """What its limitations say. Such a session is missing; that is no error."""
    store = open_store(start("-m", "2"))
    keys = [stored(store, fresh()._replace(data="x" * 50_000)) for _ in range(200)]
    assert store.load(keys[0]) is None
    assert store.load(keys[-1]) is not None


def test_connections_are_few_and_shared_by_threads(
    proxy: Proxy, server: Memcached, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_CONNECTIONS", 2)
    store = open_store(proxy)
    before = stat(server, "total_connections")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: add_one(store, stored(store, fresh()), 20), range(8)))
    assert stat(server, "total_connections") - before <= 2 + 1  # this question is one, too


def test_more_records_than_go_in_one_send_are_all_found(pair: list[Memcached], open_store: Open) -> None:
    store = open_store(*pair)
    keys = [stored(store, fresh(n)) for n in range(450)]
    ask(next(one for one in pair if one.address == store.server(keys[7]).address), f"ms sessions:{keys[7]} 1\r\n-")
    found = store.load_all([store.new_key(), *keys])
    assert {key: count_of(record) for key, record in found.items()} == {
        key: n for n, key in enumerate(keys) if n != 7
    }, "one is missing, one is unreadable"


# ---------------------------------------------------------------- outages


def test_a_server_that_does_not_answer_costs_a_visitor_less_than_two_seconds() -> None:
    """As the capabilities promise. No request asks it again: see the tests below."""
    assert wire._WAIT + wire._CONNECT + wire.ANSWER < 2


def test_an_answer_in_pieces_has_no_more_time_than_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping:
        """Gives a byte every 0.4 seconds, by a clock of its own."""

        now, timeout = 0.0, 1.0

        def settimeout(self, seconds: float) -> None:
            self.timeout = seconds

        def sendall(self, data: bytes) -> None: ...

        def recv(self, size: int) -> bytes:
            self.now += min(self.timeout, 0.4)
            if self.timeout < 0.4:
                raise TimeoutError
            return b"."

        def close(self) -> None: ...

    dripping = Dripping()
    monkeypatch.setattr(wire, "time", SimpleNamespace(monotonic=lambda: dripping.now))
    monkeypatch.setattr(Server, "_take", lambda self: dripping)
    with pytest.raises(TimeoutError):
        Server("127.0.0.1:1", 1.0)._exchange(b"mn\r\n")
    assert dripping.now == pytest.approx(1.0)


@pytest.mark.parametrize("server_timeout", [None, 0.5])
def test_a_server_that_hangs_is_unavailable_in_its_time_and_works_again_when_it_goes_on(
    server: Memcached, open_store: Open, server_timeout: float | None
) -> None:
    store = open_store(server, server_timeout=server_timeout)
    key = stored(store, fresh())
    with store.server(key)._take() as taken:
        assert taken.gettimeout() == (server_timeout or 1.0)
    server.pause()
    for action in (lambda: store.load(key), lambda: store.delete(key), store.ping):
        assert f"memcached at {server.address}: timed out" in refused(action)
    server.resume()
    wait_until(server.answers)
    assert store.load(store.new_key()) is None
    add_one(store, key, 1)


def test_a_lock_whose_answer_never_came_does_not_block_the_process(server: Memcached, store: MemcachedStore) -> None:
    """The server takes it out of its buffer when it goes on, and nobody would ever give it back."""
    key = stored(store, fresh())
    server.pause()
    refused(lambda: store.acquire(key, LONG))
    server.resume()
    wait_until(lambda: lasts(server, f"{key}:lock") > 0)
    add_one(store, key, 1)
    assert count_of(store.load(key)) == 2


def test_while_a_server_hangs_one_thread_at_a_time_waits_for_it(
    server: Memcached, store: MemcachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, go_on, exchange = threading.Event(), threading.Event(), Server._exchange

    def slow_exchange(self: Server, commands: bytes) -> bytes:
        asks.set()
        assert go_on.wait(LONG)
        return exchange(self, commands)

    server.pause()
    refused(store.ping)
    monkeypatch.setattr(Server, "_exchange", slow_exchange)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(refused, store.ping)
        assert asks.wait(LONG)
        assert "still does not answer" in refused(lambda: store.load(store.new_key()))
        go_on.set()
        assert "timed out" in first.result(LONG)
    server.resume()
    store.ping()


@pytest.mark.parametrize(("found_out", "trips"), [("by the holder", 1), ("by the first who waits", 2)])
def test_who_waits_behind_the_one_that_finds_the_server_hanging_is_refused_with_it(
    proxy: Proxy, server: Memcached, open_store: Open, found_out: str, trips: int
) -> None:
    """None of them asks the server for itself: the last of four would wait four times as long."""
    store = open_store(proxy)
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(refused, lambda: store.acquire(key, LONG)) for _ in range(3)]
        wait_until(lambda: waiting.count == 3)
        server.pause()
        with proxy.expect(trips):
            if trips == 1:
                assert "timed out" in refused(lambda: hold.commit(fresh(2)))
            else:
                hold.release()  # which fails nobody: the page has what it needs
            assert all("timed out" in other.result(LONG) for other in others)
    server.resume()
    add_one(store, key, 1)


def test_after_a_restart_of_the_server_sessions_are_missing_and_that_is_no_error(
    server: Memcached, store: MemcachedStore
) -> None:
    key = stored(store, fresh())
    with ThreadPoolExecutor(4) as pool:  # several idle connections, all of which the restart closes
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: (barrier.wait(LONG), [store.load(key) for _ in range(20)]), range(4)))
    hold = store.acquire(key, LONG)
    server.kill()
    assert "refused" in refused(lambda: store.load(store.new_key()))
    server.start()
    assert not hold.commit(fresh(2)), "it must not come back"
    assert store.load(key) is None
    add_one(store, stored(store, fresh()), 1)


@pytest.mark.parametrize("step", ["acquire", "commit", "release", "create", "load"])
def test_a_connection_that_is_cut_before_the_answer(
    proxy: Proxy, open_store: Open, step: str, logged: list[str]
) -> None:
    store = open_store(proxy)
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    actions: dict[str, Callable[[], object]] = {
        "acquire": lambda: store.acquire(key, LONG),
        "commit": lambda: hold.commit(fresh(2)),
        "create": lambda: stored(store, fresh()),
        "load": lambda: store.load(key),
    }
    if step not in ("commit", "release"):
        hold.release()
    proxy.cut_next = True
    if step == "release":
        hold.release()
        assert "could not be unlocked" in logged[-1], "the page has what it needs"
    else:
        assert proxy.address in refused(actions[step])
    n = count_of(store.load(key))
    assert n == 1 or step == "commit"
    add_one(store, key, 1)  # at once, though a lock may have been left behind
    assert count_of(store.load(key)) == n + 1
    assert len(store.locks) == 0


def test_a_connection_cut_while_idle_is_replaced(proxy: Proxy, open_store: Open) -> None:
    """Even for a commit: nothing has been sent over it."""
    store = open_store(proxy)
    hold = store.acquire(stored(store, fresh()), LONG)
    proxy.cut()
    assert hold.commit(fresh(2))


def test_a_server_that_is_down_is_replaced_by_no_other(pair: list[Memcached], open_store: Open) -> None:
    store = open_store(*pair)
    keys: dict[str, list[str]] = {server.address: [] for server in pair}
    for _ in range(40):
        key = stored(store, fresh())
        keys[store.server(key).address].append(key)
    assert min(map(len, keys.values())) > 4, "both have their share"
    dead, alive = pair
    dead.kill()
    for key in keys[dead.address]:
        assert dead.address in refused(lambda key=key: store.load(key))
        refused(lambda key=key: store.acquire(key, LONG))
    for key in keys[alive.address]:
        add_one(store, key, 1)
    store.ping()
    dead.start()
    assert [store.load(key) for key in keys[dead.address]] == [None] * len(keys[dead.address])
    assert {count_of(store.load(key)) for key in keys[alive.address]} == {2}


# ---------------------------------------------------------------- the index of a user


def test_an_index_lives_on_the_server_of_its_key_and_lasts_as_long_as_its_sessions(spread: Spread) -> None:
    store, here, there = spread
    user = user_on(store, there)
    index = store.user_key(user)
    for seconds, longest in ((100, 100), (10 * DAY, 10 * DAY), (100, 10 * DAY), (40 * DAY, 40 * DAY)):
        store.create(key_on(store, here), fresh(1, user, seconds))
        assert longest - LONG <= lasts(there, index) <= longest + 3
    assert names(there) == [index] and len(names(here)) == 4
    key = next(iter(store.live(user)))
    assert store.acquire(key, LONG).commit(fresh(2, user, 50 * DAY))
    assert lasts(there, index) >= 50 * DAY - LONG, "it was renewed"


def test_an_index_grows_neither_with_sessions_that_the_server_dropped_nor_with_renewals(
    server: Memcached, store: MemcachedStore
) -> None:
    key, sizes = sign_in(store, "ada"), set[int]()
    for n in range(60):
        drop(server, sign_in(store, "ada"))
        assert store.acquire(key, LONG).commit(fresh(n, "ada", HOUR + n))
        index = store.load(store.user_key("ada"))
        sizes.add(len(index.data.split()) - 1 if index else 0)
    assert 10 < max(sizes) <= 2 * 2 + sessions.store._UNCHECKED
    assert set(store.live("ada")) == {key}


@pytest.mark.parametrize("down", [Memcached.kill, Memcached.pause])
@pytest.mark.parametrize("moment", ["before", "after the session was stored", "before, and there is an index"])
def test_nobody_signs_in_while_the_server_of_the_index_is_down(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, down: Callable[[Memcached], None], moment: str
) -> None:
    store, here, there = spread
    user, save, kept = user_on(store, there), store.save, 0

    def save_and_go_down(key: str, record: Record) -> None:
        monkeypatch.undo()
        save(key, record)
        down(there)

    if moment == "after the session was stored":
        monkeypatch.setattr(store, "save", save_and_go_down)
    else:
        if moment != "before":
            store.create(key_on(store, here), fresh(1, user))
            kept = 1
        down(there)
    key = key_on(store, here)
    assert there.address in refused(lambda: store.create(key, fresh(1, user)))
    assert store.load(key) is None
    assert stat(here, "curr_items") == kept, "nothing is half done"
    store.create(key, fresh(1, user_on(store, here)))


def test_nobody_signs_in_while_the_server_of_the_session_is_down(spread: Spread) -> None:
    store, here, there = spread
    user = user_on(store, here)
    there.kill()
    refused(lambda: store.create(key_on(store, there), fresh(1, user)))
    assert stat(here, "curr_items") == 0
    assert store.live(user) == {}


@pytest.mark.parametrize("down", [Memcached.kill, Memcached.pause])
def test_who_is_signed_in_goes_on_and_signs_out_while_the_server_of_the_index_is_down(
    spread: Spread, logged: list[str], down: Callable[[Memcached], None]
) -> None:
    store, here, there = spread
    user, key, other = user_on(store, there), key_on(store, here), key_on(store, here)
    for one in (key, other):
        store.create(one, fresh(1, user))
    down(there)
    assert store.acquire(key, LONG).commit(fresh(2, user, HOUR + 60)), "a renewal: the visit is saved"
    assert count_of(store.load(key)) == 2
    assert "may be missing in the index" in logged[-1] and there.address in logged[-1] and user not in logged[-1]
    store.delete(other)
    assert store.load(other) is None
    assert "stays in the index" in logged[-1] and user not in logged[-1]
    refused(lambda: store.live(user))
    there.resume() if there.process else there.start()
    assert store.acquire(key, LONG).commit(fresh(3, user, HOUR + 120))
    assert set(store.live(user)) == {key}


def test_sessions_of_a_server_that_is_down_are_not_taken_for_ended(
    spread: Spread, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions.store, "_UNCHECKED", 1)
    store, here, there = spread
    user = user_on(store, here)
    keys = {store.create(key_on(store, there), fresh(1, user))}
    there.pause()
    assert there.address in refused(lambda: store.live(user))
    for _ in range(2):  # the index has doubled, so it is to be looked at whether they live
        keys.add(store.create(key_on(store, here), fresh(1, user)))
        assert "keeps the sessions that have ended" in logged[-1], "and nobody is kept from signing in"
    there.resume()
    assert set(store.live(user)) == keys


def test_a_user_has_no_more_sessions_than_an_index_can_name(start: Start, open_store: Open) -> None:
    server = start("-I", "1k", "-o", "slab_chunk_max=1024")
    store, keys = open_store(server), list[str]()
    with pytest.raises(TooLarge):
        while len(keys) < 50:
            keys.append(sign_in(store, "ada"))
    assert 4 < len(keys) < 16
    assert stat(server, "curr_items") == len(keys) + 1, "nothing of the refused one is there"
    assert set(store.live("ada")) == set(keys)
    sign_in(store, "bob")
    store.delete(keys.pop(0))
    keys.append(sign_in(store, "ada"))
    assert set(store.live("ada")) == set(keys)


# ---------------------------------------------------------------- leases


def beats() -> bool:
    return any(thread.name == "session leases" for thread in threading.enumerate())


def test_a_killed_process_blocks_nobody_as_long_as_a_request_waits() -> None:
    assert lease.SECONDS + 1 < Settings.lock_timeout / 1.5
    assert lease.RENEWED_EVERY * 2 + 2 < lease.SECONDS, "one answer that does not come ends no lease"


@pytest.mark.usefixtures("quick_heart")
def test_a_server_that_hangs_does_not_end_the_leases_of_another(spread: Spread, logged: list[str]) -> None:
    store, here, there = spread
    key = store.create(key_on(store, here), fresh())
    held = [store.acquire(one, LONG) for one in (key, store.create(key_on(store, there), fresh()))]
    there.pause()
    wait_until(lambda: any("leases could not be renewed" in line and there.address in line for line in logged))
    ask(here, f"mg sessions:{key}:lock T2")
    wait_until(lambda: lasts(here, f"{key}:lock") > 3)
    there.resume()
    wait_until(lambda: not store.server(held[1].key).outage.is_down)  # the heartbeat is the one that asks
    assert [hold.commit(fresh(2)) for hold in held] == [True, True]


@pytest.mark.usefixtures("quick_heart")
def test_a_page_that_is_stuck_does_not_keep_its_lease(
    server: Memcached, open_store: Open, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWED_FOR", 0.1)
    store = open_store(server)
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    wait_until(lambda: not beats())
    assert "its lease ends now" in logged[-1]
    drop(server, f"{key}:lock")  # as it does when its time is over
    add_one(open_store(server), key, 1)
    assert not hold.commit(fresh(99))


def test_a_hold_that_could_not_be_made_is_not_renewed(store: MemcachedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(self: MemcachedHold) -> None:
        raise Unavailable("no answer")

    key = stored(store, fresh())
    with monkeypatch.context() as patch:
        patch.setattr(MemcachedHold, "_read", no_answer)
        refused(lambda: store.acquire(key, LONG))
    assert not store.heartbeat.leases
    add_one(store, key, 1)


def test_a_fork_renews_its_own_leases_only(store: MemcachedStore) -> None:
    held, key = store.acquire(stored(store, fresh()), LONG), stored(store, fresh())
    child = os.fork()
    if child == 0:
        store.acquire(key, LONG)
        os._exit(0 if [one.key for one in store.heartbeat.leases] == [key] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [one.key for one in store.heartbeat.leases] == [held.key]
    held.release()


# ---------------------------------------------------------------- the site


def where(pair: list[Memcached], visitor: Client) -> str:
    """Return the address of the server that has a visitor's session."""
    key = hashlib.sha256(visitor.cookies["session_id"].encode()).hexdigest()
    (address,) = (server.address for server in pair if key in " ".join(names(server)))
    return address


def test_a_site_over_an_outage(server: Memcached) -> None:
    with SiteProcess("memcached", servers=server.address) as site:
        visitor = site.visitor()
        page(visitor, "/count", 200)
        server.pause()
        for path in ("/count", "/explicit/count"):
            page(visitor, path, 503)
        page(site.visitor(), "/count", 503)
        assert page(visitor, "/untouched", 200) == "nothing"
        server.resume()
        assert page(visitor, "/count", 200) == "2"
        server.kill()
        page(visitor, "/count", 503)
        server.start()
        old = visitor.cookies["session_id"]
        assert page(visitor, "/read", 200) == "None"
        assert page(visitor, "/count", 200) == "1"
        assert visitor.cookies["session_id"] != old, "an id that the store does not know is never adopted"
        assert f"memcached at {server.address}" in site.output()
        assert old not in site.output()


def test_a_server_that_hangs_does_not_take_the_site_with_it(pair: list[Memcached]) -> None:
    with SiteProcess("memcached", servers=[server.address for server in pair]) as site, ThreadPoolExecutor(20) as pool:
        visitors: dict[str, list[Client]] = {server.address: [] for server in pair}
        while min(map(len, visitors.values())) < 3:
            visitor = site.visitor()
            page(visitor, "/count", 200)
            visitors[where(pair, visitor)].append(visitor)
        hanging, fine = pair
        hanging.pause()
        page(visitors[hanging.address][0], "/count", 503)
        crowd = [pool.submit(visitors[hanging.address][n % 2].twin().get, "/read") for n in range(20)]
        for visitor in visitors[fine.address]:
            assert page(visitor, "/count", 200) == "2"
        assert {request.result(60).status for request in crowd} == {503}
        hanging.resume()
        wait_until(lambda: visitors[hanging.address][1].get("/read").text == "1")
