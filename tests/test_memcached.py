"""The Memcached backend on real servers that hang, die and come back. Its good days are in `test_contract.py`."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
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
from typing import Any

import pytest

from services import ServiceError, free_port
from services.memcached import Memcached
from services.proxy import Proxy
from sessions import CannotList, ConfigError, LockTimeout, Record, TooLarge, Unavailable
from sessions.backends.memcached import MemcachedStore
from sessions.backends.memcached_hold import MemcachedHold
from sessions.backends.memcached_server import Reply, Server, replies
from sessions.backends.memcached_users import list_of
from sessions.locks import waiting
from sessions.settings import Settings
from sessions.testing import LONG, SHORT, a_record, add_one, count_of, process
from tests.test_rules import a_server as a_site
from tests.visitor import Visitor

BOUND = 2.0  # seconds in which a page has to give up
DAY = 86400


class ShortLease(MemcachedStore):
    lease = 2
    renewed_for = 0.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Memcached]]:
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
def server(start: Callable[..., Memcached]) -> Memcached:
    return start()


@pytest.fixture
def pair(start: Callable[..., Memcached]) -> list[Memcached]:
    return [start(), start()]


@pytest.fixture
def open_store() -> Iterator[Callable[..., MemcachedStore]]:
    """Opens a store on servers or proxies, as a process of a site would."""
    stores = []

    def open_store(*servers: Memcached | Proxy, kind: type[MemcachedStore] = MemcachedStore) -> MemcachedStore:
        store = kind(servers=[server.address for server in servers])
        store.namespace = "0123abcd-"
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(server: Memcached, open_store: Callable[..., MemcachedStore]) -> MemcachedStore:
    return open_store(server)


@pytest.fixture
def proxy(server: Memcached) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the package logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("sessions")
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def fresh(n: int = 1) -> Record:
    """A record that does not expire while a test runs."""
    return a_record({"n": n}, deadline=time.time() + 3600)


def a_key(store: MemcachedStore, n: int = 1) -> str:
    key = store.new_key()
    store.create(key, fresh(n))
    return key


def ask(server: Memcached, command: str, end: str = "MN") -> str:
    """What the server itself says, up to the line `end`."""
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


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def names(server: Memcached) -> list[str]:
    """The names of all items, URL-quoted. A dump of "all", by queues, misses items that move between two of them."""
    return re.findall(r"^key=(\S+) ", ask(server, "lru_crawler metadump hash", "END"), re.M)


def refused(action: Callable[[], object]) -> str:
    """Why an action was not done, which must be said in time."""
    start = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        action()
    assert time.monotonic() - start < BOUND
    return str(caught.value)


def answers(store: MemcachedStore, key: str) -> bool:
    try:
        store.load(key)
    except Unavailable:
        return False
    return True


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


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymemcache.client.rendezvous", None)
    with pytest.raises(ConfigError, match="pip install pymemcache"):
        MemcachedStore(servers="127.0.0.1:11211")


def test_servers_are_a_list_or_a_text_and_may_have_names(server: Memcached) -> None:
    key, addresses = "", [server.address, f"localhost:{server.port}"]
    for servers in (addresses, ", ".join(reversed(addresses))):
        store = MemcachedStore(servers=servers)
        key = key or a_key(store)
        assert count_of(store.load(key)) == 1, "the order must not matter"
        store.close()


def test_one_server_of_several_is_enough_to_start(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore], logged: list[str]
) -> None:
    down, _ = pair
    down.kill()
    store = open_store(*pair)
    assert [line for line in logged if down.address in line and "unavailable" in line]
    store.ping()
    down.start()
    keys = [a_key(store) for _ in range(20)]
    assert {store.server(key).address for key in keys} == {server.address for server in pair}
    assert {count_of(store.load(key)) for key in keys} == {1}


def test_workers_that_are_forked_off_after_the_start_share_no_connection_and_no_token(
    server: Memcached, open_store: Callable[..., MemcachedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stat(server, "curr_connections")
    store = open_store(server)
    wait_until(lambda: stat(server, "curr_connections") == before)
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
    assert replies(b"HD c7\r\nVA 4 c8\r\n\r\nEN\r\nEN\r\nHD s65 t-1 f4") == [
        Reply(b"HD", 7), Reply(b"VA", 8, b"\r\nEN"), Reply(b"EN"), Reply(b"HD", size=65, ttl=-1, flags=4),
    ]  # fmt: skip
    for nonsense in (b"HD\r\nSERVER_ERROR out of memory", b"HTTP/1.1 400", b"VA x\r\n", b"HD cx", b"HD W"):
        with pytest.raises(ValueError):
            replies(nonsense)


def test_round_trips_of_a_store(proxy: Proxy, open_store: Callable[..., MemcachedStore]) -> None:
    store = open_store(proxy)
    key = store.new_key()
    with proxy.expect(1):
        store.create(key, fresh())
    with proxy.expect(1):
        store.load(key)
    with proxy.expect(2):
        assert store.acquire(key, LONG).commit(fresh(2))
    with proxy.expect(2):
        store.acquire(key, LONG).release()
    with proxy.expect(2):
        store.acquire(key, LONG).delete()


def test_round_trips_of_a_page(proxy: Proxy) -> None:
    with a_site("memcached", servers=proxy.address) as site:
        visitor = site.visitor()
        for path, trips in {"/untouched": 0, "/read": 0, "/count": 1}.items():  # nobody has a session yet
            with proxy.expect(trips):
                visitor.get(path)
        for path, trips in {"/untouched": 0, "/read": 2, "/count": 2, "/explicit/read": 1}.items():
            with proxy.expect(trips):
                visitor.get(path)
        with proxy.expect(0):
            site.visitor(session_id="malformed").get("/read")


def test_the_server_sees_hashes_and_no_ids_and_no_lock_stays(server: Memcached) -> None:
    with a_site("memcached", servers=server.address) as site:
        visitor = site.visitor()
        for path in ("/count", "/read", "/unstorable", "/boom", "/regenerate", "/count"):
            visitor.get(path)
        found = names(server)
        assert len(found) == 2, "one moved, and there is no lock"
        assert all(re.fullmatch("sessions%3A[0-9a-f]{8}-[0-9a-f]{64}", name) for name in found)
        assert visitor.cookies["session_id"] not in " ".join(found)


def test_the_server_drops_a_session_when_its_time_is_over(server: Memcached, store: MemcachedStore) -> None:
    for seconds in (100, 30 * DAY - 1, 31 * DAY, 400 * DAY):  # a number above 30 days is a date to the server
        key = store.new_key()
        store.create(key, a_record(deadline=time.time() + seconds))
        found = re.search(r" t(\d+)\r", ask(server, f"mg sessions:{key} v t"))
        assert found and seconds - 2 <= int(found[1]) <= seconds + 3
    for seconds, there in ((-100, True), (10**11, True)):  # in its last second; longer than the server can count
        key = store.new_key()
        store.create(key, a_record(deadline=time.time() + seconds))
        assert (" t-1" not in ask(server, f"mg sessions:{key} v t")) is there, "it would stay for ever"


def test_the_largest_item_of_the_server_is_the_limit(
    start: Callable[..., Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(start("-I", "2m"))
    limit = store.facts.max_bytes
    assert limit and 2_090_000 < limit < 2 * 1024 * 1024
    key = a_key(store)
    record = Record(b"x" * limit, *(time.time() + n for n in (0.123456, 3600.123456)))
    assert store.acquire(key, LONG).commit(record)
    assert store.load(key) == record
    large = Record(b"x" * (limit + 100), record.created, record.deadline)
    for store_it in (lambda: store.replace(key, large), lambda: store.create(store.new_key(), large)):
        with pytest.raises(TooLarge, match=str(limit + 100)[:4]):
            store_it()
    assert store.load(key) == record


def test_the_server_may_evict(start: Callable[..., Memcached], open_store: Callable[..., MemcachedStore]) -> None:
    """What `facts.cannot` says. Such a session is missing; that is no error."""
    store = open_store(start("-m", "2"))
    keys = []
    for _ in range(200):
        keys.append(store.new_key())
        store.create(keys[-1], a_record({"fill": "x" * 50_000}, deadline=time.time() + 3600))
    assert store.load(keys[0]) is None
    assert store.load(keys[-1]) is not None


def test_connections_are_few_and_shared_by_threads(proxy: Proxy, server: Memcached) -> None:
    class Small(MemcachedStore):
        connections = 2

    store = Small(servers=proxy.address)
    before = stat(server, "total_connections")
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda _: add_one(store, a_key(store, 0), 20), range(8)):
            pass
    assert stat(server, "total_connections") - before <= 2 + 1  # this question is one, too
    store.close()


# ---------------------------------------------------------------- outages


def test_a_server_that_hangs_is_unavailable_in_time_and_works_again_when_it_goes_on(
    server: Memcached, store: MemcachedStore
) -> None:
    key = a_key(store)
    server.pause()
    for action in (store.load, store.delete):
        assert server.address in refused(lambda action=action: action(key))
    refused(store.ping)
    server.resume()
    store.ping()
    assert store.load(store.new_key()) is None
    add_one(store, a_key(store, 0), 1)


def test_the_patience_of_a_store_is_its_own(server: Memcached, store: MemcachedStore) -> None:
    impatient = MemcachedStore(servers=server.address, patience=0.1)
    server.pause()
    start = time.monotonic()
    refused(impatient.ping)
    assert time.monotonic() - start < 0.9  # the usual second has not passed
    server.resume()
    impatient.ping()
    assert impatient.addresses == store.addresses == (server.address,)
    impatient.close()


def test_a_lock_whose_answer_never_came_does_not_block_the_process(server: Memcached, store: MemcachedStore) -> None:
    """The server takes it out of its buffer when it goes on, and nobody would ever give it back."""
    key = a_key(store)
    server.pause()
    refused(lambda: store.acquire(key, LONG))
    server.resume()
    wait_until(lambda: "VA" in ask(server, f"mg sessions:{key}:lock v"))
    add_one(store, key, 1)
    assert count_of(store.load(key)) == 2


def test_while_a_server_hangs_one_thread_at_a_time_waits_for_it(server: Memcached, store: MemcachedStore) -> None:
    server.pause()
    refused(store.ping)
    start = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(lambda _: refused(lambda: store.load(store.new_key())), range(20)))
    assert sum("still" in reason for reason in said) >= 15
    assert time.monotonic() - start < BOUND
    server.resume()


def test_after_a_restart_of_the_server_sessions_are_missing_and_that_is_no_error(
    server: Memcached, store: MemcachedStore
) -> None:
    key = a_key(store)
    with ThreadPoolExecutor(4) as pool:  # several idle connections, all of which the restart closes
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: (barrier.wait(), [store.load(key) for _ in range(20)]), range(4)))
    hold = store.acquire(key, LONG)
    server.kill()
    assert "refused" in refused(lambda: store.load(store.new_key()))
    server.start()
    assert not hold.commit(fresh(2)), "it must not come back"
    assert store.load(key) is None
    add_one(store, a_key(store, 0), 1)


@pytest.mark.parametrize("step", ["acquire", "commit", "release", "create", "load"])
def test_a_connection_that_is_cut_before_the_answer(
    proxy: Proxy, open_store: Callable[..., MemcachedStore], step: str, logged: list[str]
) -> None:
    store = open_store(proxy)
    key = a_key(store)
    hold = store.acquire(key, LONG) if step in ("commit", "release") else None
    proxy.cut_next = True
    if step == "release":
        hold.release()
        assert "could not be unlocked" in logged[-1], "the page has what it needs"
    else:
        actions = {"create": lambda: a_key(store), "load": lambda: store.load(key)}
        actions |= {"acquire": lambda: store.acquire(key, LONG), "commit": lambda: hold.commit(fresh(2))}
        assert proxy.address in refused(actions[step])
    n = count_of(store.load(key))
    assert n == 1 or step == "commit"
    add_one(store, key, 1)  # at once, though a lock may have been left behind
    assert count_of(store.load(key)) == n + 1
    assert len(store.locks) == 0


def test_a_connection_cut_while_idle_is_replaced(proxy: Proxy, open_store: Callable[..., MemcachedStore]) -> None:
    """Even for a commit: nothing has been sent over it."""
    store = open_store(proxy)
    hold = store.acquire(a_key(store), LONG)
    proxy.cut()
    assert hold.commit(fresh(2))


def test_what_is_no_memcached_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"ERROR\r\n" * 3)  # as a Memcached without the meta commands does
                connection.recv(1000)

        greeting = pool.submit(greet)
        start = time.monotonic()
        with pytest.raises(Unavailable, match="1.6 or newer"):
            MemcachedStore(servers=f"127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - start < BOUND
        greeting.result(LONG)


def test_a_server_that_is_down_is_replaced_by_no_other(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(*pair)
    keys: dict[str, list[str]] = {server.address: [] for server in pair}
    for _ in range(40):
        key = a_key(store)
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


# ---------------------------------------------------------------- the sessions of a user


HOUR = 3600


def of_user(user: str, seconds: float = HOUR, n: int = 1) -> Record:
    return a_record({"n": n}, deadline=time.time() + seconds, user=user)


def sign_in(store: MemcachedStore, user: str, seconds: float = HOUR) -> str:
    """Store a session as a sign-in does; its key."""
    key = store.new_key()
    store.create(key, of_user(user, seconds))
    return key


def listed(store: MemcachedStore, user: str) -> set[str]:
    return {key for key, _ in store.live(user)}


def list_item(store: MemcachedStore, user: str) -> str:
    return list_of(store.user_key(user)).decode()


def told(server: Memcached, store: MemcachedStore, user: str, what: str) -> int:
    """What the server tells of a user's list: s for its size, t for the seconds it has left."""
    found = re.match(rf"HD {what}(-?\d+)\r", ask(server, f"mg {list_item(store, user)} {what}"))
    assert found, "there is no such list"
    return int(found[1])


