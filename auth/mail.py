"""The mails of the site: by SMTP, or into a mailbox in memory that a site in development shows at /dev/mailbox."""

from __future__ import annotations

import logging
import queue
import re
import smtplib
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import localtime, make_msgid, parseaddr
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import sessions
from auth.names import check_email
from sessions.events import log_event
from web import rendering
from web.settings import StartError
from web.wiring import Site

Mail = tuple[str, str, dict[str, Any]]  # whom to, the template, and what it is filled with

_PORTS = {"smtp": 587, "smtps": 465}
_TIMEOUT = 10.0  # seconds to wait for each answer of the server
_WAITING = 100  # mails
_SHOWN = 50  # mails that the mailbox keeps
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class Busy(sessions.Unavailable):
    """Too many mails are waiting to be sent."""

    public = "We cannot send mails just now. Please try again in a few minutes."


class Mailer:
    """Sends mails from a thread of its own, one after the other.

    So a slow server holds no page, and the time of an answer does not tell whether there was somebody to write to. What
    waits when the process ends is lost, and can be asked for again.

    Args:
        site: its address is a setting. A visitor can put any name into the Host header, and a link to that would bring
            them the token.
        sender: what the mails have as From.
        server: of SMTP; None for the mailbox.
    """

    def __init__(self, site: Site, sender: str, server: SplitResult | None) -> None:
        self._about = {"site": site.url, "name": site.config["/"].get("site.name", "")}
        self._sender, self._server = sender, server
        self.mailbox: deque[EmailMessage] | None = None if server else deque(maxlen=_SHOWN)
        self._waiting: queue.Queue[Callable[[], Mail | None]] = queue.Queue()
        self._starting, self._thread = threading.Lock(), threading.Thread()

    def send(self, write: Callable[[], Mail | None]) -> None:
        """Let the thread write a mail and send it; nothing is sent if there is none. Raises Busy."""
        with self._starting:
            if not self._thread.is_alive():  # before the first mail; and after a fork, where the parent has its own
                self._waiting = queue.Queue(_WAITING)
                self._thread = threading.Thread(target=self._work, args=[self._waiting], name="mails", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(write)
        except queue.Full as error:
            raise Busy(f"{_WAITING} mails are waiting to be sent") from error

    def finish(self) -> None:
        """Wait until no mail is waiting."""
        self._waiting.join()

    def _work(self, waiting: queue.Queue[Callable[[], Mail | None]]) -> None:
        while True:
            write = waiting.get()
            try:
                if mail := write():
                    self._deliver(*mail)
            except Exception as error:
                # What a mail server says may quote the address, or the mail.
                ours = isinstance(error, sessions.Unavailable)
                why = error if ours else f"{type(error).__name__} {getattr(error, 'smtp_code', '')}".rstrip()
                log_event("a mail was not sent", level=logging.WARNING, reason=why, address=None)  # nobody asks here
            finally:
                waiting.task_done()

    def _deliver(self, to: str, template: str, data: dict[str, Any]) -> None:
        """The first line of the template is the subject."""
        subject, _, text = rendering.fragment(template, **self._about, **data).decode().partition("\n")
        sender = parseaddr(self._sender)[1]
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"], mail["Date"] = (
            self._sender,
            Address(addr_spec=to),
            subject,
            localtime(),
        )
        mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])  # not the name of this machine
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday is answered
        mail.set_content(text.lstrip())
        if self.mailbox is not None:
            self.mailbox.append(mail)
        elif self._server:
            with _connected(self._server) as connection:
                connection.send_message(mail, sender, [to])


def open_mailer(site: Site) -> Mailer | None:
    """Return what sends the mails of a site, as `auth.smtp` says, or into a mailbox in development. None: no mails.

    Raises:
        StartError: a setting is wrong or missing. That of the server is not quoted, for it has a password.
    """
    smtp, sender = (str(site.config["/"].pop(f"auth.{option}", "")) for option in ("smtp", "mail_from"))
    if not smtp:
        return Mailer(site, "site@localhost", None) if site.profiles else None
    if not is_address(parseaddr(sender)[1]):
        raise StartError(f"auth.smtp needs auth.mail_from, such as 'The shop <shop@example.org>', not {sender!r}")
    if not _URL.fullmatch(site.url) or (site.production and not site.url.startswith("https:")):
        raise StartError(
            f"auth.smtp needs site.url (SITE_URL) for links, such as 'https://example.org', not {site.url!r}"
        )
    with suppress(ValueError):
        server = urlsplit(smtp)
        if server.scheme in _PORTS and server.hostname and server.port != 0 and server.path in ("", "/"):
            return Mailer(site, sender, server)
    raise StartError("auth.smtp (SMTP_URL) must be smtp://USER:PASSWORD@HOST:587, or smtps://, with % codes for /@:#?")


def is_address(text: str) -> bool:
    """Tell whether mails can be sent to this address, and to no second one."""
    try:
        check_email(text)
        return Address(addr_spec=text).addr_spec == text
    except (ValueError, MessageError):
        return False


def _connected(server: SplitResult) -> smtplib.SMTP:
    """Return a connection to the server, signed in there if it has a user. Only on this machine it may be in the clear,
    where mail servers have no certificate that anybody would believe."""
    host, port, context = str(server.hostname), server.port or _PORTS[server.scheme], ssl.create_default_context()
    if server.scheme == "smtps":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT, context=context)
    else:
        connection = smtplib.SMTP(host, port, timeout=_TIMEOUT)
    try:
        if server.scheme == "smtp" and host not in ("localhost", "127.0.0.1", "::1"):
            connection.starttls(context=context)
        if server.username:
            connection.login(unquote(server.username), unquote(server.password or ""))
    except BaseException:
        connection.close()
        raise
    return connection
