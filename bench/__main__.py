"""`python -m bench [SECTION ...]`: measure, and print tables with the targets and whether they are met."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from services import ServiceError
from services.postgresql import program

from . import calls, contention, cost, growth, pages, peers, trips, watching
from .client import RequestFailed
from .report import Report, machine
from .sizes import SIZES, Sizes
from .stage import ROOT, Stage

SECTIONS: dict[str, Callable[[Report, Stage, Sizes], None]] = {
    "cost": cost.run,
    "calls": calls.run,
    "trips": trips.run,
    "contention": contention.run,
    "growth": growth.run,
    "pages": pages.run,
    "watching": watching.run,
    "peers": peers.run,
}
_FIGURES = ROOT / "docs" / "figures.json"  # what make docs takes
_USUAL = [name for name in SECTIONS if name != "peers"]  # that one is make bench-peers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections, and return the exit status: 0, also if targets are missed, or 2 when it could not measure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures what a session costs.")
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], default=[],
                        help=f"which to run, of {', '.join(SECTIONS)}; without any all but peers")  # fmt: skip
    parser.add_argument("--size", choices=SIZES, default="usual",
                        help="usual: minutes; full: over an hour, with a million visits; tiny: a try")  # fmt: skip
    parser.add_argument("--figures", type=Path, metavar="FILE",
                        help="keep the figures here; without, in docs/figures.json, but of a tiny run")  # fmt: skip
    options = parser.parse_args(argv)
    figures = options.figures or (None if options.size == "tiny" else _FIGURES)
    report = Report()
    try:
        commands = [["memcached", "-V"], [program("postgres"), "-V"], ["redis-server", "-v"], ["wrk", "-v"]]
        measured_on = machine(commands)
        for line in measured_on:
            report.line(line)
        with Stage() as stage:
            for name in options.section or _USUAL:
                SECTIONS[name](report, stage, SIZES[options.size])
                report.keep(figures, name, measured_on)
    except (ServiceError, FileNotFoundError, RequestFailed, pages.Failed, peers.Missing) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    report.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
