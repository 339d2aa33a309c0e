"""Whose a session is, and the id that changes with it (rules 8 and 9; ASVS 7.2.4, 7.4.1)."""

from __future__ import annotations

from .audit import note
from .owner import NOBODY, Owner, valid_since
from .saving import Saving


class Signed(Saving):
    """Gives the session to a user, takes it away again, and ends it."""

    def regenerate(self) -> None:
        """Give the session a new id, keep its values, and end the old id when the request is saved.

        Call it wherever somebody's rights change, above all at login: whoever planted or saw the old id must not have
        the new one (session fixation; ASVS 7.2.4). CherryPy's own drops the values that were not loaded yet.
        """
        self._check_open()
        self.acquire_lock()  # in every mode: two requests must not move one session
        self.regenerated = True
        self._moved = False
        if not self._gone:
            self._next_id = self.generate_id()

    def delete(self) -> None:
        """Destroy the stored session, now, and expire its cookie. Final for this request: what is written later is
        never stored, and who sends the old id again is a stranger (rule 8, ASVS 7.4.1)."""
        self._use()
        if self._stored:
            self._stored.delete()
            note("session was ended", self._stored.key, account=self._owner.user)
        self.cookie = "expired" if self._stored or self._originalid else None
        self._gone = True
        self._stored = self._next_id = self._safe = None
        self._data, self._owner = {}, NOBODY

    @property
    def user(self) -> str | None:
        """The account that is signed in, or None."""
        self._for_reading()
        return self._owner.user or None

    @property
    def remembered(self) -> bool:
        """Whether the user asked to stay signed in."""
        self._for_reading()
        return self._owner.remembered

    def sign_in(self, user: str, remember: bool = False, proved: float | None = None) -> None:
        """Make this the session of `user`, under a new id, with both limits counted anew.

        Call it also when somebody has proved again who they are. The values stay, unless they are another user's.

        Args:
            user: the name of the account, proved by whatever the site asks for.
            remember: the cookie outlives the browser, and the limits are `remember_timeout` and `remember_lifetime`.
                Otherwise the cookie ends with the browser, whatever `persistent` says.
            proved: epoch seconds at which the proof was looked at. Checking a password takes a while, and what the
                account revokes meanwhile, by a new password for one, revokes this as well. Now if None.

        Raises:
            ValueError: the name is empty, or no text that can be stored.
        """
        if not user:
            raise ValueError("the name of a user cannot be empty")
        user.encode()  # a lone surrogate could not be
        self._for_reading()
        if self._owner.since is None or self._owner.user != user:  # else it has a new id, of which nobody was told yet
            self.regenerate()
        if self._owner.user not in ("", user):
            self._for_writing().clear()
        if proved is None:  # a clock that went back must not sign in to a session that is revoked already
            since = valid_since(accounts, user) if (accounts := self.settings.accounts) else None
            proved = max(self.store.clock(), since or 0.0)
        self._owner = Owner(user, remember, proved)

    def sign_out(self) -> None:
        """Remove all values and whose session it is, and move what is left to a new id: the old one is dead, also for
        whoever kept a copy of its cookie (ASVS 7.4.1)."""
        self.regenerate()
        self.clear()

    def clear(self) -> None:
        """Remove all values, and whose session it is. The session itself stays; `delete` ends it."""
        super().clear()
        self._owner = NOBODY

    def outlives_browser(self, persistent: bool) -> bool:
        """Whether the cookie stays when the browser is closed; `persistent` decides while nobody is signed in."""
        record = self._stored.record if self._stored else None
        return record.remembered if record and record.user else persistent
