"""A site in the process of the tests that sends its mails to a real server, and what a visitor does with its links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import sqlalchemy as sa

import app
import sessions
from auth.accounts import Accounts
from auth.database import tokens
from auth.mail import Mailer
from tests.support.client import Response, WsgiClient, new_address
from tests.support.smtp import MailServer

URL = "https://shop.example.org"
_LINK = re.compile(rf"{re.escape(URL)}(/\S+\?token=[\w-]+)$", re.MULTILINE)


class MailedSite:
    """The site, with these options of [/], and its mail server."""

    def __init__(self, server: MailServer, profile: str, given: dict[str, Any]) -> None:
        smtp = {"auth.smtp": f"smtp://127.0.0.1:{server.port}", "auth.mail_from": "Shop <shop@example.org>"}
        self.server = server
        self.app = app.create_app(profile, {"/": {"site.url": URL, **smtp, **given}})
        self.accounts: Accounts = self.app.config["/"]["tools.sessions.accounts"]
        self._mailer: Mailer = self.app.root.login.forgot._mailer

    def visitor(self) -> WsgiClient:
        """Return somebody who has never been here, from an address of their own."""
        return WsgiClient(self.app, address=new_address(), url=URL)

    def mails(self) -> list[EmailMessage]:
        """Return the mails since it was asked last, those under way too."""
        self._mailer.finish()
        return self.server.arrived()

    def link(self) -> str:
        """Return the path of the link in the one mail that has come."""
        [mail] = self.mails()
        [link] = _LINK.findall(mail.get_content().replace("\r", ""))
        return str(link)

    def tokens(self) -> list[Any]:
        """Return the rows of all links."""
        return self.accounts.database.rows(sa.select(tokens))

    def let_end(self) -> None:
        """Let the time of all links be over."""
        with self.accounts.database.begin() as connection:
            connection.execute(sa.update(tokens).values(expires=1.0))


@contextmanager
def mailed_site(profile: str = "ram", options: dict[str, Any] | None = None) -> Iterator[MailedSite]:
    """Open a site with this profile and these options."""
    with MailServer() as server:
        site = MailedSite(server, profile, options or {})
        yield site
        sessions.close_stores(site.app)


def opened(visitor: WsgiClient, link: str) -> Response:
    """Follow a link to the page that it leads to."""
    response = visitor.get(link)
    return visitor.get(response.redirects_to) if response.status == 303 else response
