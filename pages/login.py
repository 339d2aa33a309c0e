"""Lesson: signing in, a page for one person only, and signing out."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping
from urllib.parse import quote

import argon2
import cherrypy

from pages import site

HOME = "/account"

# One slash, then neither a second one nor a backslash (which browsers take for a slash): //evil and /\evil are other
# sites. Control characters are out because browsers drop some of them before they look.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\x00-\x1f\x7f]{0,2000}")


_TURN_SECONDS = 5.0


class Accounts:
    """Who may sign in: user names and the argon2id hashes of their passwords, made once at the start."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        """Take the passwords by user name, and keep only their hashes."""
        self._hasher = argon2.PasswordHasher()
        self._hashes = {name: self._hasher.hash(password) for name, password in passwords.items()}
        # Each verification takes 64 MB and a core for a while, by design: not as many at once as there are threads.
        self._turn = threading.BoundedSemaphore(2)
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    def verify(self, username: str, password: str) -> bool:
        """Tell whether the password is this user's.

        An unknown name costs the same one verification, so that the time of the answer does not tell which names
        exist (OWASP ASVS 5.0, 6.3.8). Raises HTTPError 503 when too many sign in at once.
        """
        if not self._turn.acquire(timeout=_TURN_SECONDS):
            raise cherrypy.HTTPError(503, "Many people are signing in just now. Please try again in a moment.")
        try:
            self._hasher.verify(self._hashes.get(username, self._nobody), password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        finally:
            self._turn.release()
        return username in self._hashes


class Login:
    """GET /login shows the form; POST signs in, and goes on to `next` or the account."""

    lesson = site.Lesson("/login", "Sign in", "Who you are is one more thing to keep, under a new number.")
    _cp_config = site.NO_SLASH

    def __init__(self, accounts: Accounts, hint: str | None = None) -> None:
        """Take the accounts, and a hint to show beside the form (for development only)."""
        self._accounts, self._hint = accounts, hint

    @cherrypy.expose
    @cherrypy.tools.guard(methods=["GET", "POST"])
    def index(self, username: object = "", password: object = "", next: object = "") -> bytes:
        """Show the form, or check what it holds. Whatever was wrong, the answer is the same 403."""
        site.no_store()
        # `next` hides a builtin, but the name of the field is the address's, and fixed.
        target = local_path(site.text_field("next", next))
        if cherrypy.request.method != "POST":
            return self._form(target)

        username = site.text_field("username", username)
        if not self._accounts.verify(username, site.text_field("password", password)):
            return self._form(target, username, error="That name and password do not go together.")
        # A number that somebody knew before must be worth nothing after (session fixation; OWASP ASVS 5.0, 7.2.4).
        cherrypy.session.regenerate()
        cherrypy.session["user"] = username
        site.redirect(target)

    def _form(self, target: str, username: str = "", error: str = "") -> bytes:
        if error and site.wants_json():
            raise cherrypy.HTTPError(403, error)
        return site.render(
            "login.html",
            {"user": cherrypy.session.get("user")},
            lesson=self.lesson,
            status=403 if error else 200,
            reference=site.session_reference(),
            username=username,
            target="" if target == HOME else target,
            error=error,
            hint=self._hint,
        )


class Logout:
    """POST /logout empties the session and gives it a new number. Not by GET: a link or an image could do that."""

    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.guard(methods=["POST"])
    def index(self) -> None:
        """Sign out, and go to the tour."""
        cherrypy.session.clear()
        cherrypy.session.regenerate()
        site.redirect("/")


class Account:
    """GET /account is for the person who is signed in; anybody else is sent to sign in and then back here."""

    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.guard(methods=["GET"])
    def index(self) -> bytes:
        """Show the account. Signed out: 303 to the form, or 401 where JSON is asked for."""
        site.no_store()
        user = cherrypy.session.get("user")
        if user is None and site.wants_json():
            # RFC 9110 section 15.5.2 wants the header with every 401; browsers ignore a scheme they do not know.
            cherrypy.response.headers["WWW-Authenticate"] = 'Cookie realm="account"'
            raise cherrypy.HTTPError(401, "Sign in first.")
        if user is None:
            site.redirect(f"/login?next={HOME}")
        return site.render("account.html", {"user": user}, lesson=Login.lesson, reference=site.session_reference())


def local_path(path: str) -> str:
    """Return the path, fit for a Location header, when it stays on this site; otherwise that of the account."""
    if not _LOCAL_PATH.fullmatch(path):
        return HOME
    return quote(path, safe="/?#[]@!$&'()*+,;:=%-._~")
