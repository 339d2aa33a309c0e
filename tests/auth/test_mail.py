"""The mails of the site, to a real server of SMTP; and what is logged where none can be sent."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import app
import sessions
from auth import mail
from auth.mail import Busy, Mailer, is_address, open_mailer
from tests.support.application import logged
from tests.support.process import ROOT, START_SECONDS, environment
from tests.support.smtp import MailServer, certificate
from web.settings import StartError, load_settings
from web.wiring import Site

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd, of its own server
URL = "https://shop.example.org"
LETTER = {"user": "ada", "token": "fByyVh8zdMpTVeBUCX3MvEngx_jEM7bHYdXG3oQ0PBs"}
SECRET = "a-secret-of-the-mail-server"  # noqa: S105 - made up here


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    """Fields of the log are written by a filter of the package."""
    sessions.install()


def site(production: bool = False, **options: Any) -> Site:
    """A site with these options of [/], whose names have an underscore for a dot."""
    given = {name.replace("_", ".", 1): value for name, value in options.items()}
    settings = load_settings(
        "ram", {"/": {"site.url": URL, "auth.mail_from": "The shop <shop@example.org>", **given}}, {}
    )
    return Site(settings, production=production)


def mailer(smtp: str, **options: Any) -> Mailer:
    found = open_mailer(site(auth_smtp=smtp, **options))
    assert found
    return found


def letter(to: str = "ada@example.org") -> Callable[[], mail.Mail]:
    return lambda: (to, "mails/reset.txt", LETTER)


def failure(mailer: Mailer, write: Callable[[], mail.Mail | None]) -> str:
    """Return the one line that is logged when this mail is not sent."""
    with logged() as lines:
        mailer.send(write)
        mailer.finish()
    [line] = lines
    return line


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_a_mail_is_plain_text_from_the_site_to_one_address() -> None:
    with MailServer() as server:
        mailer(f"smtp://127.0.0.1:{server.port}", site_name="The shop").send(letter())
        message = server.next()
    assert server.recipients == [["ada@example.org"]]
    assert (message["From"], message["To"]) == ("The shop <shop@example.org>", "ada@example.org")
    assert message["Subject"] == "A new password for The shop"
    assert message.get_content_type() == "text/plain" and message["Auto-Submitted"] == "auto-generated"
    assert f"\n{URL}/login/reset?token={LETTER['token']}\n" in message.get_content().replace("\r", "")
    assert message["Message-ID"].endswith("@example.org>") and socket.gethostname() not in message["Message-ID"]


def test_a_name_is_written_as_it_is_and_nothing_in_it_is_a_header() -> None:
    name = "Ünal <&> 'O\"Neill'"
    with MailServer() as server:
        mailer(f"smtp://127.0.0.1:{server.port}", site_name=name).send(letter())
        assert server.next()["Subject"] == f"A new password for {name}"


@pytest.mark.parametrize("kind", ["smtps", "starttls"])
def test_a_server_elsewhere_is_asked_by_tls_and_told_the_password(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "127.1" leads here as well, but does not look like this machine.
    name, host = ("IP:127.0.0.1", "127.0.0.1") if kind == "smtps" else ("DNS:127.1", "127.1")
    context, trusted = certificate(tmp_path, name)
    with MailServer(("shop@example.org", SECRET), context, starttls=kind == "starttls") as server:
        url = f"{kind.replace('starttls', 'smtp')}://shop%40example.org:{SECRET}@{host}:{server.port}"
        assert failure(mailer(url), letter()).endswith("reason=SSLCertVerificationError")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        mailer(url).send(letter())
        assert server.next()["To"] == "ada@example.org"


def test_nothing_is_sent_in_the_clear_to_a_server_elsewhere() -> None:
    with MailServer(("shop", SECRET)) as server:
        line = failure(mailer(f"smtp://shop:secret@127.1:{server.port}"), letter())
        assert "SMTPNotSupportedError" in line and not server.arrived()


# --- what is not sent -------------------------------------------------------------------------------------------------


def test_the_log_says_that_a_mail_was_not_sent_and_neither_to_whom_nor_what() -> None:
    with MailServer(refuses="550 no such user") as server:
        lines = [failure(mailer(f"smtp://127.0.0.1:{server.port}"), letter("ada@example.org"))]
    lines.append(failure(mailer(f"smtp://127.0.0.1:{server.port}"), letter()))
    with MailServer(("shop", SECRET)) as server:
        lines.append(failure(mailer(f"smtp://shop:{SECRET}x@127.0.0.1:{server.port}"), letter()))
    whys = ["SMTPRecipientsRefused", "ConnectionRefusedError", '"SMTPAuthenticationError 535"']
    assert lines == [f"a mail was not sent reason={why}" for why in whys]


def test_a_failure_stops_no_other_mail() -> None:
    with MailServer() as server:
        ours = mailer(f"smtp://127.0.0.1:{server.port}")
        assert "UnboundLocalError" not in failure(ours, lambda: [][0])  # type: ignore[index, func-returns-value]
        ours.send(letter())
        assert server.next()


def test_a_server_that_does_not_answer_holds_no_page_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        ours = mailer(f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        assert failure(ours, letter()) == "a mail was not sent reason=SMTPServerDisconnected"


def test_more_mails_than_may_wait_are_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "_WAITING", 2)
    ours, let_go, begun = mailer("smtp://127.0.0.1:1"), threading.Event(), threading.Event()
    ours.send(lambda: begun.set() or let_go.wait() and None)  # type: ignore[func-returns-value]
    begun.wait()
    for _ in range(2):
        ours.send(lambda: None)
    with pytest.raises(Busy) as refusal:
        ours.send(lambda: None)
    assert issubclass(Busy, sessions.Unavailable) and "few minutes" in refusal.value.public
    let_go.set()
    ours.finish()


FORKS = """
import os, sys
from tests.auth.test_mail import letter, mailer

