"""The way back for a forgotten password: a link by mail, to a page that takes a new one."""

from __future__ import annotations

from typing import Any, ClassVar

import cherrypy
from sqlalchemy import Row

from auth.accounts import Accounts
from auth.authenticator import Authenticator, refuse_passwords_in_address
from auth.links import Links, Spent, digest
from auth.mail import Mail, Mailer, is_address
from auth.passwords import weakness
from pages.login import Login
from sessions.events import log_event
from web import rendering
from web.flash import flash

LINK = "link"
"""Where the session has the hash of the link that was opened."""


class LinkPage:
    """What the pages share that give links away, or take them."""

    _cp_config = rendering.NO_SLASH

    def __init__(self, accounts: Accounts, authenticator: Authenticator, links: Links, mailer: Mailer | None) -> None:
        """Take the accounts, the authenticator that limits tries, the links, and what sends mails."""
        self._accounts, self._authenticator, self._links, self._mailer = accounts, authenticator, links, mailer

    def _opened(self, token: object, path: str, *kinds: str) -> Row[Any] | None:
        """Return the link of one of these kinds by which the visitor has come to `path`; None if it does not work.

        What reads mails for viruses opens links too, so a GET uses none up. It takes the token out of the address, and
        so out of the browser's history, of Referer and of our log; the session has its hash (303 to `path`).
        """
        rendering.no_store()
        refuse_passwords_in_address()
        given = rendering.text_field("token", token)
        if not given or cherrypy.request.method != "GET":
            return self._links.find(str(cherrypy.session.get(LINK)), *kinds)
        cherrypy.serving.request.request_line = f"GET {path}?token=... HTTP/1.1"  # for the access log
        if link := self._links.find(digest(given), *kinds):
            cherrypy.session[LINK] = link.hash
            rendering.redirect(path)
        return None


class AddressPage(LinkPage):
    """GET shows a form for an e-mail address; POST sends a mail there.

    The answer is the same for every address, and what is done for it is the same too, but for the mail, which goes from
    another thread (OWASP ASVS 5.0, 6.3.8).

    Attributes:
        kind: of the link, and of the tries that are counted.
        template: of the page.
        mails: the template of the mail to an address without an account, and to one with it; None sends nothing.
        sent: what is said then.
    """

    lesson: rendering.Lesson
    kind: ClassVar[str]
    template: ClassVar[str]
    mails: ClassVar[tuple[str | None, str]]
    sent: ClassVar[str]

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, email: object = "") -> bytes:
        """Show the form, or send the mail: 303 to the form. What is no address is 400; HTTPError 429 after too many."""
        rendering.no_store()
        address = rendering.text_field("email", email).strip()
        if cherrypy.request.method != "POST":
            return page(self.template, email="")
        if not is_address(address):
            return page(self.template, {"email": "That is no e-mail address."}, email=address)
        account = self._accounts.by_email(address)
        self._authenticator.attempt(self.kind, address)
        if self._mailer:
            self._mailer.send(lambda: self._mail(address, account))
        flash(self.sent)
        rendering.redirect(self.lesson.path)

    def _mail(self, address: str, account: Row[Any] | None) -> Mail | None:
        """A link is made for every address. Where there is no account to open, or one already, nobody gets it."""
        to, user = (account.email, account.name) if account else (address, None)
        token, template = self._links.make(self.kind, to, user), self.mails[account is not None]
        return (to, template, {"token": token, "user": user}) if template else None


class Forgot(AddressPage):
    """/login/forgot mails a link to a new password to whoever has an account with that address."""

    lesson = rendering.Lesson("/login/forgot", "Forgot your password?", "A link by mail leads to a new one.", 0)
    kind, template, mails = "reset", "forgot.html", (None, "mails/reset.txt")
    sent = "If an account has this address, a mail with a link is on its way. If none comes, look among unwanted mails."


class Reset(LinkPage):
    """GET /login/reset is where the link leads; POST keeps the new password, and ends all sessions of the account.

    Nobody is signed in by it: that takes the new password, and the second factor of an account that has one.
    """

    path = "/login/reset"

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, token: object = "", new: object = "", again: object = "") -> bytes:
        """Show the form, or change the password: 303 to the sign-in.

        A link that does not work, or no more, is 403, and what is wrong with the password 400. HTTPError 400 for a
        password in the address.
        """
        link = self._opened(token, self.path, "reset")
        account = self._accounts.by_email(link.email) if link else None
        if not link or not account or account.name != link.user:  # its address may have changed since
            return refused(Forgot.lesson.path)
        user, chosen = account.name, rendering.text_field("new", new)
        if cherrypy.request.method != "POST":
            return page("reset.html", user=user)
        if wrong := mistakes(chosen, rendering.text_field("again", again), user):
            return page("reset.html", wrong, user=user)
        try:
            self._accounts.set_password(user, chosen, self._links.spend(link))
        except Spent:
            return refused(Forgot.lesson.path)
        log_event("password changed by a link", account=user)
        if cherrypy.session.user == user:
            cherrypy.session.sign_out()  # it has ended, and would take the message with it
        cherrypy.session.pop(LINK, None)
        flash("Your password is changed, and you are signed out everywhere. Sign in with the new one.", "success")
        rendering.redirect("/login")


def refused(again: str | None) -> bytes:
    """Return the page for a link that does not work; `again` is where to ask for another one, if anywhere."""
    if rendering.wants_json():
        raise cherrypy.HTTPError(403, "This link does not work, or no more.")
    return rendering.render("refused_link.html", {}, lesson=Login.lesson, status=403, again=again)


def mistakes(new: str, again: str, name: str) -> dict[str, str]:
    """Return what is wrong with a new password, by field."""
    if new != again:
        return {"again": "This is not the same as the password. Please type both once more."}
    weak = weakness(new, name)
    return {"new": weak} if weak else {}


def page(template: str, errors: dict[str, str] | None = None, **data: str | None) -> bytes:
    """Return a form below the lesson about signing in."""
    return rendering.form(template, data, errors, lesson=Login.lesson)
