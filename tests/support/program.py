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
def running(path: Path, *arguments: str, python: Path | None = None, place: Path | None = None) -> Iterator[Client]:
    """Run a program as it stands, on a free port: quickstart leaves alone what is configured before.

    Args:
        arguments: of its command line.
        python: of an environment that has the package installed; this one, with the package in the project, if None.
        place: the folder that it runs in; an empty one of its own if None.
    """
    port, own_place = free_port(), place or folder()
    configured = {"server.socket_port": port, "engine.autoreload.on": False}
    program = f"import cherrypy, runpy, sys; cherrypy.config.update({configured}); sys.path[0] = {str(path.parent)!r}"
    program += f"; runpy.run_path({str(path)!r}, run_name='__main__')"
    command, url = [str(python or sys.executable), "-c", program, *arguments], f"http://127.0.0.1:{port}"
    own: dict[str, Any] = {} if python else {"env": {"PYTHONPATH": str(ROOT)}, "account": account()}
    with Process(command, cwd=own_place, url=url, scratch=None if place else own_place, **own):
        yield Client(url)
