"""The pages of whoever is signed in: the account, a new password, and where else the account is signed in.

The last two change what an account is worth. A new password asks for the current one each time (OWASP ASVS 5.0, 6.2.3),
and counts a wrong one like a failed sign-in; to end a session the sign-in must be recent (7.5.2).
"""

from __future__ import annotations

import logging
import time
from typing import Any, NoReturn

import cherrypy

import sessions
from auth import device
from auth.accounts import Accounts
from auth.authenticator import Authenticator, refuse_passwords_in_address
from auth.passwords import weakness
from auth.second_factor import SecondFactor
from pages.login import HOME, Login, refuse
from sessions import codec
from sessions.events import log_event
from sessions.record import TOMBSTONE, Record
from sessions.users import LiveSession
from web import rendering, times
from web.flash import flash

OTHERS = "others"
"""What the field `end` holds instead of a reference to end all other sessions."""

RECENT = 10
"""Minutes since the password was last typed in which a session may be ended."""

_MOVES = 4  # of a session, that are followed: nobody clicks more often
_NOT_CURRENT = "That is not your current password."


class Account:
    """GET /account is for the person who is signed in; anybody else is sent to sign in and then back here."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the account. Signed out: 303 to the form, or 401 where JSON is asked for."""
        user = user_or_sign_in(HOME)
        since = device.of(cherrypy.session)[2]
        return rendering.render(
            "account.html",
            {"user": user},
            lesson=Login.lesson,
            since=times.iso(since) if since else None,
            date=times.date,
        )


class Password:
    """GET /account/password shows the form; POST checks the old password, keeps the new one, and moves the session.

    The other sessions are offered to be ended: whoever knew the old password may have one (OWASP ASVS 5.0, 7.4.3).
    """

    path = f"{HOME}/password"
    _cp_config = rendering.NO_SLASH

    def __init__(self, accounts: Accounts, authenticator: Authenticator, factor: SecondFactor) -> None:
        """Take the accounts, the authenticator that checks who asks, and what knows who has a second factor."""
        self._accounts, self._authenticator, self._factor = accounts, authenticator, factor

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, current: object = "", new: object = "", again: object = "", end_others: object = "") -> bytes:
        """Show the form, or change the password: 303 to the account.

        What is wrong with the new one is 400, a wrong current one 403. HTTPError 429 after too many of those, 400 for a
        password in the address.
        """
        refuse_passwords_in_address()
        old, chosen = rendering.text_field("current", current), rendering.text_field("new", new)
        if cherrypy.session.user is None and is_sent_again(self._authenticator, chosen):
            self._changed()
        user = user_or_sign_in(self.path)
        if self._factor.codes_left(user) is not None:  # the password alone is not the whole proof then (7.5.1)
            cherrypy.session.require_recent(RECENT)
        if cherrypy.request.method != "POST":
            return self._form({}, end_others=True)

        ends = bool(rendering.text_field("end_others", end_others))
        wrong = self._mistakes(old, chosen, rendering.text_field("again", again))
        if wrong:
            return self._form(wrong, ends)
        proof = self._authenticator.check(user, old)
        weak = weakness(chosen, user) if proof else None  # up to 0.3 s, not for whoever does not know the password
        if weak:
            return self._form({"new": weak}, ends)

        if not proof or not self._accounts.change_password(proof, chosen):
            if proof:
                log_event("password not changed: it was changed meanwhile", level=logging.WARNING, account=user)
            backend = rendering.backend()
            if backend and not backend.revokes and is_sent_again(self._authenticator, chosen):
                self._changed()  # its old cookie still opens what the first form has found
            return self._form({"current": _NOT_CURRENT}, ends, status=403)
        log_event("password changed", account=user)
        cherrypy.session.regenerate()
        if ends:
            sessions.end_other_sessions()
        self._changed()

    @staticmethod
    def _changed() -> NoReturn:
        flash("Your password was changed.", "success")
        rendering.redirect(HOME)

    @staticmethod
    def _mistakes(old: str, new: str, again: str) -> dict[str, str]:
        """Return what can be said at once, by field. It costs no try at the password."""
        found = {
            "current": "Please fill in your current password." if not old else "",
            "new": "This is the same as the current one. Please choose another." if old and new == old else "",
            "again": "This is not the same as the new password. Please type both once more." if new != again else "",
        }
        return {field: text for field, text in found.items() if text}

    @staticmethod
    def _form(errors: dict[str, str], end_others: bool, status: int = 400) -> bytes:
        data = {"user": cherrypy.session.user}
        return rendering.form("password.html", data, errors, status, lesson=Login.lesson, end_others=end_others)