ours = mailer(sys.argv[1])
ours.send(letter("first@example.org"))
ours.finish()
if child := os.fork():
    sys.exit(os.waitpid(child, 0)[1])
ours.send(letter("second@example.org"))
ours.finish()
"""


def test_after_a_fork_mails_are_sent_too() -> None:
    with MailServer() as server:
        command = [sys.executable, "-c", FORKS, f"smtp://127.0.0.1:{server.port}"]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=START_SECONDS)
        assert [mail["To"] for mail in server.arrived()] == ["first@example.org", "second@example.org"]


# --- addresses and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [
    "", "ada", "@example.org", "ada@", "a@b@c", "ada@example.org,eve@evil.example", "ada@a.org\nBcc: eve@evil.example",
    "<ada@example.org>", "Ada <ada@example.org>", "ada (eve)@example.org", "ada@example.org;", "ada@exa mple.org",
    "eve@evil.example,ada", "a" * 10_000 + "@example.org",
])  # fmt: skip
def test_what_is_no_single_address_is_refused(address: str) -> None:
    assert not is_address(address)


@pytest.mark.parametrize("address", ["ada@example.org", "a.b+c@example.org", "o'neill@example.org", "ada@localhost"])
def test_an_address_is_an_address(address: str) -> None:
    assert is_address(address)


WRONG: dict[str, dict[str, str]] = {
    "auth.smtp (SMTP_URL) must be smtp://": {"auth_smtp": f"http://shop:{SECRET}@mail.example.org"},
    "with % codes for": {"auth_smtp": f"smtp://shop:{SECRET}/#@mail.example.org"},
    "smtp://USER:PASSWORD@HOST:587": {"auth_smtp": f"smtp://shop:{SECRET}@mail.example.org:70000"},
    "or smtps://": {"auth_smtp": f"smtp://shop:{SECRET}@[mail"},
    "needs auth.mail_from": {"auth_mail_from": ""},
    "such as 'The shop <shop@example.org>', not 'shop'": {"auth_mail_from": "shop"},
    "needs site.url (SITE_URL)": {"site_url": ""},
    "not 'https://shop.example.org?a'": {"site_url": "https://shop.example.org?a"},
    "not 'http://shop.example.org'": {"site_url": "http://shop.example.org"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_setting_stops_the_start_in_one_line_without_the_password(said: str) -> None:
    with pytest.raises(StartError) as refusal:
        open_mailer(site(production=True, **{"auth_smtp": "smtp://mail.example.org", **WRONG[said]}))
    assert said in str(refusal.value) and "\n" not in str(refusal.value) and SECRET not in str(refusal.value)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)
    smtp = f"smtp://shop:{SECRET}@mail.example.org"
    yield {"auth.smtp": smtp, "auth.mail_from": "shop@example.org", "site.url": URL}


def test_the_password_of_the_mail_server_is_in_no_configuration_that_a_page_sees(settings: dict[str, Any]) -> None:
    application = app.create_app("ram", {"/": settings}, production=True)
    sessions.close_stores(application)
    assert SECRET not in str(application.config)


def test_production_without_a_mail_server_has_no_reset_and_no_open_sign_up(settings: dict[str, Any]) -> None:
    application = app.create_app("ram", production=True)
    sessions.close_stores(application)
    assert not hasattr(application.root.login, "forgot") and application.root.signup is None
    with pytest.raises(StartError, match=r"auth.signup is 'open', and no mails can be sent: set auth.smtp"):
        app.create_app("ram", {"/": {"auth.signup": "open"}}, production=True)
    with pytest.raises(StartError, match="auth.signup must be 'closed', 'open' or 'invite', not 'on'"):
        app.create_app("ram", {"/": {"auth.signup": "on"}})
