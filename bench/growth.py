"""What becomes of it all when there are many sessions, and when many have been there."""

from __future__ import annotations

import gc
import os
import random
import re
import secrets
import socket
import sys
import threading
import time
from pathlib import Path

import cherrypy

from services.memcached import Memcached
from sessions.backends.postgresql import PostgresqlStore
from sessions.backends.redis import RedisStore
from sessions.store import Store

from . import apps, filling
from .client import Client, take_turns
from .cost import clock_of
from .report import Report
from .sizes import Sizes
from .stage import BACKENDS, Process, Stage, table
from .visitors import Together, Visitor, percentile

STORES = ["ram", "file", "memcached", "postgresql", "redis"]  # the other two keep nothing, or leave it to the site
PURGING = ["ram", "file", "postgresql"]  # Memcached does it itself
VISITED = 100  # different sessions that are used, of however many there are: more of them fill the processor's caches
DAY = 86400.0

COST = f"""Microseconds a request beyond the page without a session, a writing page, with the garbage collector on.
{VISITED} of the sessions are used, in turn, out of however many there are."""
CLEANING = "Two visitors by HTTP ask for a writing page without a pause, before and while expired sessions are removed."
SIZE = """A session of 26 bytes of values: memory of this process, blocks on the disk, memory of the server, table with
its indexes."""
LEAKS = """Calls in this process: visitors without a cookie or with an unknown one, to pages that read or ignore the
session; and sessions made by visitors, which expire and are cleaned away, four times over. What stays of it after the
first quarter."""


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    apps.install()
    _cost_and_size(report, stage, sizes)
    _cleaning(report, stage, sizes)
    _leaks(report, stage, sizes)


# --- many live sessions -----------------------------------------------------------------------------------------------


def _cost_and_size(report: Report, stage: Stage, sizes: Sizes) -> None:
    report.section("Growth: cost with many live sessions", COST)
    plain, clients, bytes_each = Client(apps.plain(), "/plain"), dict[tuple[str, int], Client](), dict[str, float]()
    for backend in STORES:
        for live in sizes.live:
            place = stage.new_folder("growth")
            options = stage.options(backend, place)
            server = stage.new_memcached() if backend == "memcached" else None
            if server:
                options["servers"] = server.address
            if backend == "redis":
                options["url"] = stage.new_redis().url
            app = apps.ours(**options)
            before = _bytes(apps.store_of(app), place, server)
            filling.fill(apps.store_of(app), live)
            bytes_each[backend] = (_bytes(apps.store_of(app), place, server) - before) / live
            used = random.Random(live).sample(range(live), min(VISITED, live))  # noqa: S311 -- which does not matter
            cookies = [f"session_id={filling.id_of(number)}" for number in used]
            clients[backend, live] = Client(app, "/write", cookies)
    take_turns([plain, *clients.values()], sizes.rounds, sizes.batch, collect=True)
    cost = {name: client.beyond(plain, clock_of(name[0])) * 1e6 for name, client in clients.items()}
    headers = ["us a request", *(f"{live:,}" for live in sizes.live)]
    report.table(headers, [[backend, *(cost[backend, live] for live in sizes.live)] for backend in STORES])
    report.line()
    first, last = sizes.live[0], sizes.live[-1]
    for backend in STORES:
        report.target(f"{backend}, {last:,} / {first:,}", cost[backend, last] / cost[backend, first], 1.25)
    report.section("Growth: bytes a session", SIZE)
    report.table(["", "bytes"], [[backend, f"{number:.0f}"] for backend, number in bytes_each.items()])
    for name in clients:
        apps.store_of(clients[name].app).close()


def _bytes(store: Store, place: Path, server: Memcached | None) -> float:
    """What the sessions take now, where they are."""
    if server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"stats\r\n")
            said = b""
            while not said.endswith(b"END\r\n"):
                said += connection.recv(65536)
        return int(re.findall(rb"STAT bytes (\d+)", said)[0])
    if isinstance(store, RedisStore):
        with socket.create_connection(("127.0.0.1", int(store.addresses[0].rpartition(":")[2]))) as connection:
            connection.sendall(b"INFO memory\r\n")
            return int(re.findall(rb"used_memory:(\d+)", connection.recv(65536))[0])
    if isinstance(store, PostgresqlStore):
        return int(store.pool.query("SELECT pg_total_relation_size(%s)", table(place)).fetchall()[0][0])
    if any(place.iterdir()):
        return sum(entry.stat().st_blocks * 512 for entry in place.rglob("*") if entry.is_file())
    return _resident()