def user_on(store: MemcachedStore, server: Memcached) -> str:
    """A user whose list is on this server."""
    names = (f"user{n}" for n in range(1000))
    return next(name for name in names if store.server(store.user_key(name)).address == server.address)


def key_on(store: MemcachedStore, server: Memcached) -> str:
    while store.server(key := store.new_key()).address != server.address:
        pass
    return key


def before_the_swap(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], times: int = 1) -> list[bytes]:
    """Do something between the reading of a list and each of the first writes of a tidy one; the lists written."""
    written: list[bytes] = []
    send = Server.send

    def disturbed(self: Server, *commands: bytes) -> list[Reply]:
        if re.match(rb"ms \S+:user \d+ C", commands[0]):
            written.append(commands[0].partition(b"\r\n")[2])
            if len(written) <= times:
                action()
        return send(self, *commands)

    monkeypatch.setattr(Server, "send", disturbed)
    return written


def test_round_trips_of_a_session_with_a_user(proxy: Proxy, open_store: Callable[..., MemcachedStore]) -> None:
    store = open_store(proxy)
    with proxy.expect(2):  # the session, and its place in the list
        key = sign_in(store, "ada")
    record = store.load(key)
    assert record
    with proxy.expect(2):
        assert store.acquire(key, LONG).commit(Record(b'{"n":2}', record.created, record.deadline, "ada"))
    with proxy.expect(3):  # a renewal
        assert store.acquire(key, LONG).commit(of_user("ada", HOUR + 60))
    with proxy.expect(2):  # one for the list, one for all sessions of a server
        assert listed(store, "ada") == {key}
    dead = sign_in(store, "ada")
    store.delete(dead)
    with proxy.expect(4):  # the dead one is left out from now on
        assert listed(store, "ada") == {key}
    with proxy.expect(2):
        assert listed(store, "ada") == {key}
    with proxy.expect(1):
        assert listed(store, "nobody") == set()


