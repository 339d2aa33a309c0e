"""This site once more, as a second process that ends with the first: `python -m lab.child SECONDS FOLDER [OPTION...]`.

Its standard input is a pipe that the first site holds. When that ends, whether the first site has closed it or has been
killed, this one stops as by SIGTERM; and so it does when its seconds are over. Nobody has to look for processes that
were left behind. The options are those of app.py.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading

GOODBYE = b"."  # what the first site sends before it closes the pipe; one that was killed has sent nothing
_GRACE = 6.0  # seconds to stop in, a little more than requests under way may take (server.shutdown_timeout)


class Watch(threading.Thread):
    """Stops this process in time.

    Attributes:
        orphaned: whether the first site was killed.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(name="watch", daemon=True)
        self.seconds = seconds
        self.orphaned = False

    def run(self) -> None:
        """Wait for the pipe to end, or the time."""
        ended = threading.Event()

        def read() -> None:
            # Not sys.stdin, whose lock a thread that waits in it still has when Python ends.
            self.orphaned = os.read(0, 1) != GOODBYE
            ended.set()

        threading.Thread(target=read, name="read", daemon=True).start()
        ended.wait(self.seconds)
        signal.raise_signal(signal.SIGTERM)
        threading.main_thread().join(_GRACE)
        os._exit(1)


def main(seconds: str, folder: str, *options: str) -> None:
    """Run app.py to its end, as python app.py would. The folder of an experiment whose site was killed goes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until the engine has a handler of its own
    watch = Watch(float(seconds))
    watch.start()
    try:
        sys.argv[:] = ["app.py", *options]
        runpy.run_module("app", run_name="__main__")
    finally:
        if watch.orphaned:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
