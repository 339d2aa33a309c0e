"""The way back for a forgotten password, and attacks on it. The mails go to a real server."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from auth import hashes, links
from auth.database import users
from auth.throttle import ACCOUNT
from tests.support.client import JSON, Response, WsgiClient
from tests.support.factor import CODE, turn_on
from tests.support.hashing import CHEAP, computed
from tests.support.mailed import URL, MailedSite, mailed_site, opened

OLD, NEW, THIRD = "three blind mice and a cat", "a purple umbrella over 9 teapots", "no lamp, two ladders, one cat"
ADA, BOB = "Ada@example.org", "bob@example.org"
FORM = {"new": NEW, "again": NEW}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)


@pytest.fixture
def site() -> Iterator[MailedSite]:
    """A site with the accounts ada and bob, and carol, who has no address."""
    with mailed_site() as site:
        site.accounts.add("ada", OLD, ADA)
        site.accounts.add("bob", OLD, BOB)
        site.accounts.add("carol", OLD)
        yield site


def forget(site: MailedSite, email: str = ADA, **headers: str) -> Response:
    return site.visitor().post("/login/forgot", {"email": email}, **headers)


def reset(visitor: WsgiClient, new: str = NEW, **headers: str) -> Response:
    return visitor.post("/login/reset", {"new": new, "again": new}, **headers)


def signs_in(site: MailedSite, password: str, name: str = "ada") -> WsgiClient | None:
    visitor = site.visitor()
    status = visitor.post("/login", {"username": name, "password": password}).status
    return visitor if status == 303 else None


def user(visitor: WsgiClient) -> str | None:
    return visitor.get("/login", **JSON).json["user"]


# --- what it is for ---------------------------------------------------------------------------------------------------


def test_a_link_by_mail_leads_to_a_new_password_and_ends_all_sessions(site: MailedSite) -> None:
    before = signs_in(site, OLD)
    assert before and forget(site).redirects_to == "/login/forgot"
    visitor = site.visitor()
    page = opened(visitor, site.link())
    assert page.status == 200 and "ada" in page.text
    assert reset(visitor).redirects_to == "/login"
    assert user(visitor) is None, "it signs nobody in: the second factor still holds"
    assert user(before) is None and not signs_in(site, OLD) and signs_in(site, NEW)


def test_a_second_factor_still_holds_after_a_reset(site: MailedSite) -> None:
    owner = signs_in(site, OLD)
    assert owner
    device = turn_on(owner)
    forget(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    assert reset(visitor).status == 303
    form = {"username": "ada", "password": NEW}
    assert visitor.post("/login", form).redirects_to == CODE and user(visitor) is None
    assert visitor.post(CODE, {"code": device.code(1)}).status == 303 and user(visitor) == "ada"


def test_whoever_is_signed_in_may_have_forgotten_too_and_is_told_that_it_worked(site: MailedSite) -> None:
    visitor = signs_in(site, OLD)
    assert visitor and forget(site).status == 303
    opened(visitor, site.link())
    changed = reset(visitor)
    assert "Your password is changed" in visitor.get(changed.redirects_to).text and user(visitor) is None


def test_the_mail_goes_to_the_address_that_was_registered_however_it_is_typed(site: MailedSite) -> None:
    assert forget(site, " ada@EXAMPLE.org ").status == 303
    [mail] = site.mails()
    assert mail["To"] == ADA and site.server.recipients == [[ADA]]


def test_a_visitor_keeps_what_was_in_the_session(site: MailedSite) -> None:
    visitor = site.visitor()
    visitor.post("/name", {"first": "Ada", "last": "L"})
    forget(site)
    opened(visitor, site.link())
    assert reset(visitor).status == 303 and visitor.get("/hello", **JSON).json["first"] == "Ada"


def test_a_program_can_do_it_too(site: MailedSite) -> None:
    assert forget(site, "nobody", **JSON).json == {"status": 400, "error": "That is no e-mail address."}
    forget(site)
    visitor, link = site.visitor(), site.link()
    assert visitor.get("/login/reset", **JSON).json["error"] == "This link does not work, or no more."
    assert visitor.get(link, **JSON).status == 303 and visitor.get("/login/reset", **JSON).json == {"user": "ada"}
    assert "15 characters" in reset(visitor, "short", **JSON).json["error"]
    assert reset(visitor, **JSON).status == 303 and signs_in(site, NEW)


@pytest.mark.parametrize(("form", "field", "words"), [
    ({"new": "short", "again": "short"}, "new", "at least 15 characters"),
    ({"new": "ada-cherrypy-sessions", "again": "ada-cherrypy-sessions"}, "new", "built from your name"),
    ({"new": NEW, "again": OLD}, "again", "not the same"),
    ({}, "new", "at least 15"),
    ({"new": "é" * 10_000, "again": "é" * 10_000}, "new", "at most 1024"),
])  # fmt: skip
def test_a_password_that_will_not_do_uses_up_no_link(
    site: MailedSite, form: dict[str, str], field: str, words: str
) -> None:
    forget(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    answer = visitor.post("/login/reset", form)
    assert answer.status == 400 and re.search(rf'id="{field}-error">[^<]*{words}', answer.text)
    assert signs_in(site, OLD) and reset(visitor).status == 303


def test_accounts_that_do_not_answer_are_a_503_and_use_up_no_link(site: MailedSite, tmp_path: Path) -> None:
    forget(site)
    visitor, path = site.visitor(), site.accounts.database.path
    opened(visitor, site.link())
    assert path
    path.rename(tmp_path / "away")
    for answer in (forget(site), reset(visitor)):
        assert answer.status == 503 and "accounts do not answer" in answer.text
    (tmp_path / "away").rename(path)
    assert site.mails() == [] and signs_in(site, OLD) and reset(visitor).status == 303


# --- who has an account is not told -----------------------------------------------------------------------------------


def test_the_answer_is_the_same_for_every_address(site: MailedSite) -> None:
    site.accounts.disable("bob")
    answers = set()
    for email in (ADA, "nobody@example.org", BOB):
        visitor = site.visitor()
        answer = visitor.post("/login/forgot", {"email": email})
        answers.add((answer.status, answer.text, visitor.get(answer.redirects_to).text))
    [(status, _, page)] = answers
    assert status == 303 and "If an account has this address, a mail with a link is on its way." in page
    assert [mail["To"] for mail in site.mails()] == [ADA]


def test_the_work_is_the_same_for_every_address(site: MailedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not clocked: no hash of a password, as many tokens, and the same statements."""
    done: list[str] = []
    sa.event.listen(site.accounts.database._engine, "before_cursor_execute", lambda *args: done.append(args[2]))
    draw = links.secrets.token_urlsafe
    monkeypatch.setattr(links.secrets, "token_urlsafe", lambda: done.append("token") or draw())  # type: ignore[func-returns-value]
    work = []
    with computed() as costs:
        for email in (ADA, "nobody@example.org"):
            forget(site, email)
            site.mails()
            work.append(done[:])
            done.clear()
    assert work[0] == work[1] and "token" in work[0] and costs == []
    assert len(site.tokens()) == 2


