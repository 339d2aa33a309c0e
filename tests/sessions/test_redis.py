"""The Redis backend on real servers that hang, die, fail over, fill up and come back. Its good days are in
`test_contract.py`, what it shares with Memcached in `test_leases.py`."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from services import ServiceError, free_port
from services.proxy import Proxy
from services.redis import Redis
from sessions import ConfigError, Unavailable
from sessions.backends.redis import _CONNECT, _GRACE, ANSWER, LOCK, SAVE, RedisStore, name_of
from sessions.backends.redis.server import Server
from sessions.errors import NoRoom
from sessions.locks import waiting
from sessions.testing import LONG, NAMESPACE, add_one, count_of, stored
from tests.sessions.test_rules import Server as SiteProcess
from tests.support.balancer import make_certificate
from tests.support.members import sign_in_app
from tests.support.outages import HOUR, fresh, page, refused
from tests.support.process import wait_until

Open = Callable[..., RedisStore]
Start = Callable[..., Redis]
Processes = tuple[RedisStore, RedisStore]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the server's account may write to."""
    path = Path(tempfile.mkdtemp(prefix="sessions-redis-"))
    path.chmod(0o777)  # noqa: S103 -- of the test alone
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Starts a server, with more arguments of its command line."""
    servers = []

    def start(*options: str) -> Redis:
        server = Redis(place, options=["--dir", str(place), *options])
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start: Start) -> Redis:
    return start()


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens a store on a server or proxy, as a process of a site would."""
    stores = []

    def open_store(server: Redis | Proxy, **options: Any) -> RedisStore:
        store = RedisStore(url=f"redis://{server.address}/0", **options)
        store.namespace = NAMESPACE
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(server: Redis, open_store: Open) -> RedisStore:
    return open_store(server)


@pytest.fixture
def processes(server: Redis, open_store: Open) -> Processes:
    """The stores of two processes."""
    return open_store(server), open_store(server)


@pytest.fixture
def proxy(server: Redis) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def ask(server: Redis) -> Iterator[Any]:
    """A client of the server itself."""
    with redis.Redis(port=server.port, decode_responses=True, protocol=2) as client:
        yield client


def options_of(store: RedisStore) -> dict[str, Any]:
    """Return how the driver's connections of a store are made."""
    connection = store._servers.all()[0]._take()
    return {name: getattr(connection, name) for name in ("socket_timeout", "socket_connect_timeout", "retry")}


# ---------------------------------------------------------------- options and start


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://x:secret@h/", "redis://x:secret@h:port/", 6379, None])
def test_a_malformed_url_is_named_in_one_line_without_its_password(url: Any) -> None:
    with pytest.raises(ConfigError, match=r"^url must be [^\n]+$") as caught:
        RedisStore(url=url)
    assert "secret" not in str(caught.value)


def test_an_unknown_option_of_the_url_is_named(server: Redis) -> None:
    with pytest.raises(ConfigError, match="url.*nonsense"):
        RedisStore(url=f"{server.url}?nonsense=1")


def test_the_url_cannot_lengthen_the_waits(server: Redis, open_store: Open) -> None:
    store = RedisStore(url=f"{server.url}?socket_timeout=99&socket_connect_timeout=99&retry_on_timeout=yes")
    options = options_of(store)
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (ANSWER, _CONNECT)
    assert options["retry"].get_retries() == 0
    assert ANSWER + _CONNECT < 2, "as the capabilities promise"


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_one() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=rf"{address}.*refused.*make services"):
        RedisStore(url=f"redis://{address}")


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match="pip install redis"):
        RedisStore(url="redis://127.0.0.1")


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServiceError, match="apt-get install redis-server"):
        Redis(tmp_path).start()


def test_a_server_that_cannot_start_says_why(server: Redis, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="Address already in use"):
        Redis(tmp_path, server.port).start()


def test_a_user_with_the_rights_of_the_documents_is_enough_and_a_wrong_password_is_not(server: Redis, ask: Any) -> None:
    text = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
    rule = re.search(r"^(ACL SETUSER .*)$", text, re.M)
    assert rule
    ask.execute_command(*rule[1].replace("PASSWORD", "p@ss/word").split())
    ask.execute_command("ACL", "SETUSER", "default", "off")
    store = RedisStore(url=f"redis://sessions:p%40ss%2Fword@{server.address}/0")
    key = stored(store, fresh(1, "ada"))
    hold = store.acquire(key, LONG)
    store._renew(list(store.heartbeat.leases))
    assert store.heartbeat.leases, "it could be renewed"
    assert hold.commit(fresh(2, "ada", 2 * HOUR))
    assert store.live("ada").keys() == {key}
    store.delete(key)
    store.close()
    with pytest.raises(Unavailable, match="password") as caught:
        RedisStore(url=f"redis://sessions:guess@{server.address}/0")
    assert "guess" not in str(caught.value)


