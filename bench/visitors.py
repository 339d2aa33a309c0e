"""Visitors by HTTP, each with a connection that is kept open and a cookie jar, in threads of this process."""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections.abc import Callable, Iterable

from .client import RequestFailed

_SECONDS = 600  # longer than any answer takes, also that of 100,000 sessions to be made on a busy machine


class Visitor:
    """Asks one process of a site for pages.

    Attributes:
        cookie: what it sends as its Cookie header.
        times: seconds each answer took, in order.
    """

    def __init__(self, address: tuple[str, int], cookie: str = "") -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
        self.cookie = cookie
        self.times: list[float] = []

    def get(self, path: str) -> str:
        """Ask for a page.

        Raises:
            RequestFailed: the answer is not a 200.
        """
        began = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        answer = self._connection.getresponse()
        body = answer.read().decode()
        self.times.append(time.perf_counter() - began)
        if answer.status != 200:
            raise RequestFailed(f"{path}: {answer.status}")
        if not self.cookie and (given := answer.getheader("Set-Cookie")):
            self.cookie = given.partition(";")[0]
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Together:
    """Runs functions in threads of their own at the same time; what one of them raises is raised at the end."""

    def __init__(self, functions: Iterable[Callable[[], object]]) -> None:
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(function,)) for function in functions]
        for thread in self._threads:
            thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:  # it is raised where somebody waits for it
            self._errors.append(error)

    @property
    def running(self) -> bool:
        """Whether one of them still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all have ended."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that at least so many percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
