"""How often a request goes to the server and back, counted on the wire."""

from __future__ import annotations

from typing import Any

from services.proxy import Proxy

from . import apps
from .client import Client
from .report import Report
from .sizes import Sizes
from .stage import SERVERS, Stage

HOW = "Sends after an answer, over all connections, by a proxy between the site and its server."
_MOST = {"write": 2, "read": 2, "untouched": 0}


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Count and print the section."""
    report.section("Round trips a request", HOW)
    apps.install()
    counted = {backend: _trips(stage, backend, sizes.batch) for backend in SERVERS}
    report.table(["", *apps.PAGES], [[backend, *trips.values()] for backend, trips in counted.items()])
    report.line()
    for backend, trips in counted.items():
        for page, count in trips.items():
            report.target(f"{backend} {page}", count, _MOST[page])


def _trips(stage: Stage, backend: str, requests: int) -> dict[str, float]:
    """Round trips a request for each page."""
    port = getattr(stage, backend).port
    with Proxy(port) as proxy:
        options: dict[str, Any] = stage.options(backend, stage.new_folder("trips"))
        for name in ("servers", "dsn", "url"):
            if name in options:
                options[name] = options[name].replace(f"127.0.0.1:{port}", proxy.address)
        app, counted = apps.ours(**options), {}
        for page in apps.PAGES:
            client = Client(app, f"/{page}").warm_up(1)
            # A pool may be opening a connection meanwhile, which only adds: the least is what the requests do.
            counted[page] = min(_batch(client, proxy, requests) for _ in range(3))
        apps.store_of(app).close()
    return counted


def _batch(client: Client, proxy: Proxy, requests: int) -> float:
    before = proxy.trips
    for _ in range(requests):
        client.request()
    return (proxy.trips - before) / requests
