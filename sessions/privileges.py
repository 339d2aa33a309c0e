"""The account that a site serves as, where CherryPy's plugin DropPrivileges takes from it what root may do.

That happens when the port is open, at priority 77. The stores are opened at 60, when a wrong option can still stop the
start: so they are opened as the account that is to come. What root opened or stored, it might not reach.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cherrypy
from cherrypy.process.plugins import DropPrivileges

from .errors import ConfigError, Unavailable

_SECONDS = 10  # for which a request waits for the drop


def pending_drop() -> DropPrivileges | None:
    """Return the plugin, if this process is root and will not stay it."""
    if os.name == "posix" and os.geteuid() == 0:
        for listener in list(cherrypy.engine.listeners["start"]):
            plugin = getattr(listener, "__self__", None)
            if isinstance(plugin, DropPrivileges) and not plugin.finalized and (plugin.uid or plugin.gid):
                return plugin
    return None


@contextmanager
def as_served() -> Iterator[None]:
    """Be that account for a block, as far as the system is asked; threads of other libraries are it as well."""
    plugin = pending_drop()
    if plugin is None:
        yield
        return
    gid, groups, who = os.getegid(), os.getgroups(), f"uid {plugin.uid or 0}"
    try:
        if plugin.gid is not None:
            os.setgroups([])
            os.setegid(plugin.gid)
        if plugin.uid is not None:
            os.seteuid(plugin.uid)
    except OSError as error:
        raise ConfigError(f"DropPrivileges cannot make {who} of root here: {error.strerror}") from error
    try:
        yield
    except (ConfigError, Unavailable) as error:
        error.args = (f"{error}. DropPrivileges makes {who} of root: give that account what it needs",)
        raise
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def wait_for_drop() -> None:
    """Wait until the request at hand is that account's."""
    end = time.monotonic() + _SECONDS
    while cherrypy.engine.state is cherrypy.engine.states.STARTING and pending_drop():
        if time.monotonic() > end:
            raise Unavailable("the site is still root: it starts, and DropPrivileges has not come to its turn")
        time.sleep(0.01)
