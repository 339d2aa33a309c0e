"""What it costs that a session can be watched (sessions/events.py): while nobody does, and while somebody does."""

from __future__ import annotations

import sys
import timeit
from collections.abc import Iterator
from contextlib import contextmanager

import sessions
from sessions.events import unsubscribe, watchers

from . import apps
from .client import PROCESSOR, Client, take_turns
from .report import Report
from .sizes import Sizes
from .stage import Stage

HOW = "Microseconds of a write in ram. `looks`: how often it looks whether anybody watches, and what the looks take."
_LOOKS = 1_000_000


class Watched(Client):
    """A client whose requests are watched."""

    def batch(self, requests: int) -> None:
        """Measure a batch with a watcher that keeps each step."""
        seen: list[sessions.Event] = []
        sessions.subscribe(seen.append)
        try:
            super().batch(requests)
        finally:
            unsubscribe(seen.append)


class Looks(list):  # type: ignore[type-arg]
    """An empty list that counts how often somebody looks whether it is."""

    count = 0

    def __bool__(self) -> bool:
        self.count += 1
        return False


@contextmanager
def counted() -> Iterator[Looks]:
    """Count the looks meanwhile."""
    looks = Looks()
    modules = [module for name, module in sys.modules.items() if name.startswith("sessions.")
               and getattr(module, "watchers", None) is watchers]  # fmt: skip
    for module in modules:
        vars(module)["watchers"] = looks
    try:
        yield looks
    finally:
        for module in modules:
            vars(module)["watchers"] = watchers


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    report.section("Watching a session", HOW)
    apps.install()
    app = apps.ours(storage_type="ram")
    plain, alone, watched = Client(apps.plain(), "/plain"), Client(app, "/write"), Watched(app, "/write")
    take_turns([plain, alone, watched], sizes.rounds, sizes.batch)
    with counted() as looks:
        alone.request()
    took = timeit.timeit("if watchers: pass", number=_LOOKS, globals={"watchers": watchers}) / _LOOKS * looks.count
    cost = [client.beyond(plain, PROCESSOR) * 1e6 for client in (alone, watched)]
    report.table(["", "nobody watches", "somebody does", "looks", "all looks"],
                 [["ram write", *cost, str(looks.count), f"{took * 1e6:.2f}"]])  # fmt: skip
