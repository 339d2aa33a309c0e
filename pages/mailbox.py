"""/dev/mailbox: the mails of a site in development, which sends none."""

from __future__ import annotations

import cherrypy

from auth.mail import Mailer
from pages.login import Login
from web import csrf, rendering


class Mailbox:
    """GET /dev/mailbox shows what would have been sent, the last one first, to this machine's users."""

    lesson = rendering.Lesson("/dev/mailbox", "Mailbox", "What would have been sent, were this not development.", 0)
    _cp_config = rendering.NO_SLASH

    def __init__(self, mailer: Mailer) -> None:
        """Take what has the mails."""
        self._mailer = mailer

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the mails. HTTPError 403 for another machine, and for a name that others may have made lead here."""
        rendering.no_store()
        if not csrf.from_this_machine():
            raise cherrypy.HTTPError(403, "The mailbox is for this machine only. Open it as 127.0.0.1 or localhost.")
        self._mailer.finish()
        mails = [
            {name: str(mail[name]) for name in ("to", "subject", "date")} | {"text": mail.get_content()}
            for mail in reversed(self._mailer.mailbox or ())
        ]
        return rendering.render("mailbox.html", {"mails": mails}, lesson=Login.lesson)
