"""What the benchmark prints: the machine, tables, and targets that are met or missed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = [
    "CherryPy", "cheroot", "cryptography", "pymemcache", "redis", "psycopg", "psycopg-pool", "python-memcached",
    "Flask", "Flask-Session", "cachelib", "Django",
]  # fmt: skip


class Report:
    """Prints as it goes, and remembers it for the documents.

    Attributes:
        met, missed: the targets, as they were printed.
        sections: what was printed since `keep` was called last: titles, explanations, tables and targets.
    """

    def __init__(self) -> None:
        self.met: list[str] = []
        self.missed: list[str] = []
        self.sections: list[dict[str, Any]] = []

    def line(self, text: str = "") -> None:
        """Print a line now, also into a pipe."""
        print(text, flush=True)

    def section(self, title: str, how: str) -> None:
        """Begin a section; `how` says how it was measured, in a sentence or two."""
        self.line(f"\n== {title} ==\n{how}")
        self.sections.append({"title": title, "how": " ".join(how.split()), "tables": [], "targets": []})

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Print a table: the first column to the left, the others to the right; a float with one decimal place."""
        cells = [list(headers), *([cell if isinstance(cell, str) else f"{cell:.1f}" for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
        self.sections[-1]["tables"].append(cells)
        self.line()
        for number, row in enumerate(cells):
            first, *others = zip(row, widths, strict=True)
            self.line("  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]))
            if number == 0:
                self.line("  ".join("-" * width for width in widths))

    def target(self, what: str, value: float, limit: float, unit: str = "", *, at_least: bool = False) -> None:
        """Print whether a figure is at most, or at least, what is wanted of it."""
        met = value >= limit if at_least else value <= limit
        figure, bound = f"{value:.3g}{unit}", f"{'at least' if at_least else 'at most'} {limit:g}{unit}"
        text = f"{what}: {figure} ({bound})"
        (self.met if met else self.missed).append(text)
        self.sections[-1]["targets"].append([what, figure, bound, "met" if met else "missed"])
        self.line(f"  {'met   ' if met else 'MISSED'}  {text}")

    def keep(self, path: Path | None, part: str, measured_on: Sequence[str]) -> None:
        """Keep the sections of a part of the benchmark in a file of JSON, in place of those of its last run."""
        sections, self.sections = self.sections, []
        if path:
            figures = json.loads(path.read_text()) if path.exists() else {}
            figures[part] = {"measured on": list(measured_on), "sections": sections}
            path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")

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
