"""An account of one's own: for whoever has an e-mail address, or an invitation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cherrypy

from auth.accounts import Accounts, Taken
from auth.authenticator import Authenticator
from auth.links import Links, Spent
from auth.mail import Mailer
from auth.names import NAME_LENGTH, check_name, folded, mixes_alphabets
from pages.recovery import LINK, AddressPage, LinkPage, mistakes, page, refused
from sessions.events import log_event
from web import rendering
from web.flash import flash
from web.settings import StartError
from web.wiring import Site

_TAKEN = {
    "name": "Somebody has this name. Please choose another one.",
    "email": "There is an account with this address. Sign in with it, or ask for a new password.",
}


def signup(site: Site, accounts: Accounts, authenticator: Authenticator, links: Links, mailer: Mailer | None) -> Any:
    """Return the page /signup as `auth.signup` wants it, or None. Raises StartError."""
    mode = site.config["/"].pop("auth.signup", "closed")
    if mode not in ("closed", "open", "invite"):
        raise StartError(f"auth.signup must be 'closed', 'open' or 'invite', not {mode!r}")
    if mode == "open":
        if not mailer:
            raise StartError("auth.signup is 'open', and no mails can be sent: set auth.smtp (SMTP_URL)")
        return SignUp(accounts, authenticator, links, mailer)
    return SimpleNamespace(confirm=Confirm(accounts, authenticator, links, None)) if mode == "invite" else None


class SignUp(AddressPage):
    """/signup mails a link to the name and the password of a new account; whoever has an account is told so there.

    These are asked for after the link, and not before. Otherwise somebody could sign up with the address of another and
    a password of his own; and its owner, who takes the link for the usual thing, would confirm that account.
    """

    lesson = rendering.Lesson("/signup", "Sign up", "An account of your own, for an e-mail address.", 0)
    kind, template, mails = "sign-up", "signup.html", ("mails/confirm.txt", "mails/known.txt")
    sent = "A mail with a link is on its way to that address. If none comes, look among unwanted mails."

    def __init__(self, *given: Any) -> None:
        """Take what LinkPage does."""
        super().__init__(*given)
        self.confirm = Confirm(*given)


class Confirm(LinkPage):
    """GET /signup/confirm is where a link leads, of a mail or an invitation; POST makes the account.

    That a name is taken is said: everybody sees the names of others, and nobody can ask without a link.
    """

    path = "/signup/confirm"

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, token: object = "", username: object = "", new: object = "", again: object = "") -> bytes:
        """Show the form, or make the account: 303 to the sign-in.

        A link that does not work, or no more, is 403, and what is wrong with name or password 400. HTTPError 429 after
        too many names, 400 for a password in the address.
        """
        # A site that has closed its door since takes no more links that strangers have asked for.
        again_at, kinds = (SignUp.lesson.path, ("sign-up", "invite")) if self._mailer else (None, ("invite",))
        link = self._opened(token, self.path, *kinds)
        if link is None:
            return refused(again_at)
        name, chosen = rendering.text_field("username", username).strip(), rendering.text_field("new", new)
        if cherrypy.request.method != "POST":
            return page("confirm.html", email=link.email, username="")
        self._authenticator.attempt("password", link.hash)  # or a link would find out who is here
        wrong = self._mistakes(name) | mistakes(chosen, rendering.text_field("again", again), name)
        try:
            if not wrong:
                hash = self._accounts.hasher.hash(chosen)
                self._accounts.insert(name, hash, link.email, also=self._links.spend(link))
        except Taken as error:
            wrong = {"username": _TAKEN[error.field]}
        except Spent:
            return refused(again_at)
        if wrong:
            return page("confirm.html", wrong, email=link.email, username=name)
        log_event("signed up", account=name)
        cherrypy.session.pop(LINK, None)
        flash("You have an account now. Sign in with its name and your password.", "success")
        rendering.redirect("/login")

    def _mistakes(self, name: str) -> dict[str, str]:
        try:
            check_name(name)
        except StartError:
            return {"username": f"Please use 1 to {NAME_LENGTH} characters that can be seen."}
        if not folded(name) or mixes_alphabets(name):
            return {"username": "Please use letters of one alphabet that can be seen: others look the same."}
        return {"username": _TAKEN["name"]} if self._accounts.registered(name) else {}
