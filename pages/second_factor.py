"""The page that turns the second factor of an account on and off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cherrypy
import pyotp
import segno
from markupsafe import Markup

import sessions
from auth.authenticator import refuse_passwords_in_address
from auth.second_factor import SecondFactor, grouped
from pages.account import HOME, RECENT, user_or_sign_in
from pages.login import Login
from sessions.events import log_event
from web import rendering
from web.flash import flash

_SECRET = "totp_secret"  # noqa: S105 -- where the session has it while it is set up
_WRONG = "That is not the code that belongs to this secret now. Is the clock of the device right?"


class SecondFactorPage:
    """GET /account/second-factor shows whether it is on; POST does what the field `do` says: begin, on, codes, off.

    Each wants a recent sign-in (OWASP ASVS 5.0, 7.5.1), and each change ends the other sessions (7.4.3): they were
    signed in by less, or perhaps by a device that is lost.
    """

    path = f"{HOME}/second-factor"
    _cp_config = rendering.NO_SLASH

    def __init__(self, factor: SecondFactor) -> None:
        """Take what keeps the second factors."""
        self._factor = factor

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, do: object = "", code: object = "") -> bytes:
        """Show the page, or do it: 303 to the page, or once the recovery codes.

        A wrong code, and what cannot be done now, is 400. Where the sign-in is not RECENT: 303 to prove it again, or
        403 where JSON is asked for.
        """
        refuse_passwords_in_address()
        what, typed = rendering.text_field("do", do), rendering.text_field("code", code)
        user, secret = user_or_sign_in(self.path), cherrypy.session.get(_SECRET, "")
        if secret or cherrypy.request.method == "POST":
            cherrypy.session.require_recent(RECENT)
        left = self._factor.codes_left(user)
        if cherrypy.request.method != "POST":
            return self._page(user, left, secret)
        if what == "begin" and left is None:
            cherrypy.session[_SECRET] = pyotp.random_base32()  # 160 bits, as RFC 4226 section 4 recommends
            rendering.redirect(self.path)
        elif what == "on" and left is None and secret:
            codes = self._factor.turn_on(user, secret, typed)
            if not codes:
                return self._page(user, None, secret, error=_WRONG)
        elif what == "codes" and left is not None:
            codes = self._factor.renew_codes(user)
        elif what == "off" and left is not None:
            codes = []
            self._factor.turn_off(user)
        else:
            raise cherrypy.HTTPError(400, "Say what to do: do=begin, then do=on with a code; or do=codes, do=off.")
        log_event("second factor changed", account=user, how=what)
        cherrypy.session.pop(_SECRET, None)
        sessions.end_other_sessions()
        if codes:  # without a redirect, which would have to find them again: they are stored nowhere
            return self._page(user, len(codes), codes=codes)
        flash("The second factor is off. You are signed out everywhere else.", "success")
        rendering.redirect(self.path)

    @staticmethod
    def _page(user: str, left: int | None, secret: str = "", error: str = "", codes: Sequence[str] = ()) -> bytes:
        data: dict[str, Any] = {"on": left is not None, "codes_left": left}
        if codes:
            data["recovery_codes"] = codes
        elif secret and left is None:
            uri = pyotp.TOTP(secret).provisioning_uri(name=user, issuer_name=rendering.setting("site.name"))
            data |= {"secret": grouped(secret), "uri": uri}
        errors, more = {"code": error} if error else {}, {"user": user, "picture": _picture, "recent": RECENT}
        return rendering.form("second_factor.html", data, errors, lesson=Login.lesson, **more)


def _picture(text: str) -> Markup:
    """Return a QR code as an SVG element: dark on light in every colour scheme, for some readers take no other."""
    drawn = segno.make_qr(text).svg_inline(omitsize=True, light="#fff", svgclass=None, lineclass=None)
    return Markup(drawn)  # noqa: S704 -- numbers, and constants