def test_a_renewal_costs_one_round_trip_more_and_seldom_another_four(
    proxy: Proxy, open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(proxy)
    key, trips = sign_in(store, "ada", HOUR), proxy.trips
    record = store.load(key)
    assert record
    for n in range(100):
        assert store.acquire(key, LONG).commit(record)  # renews nothing
        record = of_user("ada", HOUR + n)
        assert store.acquire(key, LONG).commit(record)
    assert proxy.trips - trips <= 1 + 200 * 2 + 100 + 2 * 4, "tidied up more than once in 50 renewals"


def test_the_sessions_of_a_user_are_found_without_a_look_at_any_other(server: Memcached, store: MemcachedStore) -> None:
    for n in range(100):
        sign_in(store, f"user{n}")
        a_key(store)
    keys = {sign_in(store, "ada") for _ in range(3)}
    before = stat(server, "cmd_get")
    assert listed(store, "ada") == keys
    assert stat(server, "cmd_get") - before == 1 + len(keys)


def test_more_sessions_than_go_in_one_send_are_all_found(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(*pair)
    keys = {sign_in(store, "ada") for _ in range(450)}
    assert listed(store, "ada") == keys


def test_everybodys_sessions_cannot_be_listed_and_it_is_said_what_can_be_asked(store: MemcachedStore) -> None:
    with pytest.raises(CannotList, match="cannot list everybody's sessions.*Ask for those of one user"):
        store.live(None)


def test_the_name_of_a_user_is_in_no_name_of_an_item(server: Memcached, store: MemcachedStore) -> None:
    sign_in(store, "ada lovelace\r\n")
    found = names(server)
    assert len(found) == 2
    assert "lovelace" not in " ".join(found)


def test_a_list_lasts_at_least_as_long_as_each_of_its_sessions(server: Memcached, store: MemcachedStore) -> None:
    for seconds, least in ((100, 100), (10 * DAY, 10 * DAY), (100, 10 * DAY), (40 * DAY, 40 * DAY), (DAY, 40 * DAY)):
        sign_in(store, "ada", seconds)
        assert least <= told(server, store, "ada", "t") <= 2 * (least + 3)
    assert len(listed(store, "ada")) == 5
    sign_in(store, "cleo", 40 * DAY)
    assert told(server, store, "cleo", "t") >= 40 * DAY, "a number above 30 days is a date to the server"
    key = sign_in(store, "bob", 100)
    assert store.acquire(key, LONG).commit(of_user("bob", 10 * DAY))
    assert told(server, store, "bob", "t") >= 10 * DAY, "it was renewed"


def test_a_list_that_is_tidied_up_keeps_its_time(server: Memcached, store: MemcachedStore) -> None:
    sign_in(store, "ada", 10 * DAY)
    store.delete(sign_in(store, "ada", 100))
    left = told(server, store, "ada", "t")
    assert len(listed(store, "ada")) == 1
    assert told(server, store, "ada", "s") == 65
    assert left - 2 <= told(server, store, "ada", "t") <= left + 1


def test_two_sign_ins_at_once_leave_the_longer_time(
    server: Memcached, store: MemcachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {sign_in(store, "ada", 100)}
    written = before_the_swap(monkeypatch, lambda: keys.add(sign_in(store, "ada", 20 * DAY)))
    keys.add(sign_in(store, "ada", DAY))
    assert len(written) >= 2
    assert told(server, store, "ada", "t") >= 20 * DAY
    assert listed(store, "ada") == keys


def test_who_signs_in_while_a_list_is_tidied_up_stays_in_it(
    server: Memcached, store: MemcachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {sign_in(store, "ada")}
    store.delete(sign_in(store, "ada"))
    written = before_the_swap(monkeypatch, lambda: keys.add(sign_in(store, "ada")), times=5)
    listed(store, "ada")
    assert len(written) == 6, "each lost swap is tried again"
    assert len(keys) == 6
    assert listed(store, "ada") == keys
    assert told(server, store, "ada", "s") == 6 * 65


def _sign_in_and_out(address: str, times: int, begun: Any, found: Any) -> None:
    """In any process: sign in, end two of three sessions again, and now and then look at the list; who is left."""
    begun.put(True)
    store = MemcachedStore(servers=address)
    store.namespace = "0123abcd-"
    left = []
    for n in range(times):
        key = sign_in(store, "ada", 100 + n)
        if n % 3:
            store.delete(key)
        else:
            left.append(key)
        if n % 10 == 0:
            assert set(left) <= listed(store, "ada"), "one of ours is missing"
    found.put(left)
    store.close()


def test_nobody_is_lost_among_processes_that_sign_in_and_tidy_up(server: Memcached, store: MemcachedStore) -> None:
    """Races are left to chance here: 8 threads and another process, 50 times each."""
    begun, found = (multiprocessing.get_context("spawn").Queue() for _ in range(2))
    args = (server.address, 50, begun, found)
    with process(_sign_in_and_out, *args), ThreadPoolExecutor(8) as pool:
        assert begun.get(timeout=LONG)  # a new process takes its time
        for done in [pool.submit(_sign_in_and_out, *args) for _ in range(8)]:
            done.result(LONG)
        left = {key for _ in range(9) for key in found.get(timeout=LONG)}
    assert len(left) == 9 * 17
    assert listed(store, "ada") == left


def test_a_list_does_not_grow_with_sign_ins_that_are_over_nor_with_renewals(
    server: Memcached, store: MemcachedStore
) -> None:
    sizes = []
    for n in range(2000):
        store.delete(sign_in(store, "ada", HOUR))
        if n % 25 == 0:
            sizes.append(told(server, store, "ada", "s"))
    key = sign_in(store, "ada", HOUR)
    for n in range(300):
        assert store.replace(key, of_user("ada", HOUR + n))
        sizes.append(told(server, store, "ada", "s"))
    assert 3000 < max(sizes) < 4096 + 3 * 65
    assert listed(store, "ada") == {key}


def test_a_long_list_is_tidied_up_only_when_it_is_twice_as_long(
    proxy: Proxy, open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(proxy)
    with proxy.expect(200 * 2 + 4 + 5):  # after 64 sessions, and after 191, which are asked for in two batches
        for _ in range(200):
            sign_in(store, "ada")


def test_a_session_that_has_moved_or_changed_hands_is_not_listed(store: MemcachedStore) -> None:
    moved, given, key = (sign_in(store, "ada") for _ in range(3))
    assert store.acquire(moved, LONG).commit(Record(b"", 1.0, time.time() + 60))
    assert store.acquire(given, LONG).commit(of_user("bob"))
    assert listed(store, "ada") == {key}
    assert listed(store, "bob") == {given}


def test_a_user_has_no_more_sessions_than_the_list_can_name(
    start: Callable[..., Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    server = start("-I", "1k", "-o", "slab_chunk_max=1024")
    store, keys = open_store(server), []
    with pytest.raises(Unavailable, match="list of its user's sessions is full"):
        while len(keys) < 50:
            keys.append(sign_in(store, "ada"))
    assert 10 < len(keys) < 16
    assert listed(store, "ada") == set(keys)
    assert stat(server, "curr_items") == len(keys) + 1, "nothing of the refused one is there"
    sign_in(store, "bob")
    store.delete(keys.pop(0))
    keys.append(sign_in(store, "ada"))
    assert listed(store, "ada") == set(keys)


def test_a_list_that_the_server_dropped_grows_again_with_each_renewal(server: Memcached, store: MemcachedStore) -> None:
    keys = [sign_in(store, "ada") for _ in range(3)]
    ask(server, f"md {list_item(store, 'ada')}")
    assert listed(store, "ada") == set(), "this is what facts.cannot says"
    add = fresh(2)
    for n, key in enumerate(keys):
        assert store.replace(key, Record(add.data, add.created, add.deadline + 1, "ada"))
        assert listed(store, "ada") == set(keys[: n + 1])


def test_a_list_of_nonsense_is_a_list_of_nothing(server: Memcached, store: MemcachedStore) -> None:
    key = sign_in(store, "ada")
    nonsense = f"a b\n{'x' * 300}\n\r\n\n{'0' * 65}\n"
    ask(server, f"ms {list_item(store, 'ada')} {len(nonsense)} MP\r\n{nonsense}")
    assert listed(store, "ada") == {key}


@pytest.mark.parametrize("down", [Memcached.kill, Memcached.pause])
def test_nobody_signs_in_while_the_server_of_the_list_is_down(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore], down: Callable[[Memcached], None]
) -> None:
    store = open_store(*pair)
    here, there = pair
    user, key = user_on(store, there), key_on(store, here)
    down(there)
    assert there.address in refused(lambda: store.create(key, of_user(user)))
    assert store.load(key) is None
    assert stat(here, "curr_items") == 0, "nothing is half done"
    store.create(key, of_user(user_on(store, here)))


def test_nobody_signs_in_while_the_server_of_the_session_is_down(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(*pair)
    here, there = pair
    user = user_on(store, here)
    there.kill()
    refused(lambda: store.create(key_on(store, there), of_user(user)))
    assert stat(here, "curr_items") == 0
    assert listed(store, user) == set()


@pytest.mark.parametrize("down", [Memcached.kill, Memcached.pause])
def test_who_is_signed_in_goes_on_while_the_server_of_the_list_is_down(
    pair: list[Memcached],
    open_store: Callable[..., MemcachedStore],
    logged: list[str],
    down: Callable[[Memcached], None],
) -> None:
    store = open_store(*pair)
    here, there = pair
    user, key = user_on(store, there), key_on(store, here)
    store.create(key, of_user(user))
    down(there)
    begin = time.monotonic()
    assert store.acquire(key, LONG).commit(of_user(user, HOUR + 1, n=2))
    assert time.monotonic() - begin < BOUND
    assert count_of(store.load(key)) == 2
    assert "may be missing in the list" in logged[-1] and there.address in logged[-1] and user not in logged[-1]
    refused(lambda: listed(store, user))
    there.resume() if there.process else there.start()
    assert store.acquire(key, LONG).commit(of_user(user, HOUR + 2))
    assert listed(store, user) == {key}


def test_sessions_of_a_server_that_is_down_are_not_taken_for_dead(
    pair: list[Memcached], open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(*pair)
    here, there = pair
    user, key = user_on(store, here), key_on(store, there)
    store.create(key, of_user(user))
    there.pause()
    assert there.address in refused(lambda: listed(store, user))
    for n in range(100):  # enough to have the list tidied up
        gone = key_on(store, here)
        store.create(gone, of_user(user, HOUR + n))
        store.delete(gone)
    assert told(here, store, user, "s") < 4096 + 3 * 65
    there.resume()
    assert listed(store, user) == {key}


# ---------------------------------------------------------------- leases


class QuickHeart(MemcachedStore):
    heartbeat_every = 0.02


def lasts(server: Memcached, key: str) -> int:
    """Seconds until the lock of a session is dropped; 0 if there is none."""
    found = re.search(r"HD t(\d+)", ask(server, f"mg sessions:{key}:lock t"))
    return int(found[1]) if found else 0


def beats() -> bool:
    return any(thread.name == "session leases" for thread in threading.enumerate())


def test_a_killed_process_blocks_nobody_as_long_as_a_request_waits(store: MemcachedStore) -> None:
    assert store.lease + 1 < Settings.lock_timeout / 1.5
    assert store.heartbeat_every * 2 + BOUND < store.lease, "one answer that does not come ends no lease"


def test_a_lease_is_renewed_while_its_holder_works_and_not_longer(
    server: Memcached, open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(server, kind=QuickHeart)
    key = a_key(store)
    hold = store.acquire(key, LONG)
    for _ in range(3):
        ask(server, f"mg sessions:{key}:lock T2")
        wait_until(lambda: lasts(server, key) > 3)
    assert hold.commit(fresh(2)), "it is still the same lock"
    assert lasts(server, key) == 0
    wait_until(lambda: not beats())


def test_a_page_that_is_stuck_does_not_keep_its_lease(
    server: Memcached, open_store: Callable[..., MemcachedStore], logged: list[str]
) -> None:
    class Impatient(QuickHeart):
        renewed_for = 0.1

    store = open_store(server, kind=Impatient)
    key = a_key(store)
    hold = store.acquire(key, LONG)
    wait_until(lambda: not beats())
    assert "its lease ends now" in logged[-1]
    ask(server, f"md sessions:{key}:lock")  # as the server does when its time is over
    add_one(open_store(server), key, 1)
    assert not hold.commit(fresh(99))


def test_a_holder_whose_lock_was_lost_learns_it_at_the_next_beat(
    server: Memcached, open_store: Callable[..., MemcachedStore], logged: list[str]
) -> None:
    slow, quick = open_store(server, kind=QuickHeart), open_store(server)
    key = a_key(slow)
    hold = slow.acquire(key, LONG)
    ask(server, f"md sessions:{key}:lock")
    other = quick.acquire(key, LONG)
    wait_until(lambda: not len(slow.heartbeat))
    assert not hold.commit(fresh(99)), "the other one's save would be lost"
    assert "was lost and another request took it" in logged[-1]
    assert other.commit(fresh(2)) and count_of(slow.load(key)) == 2


def test_a_hold_that_could_not_be_made_is_not_renewed(store: MemcachedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(self: MemcachedHold) -> None:
        raise Unavailable("no answer")

    key = a_key(store)
    with monkeypatch.context() as patch:
        patch.setattr(MemcachedHold, "read", no_answer)
        refused(lambda: store.acquire(key, LONG))
    assert len(store.heartbeat) == 0
    add_one(store, key, 1)


def test_a_fork_renews_its_own_leases_only(store: MemcachedStore) -> None:
    held, key = store.acquire(a_key(store), LONG), a_key(store)
    child = os.fork()
    if child == 0:
        none = len(store.heartbeat) == 0
        store.acquire(key, LONG)
        os._exit(0 if none and len(store.heartbeat) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store.heartbeat) == 1
    held.release()


@pytest.mark.parametrize("saves", [True, False])
def test_a_lock_is_passed_on_within_the_process_and_the_record_is_read_again(
    server: Memcached, store: MemcachedStore, saves: bool
) -> None:
    key = a_key(store)
    hold = store.acquire(key, LONG)
    number = ask(server, f"mg sessions:{key}:lock c")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(store.acquire, key, LONG)
        wait_until(lambda: waiting.count == 1)
        store.locks.begin_round(key)
        assert hold.commit(fresh(2)) if saves else hold.release() is None
        following = waits.result()
    assert count_of(following.record) == (2 if saves else 1)
    assert ask(server, f"mg sessions:{key}:lock c") == number
    assert len(store.heartbeat) == 1
    assert following.commit(fresh(3))
    assert lasts(server, key) == 0 and len(store.heartbeat) == 0


def test_a_lock_that_was_lost_while_it_was_passed_on_is_taken_anew(
    server: Memcached, open_store: Callable[..., MemcachedStore]
) -> None:
    store = open_store(server, kind=QuickHeart)
    key = a_key(store)
    hold = store.acquire(key, LONG)
    ask(server, f"md sessions:{key}:lock")
    wait_until(lambda: len(store.heartbeat) == 0)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(store.acquire, key, LONG)
        wait_until(lambda: waiting.count == 1)
        store.locks.begin_round(key)
        hold.release()
        following = waits.result()
    assert lasts(server, key) > 0
    following.release()


def test_a_late_save_never_overwrites_anothers(
    server: Memcached, open_store: Callable[..., MemcachedStore], logged: list[str]
) -> None:
    slow, quick = (open_store(server, kind=ShortLease) for _ in range(2))
    key = a_key(slow)
    hold = slow.acquire(key, LONG)
    with pytest.raises(LockTimeout):
        quick.acquire(key, SHORT)
    add_one(quick, key, 1)  # waits for the end of the lease
    assert not hold.commit(fresh(99))
    assert "lease of 2 s, was lost" in logged[-1]
    assert count_of(slow.load(key)) == 2


def test_a_late_save_is_refused_while_another_has_the_session(
    server: Memcached, open_store: Callable[..., MemcachedStore], logged: list[str]
) -> None:
    slow, quick = (open_store(server, kind=ShortLease) for _ in range(2))
    key = a_key(slow)
    late = slow.acquire(key, LONG)
    holder = quick.acquire(key, LONG)
    assert not late.commit(fresh(99)), "the other one's save would be lost"
    assert "lease of 2 s, was lost" in logged[-1]
    assert holder.commit(fresh(2))
    assert count_of(slow.load(key)) == 2


def test_a_late_save_that_nobody_minds_is_stored(server: Memcached, open_store: Callable[..., MemcachedStore]) -> None:
    store = open_store(server, kind=ShortLease)
    key = a_key(store)
    hold = store.acquire(key, LONG)
    wait_until(lambda: "VA" not in ask(server, f"mg sessions:{key}:lock v"))
    assert hold.commit(fresh(2))
    assert count_of(store.load(key)) == 2
    assert "VA" not in ask(server, f"mg sessions:{key}:lock v")


def test_a_session_deleted_by_another_process_stays_deleted(
    server: Memcached, open_store: Callable[..., MemcachedStore]
) -> None:
    one, other = open_store(server), open_store(server)
    key = a_key(one)
    hold = one.acquire(key, LONG)
    other.delete(key)
    assert not hold.commit(fresh(2))
    assert other.load(key) is None


def test_an_unreadable_record_is_dropped_and_logged_once(
    server: Memcached, store: MemcachedStore, logged: list[str]
) -> None:
    key = a_key(store)
    ask(server, f"ms sessions:{key} 7 T60\r\nforeign")
    assert store.load(key) is None
    assert store.load(key) is None
    assert len([line for line in logged if "unreadable" in line]) == 1


# ---------------------------------------------------------------- the site


def page(visitor: Visitor, path: str, status: int) -> str:
    """A page that must come in time with this status, and leave the cookie alone if that is an error."""
    start = time.monotonic()
    answer = visitor.get(path)
    assert time.monotonic() - start < BOUND
    assert answer.status == status, answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
        assert answer.set_cookie == []
        assert "127.0.0.1" not in answer.text
    return answer.text


def where(pair: list[Memcached], visitor: Visitor) -> str:
    """The address of the server that has a visitor's session."""
    key = store_key(visitor)
    (address,) = (server.address for server in pair if key in " ".join(names(server)))
    return address


def store_key(visitor: Visitor) -> str:
    return hashlib.sha256(visitor.cookies["session_id"].encode()).hexdigest()


def test_a_site_over_an_outage(server: Memcached) -> None:
    with a_site("memcached", servers=server.address) as site:
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
    with a_site("memcached", servers=[server.address for server in pair]) as site, ThreadPoolExecutor(20) as pool:
        visitors: dict[str, list[Visitor]] = {server.address: [] for server in pair}
        while min(map(len, visitors.values())) < 3:
            visitor = site.visitor()
            page(visitor, "/count", 200)
            visitors[where(pair, visitor)].append(visitor)
        hanging, fine = pair
        hanging.pause()
        page(visitors[hanging.address][0], "/count", 503)
        start = time.monotonic()
        crowd = [pool.submit(visitors[hanging.address][n % 2].twin().get, "/read") for n in range(20)]
        for visitor in visitors[fine.address]:
            assert page(visitor, "/count", 200) == "2"
        assert {request.result(60).status for request in crowd} == {503}
        assert time.monotonic() - start < 2 * BOUND  # they do not wait one after the other
        hanging.resume()
        wait_until(lambda: visitors[hanging.address][1].get("/read").text == "1")


def test_logout_in_one_process_ends_a_request_under_way_in_another(server: Memcached) -> None:
    with a_site("memcached", servers=server.address) as here, a_site("memcached", servers=server.address) as there:
        visitor = here.visitor()
        page(visitor, "/count", 200)
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(Visitor(there.url, dict(visitor.cookies)).get, "/hold?word=w")
            there.listen("w-in")
            old = visitor.twin()
            page(visitor, "/explicit/delete", 200)
            there.say("w")
            assert under_way.result(60).status == 200
        assert old.get("/read").text == "None"
