"""Lesson: signing in, and signing out."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import cherrypy

from auth import device, half
from auth.accounts import Proof
from auth.authenticator import Authenticator, refuse_passwords_in_address
from sessions.cookies import is_https
from sessions.events import log_event
from web import csrf, rendering, times
from web.flash import flash

HOME = "/account"
CODE = "/login/code"

_NAMED_BY_PAGES = {"Origin", "Referer"}  # a program sends neither, and reads where it is sent
_NO_COOKIE = "The cookie did not come back, so you are not signed in: "

# One slash, then neither a second one nor a backslash (which browsers take for a slash): //evil and /\evil are other
# sites. Control characters are out because browsers drop some of them before they look, and halves of surrogate pairs,
# which a form in UTF-7 can hold, because they cannot be written into a header.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\x00-\x1f\x7f\ud800-\udfff]{0,2000}")


class Login:
    """GET /login shows the form; POST signs in, and goes on to `next` or the account.

    Whoever is signed in and is sent here by `cherrypy.session.require_recent` finds the same form with the name filled
    in: the option `proof_page` of the session tool names this page.
    """

    lesson = rendering.Lesson("/login", "Sign in", "Who you are is one more thing to keep, under a new session id.", 50)
    _cp_config = rendering.NO_SLASH

    def __init__(self, authenticator: Authenticator, hint: str | None = None) -> None:
        """Take the authenticator that checks who comes, and a hint to show beside the form (for development only)."""
        self._authenticator, self._hint = authenticator, hint

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(
        self, username: object = "", password: object = "", next: object = "", stay: object = "", cookie: object = ""
    ) -> bytes:
        """Show the form, or check what it holds. Whatever is wrong, the answer is the same 403 (ASVS 5.0, 6.3.8).

        HTTPError 429 after too many tries, 400 for a name or a password in the address. With `stay`, whatever it holds,
        the session outlives the browser. With `cookie`, whoever has just signed in goes on, if the cookie came back.
        """
        rendering.no_store()
        refuse_passwords_in_address()
        # `next` hides a builtin, but the name of the field is the address's, and fixed.
        sent_from = rendering.text_field("next", next)
        target = local_path(sent_from)
        due = bool(rendering.text_field("cookie", cookie)) and not csrf.from_another_site()
        if cherrypy.request.method != "POST":
            if due and (cherrypy.session.user or half.KEY in cherrypy.session):
                rendering.redirect(target)
            return self._form(sent_from, error=_why_no_cookie() if due else "")

        # This takes the session's lock. Of a form that is sent twice the second waits here, and moves the session last:
        # its answer is the one that the browser takes, and its hash may be ready first.
        kept = cherrypy.session.originalid and not cherrypy.session.missing
        username, stays = rendering.text_field("username", username), bool(rendering.text_field("stay", stay))
        proof = self._authenticator.check(username, rendering.text_field("password", password))
        if not proof:
            return self._form(sent_from, username, stays, error="That name and password do not go together.")
        target = enter(proof, stays, target)
        if proof.second_factor and rendering.wants_json():
            refuse(f"Now send the code of your second factor to {CODE}, in the field 'code'.")
        if not kept and not _NAMED_BY_PAGES.isdisjoint(cherrypy.request.headers):
            # A browser that keeps no cookie would be sent back to the form for ever, and nobody told why. Nothing is
            # stored for that: the address says that the cookie is due, and opens nothing.
            target = f"/login?{urlencode({'next': target, 'cookie': 'due'})}"
        rendering.redirect(target)

    def _form(self, sent_from: str, username: str = "", stays: bool = False, error: str = "") -> bytes:
        if error and rendering.wants_json():
            raise cherrypy.HTTPError(403, error)
        user, target = cherrypy.session.user, local_path(sent_from)
        return rendering.render(
            "login.html",
            {"user": user},
            lesson=self.lesson,
            status=403 if error else 200,
            asks=user is None or bool(sent_from or error),
            username=username,
            target="" if target == HOME else target,
            stays=stays or cherrypy.session.remembered,
            staying=_how_long_one_stays(),
            error=error,
            hint=self._hint if csrf.from_this_machine() else None,
        )


class Logout:
    """POST /logout empties the session and gives it a new id. Not by GET: a link or an image could do that."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def index(self) -> None:
        """Sign out, and go to the tour. The browser is told to drop what it keeps of the site (OWASP ASVS 5.0, 14.3.1).

        Not its cookies: those of the lessons belong to the visitor, and the one that this answer sets would go as well.
        """
        rendering.no_store()
        user = cherrypy.session.user
        half.end()
        cherrypy.session.sign_out()
        if user:
            log_event("sign-out", account=user)
            flash("You are signed out.", "success")
        cherrypy.response.headers["Clear-Site-Data"] = '"cache", "storage"'
        rendering.redirect("/")


def enter(proof: Proof, remember: bool, target: str = HOME) -> str:
    """Let in whoever has just shown the password, and return where to go on: to `target`, or first to the page that
    asks for the code of the second factor."""
    if not proof.second_factor:
        return admit(proof, remember, target)
    half.begin(proof, remember, target)
    log_event("the password was right, the code is asked for", account=proof.user)
    return CODE


def admit(proof: Proof, remember: bool, target: str) -> str:
    """Make the session that of whoever has shown all that the account asks for, from this device; return `target`.

    It gets a new id: one that somebody knew before must be worth nothing after (session fixation; OWASP ASVS 5.0,
    7.2.4). It is as old as the proof, so that what was revoked since ends it. With `remember` it outlives the browser.
    """
    again = cherrypy.session.user == proof.user
    half.end()
    cherrypy.session.sign_in(proof.user, remember=remember, proved=proof.moment)
    device.note()
    log_event("sign-in", account=proof.user)
    flash("Thank you, it is you. Nothing has been changed yet." if again else "You are signed in.", "success")
    return target


def refuse(why: str) -> NoReturn:
    """Tell a program that it is not signed in: 401, with the header that RFC 9110 section 15.5.2 wants. Browsers ignore
    a scheme that they do not know."""
    cherrypy.response.headers["WWW-Authenticate"] = 'Cookie realm="account"'
    raise cherrypy.HTTPError(401, why)


def local_path(path: str) -> str:
    """Return the path, fit for a Location header, when it stays on this site; otherwise that of the account.

    It must stay there also when somebody on the way, such as a proxy, decodes what is written with % in it.
    """
    decoded = unquote(path)
    if not (_LOCAL_PATH.fullmatch(path) and _LOCAL_PATH.fullmatch(decoded)):
        return HOME
    if urlsplit(urljoin("http://site/", decoded)).path.startswith("//"):
        return HOME  # "/.//other.example": a redirect leaves out the dot, and a proxy may leave out what is before it
    return quote(path, safe="/?#[]@!$&'()*+,;:=%-._~")


def _why_no_cookie() -> str:
    if cherrypy.session.settings.secure is True and not is_https():
        return f"{_NO_COOKIE}it is for https only, and this page came by plain http. Open the site by https."
    return f"{_NO_COOKIE}your browser keeps none of this site. Allow it to, then sign in again."


def _how_long_one_stays() -> str:
    limits = cherrypy.session.settings.when_remembered
    idle = f"For {times.duration(limits.timeout * 60)} after your last visit"
    return f"{idle}, {times.duration(limits.lifetime * 60)} at most" if limits.lifetime else idle
