"""The five ways to lock of the race: each is what a page would do, and is shown beside the race as it stands here."""

from __future__ import annotations

import inspect
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass

import cherrypy
from markupsafe import Markup

from lab.race_run import Hit
from sessions import session_lock
from web.highlighting import highlighted

KEY = "race"
THINKING = 0.05  # seconds between reading and writing, in which other requests come in


def none() -> None:
    count = read()
    think()
    write(count + 1)


def late() -> None:
    count = read()
    think()
    with session_lock():
        write(count + 1)


def two() -> None:
    with session_lock():
        count = read()
    think()
    with session_lock():
        write(count + 1)


def around() -> None:
    with session_lock():
        count = read()
        think()
        write(count + 1)


def implicit() -> None:
    count = read()
    think()
    write(count + 1)


def read() -> int:
    """Read the counter, and note when and what."""
    hit: Hit = cherrypy.serving.request.race_hit
    hit.read = int(cherrypy.session.get(KEY, 0))
    hit.read_at = time.perf_counter()
    return hit.read


def think() -> None:
    """Take the time that a page takes which asks a database, or another site."""
    time.sleep(THINKING)


def write(count: int) -> None:
    """Write the counter, and note it."""
    cherrypy.session[KEY] = cherrypy.serving.request.race_hit.wrote = count


@dataclass(frozen=True)
class Mode:
    """A way to lock: `work` is the page, and `locking` its option of the session tool."""

    title: str
    locking: str
    work: Callable[[], None]

    @property
    def source(self) -> Markup:
        """The body of the page, as it runs."""
        return highlighted(textwrap.dedent("".join(inspect.getsourcelines(self.work)[0][1:])).strip(), "python")


MODES = {
    "none": Mode("No lock", "explicit", none),
    "late": Mode("A block to write", "explicit", late),
    "two": Mode("Two blocks", "explicit", two),
    "around": Mode("One block", "explicit", around),
    "implicit": Mode("The default", "implicit", implicit),
}
