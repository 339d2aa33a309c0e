"""What the benchmark prints: the machine, tables, and targets that are met or missed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGES = [
    "CherryPy", "cheroot", "cryptography", "pymemcache", "psycopg", "psycopg-pool", "python-memcached",
    "Flask", "Flask-Session", "cachelib", "Django",
]  # fmt: skip


class Report:
    """Prints as it goes; remembers which targets were missed.

    Attributes:
        met, missed: the targets, as they were printed.
    """

    def __init__(self) -> None:
        self.met: list[str] = []
        self.missed: list[str] = []

    def line(self, text: str = "") -> None:
        """Print a line now, also into a pipe."""
        print(text, flush=True)

    def section(self, title: str, how: str) -> None:
        """Begin a section; `how` says how it was measured, in a sentence or two."""
        self.line(f"\n== {title} ==\n{how}")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Print a table: the first column to the left, the others to the right; a float with one decimal place."""
        cells = [list(headers), *([cell if isinstance(cell, str) else f"{cell:.1f}" for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
        self.line()
        for number, row in enumerate(cells):
            first, *others = zip(row, widths, strict=True)
            self.line("  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]))
            if number == 0:
                self.line("  ".join("-" * width for width in widths))

    def target(self, what: str, value: float, limit: float, unit: str = "", *, at_least: bool = False) -> None:
        """Print whether a figure is at most, or at least, what is wanted of it."""
        met = value >= limit if at_least else value <= limit
        bound = "at least" if at_least else "at most"
        text = f"{what}: {value:.3g}{unit} ({bound} {limit:g}{unit})"
        (self.met if met else self.missed).append(text)
        self.line(f"  {'met   ' if met else 'MISSED'}  {text}")

    def end(self) -> None:
        """Print the sum of it."""
        if self.met or self.missed:
            self.line(f"\n{len(self.met)} targets met, {len(self.missed)} missed" + ":" * bool(self.missed))
        for text in self.missed:
            self.line(f"  {text}")


def machine(programs: Sequence[Sequence[str]]) -> list[str]:
    """Lines that say what the figures were measured on, and with which versions.

    Args:
        programs: commands that print the version of a program.
    """
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    load = " ".join(f"{number:.1f}" for number in os.getloadavg())
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return [
        f"{time.strftime('%Y-%m-%d %H:%M')}, load before it {load} (a quiet machine has less than 0.3)",
        f"{os.cpu_count()} x {processor[1] if processor else platform.machine()}, {platform.system()} "
        f"{platform.release()}, {platform.python_implementation()} {platform.python_version()}",
        ", ".join(versions),
        ", ".join(_first_line(command) for command in programs),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first_line(command: Sequence[str]) -> str:
    # wrk prints its version with a status of 1, and some programs print theirs to the standard error.
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- the commands are ours
    return (ended.stdout + ended.stderr).split("\n", 1)[0].split(" [")[0].split(" Copyright")[0].strip()
