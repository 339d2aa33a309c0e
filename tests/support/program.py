"""A program that serves by itself, with cherrypy.quickstart(), as a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.site import ROOT, account, environment, folder, free_port
from tests.support.visitor import Visitor


@contextmanager
def running(path: Path, python: Path | None = None) -> Iterator[Visitor]:
    """Run a program as it stands, on a free port: quickstart leaves alone what is configured before.

    Args:
        python: of an environment that has the package installed; this one, with the package in the project, if None.
    """
    port, place = free_port(), folder()
    configured = {"server.socket_port": port, "engine.autoreload.on": False}
    program = f"import cherrypy, runpy, sys; cherrypy.config.update({configured}); sys.path[0] = {str(path.parent)!r}"
    program += f"; runpy.run_path({str(path)!r}, run_name='__main__')"
    env = environment({} if python else {"PYTHONPATH": str(ROOT)})
    process = subprocess.Popen(
        [python or sys.executable, "-c", program], cwd=place, env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **({} if python else account()),
    )  # fmt: skip
    visitor = Visitor(f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + 30
        while True:
            try:
                visitor.get("/favicon.ico")
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, f"{path.name} did not start"
                time.sleep(0.02)
        yield visitor
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(place)
