"""The whole page: /counter over HTTP."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from web.settings import SITE_CONF, find_profiles, read

from .report import Report
from .sizes import Sizes
from .stage import Process, Stage
from .visitors import Together, Visitor

CONNECTIONS = 8
VISITORS = 100

HOW = f"""wrk, {CONNECTIONS} connections, {VISITORS} visitors in turn, each with a session of his own; with two
processes, a wrk at each with half of them. wrk and the servers use the same processors. Without the X-ray."""


class Failed(RuntimeError):
    """wrk got answers that are no pages."""


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    report.section("The whole page, /counter", HOW)
    rows: list[list[str | float]] = []
    for profile in find_profiles(read(SITE_CONF)):
        if profile not in sizes.served:
            continue
        row: list[str | float] = [profile]
        for processes in (1, 2):
            with stage.site(profile, processes) as site:
                results = [_Wrk(process, CONNECTIONS // processes) for process in site]
                Together([lambda one=one: one.run(sizes.seconds) for one in results]).join()  # type: ignore[misc]
            row += [f"{sum(one.rate for one in results):.0f}", max(one.p99 for one in results) * 1000]
        rows.append(row)
    report.table(["", "1 process /s", "p99 ms", "2 processes /s", "p99 ms"], rows)


class _Wrk:
    """A load on one process.

    Attributes:
        rate: requests a second.
        p99: the 99th percentile, in seconds.
    """

    def __init__(self, process: Process, connections: int) -> None:
        self.url = "http://{}:{}/counter".format(*process.address)
        self.connections = connections
        self.rate = self.p99 = 0.0
        visitors = [Visitor(process.address) for _ in range(VISITORS)]
        for visitor in visitors:
            visitor.get("/counter")
            visitor.close()
        self.cookies = [visitor.cookie for visitor in visitors]

    def run(self, seconds: float) -> None:
        """Measure, for whole seconds."""
        script = str(Path(__file__).with_name("wrk.lua"))
        duration = f"-d{max(1, round(seconds))}s"
        command = ["wrk", "-t1", f"-c{self.connections}", duration, "-s", script, self.url, "--", *self.cookies]
        said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- they are ours
        found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", said.stdout, re.MULTILINE)
        if not found or found[4] != "0" or found[5] != "0":
            raise Failed(f"wrk at {self.url}:\n{said.stdout}{said.stderr}")
        self.rate, self.p99 = int(found[1]) / int(found[2]) * 1e6, int(found[3]) / 1e6
