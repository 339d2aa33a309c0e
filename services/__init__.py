"""Servers for development and for the tests: on loopback only, unprivileged, and gone when they are stopped."""

from __future__ import annotations

import os
import socket
from typing import Any


class ServiceError(RuntimeError):
    """A server did not start or stop, or its program is missing; the message says what to do."""


def account() -> dict[str, Any]:
    """The arguments of Popen that take root's privileges away; none for anybody else."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def free_port() -> int:
    """The number of a port of 127.0.0.1 that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
