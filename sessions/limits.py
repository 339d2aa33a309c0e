"""When a session ends: the idle limit, the absolute limit, and how seldom the first is moved (rules 7 and 16).

Times are epoch seconds in UTC, `timeout` and `lifetime` minutes. Both limits hold whatever the browser does with its
cookie (ASVS 7.3.1 and 7.3.2).
"""

from __future__ import annotations

from .record import Record


def deadline(created: float, now: float, timeout: float, lifetime: float | None) -> float:
    """When a session used now ends, if it is not used again."""
    idle = now + timeout * 60
    return idle if lifetime is None else min(idle, created + lifetime * 60)


def expired(record: Record, now: float, lifetime: float | None) -> bool:
    """Whether a stored session has ended. The lifetime is that of today's settings, not of those it began under."""
    return now >= record.deadline or (lifetime is not None and now >= record.created + lifetime * 60)


def renewed(record: Record, now: float, timeout: float, lifetime: float | None) -> float | None:
    """The new deadline of a session used now, or None while less than a tenth of the timeout has passed since it was
    set. When that was is counted back from the deadline, so that nothing else has to be stored."""
    new = deadline(record.created, now, timeout, lifetime)
    set_at = record.deadline - timeout * 60
    due = abs(now - set_at) >= timeout * 6 and abs(new - record.deadline) > 0.001  # it stands still at the lifetime
    return new if due else None