def test_the_mail_is_sent_after_the_answer(site: MailedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow mail server would tell by the time of the answer that there was somebody to write to."""
    answered, deliver = threading.Event(), site._mailer._deliver

    def late(*mail: Any) -> None:
        assert answered.wait(10)
        deliver(*mail)

    monkeypatch.setattr(site._mailer, "_deliver", late)
    assert forget(site).status == 303
    answered.set()
    assert len(site.mails()) == 1


def test_nobody_fills_a_mailbox_and_links_that_were_sent_still_work(site: MailedSite) -> None:
    most = ACCOUNT["reset"].amount
    for email in (ADA, "nobody@example.org"):
        statuses = [forget(site, typed).status for typed in (email, email.upper()) * 5]
        assert statuses == [303] * most + [429] * (10 - most)
    mails, visitor = site.mails(), site.visitor()
    assert len(mails) == most
    opened(visitor, re.findall(r"/login/reset\S+", mails[0].get_content())[0])
    assert reset(visitor).status == 303


def test_who_asks_for_many_links_has_to_wait(site: MailedSite) -> None:
    visitor = site.visitor()
    statuses = [visitor.post("/login/forgot", {"email": f"user{n}@example.org"}).status for n in range(40)]
    assert set(statuses) == {303, 429} and statuses[0] == 303 and statuses[-1] == 429


# --- the link ---------------------------------------------------------------------------------------------------------


def used(site: MailedSite, link: str) -> None:
    visitor = site.visitor()
    opened(visitor, link)
    assert reset(visitor, THIRD).status == 303


def changed(site: MailedSite, link: str) -> None:
    proof = site.accounts.verify("ada", OLD)
    assert proof and site.accounts.change_password(proof, THIRD)


def moved(site: MailedSite, link: str) -> None:
    with site.accounts.database.begin() as connection:
        new = {"email": "ada@elsewhere.example", "folded_email": "ada@elsewhere.example"}
        connection.execute(sa.update(users).where(users.c.name == "ada").values(new))


def again(site: MailedSite, link: str) -> None:
    site.accounts.remove("ada")
    site.accounts.add("ada", THIRD, ADA)


VOID: dict[str, Callable[[MailedSite, str], object]] = {
    "it was used": used,
    "another link was used": lambda site, link: (forget(site), used(site, site.link())),
    "its time is over": lambda site, link: site.let_end(),
    "the password has changed": changed,
    "an operator has changed it": lambda site, link: site.accounts.set_password("ada", THIRD),
    "the address has changed": moved,
    "the account is disabled": lambda site, link: site.accounts.disable("ada"),
    "the account is another one": again,
}


@pytest.mark.parametrize("why", VOID)
def test_a_link_opens_nothing_when(why: str, site: MailedSite) -> None:
    forget(site)
    early, late, link = site.visitor(), site.visitor(), site.link()
    assert opened(early, link).status == 200
    VOID[why](site, link)
    refused = opened(late, link)
    assert refused.status == 403 and "does not work" in refused.text
    for visitor in (early, late):  # whoever had the form open before, too
        assert reset(visitor).status == 403
    assert not signs_in(site, NEW)


def test_of_two_that_use_a_link_at_once_one_changes_the_password(site: MailedSite) -> None:
    forget(site)
    link, visitors = site.link(), [site.visitor(), site.visitor()]
    for visitor in visitors:
        opened(visitor, link)
    begin = threading.Barrier(2)
    both, hash = [NEW, THIRD], site.accounts.hasher.hash

    def together(password: str) -> str:
        begin.wait(10)  # both links were looked up, and are good
        return hash(password)

    site.accounts.hasher.hash = together  # type: ignore[method-assign, assignment]
    with ThreadPoolExecutor() as pool:
        statuses = [answer.status for answer in pool.map(reset, visitors, both)]
    site.accounts.hasher.hash = hash  # type: ignore[method-assign]
    assert sorted(statuses) == [303, 403]
    assert [bool(signs_in(site, password)) for password in both] == [status == 303 for status in statuses]


def test_a_link_is_good_for_its_own_account_alone(site: MailedSite) -> None:
    forget(site, BOB)
    visitor = site.visitor()
    opened(visitor, site.link())
    for field in ("username", "user", "email"):
        visitor.post("/login/reset", {**FORM, field: "ada"})
    reset(visitor)
    assert signs_in(site, OLD) and signs_in(site, NEW, "bob")


@pytest.mark.parametrize("token", ["", "x", "é", "%00", "%ff", "a" * 5_000])
def test_a_link_that_somebody_made_up_opens_nothing(site: MailedSite, token: str) -> None:
    forget(site)
    assert site.link()
    stored = site.tokens()[0].hash
    for made_up in (token, stored):  # nor does what is in the table
        visitor = site.visitor()
        assert visitor.get(f"/login/reset?token={made_up}").status in (403, 404) and not visitor.cookies
        assert reset(visitor).status == 403


def test_a_program_that_opens_all_links_of_a_mail_uses_none_up(site: MailedSite) -> None:
    forget(site)
    link, visitor = site.link(), site.visitor()
    for _ in range(3):
        assert opened(site.visitor(), link).status == 200
        assert site.visitor().ask("HEAD", link).status in (303, 403)
    assert opened(visitor, link).status == 200 and reset(visitor).status == 303


def test_the_token_stays_in_no_address_log_or_table(site: MailedSite, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    site.app.log.access_log.addHandler(handler)
    with caplog.at_level(logging.DEBUG):
        forget(site)
        visitor, link = site.visitor(), site.link()
        leads = visitor.get(link).redirects_to
        answer = reset(visitor)
    site.app.log.access_log.removeHandler(handler)
    token, [stored] = link.partition("=")[2], site.tokens() or [None]
    assert leads == "/login/reset" and answer.status == 303 and stored is None
    assert any("GET /login/reset?token=... HTTP/1.1" in line for line in lines)
    assert token not in str(lines) + caplog.text
    forget(site)
    assert site.link().partition("=")[2] not in str([tuple(row) for row in site.tokens()])


def test_a_session_holds_nothing_that_opens_a_link(tmp_path: Path) -> None:
    with mailed_site("file", {"tools.sessions.storage_path": str(tmp_path)}) as site:
        site.accounts.add("ada", OLD, ADA)
        forget(site)
        visitor, link = site.visitor(), site.link()
        assert opened(visitor, link).status == 200
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert site.tokens()[0].hash.encode() in stored and link.partition("=")[2].encode() not in stored


@pytest.mark.parametrize("host", ["evil.example", "shop.example.org.evil.example", "shop.example.org:1@evil.example"])
def test_no_host_that_a_visitor_names_gets_into_a_mail(site: MailedSite, host: str) -> None:
    """Password reset poisoning: the owner would follow the link, and bring its token to the attacker."""
    forged = {"Host": host, "X-Forwarded-Host": host, "Forwarded": f"host={host}"}
    site.visitor().ask("POST", "/login/forgot", f"email={ADA}", forged)
    [mail] = site.mails()
    assert "evil" not in mail.as_string() and f"{URL}/login/reset?token=" in mail.get_content()


def test_a_password_in_the_address_is_refused(site: MailedSite) -> None:
    forget(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    assert visitor.post("/login/reset?new=a+word", {"again": "a word"}).status == 400
    assert signs_in(site, OLD)
