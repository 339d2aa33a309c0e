"""Stopping a server for a few seconds, so that it goes on again whatever happens.

    python lab/pause.py SECONDS PID...     stops these processes and their children until its standard input ends

The site starts this program and holds the other end of that input. It ends when the site closes it, and when the site
dies, of SIGKILL even; and the seconds are a limit in any case. A signal of the site's own would be simpler, but who
sends the second one if the site is gone after the first?
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STOPPED = b"stopped\n"
_SPARE = 1.0  # seconds that the program waits longer than the site, which is to end the pause by itself
_STILL = 1.0  # seconds within which a stopped process stands still; it is less than a millisecond


class PauseError(RuntimeError):
    """The processes could not be stopped."""


@contextmanager
def paused(pids: Iterable[int], seconds: float) -> Iterator[None]:
    """Stop processes and their children for the time of the block.

    Args:
        seconds: after which they go on a second later even if the block has not ended.

    Raises:
        PauseError: they are gone, or not ours to stop.
    """
    found = [str(pid) for pid in pids]
    command = [sys.executable, "-I", str(Path(__file__).resolve()), str(seconds + _SPARE), *found]
    with subprocess.Popen(  # noqa: S603 -- the arguments are ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as helper:
        try:
            if helper.stdout is None or helper.stdout.readline() != _STOPPED:
                raise PauseError("The server could not be stopped: it has ended, or belongs to another account.")
            yield
        finally:
            helper.communicate()  # closes its input
            go_on(map(int, found))  # for once more does no harm, and somebody may have killed the helper


def stop(pids: Iterable[int]) -> None:
    """Stop processes, and then the children that each has had until then. They stand still when this returns.

    Raises:
        OSError: one is gone, or belongs to somebody else.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        stopped = [pid]
        for child in descendants(pid):
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(child, signal.SIGSTOP)
                stopped.append(child)
        end = time.monotonic() + _STILL
        while any(state(number) not in "TtZX" for number in stopped) and time.monotonic() < end:
            time.sleep(0.001)


def go_on(pids: Iterable[int]) -> None:
    """Let processes and their children go on. One that runs already does not mind."""
    for pid in pids:
        for number in (*descendants(pid), pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    """The process ids of a process's children, and of theirs. A server may make each a process group of its own."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [deeper for child in children for deeper in descendants(child)]


def state(pid: int) -> str:
    """The letter of a process's state (proc(5)): T for stopped, X for gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def main(seconds: str, *pids: str) -> None:
    """Stop the processes, and let them go on when standard input ends or the seconds are over."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    numbers = [int(pid) for pid in pids]
    try:
        stop(numbers)
        os.write(sys.stdout.fileno(), _STOPPED)
        select.select([sys.stdin], [], [], float(seconds))
    except OSError as error:
        sys.exit(str(error))
    finally:
        go_on(numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
