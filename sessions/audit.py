"""What is noted of sessions for those who have to find out later what happened (ASVS 16.2 and 16.3).

One line for each event: what happened, and then name=value for the session's masked reference, the account, the
browser's address. Neither an id nor a password is ever among them.

    sign-in account=ada address=192.0.2.7 session=3d2e6796
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping

from .record import reference
from .store import log

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # also what a terminal would obey (ASVS 16.4.1)
_PLAIN = re.compile(r"[\w.:@+/-]{1,200}", re.ASCII)


def note(event: str, key: str | None = None, *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event.

    Args:
        event: what happened, in a few fixed words: nothing that a visitor sent.
        key: of the session it happened to; a line of the current request names that request's session by itself.
        fields: what else there is to say. A value is quoted unless it is one plain word.
    """
    if key:
        fields["session"] = reference(key)
    log.log(level, "%s", event, extra={"fields": fields})


class OneLine(logging.Filter):
    """Completes each line of the package's log: its fields, and those of the request in which it was written.

    Args:
        context: what is known of the current request; called for each line.
    """

    def __init__(self, context: Callable[[], Mapping[str, object]]) -> None:
        super().__init__()
        self._context = context

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through, completed."""
        fields = {**self._context(), **record.__dict__.pop("fields", {})}
        told = "".join(f" {name}={plain(value)}" for name, value in sorted(fields.items()) if value not in (None, ""))
        record.msg, record.args = _BREAKS.sub(" ", record.getMessage()) + told, ()
        return True


def plain(value: object) -> str:
    """A value as one word of a line: quoted, with its control characters escaped, unless it is a plain word."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:200])
