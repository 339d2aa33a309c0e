"""A visitor of a WSGI application in this process, and the clock that is held to it.

The requests are plain calls, so that no network and no HTTP parser blurs the difference between two pages. Clients take
turns, a batch at a time: whatever else the machine does meanwhile hits all of them alike. Of two clients, the median of
the differences within a round counts, and not the difference of two medians: so a slow minute cancels itself out.
"""

from __future__ import annotations

import gc
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Application = Callable[..., Iterable[bytes]]
PROCESSOR, ELAPSED = 0, 1  # which clock: the processor time of this process, or time on the wall where a server works


class RequestFailed(RuntimeError):
    """A page answered something else than 200; what was measured would be the cost of an error page."""


class Client:
    """Calls one page of one application again and again.

    Args:
        app: the application.
        page: its path.
        cookies: the Cookie headers to send in turn; without any, the client keeps the cookies that it is given.

    Attributes:
        batches: seconds a request, by both clocks, one pair a batch.
    """

    def __init__(self, app: Application, page: str, cookies: Sequence[str] = ()) -> None:
        self.app, self.page = app, page
        self.jar: dict[str, str] = {}
        self.cookies = itertools.cycle(cookies) if cookies else None
        self.batches: list[tuple[float, float]] = []

    def warm_up(self, requests: int) -> Client:
        """Get a session that counts, and then ask for the page as often as this.

        Raises:
            RequestFailed: it does not count; sessions that are not kept cost little.
        """
        if self.page != "/plain":
            counts = [int(self.request("/write")) for _ in range(3)]
            if not self.cookies and counts != [1, 2, 3]:
                raise RequestFailed(f"/write counted {counts}")
        for _ in range(requests):
            self.request()
        return self

    def request(self, page: str = "") -> str:
        """Ask for a page and return its body.

        Raises:
            RequestFailed: the answer is not a 200.
        """
        cookie = next(self.cookies) if self.cookies else "; ".join(f"{name}={v}" for name, v in self.jar.items())
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": page or self.page, "QUERY_STRING": "",
            "SERVER_NAME": "site", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "site",
            "REMOTE_ADDR": "127.0.0.1", "ACTUAL_SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        if cookie:
            environ["HTTP_COOKIE"] = cookie
        answer = self.app(environ, self._start_response)
        try:
            return b"".join(answer).decode()
        finally:
            answer.close()  # type: ignore[attr-defined]

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        if not status.startswith("200"):
            raise RequestFailed(f"{self.page}: {status}")
        for name, value in headers:
            if name.lower() == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self.jar[cookie] = content

    def batch(self, requests: int) -> None:
        """Measure a batch of requests, after some that are not measured: else whoever comes after another framework
        pays for what that one has driven out of the processor's caches."""
        for _ in range(requests // 5):
            self.request()
        processor, elapsed = time.process_time(), time.perf_counter()
        for _ in range(requests):
            self.request()
        elapsed, processor = time.perf_counter() - elapsed, time.process_time() - processor
        self.batches.append((processor / requests, elapsed / requests))

    def seconds(self, clock: int) -> float:
        """The median time of a request."""
        return statistics.median(batch[clock] for batch in self.batches)

    def beyond(self, plain: Client, clock: int) -> float:
        """Seconds a request costs more than one of `plain`, which took its turns beside this one."""
        pairs = zip(self.batches, plain.batches, strict=True)
        return statistics.median(mine[clock] - other[clock] for mine, other in pairs)


def take_turns(clients: Iterable[Client], rounds: int, batch: int, *, collect: bool = False) -> None:
    """Measure the clients, in turns.

    Args:
        rounds: batches of each client.
        batch: requests of a batch.
        collect: leave the garbage collector on. It hits whoever is at work when it starts, and costs more the more
            sessions are kept in memory.
    """
    clients = list(clients)
    for client in clients:
        client.warm_up(batch)
    gc.collect()
    if not collect:
        gc.disable()
        gc.freeze()  # so that collecting between two batches looks only at what the last one has left
    try:
        for turn in range(rounds):
            # Backwards every other time: who comes after whom finds other things in the caches of the processor.
            for client in clients if turn % 2 else reversed(clients):
                client.batch(batch)
                if not collect:
                    gc.collect()  # else the next one would find the memory full of garbage, and pay for new
    finally:
        gc.unfreeze()
        gc.enable()
