"""An account of one's own, invitations to one, and attacks on both. The mails go to a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from auth import commands, hashes
from auth.links import Links
from auth.throttle import ACCOUNT
from tests.support.client import JSON, Client, Response, WsgiClient
from tests.support.hashing import CHEAP, computed
from tests.support.mailed import URL, MailedSite, mailed_site, opened
from tests.support.site import Site
from web.settings import StartError, load_settings

GOOD = "a purple umbrella over 9 teapots"
GRACE = "grace@example.org"
MOST = ACCOUNT["sign-up"].amount


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)


@pytest.fixture
def site() -> Iterator[MailedSite]:
    """A site that is open, with the account ada."""
    with mailed_site(options={"auth.signup": "open"}) as site:
        site.accounts.add("ada", GOOD, "ada@example.org")
        yield site


@pytest.fixture
def inviting() -> Iterator[MailedSite]:
    """A site that invites, with the account ada."""
    with mailed_site(options={"auth.signup": "invite"}) as site:
        site.accounts.add("ada", GOOD, "ada@example.org")
        yield site


def ask(site: MailedSite, email: str = GRACE, **headers: str) -> Response:
    return site.visitor().post("/signup", {"email": email}, **headers)


def invited(site: MailedSite, email: str | None = None) -> str:
    """Return the path of an invitation."""
    return f"/signup/confirm?token={Links(site.accounts.database).make('invite', email)}"


def confirm(visitor: WsgiClient, name: str, password: str = GOOD, **headers: str) -> Response:
    form = {"username": name, "new": password, "again": password}
    return visitor.post("/signup/confirm", form, **headers)


def names(site: MailedSite) -> list[str]:
    return [row.name for row in site.accounts.everybody()]


# --- open -------------------------------------------------------------------------------------------------------------


def test_a_link_by_mail_leads_to_an_account_with_that_address(site: MailedSite) -> None:
    assert ask(site, "Grace@example.org").redirects_to == "/signup" and names(site) == ["ada"]
    visitor = site.visitor()
    assert "Grace@example.org" in opened(visitor, site.link()).text and names(site) == ["ada"]
    made = confirm(visitor, "grace")
    assert made.redirects_to == "/login" and "You have an account now" in visitor.get(made.redirects_to).text
    assert visitor.post("/login", {"username": "Grace", "password": GOOD}).status == 303
    assert visitor.get("/account", **JSON).json["user"] == "grace"
    account = site.accounts.by_email("grace@EXAMPLE.org")
    assert account and account.email == "Grace@example.org"


def test_the_answer_and_the_work_are_the_same_for_an_address_that_has_an_account(site: MailedSite) -> None:
    answers = set()
    with computed() as costs:
        for email in (GRACE, "ADA@example.org"):
            visitor = site.visitor()
            answer = visitor.post("/signup", {"email": email})
            answers.add((answer.status, answer.text, visitor.get(answer.redirects_to).text))
    [(status, _, page)] = answers
    assert status == 303 and "A mail with a link is on its way to that address." in page and costs == []
    unknown, known = site.mails()
    assert (unknown["To"], known["To"]) == (GRACE, "ada@example.org") and unknown["Subject"] == known["Subject"]
    assert "/signup/confirm?token=" in unknown.get_content()
    assert "its name is\r\nada" in known.get_content() and "token" not in known.get_content()
    assert len(site.tokens()) == 2, "a link is made for both"


def test_no_password_that_was_chosen_before_the_link_is_that_of_the_account(site: MailedSite) -> None:
    """Pre-hijacking: who signs up with somebody's address waits for its owner to confirm that account."""
    attacker = site.visitor()
    for form in ({"username": "grace", "new": GOOD, "again": GOOD}, {"password": GOOD}):
        assert attacker.post("/signup", {"email": GRACE, **form}).status == 400
    assert confirm(attacker, "grace").status == 403 and names(site) == ["ada"]


def test_nobody_fills_a_mailbox(site: MailedSite) -> None:
    for known_or_not in (GRACE, "ada@example.org"):
        answers = [ask(site, email) for email in (known_or_not, known_or_not.upper()) * 5]
        assert [answer.status for answer in answers] == [303] * MOST + [429] * (10 - MOST)
        assert len(site.mails()) == MOST


def test_who_asks_for_many_mails_has_to_wait(site: MailedSite) -> None:
    visitor = site.visitor()
    statuses = [visitor.post("/signup", {"email": f"user{n}@example.org"}).status for n in range(40)]
    assert set(statuses) == {303, 429} and statuses[-1] == 429


def test_a_link_can_be_used_once_and_for_a_day(site: MailedSite) -> None:
    ask(site)
    link, first, second, late = site.link(), site.visitor(), site.visitor(), site.visitor()
    for visitor in (first, second):
        assert opened(visitor, link).status == 200
    assert confirm(first, "grace").status == 303
    assert confirm(second, "murray").status == opened(second, link).status == 403
    ask(site, "late@example.org")
    link = site.link()
    opened(late, link)
    site.let_end()
    assert confirm(late, "late").status == opened(late, link).status == 403 and names(site) == ["ada", "grace"]


