"""How many functions a session enters: counts that do not depend on the machine."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cherrypy

import sessions

from . import apps
from .client import Client
from .report import Report
from .sizes import Sizes
from .stage import Stage

HOW = """Python's and C's functions that a request calls, counted by sys.setprofile: beyond the same page of the same
application without a session, for a known visitor, nothing due for renewal. And the functions of the package that it
enters (each call of one), with the modules they stand in."""

BACKENDS = ["ram", "file", "cookie"]  # where a server works too, the driver's calls depend on when it answers
CALLS = {("ram", "write"): 85, ("file", "write"): 115, ("cookie", "write"): 200, ("ram", "untouched"): 10}
FUNCTIONS, MODULES = {("file", "write"): 45}, {("file", "write"): 9}

_PACKAGE = str(Path(sessions.__file__).parent)
_WARM_UP = 5  # requests: what is looked up once, and imported, is not counted


@dataclass
class Calls:
    """What a request calls.

    Attributes:
        all: how many calls there are.
        functions: how often each function of the package is entered, by the path of its file and its name.
    """

    all: int = 0
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def modules(self) -> set[str]:
        """The files in which the functions of the package stand."""
        return {path for path, _ in self.functions}

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count a call; for `sys.setprofile`."""
        if event in ("call", "c_call"):
            self.all += 1
        if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE):
            self.functions[frame.f_code.co_filename, frame.f_code.co_qualname] += 1


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Count and print the section."""
    report.section("Calls of a session", HOW)
    apps.install()
    counted = {(one, page): calls for one in BACKENDS for page, calls in of_backend(stage, one).items()}
    beyond = {(one, page): calls.all - counted[one, "plain"].all for (one, page), calls in counted.items()}
    entered = {name: calls.functions.total() for name, calls in counted.items()}
    modules = {name: len(calls.modules) for name, calls in counted.items()}
    for title, found in (("calls beyond", beyond), ("functions", entered), ("modules", modules)):
        report.table([title, *apps.PAGES], [[one, *(str(found[one, page]) for page in apps.PAGES)] for one in BACKENDS])
    report.line()
    for title, found, limits in (
        ("calls beyond the page", beyond, CALLS),
        ("functions entered", entered, FUNCTIONS),
        ("modules", modules, MODULES),
    ):
        for name, limit in limits.items():
            report.target(f"{' '.join(name)}, {title}", found[name], limit)


def of_backend(stage: Stage, backend: str) -> dict[str, Calls]:
    """Return what each page of a backend calls; `plain` is the one without a session."""
    app = apps.ours(**stage.options(backend, stage.new_folder("calls")))
    app.merge({"/plain": {"tools.sessions.on": False}})
    jar: dict[str, str] = {}
    found = {page: _of_page(app, f"/{page}", jar) for page in ("write", "read", "untouched", "plain")}
    apps.store_of(app).close()
    return found


def _of_page(app: cherrypy.Application, page: str, jar: dict[str, str]) -> Calls:
    """Return what a page calls for the visitor to whom these cookies belong."""
    client, calls = Client(app, page), Calls()
    client.jar = jar
    for _ in range(_WARM_UP):
        client.request()
    before = sys.getprofile()
    sys.setprofile(calls.note)
    try:
        client.request()
    finally:
        sys.setprofile(before)
    return calls
