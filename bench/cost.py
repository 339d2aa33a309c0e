"""What a session costs a page, beside CherryPy's own sessions."""

from __future__ import annotations

import importlib.util
from typing import Any

from . import apps
from .client import ELAPSED, PROCESSOR, Client, take_turns
from .report import Report
from .sizes import Sizes
from .stage import BACKENDS, SERVERS, Stage

Candidate = tuple[str, str]  # what keeps the sessions, and the page
Cost = dict[Candidate, float]  # microseconds

HOW = """Microseconds a request beyond the same page without a session: WSGI calls in this process, in turns, medians.
Processor time; where a server works on the request, too (*), time on the wall."""


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    report.section("Cost of a session", HOW)
    apps.install()
    plain = Client(apps.plain(), "/plain")
    clients = candidates(stage, BACKENDS) | _cherrypys(stage)
    throw_away = Client(apps.plain(), "/plain")  # the first to run pays for caches that all use
    take_turns([throw_away, plain, *clients.values()], sizes.rounds, sizes.batch)
    cost = {name: microseconds(client, plain, name[0]) for name, client in clients.items()}
    print_table(report, cost)
    report.line(f"  (the page itself: {plain.seconds(PROCESSOR) * 1e6:.0f} us)\n")
    compare(report, cost, ("ram", "write"), ("CherryPy ram", "write"), 0.6)
    for backend in BACKENDS:
        compare(report, cost, (backend, "untouched"), ("CherryPy ram", "untouched"), 0.2)
    compare(report, cost, ("file", "write"), ("CherryPy file", "write"), 0.2)
    compare(report, cost, ("redis", "write"), ("memcached", "write"), 1.1)
    if ("CherryPy memcached", "write") in cost:
        compare(report, cost, ("memcached", "write"), ("CherryPy memcached", "write"), 0.6)


def compare(report: Report, cost: Cost, ours: Candidate, theirs: Candidate, limit: float) -> None:
    """Print whether ours costs at most `limit` times what theirs does."""
    what = f"{' '.join(ours)} / {' '.join(theirs)}"
    if cost[theirs] > 0:
        report.target(what, cost[ours] / cost[theirs], limit)
    else:
        report.line(f"  {what}: too few requests to tell")


def candidates(stage: Stage, backends: list[str]) -> dict[Candidate, Client]:
    """A client for each page of each of our backends."""
    found: dict[Candidate, Client] = {}
    for backend in backends:
        app = apps.ours(**stage.options(backend, stage.new_folder("cost")))
        found |= {(backend, page): Client(app, f"/{page}") for page in apps.PAGES}
    return found


def _cherrypys(stage: Stage) -> dict[Candidate, Client]:
    options: dict[str, dict[str, Any]] = {
        "CherryPy ram": {"storage_type": "ram"},
        "CherryPy file": {"storage_type": "file", "storage_path": str(stage.new_folder("theirs"))},
    }
    if importlib.util.find_spec("memcache"):  # python-memcached, which is in requirements-bench.txt only
        options["CherryPy memcached"] = {"storage_type": "memcached", "servers": [stage.memcached.address]}
    made = {name: apps.cherrypys(**own) for name, own in options.items()}
    return {(name, page): Client(app, f"/{page}") for name, app in made.items() for page in apps.PAGES}


def microseconds(client: Client, plain: Client, name: str) -> float:
    """What it costs, by the clock that sees all of it."""
    return client.beyond(plain, clock_of(name)) * 1e6


def clock_of(name: str) -> int:
    """Which clock sees all that a candidate costs."""
    return ELAPSED if any(server in name.lower() for server in SERVERS) else PROCESSOR


def print_table(report: Report, cost: Cost) -> None:
    """Print a row for each candidate, and a column for each page."""
    names = dict.fromkeys(name for name, _ in cost)
    starred = {name: f"{name} *" if clock_of(name) == ELAPSED else name for name in names}
    report.table(["us a request", *apps.PAGES], [[starred[n], *(cost[n, page] for page in apps.PAGES)] for n in names])
