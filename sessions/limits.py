"""When a session ends: the idle limit, the absolute limit, and how seldom the first is moved (rules 7 and 16).

Times are epoch seconds in UTC. Both limits hold whatever the browser does with its cookie (ASVS 7.3.1 and 7.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from .record import Record


@dataclass(frozen=True, slots=True)
class Limits:
    """The two limits of a session.

    Attributes:
        timeout: minutes it lives without being used.
        lifetime: minutes it lives at most since it began, or None.
    """

    timeout: float
    lifetime: float | None

    def deadline(self, created: float, now: float) -> float:
        """When a session used now ends, if it is not used again."""
        idle = now + self.timeout * 60
        return idle if self.lifetime is None else min(idle, created + self.lifetime * 60)

    def expired(self, record: Record, now: float) -> bool:
        """Whether a stored session has ended. The lifetime is that of today's settings, not of those it began under."""
        return now >= record.deadline or (self.lifetime is not None and now >= record.created + self.lifetime * 60)

    def seen(self, record: Record) -> float:
        """When the session was last used, as far as its deadline tells: to a tenth of the timeout. For a session whose
        deadline is that of its lifetime, which does not move, it is the earliest moment it can have been."""
        return max(record.created, record.deadline - self.timeout * 60)

    def renewed(self, record: Record, now: float) -> float | None:
        """The new deadline of a session used now, or None while less than a tenth of the timeout has passed since it
        was set. When that was is counted back from the deadline, so that nothing else has to be stored."""
        new = self.deadline(record.created, now)
        set_at = record.deadline - self.timeout * 60
        due = abs(now - set_at) >= self.timeout * 6 and abs(new - record.deadline) > 0.001  # it stands at the lifetime
        return new if due else None
