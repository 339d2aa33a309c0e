"""The site on several processes: behind a load balancer, over a kill, over restarts; and how one process stops."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import argon2
import pytest

from auth.accounts import Accounts
from auth.database import Database
from services.memcached import Memcached
from tests.support import hashing, leaks
from tests.support.backends import SHARED, postgresql, redis
from tests.support.balancer import BAD_GATEWAY, BalancedClient, Balancer, Load
from tests.support.client import JSON, Client
from tests.support.pgbouncer import PgBouncer
from tests.support.process import ROOT, folder, wait_until
from tests.support.site import Site
from web import settings

PASSWORD = "a horse between two processes"  # noqa: S105 - of an account that is made up here
CLIENTS = 6
BEHIND_PROXY = ROOT / "deploy" / "behind-proxy.conf"
LOVELACE = {"first": "Ada", "last": "Lovelace"}
CUT_OFF = {0, BAD_GATEWAY}  # what a visitor sees whose request a process had when it was killed


@pytest.fixture
def places() -> Iterator[Callable[[], Path]]:
    """Makes folders that the servers' account may look into."""
    with ExitStack() as stack:

        def new() -> Path:
            path = folder()
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            return path

        yield new


@pytest.fixture(params=SHARED)
def backend(request: pytest.FixtureRequest, places: Callable[[], Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """A profile that processes share, and its environment: two Memcached servers, PostgreSQL behind a PgBouncer."""
    with ExitStack() as stack:
        environ = {}
        if request.param == "memcached":
            servers = [Memcached(places()) for _ in range(2)]
            for server in servers:
                server.start()
                stack.callback(server.stop)
            environ["MEMCACHED_SERVERS"] = ",".join(server.address for server in servers)
        if request.param == "postgresql":
            environ["DATABASE_URL"] = stack.enter_context(PgBouncer(places(), postgresql().port, size=20)).dsn
            environ["USERS_URL"] = environ["DATABASE_URL"]
            stack.callback(lambda: Accounts(Database(postgresql().dsn)).remove("ada"))  # other tests have it as well
        if request.param == "redis":
            environ["REDIS_URL"] = redis().url
        yield request.param, environ


@pytest.fixture
def cluster(backend: tuple[str, dict[str, str]], places: Callable[[], Path]) -> Iterator[tuple[list[Site], Balancer]]:
    """Two processes of the site as in production, with the files in deploy/, and the balancer."""
    profile, environ = backend
    config: dict[str, Any] = settings.read(BEHIND_PROXY)
    config["global"]["server.drain"] = 0.8  # shorter, as are the balancer's checks
    users = {"ada": hashing.line(PASSWORD, argon2.profiles.RFC_9106_LOW_MEMORY)}
    leaks.recorder.password(PASSWORD)
    storage = places()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        starts = [
            pool.submit(Site, profile, args=["--production"], env=environ, config=config, users=users, storage=storage)
            for _ in range(2)
        ]
        stack.callback(lambda: [started.result().close() for started in starts if not started.exception()])
        sites = [start.result() for start in starts]
        yield sites, stack.enter_context(Balancer(sites[0].port, sites[1].port))


def sign_in(balancer: Balancer) -> BalancedClient:
    client = BalancedClient(balancer)
    assert client.post("/login", {"username": "ada", "password": PASSWORD}).status == 303
    return client


def is_signed_in(client: BalancedClient) -> bool:
    return client.get("/account").json.get("user") == "ada"


def test_behind_a_balancer_no_visit_is_lost_and_nobody_signed_out_over_a_kill_and_restarts(
    cluster: tuple[list[Site], Balancer],
) -> None:
    (one, two), balancer = cluster
    clients = [sign_in(balancer) for _ in range(CLIENTS)]
    with Load(clients, goes_on=True) as load:  # a rolling restart
        load.wait_for(3)
        for site, name in ((one, "one"), (two, "two")):
            site.restart()
            wait_until(lambda name=name: name in balancer.up(), f"{name} is up again")  # type: ignore[misc]
            load.wait_for(3)
    assert [client.failures for client in clients] == [[]] * CLIENTS
    assert all(client.counts == list(range(1, len(client.counts) + 1)) for client in clients)
    assert all(map(is_signed_in, clients))

    crowd = [BalancedClient(balancer, clients[0].cookies) for _ in range(8)]  # one session
    first, before = clients[0].counts[-1], balancer.served()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda client: all([client.count() for _ in range(10)]), crowd))
    assert sorted(sum((client.counts for client in crowd), [])) == list(range(first + 1, first + 81))
    assert all(served > before[name] for name, served in balancer.served().items())

    for client in clients:
        client.counts.clear()
    with Load(clients, goes_on=True) as load:
        load.wait_for(3)
        one.kill()
        gone = time.monotonic()
        load.wait_for(3)
        one.restart()
        wait_until(lambda: "one" in balancer.up(), "the killed one is up again")
        load.wait_for(3)
    # At most what it had when it was killed: two of one client, where a process that is being killed closes its
    # connections before its port. Each of these may have counted or not.
    failures = [failure for client in clients for failure in client.failures]
    assert all(began < gone and status in CUT_OFF for began, status in failures), (gone, failures)
    for counts, failures in ((client.counts, client.failures) for client in clients):
        assert counts == sorted(set(counts)), "a visit was counted twice: one was lost"
        assert counts[-1] - counts[0] + 1 <= len(counts) + len(failures), "a request was done twice"
    assert all(map(is_signed_in, clients))


