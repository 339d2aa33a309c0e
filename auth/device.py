"""The device that somebody signs in from: noted in the session at the sign-in, and listed on /account/sessions."""

from __future__ import annotations

import time
from typing import Any

import cherrypy

KEY = "device"
"""Where the session has it."""

UNKNOWN = "unknown"

_LONGEST_HEADER = 512  # characters of User-Agent that are looked at; the regular expressions take 3 ms for the worst
_LONGEST = 60  # characters of a name or an address that are kept


def note() -> None:
    """Note in the session where this request comes from, and when: whoever lists the devices can tell them apart.

    The plain words are kept, not the header: it is up to 64 kB of a visitor's text, and says more than we need to know.
    """
    request = cherrypy.request
    cherrypy.session[KEY] = {
        "address": str(request.remote.ip or UNKNOWN)[:_LONGEST],
        "browser": browser(request.headers.get("User-Agent", "")),
        "since": time.time(),
    }


def of(values: Any) -> tuple[str, str, float | None]:
    """Return the address, the browser and the moment of the sign-in (epoch seconds) that a session's values hold.

    A session of an older version of the site, or of another one, may have none or something else there: those parts are
    "unknown", and None.
    """
    noted = values.get(KEY)
    noted = noted if isinstance(noted, dict) else {}
    address, name, since = noted.get("address"), noted.get("browser"), noted.get("since")
    return (
        address if isinstance(address, str) else UNKNOWN,
        name if isinstance(name, str) else UNKNOWN,
        since if isinstance(since, float) else None,
    )


def browser(header: str) -> str:
    """Return in plain words what a User-Agent header says: "Firefox on Linux", "curl". It is a visitor's text.

    ua-parser has the list of browsers. It is imported here because only a sign-in needs it.
    """
    from ua_parser import parse_os, parse_user_agent

    header = header[:_LONGEST_HEADER]
    program, system = parse_user_agent(header), parse_os(header)
    if program and system:
        return f"{program.family[:_LONGEST]} on {system.family[:_LONGEST]}"
    known = program or system
    return known.family[:_LONGEST] if known else UNKNOWN
