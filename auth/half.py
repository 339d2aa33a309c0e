"""Half signed in: the password was right, and the code of the second factor is still to come.

Until then the session has no user, so that no page is anybody's; it only notes who may go on with a code. Whoever is
signed in and proves it once more stays so meanwhile.
"""

from __future__ import annotations

import cherrypy

from auth.accounts import Accounts, Proof

KEY = "half_signed_in"
"""Where the session has it."""

MINUTES = 5


def begin(proof: Proof, remember: bool, target: str) -> None:
    """Note that a code has to follow, in a session with a new id, which then lives for MINUTES.

    The values of a visitor stay, those of another user do not.
    """
    session = cherrypy.session
    if session.user in (None, proof.user):
        session.regenerate()
    else:
        session.sign_out()
    if session.user is None:
        session.timeout = MINUTES
    session[KEY] = {
        "user": proof.user, "proved": proof.moment, "mark": proof.mark, "remember": remember, "next": target,
        "until": session.store.clock() + MINUTES * 60,  # however often the session is used meanwhile
    }  # fmt: skip


def pending(accounts: Accounts) -> tuple[Proof, bool, str] | None:
    """Return the arguments of begin() where a code is due. None: it is not, or is not any more, for it is too late, or
    the account has ended its sessions, has another password, or is disabled."""
    session = cherrypy.session
    note = session.get(KEY)
    if note is None:
        return None
    proof = accounts.recall(note["user"], note["proved"], note["mark"])
    if proof is None or session.store.clock() > note["until"]:
        end()
        return None
    return proof, note["remember"], note["next"]


def end() -> None:
    """Forget it, and let the session live as long as any."""
    session = cherrypy.session
    if session.pop(KEY, None) and session.user is None:
        session.timeout = None
