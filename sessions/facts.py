"""What a backend can do, and what it cannot: one declaration in each backend's file.

The pages and the README quote it, and the contract suite proves it. No rule of a session asks for it: what a backend
does differently stands in its own methods. Only the operator's commands do, to say what they cannot see from outside.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The declaration of one backend. The first eight are proved by `sessions.testing`; the rest is said in words.

    Attributes:
        survives_restart: sessions are there again after every process of the site was restarted.
        shared: several processes see the same sessions.
        locks_processes: and keep each other away from a session in use.
        revokes: a deleted session is dead, whoever kept a copy of its cookie.
        counts: it can tell how many live sessions there are.
        lists: it can tell which live sessions a user has, and so end one of them, or all others.
        purges: the cleaner of the site removes expired sessions; False: they go by themselves, or not at all.
        max_bytes: the largest session, about, in bytes of encoded values; None for no limit of its own.
        keeps: where the sessions are.
        sharing: who can share them.
        locking: how two requests on one session are kept apart.
        cleaning: what becomes of expired sessions.
        outage: what happens while the store is down.
        needs: what has to be there for it.
        cannot: what this backend cannot do; empty if there is no such thing.
    """

    survives_restart: bool
    shared: bool
    locks_processes: bool
    revokes: bool = True
    counts: bool = True
    lists: bool = True
    purges: bool = True
    max_bytes: int | None = None
    keeps: str
    sharing: str
    locking: str
    cleaning: str = "A thread of the site removes them every few minutes, a batch at a time."
    outage: str
    needs: str = "Nothing."
    cannot: str = ""