class Devices:
    """GET /account/sessions lists where the account is signed in; POST ends one of these sessions, or all others.

    OWASP ASVS 5.0, 7.5.2.
    """

    path = f"{HOME}/sessions"
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, end: object = "") -> bytes:
        """Show the list, or end what the field `end` says: 303 to the list.

        Where the sign-in is not RECENT, nothing is ended: 303 to type the password again, or 403 where JSON is asked
        for. A reference that no other session has is 404.
        """
        chosen = rendering.text_field("end", end)
        user_or_sign_in(self.path)
        if cherrypy.request.method != "POST":
            return self._list()

        if not chosen:
            raise cherrypy.HTTPError(400, f"Say which session to end: end=REFERENCE of one, or end={OTHERS}.")
        cherrypy.session.require_recent(RECENT)
        if chosen == OTHERS:
            sessions.end_other_sessions()
            flash("You are signed out everywhere else.", "success")
        elif _end(chosen):
            flash("That session has ended.", "success")
        else:  # also for the second click of a double click
            return self._list(f"You have no other session {chosen[:20]}. It may have ended already.", 404)
        rendering.redirect(self.path)

    @staticmethod
    def _list(error: str = "", status: int = 200) -> bytes:
        if error and rendering.wants_json():
            raise cherrypy.HTTPError(status, error)
        if error:
            flash(error, "error")
        try:
            found, complete = [_row(session) for session in sessions.live_sessions()], True
        except sessions.CannotList:
            found, complete = [], False
        # An index that a server may drop can miss even the session that asks.
        rows = found if any(row["current"] for row in found) else [_this_one(), *found]
        return rendering.render(
            "devices.html",
            {"sessions": rows},
            lesson=Login.lesson,
            status=status,
            user=cherrypy.session.user,
            complete=complete,
            others=OTHERS,
            recent=RECENT,
            date=times.date,
            ago=times.ago,
        )


def user_or_sign_in(path: str) -> str:
    """Return who is signed in. Nobody: 303 to sign in and then to `path`, or 401 where JSON is asked for."""
    rendering.no_store()
    user: str | None = cherrypy.session.user
    if user is None and rendering.wants_json():
        why = "." if cherrypy.session.originalid else ": no session cookie came with this request."
        refuse(f"Sign in first{why}")
    if user is None:
        rendering.redirect(f"/login?next={path}")
    return user


def is_sent_again(authenticator: Authenticator, password: str) -> bool:
    """Tell whether a form that asks for a password is sent once more, by a double click or because no answer came, and
    sign its sender in.

    With the first one the session has moved to another id, or has ended, where it is in the cookie. The browser still
    sends the old one, which opens nothing: the password of the form has to prove whose it was, as at the sign-in.
    Where a code has to follow, that is too little.
    """
    rendering.no_store()
    session = cherrypy.session
    record = _former(session) if password else None
    proof = authenticator.check(record.user, password) if record else None
    if proof is None or record is None or proof.second_factor:
        return False
    session.sign_in(proof.user, remember=record.remembered, proved=proof.moment)
    device.note()
    for key, value in codec.decode(record.data).items():  # what has moved is here already
        session.setdefault(key, value)
    return True


def _former(session: sessions.Session) -> Record | None:
    """What is stored, under its id of today, of the session whose id the browser sends; None unless it is a user's."""
    found = session.store.find(session.originalid or "")
    record = session.store.load(found[1]) if found else None
    for _ in range(_MOVES):
        if record and record.kind == TOMBSTONE:
            record = session.store.load(record.data)
    return record if record and record.user and record.deadline > session.store.clock() else None


def _end(reference: str) -> bool:
    try:
        return sessions.end_session(reference)
    except sessions.CannotList as error:
        raise cherrypy.HTTPError(404, f"One session cannot be ended here. End all others. {_limitations()}") from error


def _limitations() -> str:
    backend = rendering.backend()
    return backend.limitations if backend else ""


def _row(session: LiveSession) -> dict[str, Any]:
    """Return a session as JSON has it, and the page."""
    address, browser, _ = device.of(session.values)
    return {
        "reference": session.reference,
        "started": times.iso(session.started),
        "seen": times.iso(time.time() if session.current else session.last_used),
        "address": address,
        "browser": browser,
        "current": session.current,
    }


def _this_one() -> dict[str, Any]:
    """Return the session of this request in the same form, from what is known without a list."""
    address, browser, since = device.of(cherrypy.session)
    return {
        "reference": rendering.session_reference(),
        "started": times.iso(since) if since else None,
        "seen": times.iso(time.time()),
        "address": address,
        "browser": browser,
        "current": True,
    }