def test_of_two_that_use_a_link_at_once_one_gets_an_account(inviting: MailedSite) -> None:
    link, visitors, begin = invited(inviting), [inviting.visitor(), inviting.visitor()], threading.Barrier(2)
    for visitor in visitors:
        opened(visitor, link)
    hash = inviting.accounts.hasher.hash

    def together(password: str) -> str:
        begin.wait(10)  # both links were looked up, and are good
        return hash(password)

    inviting.accounts.hasher.hash = together  # type: ignore[method-assign, assignment]
    with ThreadPoolExecutor() as pool:
        statuses = sorted(answer.status for answer in pool.map(confirm, visitors, ["grace", "murray"]))
    assert statuses == [303, 403] and len(names(inviting)) == 2


def test_of_two_links_to_one_address_one_makes_an_account(site: MailedSite) -> None:
    ask(site)
    first = site.link()
    ask(site)
    second, visitor = site.link(), site.visitor()
    opened(visitor, first)
    assert confirm(visitor, "grace").status == 303
    opened(visitor, second)
    answer = confirm(visitor, "grace2")
    assert answer.status == 400 and "There is an account with this address" in answer.text


def test_a_link_of_another_kind_makes_no_account(site: MailedSite) -> None:
    site.visitor().post("/login/forgot", {"email": "ada@example.org"})
    token, visitor = site.link().partition("=")[2], site.visitor()
    assert visitor.get(f"/signup/confirm?token={token}").status == 403
    visitor.get(f"/login/reset?token={token}")
    assert confirm(visitor, "grace").status == 403
    ask(site)
    assert site.visitor().get(f"/login/reset?token={site.link().partition('=')[2]}").status == 403


# --- names ------------------------------------------------------------------------------------------------------------

LOOK_ALIKE = {
    "taken": "ada", "capitals": "ADA", "full width": "\uff41\uff44\uff41", "a space": "ada ",
    "a soft hyphen": "a\xadda", "zero width": "a\u200bda", "a variation selector": "ada\ufe0f",
    "a filler": "ada\u3164", "a joiner": "ad\u034fa",
    "Cyrillic": "\u0430da", "Greek": "ad\u03b1", "mathematical": "\U0001d41a\U0001d41d\U0001d41a",
    "right to left": "\u202eada",
}  # fmt: skip


