"""Times in plain words. All are in UTC, and say so: the site does not know where a visitor is."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def duration(seconds: float) -> str:
    """Return how long it is, in the largest unit that fits: "14 days", "1 hour", "less than a minute"."""
    for name, length in _UNITS:
        count = round(seconds / length)
        if count and seconds >= length:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "less than a minute"


def iso(moment: float) -> str:
    """Return the moment, in epoch seconds, as RFC 3339 has it, to the second: "2026-11-21T08:07:59Z"."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def date(moment: str) -> str:
    """Return what `iso` made, for people: "21 Nov 2026, 08:07 UTC"."""
    when = datetime.fromisoformat(moment)
    return f"{when.day} {when:%b %Y, %H:%M} UTC"


def ago(moment: str) -> str:
    """Return how long ago what `iso` made was: "about 3 minutes ago", "just now"."""
    passed = time.time() - datetime.fromisoformat(moment).timestamp()
    return f"about {duration(passed)} ago" if passed >= 60 else "just now"