def test_tls(start: Start, place: Path) -> None:
    (place / "both.pem").write_bytes(make_certificate())
    (place / "both.pem").chmod(0o644)
    port, pem = free_port(), str(place / "both.pem")
    start("--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem, "--tls-auth-clients", "no")
    store = RedisStore(url=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={pem}")
    add_one(store, stored(store, fresh()), 1)
    store.close()
    with pytest.raises(Unavailable, match="(?i)certificate"):
        RedisStore(url=f"rediss://127.0.0.1:{port}/0")


def test_workers_that_are_forked_off_share_no_connection_no_token_and_no_lease(store: RedisStore) -> None:
    assert not store._servers.all()[0]._idle, "it was closed after the check of the start"
    token, held, key = store.token(1), store.acquire(stored(store, fresh()), LONG), stored(store, fresh())
    child = os.fork()
    if child == 0:
        store.acquire(key, LONG)
        os._exit(0 if [one.key for one in store.heartbeat.leases] == [key] and store.token(1) != token else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [one.key for one in store.heartbeat.leases] == [held.key]
    held.release()


# ---------------------------------------------------------------- what goes over the wire


def warm(store: RedisStore) -> None:
    """Let the server see each script once, as after the first visitors."""
    store.acquire(stored(store, fresh()), LONG).commit(fresh())
    store.delete(stored(store, fresh()))


def test_round_trips_of_a_store(proxy: Proxy, open_store: Open) -> None:
    store, key = open_store(proxy), ""
    warm(store)
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
        key = stored(store, fresh(1, "ada"))
    with proxy.expect(3):  # get the index, store the session, store the index
        other = stored(store, fresh(1, "ada"))
    with proxy.expect(4):  # a renewal: the index is made to last as long
        assert store.acquire(key, LONG).commit(fresh(2, "ada", HOUR + 60))
    with proxy.expect(3):  # get the index, get all sessions, unlock
        assert set(store.live("ada")) == {key, other}
    with proxy.expect(4):
        store.delete(key)


def test_a_server_that_has_forgotten_the_scripts_is_sent_them_once(proxy: Proxy, open_store: Open, ask: Any) -> None:
    store = open_store(proxy)
    key = stored(store, fresh())
    ask.script_flush()
    with proxy.expect(4):
        assert store.acquire(key, LONG).commit(fresh(2))
    with proxy.expect(2):
        assert store.acquire(key, LONG).commit(fresh(3))


def test_round_trips_of_a_page(proxy: Proxy, tmp_path: Path) -> None:
    with sign_in_app("redis", tmp_path, url=f"redis://{proxy.address}/0") as site:
        browser = site.browser()

        def trips(work: Callable[[Any], object]) -> int:
            before = proxy.trips
            browser.run(work)
            return proxy.trips - before

        def write(session: Any) -> None:
            session.update(n=session.get("n", 0) + 1)

        for work in (write, write, lambda s: s.get("n")):
            browser.run(work)  # a new connection, and the scripts
        assert [trips(lambda s: None), trips(lambda s: s.get("n")), trips(write)] == [0, 2, 2]
        browser.cookies["session_id"] = "malformed"
        assert trips(lambda s: s.get("n")) == 0


def test_the_server_sees_hashes_and_no_ids_and_no_lock_stays(server: Redis, ask: Any, tmp_path: Path) -> None:
    def fail(session: object) -> None:
        raise RuntimeError

    with sign_in_app("redis", tmp_path, url=server.url) as site:
        browser = site.browser()
        for work in (lambda s: s.update(n=1), lambda s: s.get("n"), lambda s: s.update(n=object()), fail):
            browser.do(work)
        browser.sign_in("ada lovelace\r\n")
        found = sorted(ask.keys())
    assert len(found) == 3, "a session that has moved, where it is now, and an index; there is no lock"
    assert [bool(re.fullmatch("sessions:{[0-9a-f]{8}-[0-9a-f]{64}}", name)) for name in found] == [True, True, False]
    assert re.fullmatch("sessions:{[0-9a-f]{8}-user-[0-9a-f]{64}}", found[2])
    assert browser.cookies["session_id"] not in " ".join(found)


def test_the_server_drops_a_session_a_minute_after_its_time(store: RedisStore, ask: Any) -> None:
    for seconds in (100, 400 * 86400, 10**9):
        left = ask.ttl(name_of(stored(store, fresh(seconds=seconds))))
        assert seconds + _GRACE - LONG <= left <= seconds + _GRACE
    over = stored(store, fresh(seconds=-_GRACE - 1))
    wait_until(lambda: not ask.exists(name_of(over)))


def test_a_page_that_began_in_the_last_second_of_its_session_can_save(store: RedisStore, ask: Any) -> None:
    hold = store.acquire(stored(store, fresh(seconds=-1)), LONG)
    assert hold.commit(fresh(2))


def test_more_records_than_go_in_one_send_are_all_found(store: RedisStore, ask: Any) -> None:
    keys = [stored(store, fresh(n)) for n in range(250)]
    ask.hset(name_of(keys[7]), "record", "-")
    found = store.load_all([store.new_key(), *keys])
    assert {key: count_of(record) for key, record in found.items()} == {
        key: n for n, key in enumerate(keys) if n != 7
    }, "one is missing, one is unreadable"


# ---------------------------------------------------------------- outages


@pytest.mark.parametrize("server_timeout", [None, 0.3])
def test_a_server_that_hangs_is_unavailable_in_its_time_and_works_again_when_it_goes_on(
    server: Redis, open_store: Open, server_timeout: float | None
) -> None:
    store = open_store(server, server_timeout=server_timeout)
    assert options_of(store)["socket_timeout"] == (server_timeout or 1.0)
    key = stored(store, fresh())
    server.pause()
    for action in (lambda: store.load(key), lambda: store.delete(key), store.ping):
        assert re.search(rf"Redis at {server.address}: .*(?i:timeout)", refused(action))
    server.resume()
    wait_until(server.answers)
    assert store.load(store.new_key()) is None
    add_one(store, key, 1)


def test_a_lock_whose_answer_never_came_does_not_block_the_process(server: Redis, store: RedisStore, ask: Any) -> None:
    """The server takes it out of its buffer when it goes on, and nobody would ever give it back."""
    key = stored(store, fresh())
    store.acquire(key, LONG).release()
    server.pause()
    refused(lambda: store.acquire(key, LONG))
    server.resume()
    wait_until(lambda: ask.hexists(name_of(key), "holder"))
    assert store.acquire(key, 0).commit(fresh(2))


def test_a_command_that_comes_late_takes_nothing_from_a_later_hold_of_the_process(store: RedisStore) -> None:
    key = stored(store, fresh())
    early = store.token(next(store.numbers))
    hold = store.acquire(key, LONG)
    assert store.run(LOCK, key, early, 5000) == [0]
    assert store.run(SAVE, key, early, b"late", 5000, "") == -1
    assert hold.commit(fresh(2)) and count_of(store.load(key)) == 2


def test_while_a_server_hangs_one_thread_at_a_time_waits_for_it(
    server: Redis, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, go_on, take = threading.Event(), threading.Event(), Server._take

    def slow_take(server: Server) -> Any:
        asks.set()
        assert go_on.wait(LONG)
        return take(server)

    server.pause()
    refused(store.ping)
    monkeypatch.setattr(Server, "_take", slow_take)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(refused, store.ping)
        assert asks.wait(LONG)
        assert "still does not answer" in refused(lambda: store.load(store.new_key()))
        go_on.set()
        assert "Timeout" in first.result(LONG)
    server.resume()
    store.ping()


@pytest.mark.parametrize("found_out", ["by the holder", "by the first who waits"])
def test_who_waits_behind_the_one_that_finds_the_server_hanging_is_refused_with_it(
    server: Redis, store: RedisStore, found_out: str
) -> None:
    """None of them asks the server for itself: the last of four would wait four times as long."""
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(refused, lambda: store.acquire(key, LONG)) for _ in range(3)]
        wait_until(lambda: waiting.count == 3)
        server.pause()
        if found_out == "by the holder":
            assert "Timeout" in refused(lambda: hold.commit(fresh(2)))
        else:
            hold.release()  # which fails nobody: the page has what it needs
        assert all("Timeout" in other.result(LONG) for other in others)
    server.resume()
    wait_until(server.answers)
    add_one(store, key, 1)


@pytest.mark.parametrize("appendonly", ["no", "yes"])
def test_a_server_that_was_killed_is_an_outage_and_comes_back_with_what_it_wrote(
    start: Start, open_store: Open, appendonly: str
) -> None:
    server = start("--appendonly", appendonly, "--appendfsync", "always")
    store = open_store(server)
    key = stored(store, fresh())
    with ThreadPoolExecutor(4) as pool:  # several idle connections, all of which the end closes
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: (barrier.wait(LONG), [store.load(key) for _ in range(20)]), range(4)))
    hold = store.acquire(key, LONG)
    server.kill()
    assert "refused" in refused(lambda: store.load(store.new_key()))
    server.start()
    kept = appendonly == "yes"
    assert hold.commit(fresh(2)) is kept, "what has gone must not come back"
    assert count_of(store.load(key)) == (2 if kept else -1)
    add_one(store, stored(store, fresh()), 1)


@pytest.mark.parametrize("step", ["acquire", "commit", "release", "create", "load"])
def test_a_connection_that_is_cut_before_the_answer(
    proxy: Proxy, open_store: Open, step: str, logged: list[str]
) -> None:
    store = open_store(proxy)
    warm(store)
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
    assert n == (2 if step == "commit" else 1), "the server had done it"
    add_one(store, key, 1)  # at once, though a lock may have been left behind
    assert count_of(store.load(key)) == n + 1
    assert len(store.locks) == 0


def test_a_connection_cut_while_idle_is_replaced(proxy: Proxy, open_store: Open) -> None:
    """Even for a commit: nothing has been sent over it."""
    store = open_store(proxy)
    hold = store.acquire(stored(store, fresh()), LONG)
    proxy.cut()
    assert hold.commit(fresh(2))


def test_a_replica_that_does_not_write_is_unavailable_and_asked_again_by_a_new_connection(
    store: RedisStore, ask: Any
) -> None:
    key = stored(store, fresh())
    ask.replicaof("127.0.0.1", free_port())
    for action in (lambda: store.acquire(key, LONG), lambda: stored(store, fresh())):
        assert "read only replica" in refused(action)
    assert not store._servers.all()[0]._idle
    ask.replicaof("NO", "ONE")
    add_one(store, key, 1)


# ---------------------------------------------------------------- full memory


def test_a_full_server_reads_unlocks_and_deletes_and_refuses_to_save(store: RedisStore, ask: Any) -> None:
    """With noeviction, which is Redis' default policy."""
    key, other = stored(store, fresh(1, "ada")), stored(store, fresh())
    ask.config_set("maxmemory", "1")
    for save in (lambda: stored(store, fresh()), lambda: store.acquire(other, LONG).commit(fresh(2))):
        with pytest.raises(NoRoom, match="maxmemory"):
            save()
    hold = store.acquire(other, LONG)
    assert count_of(hold.record) == 1, "and the one that could not save has unlocked"
    hold.release()
    assert not ask.hexists(name_of(other), "holder")
    store.delete(key)
    assert store.load(key) is None
    ask.config_set("maxmemory", "0")
    add_one(store, other, 1)


def test_a_full_server_that_evicts_drops_sessions_and_that_is_no_error(store: RedisStore, ask: Any) -> None:
    ask.config_set("maxmemory-policy", "allkeys-lru")
    ask.config_set("maxmemory", str(int(ask.info("memory")["used_memory"]) + 2_000_000))
    keys = [stored(store, fresh()._replace(data="x" * 50_000)) for _ in range(100)]
    assert [store.load(keys[0]) is None, store.load(keys[-1]) is None] == [True, False]
    assert not store.acquire(keys[0], LONG).commit(fresh())


def test_a_session_evicted_while_it_is_held_does_not_come_back(store: RedisStore, ask: Any) -> None:
    key = stored(store, fresh())
    hold = store.acquire(key, LONG)
    ask.delete(name_of(key))
    assert not hold.commit(fresh(2))
    assert store.load(key) is None
    assert ask.keys() == []


# ---------------------------------------------------------------- leases


@pytest.mark.usefixtures("quick_heart")
def test_a_server_that_hangs_ends_no_lease_while_it_lives(server: Redis, store: RedisStore, logged: list[str]) -> None:
    hold = store.acquire(stored(store, fresh()), LONG)
    server.pause()
    wait_until(lambda: any("leases could not be renewed" in line for line in logged))
    server.resume()
    wait_until(lambda: not store._servers.all()[0].outage.is_down)  # the heartbeat is the one that asks
    assert hold.commit(fresh(2))


# ---------------------------------------------------------------- the site


def test_a_site_over_an_outage_a_restart_and_a_full_memory(start: Start) -> None:
    server = start("--appendonly", "yes", "--appendfsync", "always")
    with SiteProcess("redis", url=server.url) as site, redis.Redis(port=server.port, protocol=2) as ask:
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
        assert page(visitor, "/count", 200) == "3"
        ask.config_set("maxmemory", "1")
        page(visitor, "/count", 503)
        assert page(visitor, "/read", 200) == "3"
        ask.config_set("maxmemory", "0")
        assert page(visitor, "/count", 200) == "4"
        assert f"Redis at {server.address}" in site.output()
        assert visitor.cookies["session_id"] not in site.output()
