"""A race and what was measured of it: when each request came, waited, held the session, and what became of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import cherrypy

import sessions

# What a step of the session begins or ends: (kind that ends, kind that begins).
_TURNS = {
    "asked": (None, "waiting"),
    "locked": ("waiting", "holding"),
    "failed": ("waiting", None),
    "unlocked": ("holding", None),
}

Span = tuple[str, float, float]  # what the request did, from and to, in seconds


class Hit:
    """One request of a race. Times are those of `time.perf_counter()`, in seconds.

    Attributes:
        arrived: when the server took the request.
        finished: when its answer had gone out.
        read, wrote: the counts, with `read_at` and `wrote_at`; None where it did not get as far.
        outside: seconds that it waited before it arrived.
    """

    def __init__(self, number: int, arrived: float) -> None:
        self.number, self.arrived, self.finished = number, arrived, arrived
        self.read: int | None = None
        self.wrote: int | None = None
        self.read_at = self.wrote_at = arrived
        self.outside = 0.0
        self.status = 0
        self._steps: list[tuple[str, float]] = []  # not the events: each that loads or saves has the whole session

    def note(self, step: sessions.Event) -> None:
        """A step of its session; told by `follow`."""
        self._steps.append((step.name, step.at))

    @property
    def spans(self) -> list[Span]:
        """When it waited for the session, and when it held it."""
        spans, begun = [], {}
        for name, at in self._steps:
            ends, begins = _TURNS.get(name, (None, None))
            if ends in begun:
                spans.append((ends, begun.pop(ends), at))
            if begins:
                begun[begins] = at
        return spans

    @property
    def saved_at(self) -> float:
        """When what it wrote was stored, or refused."""
        return max((at for name, at in self._steps if name in ("saved", "unsaved")), default=self.finished)


@dataclass
class Run:
    """One race.

    Attributes:
        mode: the name of the way in which the requests lock.
        requests: how many there are.
        predicted: what the visitor said the count would be.
        by: who sends them, 'browser' or 'server'.
        locks: whether one request that has the session keeps the others away.
        id: by which it is found again.
        count: what the store had when all were over; None until then.
    """

    mode: str
    requests: int
    predicted: int
    by: str
    locks: bool = True
    id: str = ""
    count: int | None = None
    hits: dict[int, Hit] = field(default_factory=dict)
    _over: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, number: int) -> Hit:
        """Note that a request is here, in its own thread.

        Raises:
            cherrypy.HTTPError: 400, it has been here before.
        """
        waited = time.time() - cherrypy.serving.response.time  # since the server began to read it
        hit = Hit(number, time.perf_counter() - waited)
        with self._changed:
            if number in self.hits:
                raise cherrypy.HTTPError(400, f"Request {number} of this race was here already.")
            self.hits[number] = hit
        return hit

    def end(self, hit: Hit) -> None:
        """Note that its answer has gone out."""
        hit.finished = time.perf_counter()
        hit.status = int(str(cherrypy.serving.response.status)[:3])
        with self._changed:
            self._over += 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until all requests are over, at most so long: one that was cut off never comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._over == self.requests, seconds)

    def counted(self) -> set[int]:
        """The numbers of the requests whose increment is in the final count.

        Each of them read what the one before it had written. So they are found backwards, from the final count down to
        one; where several wrote the same count, the next read the last that was stored by then.
        """
        chain: set[int] = set()
        before = float("inf")
        for count in range(self.count or 0, 0, -1):
            wrote = [hit for hit in self.hits.values() if hit.wrote == count and hit.number not in chain]
            if not wrote:  # another race of the same visitor has written in between
                break
            known = [hit for hit in wrote if hit.saved_at <= before] or wrote
            last = max(known, key=lambda hit: hit.saved_at)
            chain.add(last.number)
            before = last.read_at
        return chain

    def told(self) -> dict[str, Any]:
        """The result as plain values; times in milliseconds since the first request was asked for."""
        hits = sorted(self.hits.values(), key=lambda hit: (hit.arrived, hit.number))
        zero = min((hit.arrived - hit.outside for hit in hits), default=0.0)
        taken = sorted(start for hit in hits for kind, start, _ in hit.spans if kind == "holding") if self.locks else []
        counted = self.counted()
        count = self.count or 0
        return {
            "run": self.id, "mode": self.mode, "by": self.by, "requests": self.requests, "predicted": self.predicted,
            "expected": self.requests, "count": count, "lost": max(0, self.requests - count),
            "missing": self.requests - sum(hit.wrote is not None for hit in hits),
            "milliseconds": max((_ms(hit.finished - zero) for hit in hits), default=0.0),
            "hits": [_told(hit, zero, hit.number in counted, taken) for hit in hits],
        }  # fmt: skip


def _told(hit: Hit, zero: float, counted: bool, taken: list[float]) -> dict[str, Any]:
    spans = [
        (kind, start, _released(start, end, taken) if kind == "holding" else end) for kind, start, end in hit.spans
    ]
    saved_at = min([hit.saved_at, *(end for kind, _, end in spans[-1:] if kind == "holding")])
    if hit.outside:
        spans.insert(0, ("outside", hit.arrived - hit.outside, hit.arrived))
    took = {kind: sum(end - start for name, start, end in spans if name == kind) for kind in ("waiting", "holding")}
    return {
        "number": hit.number, "status": hit.status, "read": hit.read, "wrote": hit.wrote, "counted": counted,
        "outside": _ms(hit.outside), "arrived": _ms(hit.arrived - zero), "waited": _ms(took["waiting"]),
        "held": _ms(took["holding"]), "finished": _ms(hit.finished - zero),
        "read_at": _ms(hit.read_at - zero), "saved_at": _ms(saved_at - zero),
        "spans": [[kind, _ms(start - zero), _ms(end - zero)] for kind, start, end in spans],
    }  # fmt: skip


def _released(start: float, end: float, taken: list[float]) -> float:
    """When the session was released. That is told after it has happened, and the next thread may have run before: it is
    no later than when the next request had the session."""
    return min([end, *(time for time in taken if time > start)])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