def test_several_memcached_servers_share_the_sessions_of_a_site(places: Callable[[], Path]) -> None:
    servers = [Memcached(places()) for _ in range(3)]
    for server in servers:
        server.start()
    try:
        with Site("memcached", env={"MEMCACHED_SERVERS": ",".join(server.address for server in servers)}) as site:
            visitors: list[Client] = []
            while not all(map(sessions_of, servers)):
                visitors.append(Client(site.url))
                assert len(visitors) < 200 and visitors[-1].get("/counter").status == 200
            site.restart()
            kept = [visitor.get("/counter", **JSON).json for visitor in visitors]
            assert kept == [{"count": 2}] * len(visitors)
            servers[0].kill()
            answers = [visitor.get("/counter").status for visitor in visitors]
            assert set(answers) == {200, 503}, "its sessions are unavailable, and no others"
            assert site.client().get("/healthz").status == 200
    finally:
        for server in servers:
            server.stop()


def sessions_of(server: Memcached) -> int:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection, connection.makefile("rb") as answer:
        connection.sendall(b"stats\r\n")
        lines = iter(answer.readline, b"END\r\n")
        return sum(int(line.split()[2]) for line in lines if line.startswith(b"STAT curr_items "))


# ---------------------------------------------------------------- how a process stops


class Slow:
    """A form of which half has been sent.

    Args:
        expect: whether to send nothing but the head, and return when that was read: somebody has said 100.
    """

    def __init__(self, url: str, expect: bool = False) -> None:
        self._url, place = url, urlsplit(url)
        body = urlencode(LOVELACE).encode()
        half, self._rest = (b"", body) if expect else (body[:9], body[9:])
        head = f"POST /name HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        head += "Expect: 100-continue\r\n" if expect else ""
        self._socket = socket.create_connection((place.hostname, place.port), 30)
        self._socket.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode() + half)
        assert not expect or self._socket.recv(100).startswith(b"HTTP/1.1 100")

    def finish(self) -> Client:
        """Send the rest, and return who has sent it."""
        self._socket.sendall(self._rest)
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        leaks.recorder.answered("POST /name", response.getheaders(), response.read())
        self._socket.close()
        assert response.status == 303
        return Client(self._url, dict([str(response.getheader("Set-Cookie")).partition(";")[0].split("=", 1)]))


def refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_site_that_stops_tells_the_balancer_first_then_refuses_and_finishes_what_it_has() -> None:
    with Site(config={"global": {"server.drain": 1.0, "server.shutdown_timeout": 30}}) as site:
        kept = Client(site.url, keep=True)
        kept.get("/healthz")
        slow = Slow(site.url)
        site.process.send_signal(signal.SIGTERM)
        site.wait_until(lambda: site.client().get("/healthz").status == 503, "tell the balancer")
        last = kept.get("/counter")
        assert last.status == 200 and last.headers["connection"] == "close"
        kept.close()
        site.wait_until(lambda: refuses(site.address), "refuse the next")
        assert site.process.poll() is None
        named = slow.finish()
        assert site.process.wait(30) == 0
        site.restart()
        assert named.get("/hello", **JSON).json == LOVELACE


def test_a_second_signal_ends_the_wait_for_the_balancer() -> None:
    with Site(config={"global": {"server.drain": 600}}) as site:
        site.process.send_signal(signal.SIGTERM)
        site.wait_until(lambda: site.client().get("/healthz").status == 503, "tell the balancer")
        assert site.stop() == 0


def test_drain_must_be_a_number() -> None:
    with pytest.raises(AssertionError, match="a server.* setting is of the wrong kind.*'soon'"):
        Site(config={"global": {"server.drain": "soon"}})


def test_honcho_runs_two_processes_of_the_procfile_on_ports_of_their_own() -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"HOST": "127.0.0.1", "PATH": path, "PORT": str(two_ports()), "PYTHONUNBUFFERED": "1"}
    with Site(command="honcho --no-colour start -c web=2", env=environ) as site:
        site.wait_until(lambda: len(urls(site)) == 2, "start both")
        visitor = Client(urls(site).pop())
        assert visitor.get("/counter").status == 200
        for url in urls(site):
            assert Client(url, visitor.cookies).get("/counter", **JSON).json["count"] > 1
        assert site.stop() == 143  # honcho's own way to say that it was ended by a signal
        assert "SIGKILL" not in site.output() and "Traceback" not in site.output()


def urls(site: Site) -> set[str]:
    return {word for word in site.output().split() if word.startswith("http://")}


def two_ports() -> int:
    """A port that is free, like the one after it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = int(one.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port
