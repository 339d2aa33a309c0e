"""One session and many requests: who waits, how long, and what the waiting costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .report import Report
from .served import THREADS
from .sizes import Sizes
from .stage import SHARED, Process, Stage
from .visitors import Together, Visitor, percentile

CLIENTS = 8
HANDLER = 0.005  # seconds for which a page holds the session
CROWD = 15  # requests on the one session, besides the one that holds it

HOW = f"""{CLIENTS} clients on one session, CherryPy's server with {THREADS} threads, a page that holds the session for
{HANDLER * 1000:g} ms: share of the ideal rate, longest wait against the fair share (what {CLIENTS} turns take at that
rate), and processor time of the site while all wait for one slow page. Then {CROWD} requests on a session that is held,
and what another visitor waits for a page of his own. Not the cookie backend: it locks nothing, and nobody waits."""


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    report.section("One session, many requests", HOW)
    handler = _handler_seconds()
    report.line(f"(A sleep of {HANDLER * 1000:g} ms takes {handler * 1000:.2f} ms here: that makes the ideal rate.)")
    measured: dict[tuple[str, int], list[float]] = {}
    for backend in sizes.served:
        if backend == "cookie":
            continue
        for processes in (1, 2) if backend in SHARED else (1,):
            options = stage.options(backend, stage.new_folder("contention"))
            with stage.served(options, processes) as site:
                rate, wait, lost = _turns(site, sizes.seconds)
                measured[backend, processes] = [rate * handler, wait, _idle(site, sizes.hold), lost]
                if processes == 1:
                    measured[backend, processes].append(_other_visitor(site[0], sizes.hold))
    headers = ["", "processes", "% of ideal", "longest wait", "% processor", "lost", "other visitor p95 ms"]
    report.table(headers, [
        [name, str(processes), rate * 100, wait, idle * 100, f"{lost:.0f}", *(others or ["-"])]
        for (name, processes), (rate, wait, idle, lost, *others) in measured.items()
    ])  # fmt: skip
    report.line()
    for (name, processes), (rate, wait, idle, lost, *others) in measured.items():
        what = f"{name}, {processes} process{'es' * (processes - 1)}"
        report.target(f"{what}, rate", rate * 100, 90 if processes == 1 else 75, " %", at_least=True)
        report.target(f"{what}, longest wait", wait, 2 if processes == 1 else 10, " fair shares")
        report.target(f"{what}, processor while waiting", idle * 100, 2, " %")
        report.target(f"{what}, increments lost", lost, 0)
        for p95 in others:
            report.target(f"{what}, another visitor's 95th percentile", p95, 50, " ms")


def _handler_seconds() -> float:
    """What the system makes of a sleep of `HANDLER` seconds."""
    times = []
    for _ in range(50):
        began = time.perf_counter()
        time.sleep(HANDLER)
        times.append(time.perf_counter() - began)
    return percentile(times, 50)


def _turns(site: Sequence[Process], seconds: float) -> tuple[float, float, float]:
    """Requests a second, the longest wait in fair shares, and the increments that got lost."""
    first = Visitor(site[0].address)
    first.get("/hold?seconds=0")
    before = int(first.get("/hold?seconds=0"))
    visitors = [Visitor(site[n % len(site)].address, first.cookie) for n in range(CLIENTS)]
    end = time.perf_counter() + seconds

    def go_on(visitor: Visitor) -> None:
        while time.perf_counter() < end:
            visitor.get(f"/hold?seconds={HANDLER}")
        visitor.close()

    began = time.perf_counter()
    Together([lambda visitor=visitor: go_on(visitor) for visitor in visitors]).join()  # type: ignore[misc]
    took = time.perf_counter() - began
    served = sum(len(visitor.times) for visitor in visitors)
    lost = before + served + 1 - int(first.get("/hold?seconds=0"))
    first.close()
    longest = max(max(visitor.times[1:], default=0) for visitor in visitors)
    return served / took, longest / (took / served * CLIENTS), lost


def _idle(site: Sequence[Process], hold: float) -> float:
    """The share of a processor that the site uses while everybody waits for one request."""
    first = Visitor(site[0].address)
    first.get("/write")
    visitors = [Visitor(site[n % len(site)].address, first.cookie) for n in range(CLIENTS)]
    holder = Together([lambda: first.get(f"/hold?seconds={hold}")])
    time.sleep(hold / 8)
    waiting = Together([lambda visitor=visitor: visitor.get("/write") for visitor in visitors])  # type: ignore[misc]
    time.sleep(hold / 4)  # until all have come in, and threads were added for them
    began, before = time.perf_counter(), [process.processor for process in site]
    time.sleep(hold / 2)
    used = sum(process.processor - then for process, then in zip(site, before, strict=True))
    share = used / (time.perf_counter() - began)
    for group in (holder, waiting):
        group.join()
    for visitor in (first, *visitors):
        visitor.close()
    return share


def _other_visitor(process: Process, hold: float) -> float:
    """The 95th percentile, in ms, of what somebody else waits while a crowd waits for one session."""
    first, other = Visitor(process.address), Visitor(process.address)
    for visitor in (first, other):
        visitor.get("/write")
    crowd = [Visitor(process.address, first.cookie) for _ in range(CROWD)]
    holder = Together([lambda: first.get(f"/hold?seconds={hold}")])
    time.sleep(hold / 20)
    waiting = Together([lambda visitor=visitor: visitor.get("/write") for visitor in crowd])  # type: ignore[misc]
    other.times.clear()
    while holder.running:
        other.get("/write")
        time.sleep(0.005)
    for group in (holder, waiting):
        group.join()
    for visitor in (first, other, *crowd):
        visitor.close()
    return percentile(other.times, 95) * 1000
