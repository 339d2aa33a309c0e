"""A mail server for the tests: aiosmtpd on a port of this machine, which keeps what it is sent."""

from __future__ import annotations

import email
import email.policy
import queue
import ssl
import subprocess
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from services import free_port
from tests.support.process import START_SECONDS, wait_until


class _Controller(Controller):
    """Starts a server, and knows who is connected to it: what is open when it stops would be a warning."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(handler, **options)
        self.connected: set[SMTP] = set()

    def factory(self) -> SMTP:
        connected = self.connected

        class Connection(SMTP):
            def connection_made(self, transport: Any) -> None:
                connected.add(self)
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                connected.discard(self)

        return Connection(self.handler, **self.SMTP_kwargs)


class MailServer:
    """A server of SMTP that runs while its block does.

    Args:
        user: who may send mails, with the password; anybody unless given.
        tls: with a certificate, for smtps:// or, with `starttls`, for smtp://.
        refuses: what it says to each recipient, such as "550 no such user".
    """

    def __init__(
        self,
        user: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        starttls: bool = False,
        refuses: str = "",
    ) -> None:
        self._arrived: queue.Queue[EmailMessage] = queue.Queue()
        self._user, self._refuses = user, refuses
        self.recipients: list[list[str]] = []
        options: dict[str, Any] = {"tls_context": tls, "require_starttls": True} if starttls else {}
        if user:
            options |= {"auth_required": True, "authenticator": self._check, "auth_require_tls": starttls}
        context = None if starttls else tls
        self.port = free_port()
        self._controller = _Controller(
            self, hostname="127.0.0.1", port=self.port, ssl_context=context, server_hostname="localhost", **options
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *error: object) -> None:
        wait_until(lambda: not self._controller.connected, "the end of all connections")
        self._controller.stop()

    def next(self) -> EmailMessage:
        """Return the mail that has arrived, or will."""
        return self._arrived.get(timeout=START_SECONDS)

    def arrived(self) -> list[EmailMessage]:
        """Return those that have arrived."""
        found = []
        while not self._arrived.empty():
            found.append(self._arrived.get())
        return found

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self._refuses:
            return f"{self._refuses} <{address}>"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.recipients.append(envelope.rcpt_tos)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self._arrived.put(message)
        return "250 OK"

    def _check(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        right = (data.login.decode(), data.password.decode()) == self._user
        return AuthResult(success=right, handled=False)


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """Return what a server needs to be `name` ("IP:127.0.0.1", "DNS:..."), and the file of whom to believe."""
    key, made = folder / "key.pem", folder / "mail.pem"
    subprocess.run(
        ["openssl", "req",  # noqa: S607
         "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=test", "-addext", f"subjectAltName={name}", "-keyout", key, "-out", made],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    return context, made