@pytest.mark.parametrize("how", LOOK_ALIKE)
def test_no_name_looks_like_one_that_is_taken(how: str, site: MailedSite) -> None:
    ask(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    answer = confirm(visitor, LOOK_ALIKE[how])
    assert answer.status == 400 and 'id="username-error"' in answer.text and names(site) == ["ada"]


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "x" * 10_000, "a\nb", "\u3164", "\ufe0f", "a\x00"])
def test_what_is_no_name_is_refused_and_uses_up_no_link(name: str, site: MailedSite) -> None:
    ask(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    answer = confirm(visitor, name)
    assert answer.status == 400 and 'id="username-error"' in answer.text
    assert confirm(visitor, "Grace Hopper").status == 303 and names(site) == ["ada", "Grace Hopper"]


@pytest.mark.parametrize(
    "name", ["Ünal", "O'Neill", "李小龍", "ひらがなカタカナ漢字", "Ελένη", "Анна", "كريم", "देवनागरी", "x-1_2.3"]
)
def test_people_have_names_of_all_kinds(name: str, site: MailedSite) -> None:
    ask(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    assert confirm(visitor, name).status == 303 and name in names(site)


def test_a_taken_name_is_told_to_those_with_a_link_and_only_slowly(site: MailedSite) -> None:
    ask(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    answer = confirm(visitor, "Ada", **JSON)
    assert answer.json == {"status": 400, "error": "Somebody has this name. Please choose another one."}
    with computed() as costs:
        statuses = [confirm(visitor, "ada").status for _ in range(20)]
    assert set(statuses) == {400, 429} and statuses[-1] == 429 and costs == []
    assert confirm(site.visitor(), "ada").status == 403, "nobody asks without a link"


def test_a_weak_password_is_told_beside_its_field_and_is_not_shown(site: MailedSite) -> None:
    ask(site)
    visitor = site.visitor()
    opened(visitor, site.link())
    for password, words in (("grace-cherrypy-sessions", "built from your name"), ("x" * 5_000, "at most 1024")):
        answer = confirm(visitor, "grace", password)
        assert answer.status == 400 and words in answer.text and password not in answer.text
    form = {"username": "grace", "new": GOOD, "again": GOOD + "x"}
    assert "not the same" in visitor.post("/signup/confirm", form).text and names(site) == ["ada"]


# --- invitations ------------------------------------------------------------------------------------------------------


def settings(site: MailedSite, **options: Any) -> Any:
    given = {name.replace("_", ".", 1): value for name, value in options.items()}
    found = load_settings("ram", {"/": {"site.url": URL, "auth.signup": "invite", **given}}, {})
    found["/"]["users.url"] = f"sqlite:///{site.accounts.database.path}"
    return found


@pytest.mark.parametrize("email", [None, GRACE])
def test_an_operator_prints_an_invitation_that_works_once(
    email: str | None, inviting: MailedSite, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.run(["invite", *([email] if email else [])], settings(inviting), {})
    printed = capsys.readouterr().out
    link = printed.strip().removeprefix(URL)
    assert re.fullmatch(r"/signup/confirm\?token=[\w-]{43}", link)
    first, second = inviting.visitor(), inviting.visitor()
    opened(first, link)
    assert confirm(first, "grace").status == 303 and "grace" in names(inviting)
    assert opened(second, link).status == 403 and confirm(second, "murray").status == 403
    assert [row.email for row in inviting.accounts.everybody()] == ["ada@example.org", email]


def test_an_invitation_that_would_be_good_for_nothing_is_not_made(inviting: MailedSite) -> None:
    for options, email, words in (
        ({"auth_signup": "closed"}, [], "auth.signup is 'closed'"),
        ({"site_url": ""}, [], "set site.url"),
        ({}, ["ADA@example.org"], "an account with this email already"),
        ({}, ["ada"], "no e-mail address"),
    ):
        with pytest.raises(StartError, match=words):
            commands.run(["invite", *email], settings(inviting, **options), {})
    assert inviting.tokens() == []


@pytest.mark.parametrize("forged", ["", "x", "eyJlbWFpbCI6ImVAZSJ9.aaaa.bbbb", "A" * 43, "a" * 10_000])
def test_a_forged_or_late_invitation_is_refused(inviting: MailedSite, forged: str) -> None:
    visitor, late = inviting.visitor(), inviting.visitor()
    assert visitor.get(f"/signup/confirm?token={forged}").status == confirm(visitor, "eve").status == 403
    link = invited(inviting)
    assert opened(late, link).status == 200
    inviting.let_end()
    assert opened(inviting.visitor(), link).status == confirm(late, "eve").status == 403 and names(inviting) == ["ada"]


def test_where_only_the_invited_may_come_in_nobody_else_asks_for_a_link(inviting: MailedSite) -> None:
    token = Links(inviting.accounts.database).make("sign-up", GRACE)  # of the days when the site was open
    assert (
        inviting.visitor().get("/signup").status == inviting.visitor().post("/signup", {"email": GRACE}).status == 404
    )
    refused = inviting.visitor().get(f"/signup/confirm?token={token}")
    assert refused.status == 403 and "whoever invited you" in refused.text


def test_a_site_that_says_nothing_is_closed() -> None:
    with mailed_site() as site:
        link = invited(site)
        assert site.visitor().get("/signup").status == site.visitor().get(link).status == 404
        assert "/signup" not in site.visitor().get("/login").text


# --- the mailbox ------------------------------------------------------------------------------------------------------


def test_the_mailbox_of_a_site_in_development_shows_what_would_have_been_sent() -> None:
    with Site("ram", config={"/": {"auth.signup": "open"}}) as site:
        visitor = site.client()
        assert "No mail" in visitor.get("/dev/mailbox").text
        for n in range(2):
            forged = {"Host": "evil.example"}
            visitor.ask("POST", "/signup", f"email=user{n}@example.org", forged)
        mails = visitor.get("/dev/mailbox", **JSON).json["mails"]
        assert [mail["to"] for mail in mails] == ["user1@example.org", "user0@example.org"]
        assert f"{site.url}/signup/confirm?token=" in mails[0]["text"] and "evil" not in str(mails)
        assert re.search(rf'<a href="{site.url}/signup/confirm\?token=[\w-]+"', visitor.get("/dev/mailbox").text)
        for stranger in (
            Client(site.url, headers={"X-Forwarded-For": "192.0.2.1"}),
            Client(site.url, headers={"Host": "evil.example"}),
        ):
            refused = stranger.get("/dev/mailbox", **JSON)
            assert refused.status == 403 and "token" not in refused.text


@pytest.mark.parametrize("where", ["production", "a public address", "a mail server"])
def test_there_is_no_mailbox_in(where: str) -> None:
    smtp = {"auth.smtp": "smtp://127.0.0.1:9", "auth.mail_from": "shop@example.org", "site.url": URL}
    options: dict[str, dict[str, Any]] = {
        "production": {"args": ["--production"], "config": {"/": {"tools.proxy.on": True, **smtp}}},
        "a public address": {"args": ["--host", "0.0.0.0"], "config": {"/": smtp}},  # noqa: S104
        "a mail server": {"config": {"/": smtp}},
    }
    with Site("ram", url="", **options[where]) as site:
        visitor = Client(site.url.replace("0.0.0.0", "127.0.0.1"), headers={"X-Forwarded-Proto": "https"})  # noqa: S104
        assert visitor.get("/login/forgot").status == 200
        assert visitor.get("/dev/mailbox").status == 404
