"""The second step of signing in: the code of the second factor."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlencode

import cherrypy

from auth import half
from auth.accounts import Accounts
from auth.authenticator import Authenticator, refuse_passwords_in_address
from auth.second_factor import SecondFactor
from pages.login import Login, admit, refuse
from web import rendering
from web.flash import flash

_VOID = (
    f"The code came later than {half.MINUTES} minutes after the password, or the account has changed. Sign in again."
)
_WRONG = {
    "code": "This code is wrong, too old, or was used before. Type the one that the app shows now.",
    "recovery": "This is none of your recovery codes, or it was used before.",
}


class Code:
    """GET /login/code asks whoever is half signed in for the code; POST signs in, and goes on to where they wanted."""

    _cp_config = rendering.NO_SLASH

    def __init__(self, accounts: Accounts, authenticator: Authenticator, factor: SecondFactor) -> None:
        """Take the accounts, the authenticator that counts tries, and what knows the codes."""
        self._accounts, self._authenticator, self._factor = accounts, authenticator, factor

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, code: object = "", recovery: object = "", cancel: object = "") -> bytes:
        """Show the form, or check the code or the recovery code that it holds; with `cancel`, forget the sign-in.

        A wrong one is 403. Where no code is due, 303 to the sign-in form, or 401 where JSON is asked for. HTTPError 429
        after too many tries, 400 for a code in the address.
        """
        rendering.no_store()
        refuse_passwords_in_address()
        typed, spare = rendering.text_field("code", code), rendering.text_field("recovery", recovery)
        cancelled = bool(rendering.text_field("cancel", cancel))
        note, pending = cherrypy.session.get(half.KEY), half.pending(self._accounts)
        if pending is None:
            if rendering.wants_json():
                refuse(_VOID if note else "Send name and password to /login first.")
            if note:
                flash(_VOID, "error")
            rendering.redirect(f"/login?{urlencode({'next': note['next']})}" if note else "/login")
        if cherrypy.request.method != "POST":
            return self._form()
        if cancelled:
            cherrypy.session.regenerate()
            half.end()
            rendering.redirect("/login")
        if not typed and not spare:  # a slip, which is not counted as a try
            return self._form("code", "Type the code first.", 400)

        proof, remember, target = pending
        check = partial(self._factor.recover if spare else self._factor.check, proof.user, spare or typed)
        if not self._authenticator.check_code(proof.user, check, guessable=not spare):
            field = "recovery" if spare else "code"
            return self._form(field, _WRONG[field], 403)
        admit(proof, remember, target)
        if spare:
            left = self._factor.codes_left(proof.user)
            flash(f"Recovery codes that are left: {left}. You can make new ones in your account.", "warning")
        rendering.redirect(target)

    @staticmethod
    def _form(field: str = "", error: str = "", status: int = 200) -> bytes:
        data, errors = {"user": cherrypy.session.user, "missing": "code"}, {field: error} if error else {}
        return rendering.form("code.html", data, errors, status, lesson=Login.lesson, minutes=half.MINUTES)