def _resident() -> int:
    """The memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- cleaning while the site serves -----------------------------------------------------------------------------------


def _cleaning(report: Report, stage: Stage, sizes: Sizes) -> None:
    report.section(f"Growth: {sizes.expired:,} expired sessions are removed while the site serves", CLEANING)
    rows, ratios = list[list[str | float]](), dict[str, float]()
    for backend in sorted(set(PURGING) & set(sizes.served), key=PURGING.index):
        options = stage.options(backend, stage.new_folder("cleaning"))
        with stage.served(options) as (process,):
            before, during, seconds = _cleaned(process, sizes)
        ratios[backend] = during / before
        rows.append([backend, before * 1000, during * 1000, seconds])
    report.table(["", "p99 ms before", "p99 ms while", "it took s"], rows)
    report.line()
    for backend, ratio in ratios.items():
        report.target(f"{backend}, 99th percentile while cleaning / before", ratio, 2)


def _cleaned(process: Process, sizes: Sizes) -> tuple[float, float, float]:
    """The 99th percentile before and while, and how long the cleaning took; in seconds."""
    operator, visitors = Visitor(process.address), [Visitor(process.address) for _ in range(2)]
    operator.get(f"/fill?number={sizes.expired}")
    for visitor in visitors:
        visitor.get("/write")
    measured, stop = list[float](), threading.Event()

    def go_on(visitor: Visitor) -> None:
        while not stop.is_set():
            visitor.get("/write")
            measured.append(visitor.times[-1])

    load = Together([lambda visitor=visitor: go_on(visitor) for visitor in visitors])  # type: ignore[misc]
    time.sleep(sizes.seconds)
    before = percentile(list(measured), 99)
    operator.get("/clean")
    measured.clear()
    while not (took := operator.get("/cleaned")):
        time.sleep(0.02)
    during = percentile(list(measured), 99) if measured else before
    stop.set()
    load.join()
    for visitor in (operator, *visitors):
        visitor.close()
    return before, during, float(took)


# --- what stays -------------------------------------------------------------------------------------------------------


def _leaks(report: Report, stage: Stage, sizes: Sizes) -> None:
    title = f"Growth: after {sizes.visits:,} anonymous visits, and {sizes.made:,} sessions made and expired"
    report.section(title, LEAKS)
    rows: list[list[str | float]] = []
    stayed: dict[str, float] = {}
    for backend in BACKENDS:
        place = stage.new_folder("leaks")
        app = apps.ours(**stage.options(backend, place), clean_freq=0)
        for what, number, work in (("visits", sizes.visits, _visit), ("made", sizes.made, _make_and_expire)):
            if what == "made" and backend not in PURGING:
                continue
            work(app, number // 4)
            blocks, resident, files = _blocks(), _resident(), _files(place)
            for _ in range(3):
                work(app, number // 4)
            more = _blocks() - blocks
            stayed[f"{backend}, {what}"] = more
            rows.append([f"{backend}, {what}", f"{more:,}", f"{(_resident() - resident) / 1024:,.0f}",
                         f"{_files(place) - files}", f"{len(apps.store_of(app).locks)}"])  # fmt: skip
        apps.store_of(app).close()
    report.table(["more than before", "blocks of memory", "KiB of the process", "files", "locks"], rows)
    report.line()
    for name, blocks in stayed.items():
        report.target(f"{name}, blocks of Python's memory that stayed", blocks, 1000)


def _visit(app: cherrypy.Application, visits: int) -> None:
    client = Client(app, "/read")
    for number in range(visits):
        client.jar = {"session_id": secrets.token_urlsafe(32)} if number % 3 == 0 else {}
        client.request("/untouched" if number % 3 == 1 else "/read")


def _make_and_expire(app: cherrypy.Application, number: int) -> None:
    store = apps.store_of(app)
    for _ in range(number):
        Client(app, "/write").request()
    clock, store.clock = store.clock, lambda: time.time() + DAY
    try:
        while store.purge(500):
            pass
        if left := store.count():
            raise RuntimeError(f"{left} sessions were not cleaned away")
    finally:
        store.clock = clock


def _blocks() -> int:
    """How many blocks of memory Python has given out: what leaks shows here, whatever the system says."""
    gc.collect()
    return sys.getallocatedblocks()


def _files(place: Path) -> int:
    return sum(entry.is_file() for entry in place.rglob("*"))  # folders come with their first file: 256, and no more
