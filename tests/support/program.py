"""A program that serves by itself, with cherrypy.quickstart(), as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services import free_port
from tests.support.client import Client
from tests.support.process import ROOT, Process, account, folder


@contextmanager
def running(path: Path, python: Path | None = None) -> Iterator[Client]:
    """Run a program as it stands, on a free port: quickstart leaves alone what is configured before.

    Args:
        python: of an environment that has the package installed; this one, with the package in the project, if None.
    """
    port, place = free_port(), folder()
    configured = {"server.socket_port": port, "engine.autoreload.on": False}
    program = f"import cherrypy, runpy, sys; cherrypy.config.update({configured}); sys.path[0] = {str(path.parent)!r}"
    program += f"; runpy.run_path({str(path)!r}, run_name='__main__')"
    command, url = [str(python or sys.executable), "-c", program], f"http://127.0.0.1:{port}"
    own: dict[str, Any] = {} if python else {"env": {"PYTHONPATH": str(ROOT)}, "account": account()}
    with Process(command, cwd=place, url=url, scratch=place, **own):
        yield Client(url)
