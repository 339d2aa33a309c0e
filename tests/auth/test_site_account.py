"""The pages of whoever is signed in: the account, the devices, and a new password.

On one profile, for the pages know of no difference; what differs between the backends is in test_profiles.py. And on a
site of these tests alone: the wrong passwords tried here would slow down those of other tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import argon2
import pytest

from auth import device
from auth.accounts import Accounts
from auth.database import Database
from pages.login import local_path
from tests.conftest import PASSWORD
from tests.support.backends import environment_of
from tests.support.client import JSON, CheckedClient, Response, new_address
from tests.support.page import Page
from tests.support.process import LESSONS
from tests.support.site import Site
from web import times

PRIVATE = ["/login", "/account", "/account/password", "/account/sessions", "/account/second-factor"]
NEW = "a purple umbrella over 9 teapots"  # noqa: S105 - made up here, for a site that ends with its test
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site of these tests."""
    with Site("ram", env={"DEMO_PASSWORD": PASSWORD}) as site:
        yield site


def signed_in(site: Site, browser: str = "curl/8.5.0") -> CheckedClient:
    """Somebody who is signed in as ada, from an address and with a browser of their own."""
    client = CheckedClient(site.url, headers={"User-Agent": browser}, address=new_address())
    assert client.sign_in(PASSWORD).status == 303
    return client


def devices(client: CheckedClient) -> list[dict[str, Any]]:
    """What /account/sessions lists."""
    found: list[dict[str, Any]] = client.get("/account/sessions", **JSON).json["sessions"]
    return found


def own(client: CheckedClient) -> dict[str, Any]:
    """The one of them that is the visitor's own."""
    [mine] = [entry for entry in devices(client) if entry["current"]]
    return mine


# --- for whom the pages are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRIVATE[1:])
def test_a_stranger_is_sent_to_sign_in_and_then_back_here(visitor: CheckedClient, path: str) -> None:
    assert visitor.get(path).redirects_to == f"/login?next={path}"
    refused = visitor.get(path, **JSON)
    assert refused.status == refused.json["status"] == 401 and "www-authenticate" in refused.headers
    assert visitor.sign_in(PASSWORD, next=path).redirects_to == path
    assert visitor.get(path).status == 200


@pytest.mark.parametrize("path", PRIVATE[2:4])
def test_the_form_of_a_stranger_changes_nothing_and_counts_as_no_try(visitor: CheckedClient, path: str) -> None:
    form = {"current": PASSWORD, "new": NEW, "again": NEW} if path.endswith("password") else {"end": "others"}
    for _ in range(8):
        assert visitor.post(path, form, **JSON).status == 401
    assert visitor.sign_in(PASSWORD).status == 303


def test_everything_private_stays_out_of_every_cache(ada: CheckedClient) -> None:
    answers = [ask(path) for path in PRIVATE for ask in (ada.get, lambda path: ada.get(path, **JSON))]
    answers += [ada.post("/account/sessions", {"end": "others"}), ada.post("/account/password")]
    ada.cookies.clear()
    answers += [ada.get(path) for path in PRIVATE[1:]] + [ada.sign_in("wrong"), ada.sign_in(PASSWORD)]
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * len(answers)


# --- the devices ------------------------------------------------------------------------------------------------------


def test_two_visitors_are_two_devices(site: Site) -> None:
    began = times.iso(time.time())
    desk, phone = signed_in(site, FIREFOX), signed_in(site)
    first, second = own(desk), own(phone)
    assert (first["browser"], second["browser"]) == ("Firefox on Linux", "curl")
    assert (first["address"], second["address"]) == (desk.address, phone.address)
    assert began <= first["started"] <= first["seen"] <= times.iso(time.time())
    assert second | {"current": False, "seen": ""} in [entry | {"seen": ""} for entry in devices(desk)]
    page = desk.get("/account/sessions")
    assert "Firefox on Linux" in page.text and page.text.count("this device") == 1
    ends = Page(page.text).values("button", "value")
    assert second["reference"] in ends and first["reference"] not in ends


def test_a_device_that_was_ended_is_signed_out_and_no_other(site: Site) -> None:
    desk, phone, tablet = signed_in(site), signed_in(site), signed_in(site)
    reference = own(phone)["reference"]
    ended = desk.post("/account/sessions", {"end": reference})
    assert ended.redirects_to == "/account/sessions"
    assert phone.user() is None
    assert desk.user() == tablet.user() == "ada"
    assert reference not in [entry["reference"] for entry in devices(desk)]


def test_all_others_are_ended_at_once(site: Site) -> None:
    desk, phone = signed_in(site), signed_in(site)
    stays = CheckedClient(site.url, address=new_address())
    stays.sign_in(PASSWORD, stay="yes")
    copy = desk.twin()
    assert desk.post("/account/sessions", {"end": "others"}).status == 303
    assert phone.user() is None and stays.user() is None and copy.user() is None
    assert desk.user() == "ada" and devices(desk) == [own(desk)]


REFUSED = {
    "nothing to end": ({}, 400, "end=REFERENCE"),
    "no such session": ({"end": "12345678"}, 404, "no other session 12345678"),
}


def test_what_cannot_be_ended_is_refused_and_nothing_ends(site: Site) -> None:
    desk, phone = signed_in(site), signed_in(site)
    for why, (form, status, words) in REFUSED.items():
        for headers in ({}, JSON):
            answer = desk.post("/account/sessions", form, **headers)
            assert answer.status == status and words in answer.text, why
    assert phone.user() == desk.user() == "ada"


def test_a_form_that_ends_a_session_and_is_sent_again_leads_to_the_list(site: Site) -> None:
    desk, phone = signed_in(site), signed_in(site)
    form = {"end": own(phone)["reference"]}
    assert desk.post("/account/sessions", form).redirects_to == "/account/sessions"
    again = desk.post("/account/sessions", form)
    assert again.status == 404 and "It may have ended already." in again.text and "Your devices" in again.text
    assert desk.user() == "ada" and phone.user() is None


def test_a_form_that_ends_all_others_and_is_sent_again_leads_to_the_sign_in_and_back_to_the_list(site: Site) -> None:
    """The first one has given the session a new id, and without a password nobody may follow it there."""
    desk = signed_in(site)
    assert desk.count() == 1
    before = desk.twin()
    assert desk.post("/account/sessions", {"end": "others"}).redirects_to == "/account/sessions"
    assert before.post("/account/sessions", {"end": "others"}).redirects_to == "/login?next=/account/sessions"
    assert before.sign_in(PASSWORD, next="/account/sessions").redirects_to == "/account/sessions"
    assert before.count() == 2


def test_ones_own_session_is_not_ended_from_the_list(ada: CheckedClient) -> None:
    form = {"end": own(ada)["reference"]}
    assert ada.post("/account/sessions", form).status == 404
    assert ada.user() == "ada"


@pytest.mark.parametrize("header", ["<script>alert(1)</script>/1.0 bot", "x" * 4000, "\x80\xff\x9b2J", ""])
def test_a_hostile_user_agent_is_text(site: Site, header: str) -> None:
    client = signed_in(site, header)
    page = client.get("/account/sessions")
    assert page.status == 200 and len(own(client)["browser"]) <= 128
    assert Page(page.text).values("script", "src") == [
        "/static/copy.js", "/static/once.js", *(["/lessons/static/xray.js"] if LESSONS else []),
    ]  # fmt: skip
    assert "alert(1)" not in page.text and "\x9b" not in page.text


WORDS = {
    FIREFOX: "Firefox on Linux",
    "curl/8.5.0": "curl",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36 "
    "Edg/124.0": "Edge on Windows",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
    "Mobile/15E148 Safari/604.1": "Mobile Safari on iOS",
    "": "unknown",
    "something else": "unknown",
}


@pytest.mark.parametrize("header", WORDS)
def test_a_browser_is_called_what_people_call_it(header: str) -> None:
    assert device.browser(header) == WORDS[header]


@pytest.mark.parametrize("values", [{}, {"device": None}, {"device": "x"}, {"device": {}}, {"device": {"address": 1}},
                                    {"device": {"browser": ["<b>"], "since": "now"}}])  # fmt: skip
def test_a_session_that_noted_no_device_or_an_odd_one_is_unknown(values: dict[str, Any]) -> None:
    assert device.of(values) == ("unknown", "unknown", None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (59, "less than a minute"), (60, "1 minute"), (1800, "30 minutes"), (3600, "1 hour"),
     (43200, "12 hours"), (1209600, "14 days")],
)  # fmt: skip
def test_a_length_of_time_is_told_in_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    assert times.duration(seconds) == words


# --- a new password ---------------------------------------------------------------------------------------------------

MISTAKES = {
    "current": ({"current": "", "new": NEW, "again": NEW}, 400),
    "new": ({"current": PASSWORD, "new": "password", "again": "password"}, 400),
    "again": ({"current": PASSWORD, "new": NEW, "again": NEW + "!"}, 400),
}


@pytest.mark.parametrize("field", MISTAKES)
def test_what_is_wrong_with_a_new_password_is_said_at_its_field(ada: CheckedClient, field: str) -> None:
    form, status = MISTAKES[field]
    answer = ada.post("/account/password", form)
    inputs = {attrs["id"]: attrs for tag, attrs in Page(answer.text).tags if tag == "input" and "id" in attrs}
    assert answer.status == status
    assert [name for name, attrs in inputs.items() if "aria-invalid" in attrs] == [field]
    assert inputs[field]["aria-describedby"] == f"{field}-error" and f'id="{field}-error"' in answer.text
    assert not any(password in answer.text for password in (PASSWORD, NEW)), "no password is filled back in"
    assert ada.post("/account/password", form, **JSON).json["status"] == status


def test_the_password_is_not_changed_by_whoever_does_not_know_it(site: Site, ada: CheckedClient) -> None:
    for new in (NEW, PASSWORD + NEW):
        answer = ada.post("/account/password", {"current": "guess", "new": new, "again": new})
        assert answer.status == 403 and "That is not your current password." in answer.text
        assert CheckedClient(site.url, address=new_address()).sign_in(new).status == 403
    signed_in(site)


def test_nothing_is_said_of_a_new_password_to_whoever_does_not_know_the_current_one(ada: CheckedClient) -> None:
    """To judge one takes up to a third of a second, which no throttle would bound."""
    for new in ("short", "passwordpassword"):
        answer = ada.post("/account/password", {"current": "guess", "new": new, "again": new})
        assert answer.status == 403 and "new-error" not in answer.text


def test_guesses_at_the_current_password_are_slowed_down_like_those_at_the_sign_in(ada: CheckedClient) -> None:
    form = {"current": "guess", "new": NEW, "again": NEW}
    answers: list[Response] = []
    while not answers or answers[-1].status == 403:
        answers.append(ada.post("/account/password", form, **JSON))
        assert len(answers) < 20, "nothing slowed it down"
    assert answers[-1].status == 429 and int(answers[-1].headers["retry-after"]) > 0
    assert ada.sign_in(PASSWORD).status == 429
    assert ada.user() == "ada"


@pytest.fixture
def small_site() -> Iterator[Site]:
    """A site of this test alone, with the account grace, on the backend that cannot take a session back by itself."""
    users = {"grace": argon2.PasswordHasher().hash(PASSWORD)}
    with Site("cookie", env=environment_of("cookie"), users=users) as site:
        yield site


def grace(site: Site, password: str = PASSWORD) -> CheckedClient:
    """Somebody who tries to sign in as grace."""
    client = CheckedClient(site.url, address=new_address())
    client.post("/login", {"username": "grace", "password": password})
    return client


def test_a_password_form_that_is_sent_again_leads_to_where_the_first_one_did(small_site: Site) -> None:
    for ends_others in ({}, {"end_others": "yes"}):
        desk = grace(small_site)
        assert desk.count() == 1
        before = desk.twin()
        form = {"current": PASSWORD, "new": NEW, "again": NEW, **ends_others}
        for client in (desk, before):
            changed = client.post("/account/password", form)
            assert changed.redirects_to == "/account"
            assert "Your password was changed." in client.get(changed.redirects_to).text
        assert before.user() == "grace" and before.count() == 2
        assert before.post("/account/password", {"current": NEW, "new": PASSWORD, "again": PASSWORD}).status == 303


def test_the_cookie_of_a_session_that_has_moved_opens_nothing_without_the_password(ada: CheckedClient) -> None:
    before, stranger = ada.twin(), CheckedClient(ada.url, address=ada.address)
    ada.sign_in(PASSWORD)
    form = {"current": PASSWORD, "new": NEW, "again": NEW}
    statuses = []
    while statuses[-1:] != [429]:
        statuses.append(before.post("/account/password", form, **JSON).status)
        assert stranger.post("/account/password", form, **JSON).status == 401, "without that cookie it is no try"
        assert len(statuses) < 20, "nothing slowed it down"
    assert set(statuses) == {401, 429} and before.user() is None and ada.user() == "ada"


def test_a_password_is_changed_for_good_and_a_removed_account_is_signed_out(small_site: Site) -> None:
    desk, phone = grace(small_site), grace(small_site)
    before = desk.twin()
    form = {"current": PASSWORD, "new": NEW, "again": NEW}
    assert desk.post("/account/password", form).redirects_to == "/account"
    assert before.cookies != desk.cookies, "the password was asked for again, so the session has a new id"
    assert phone.user() == "grace", "ending the others was not asked for"
    form = {"current": NEW, "new": NEW[::-1], "again": NEW[::-1], "end_others": "yes"}
    assert desk.post("/account/password", form).status == 303
    assert before.user() is None and phone.user() is None and desk.user() == "grace"
    small_site.restart()
    assert desk.user() == "grace" and phone.user() is None
    assert grace(small_site).user() is None and grace(small_site, NEW[::-1]).user() == "grace"
    operator = Accounts(Database(small_site.users_url))
    assert operator.remove("grace") and desk.user() is None, "its sessions end at the next request"
    assert grace(small_site, NEW[::-1]).user() is None
    operator.insert("grace", argon2.PasswordHasher().hash(PASSWORD))
    assert desk.user() is None, "that of another account"


def test_a_disabled_account_is_signed_out_for_good_and_refused_as_a_wrong_password(small_site: Site) -> None:
    desk, operator = grace(small_site), Accounts(Database(small_site.users_url))
    before = desk.twin()
    assert desk.user() == "grace"
    operator.disable("grace")
    assert desk.user() is None
    refused = [desk.post("/login", {"username": "grace", "password": word}, **JSON) for word in (PASSWORD, "x")]
    assert [answer.status for answer in refused] == [403, 403] and refused[0].json == refused[1].json
    operator.enable("grace")
    assert before.user() is None and grace(small_site).user() == "grace"


# --- where the sign-in leads, and the sign-out ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["https:evil.example", "/%2Fevil.example", "/%5cevil.example", "/%09/evil.example",
                                  "/%0d%0aSet-Cookie: x=1", "/%00", "/\x7f", "/a\nb", "//evil.example",
                                  "/\\evil.example", "\t//evil.example", "", "evil", "/" + "a" * 2001])  # fmt: skip
def test_what_could_lead_to_another_site_leads_to_the_account(path: str) -> None:
    assert local_path(path) == "/account"


@pytest.mark.parametrize("path", ["/", "/counter", "/cookie/set?name=a&value=https://b%20c", "/hello#%F0%9F%9A%80"])
def test_the_sites_own_paths_are_kept_as_they_are(path: str) -> None:
    assert local_path(path) == path


def test_staying_signed_in_is_a_cookie_with_limits_of_its_own_and_otherwise_it_ends_with_the_browser(
    visitor: CheckedClient,
) -> None:
    def age() -> str:
        [morsel] = visitor.sign_in(PASSWORD, **stay).cookies.values()
        return str(morsel["max-age"])

    stay: dict[str, str] = {}
    assert age() == ""
    stay = {"stay": "yes"}
    assert age() == str(14 * 24 * 3600)
    [morsel] = visitor.post("/account/sessions", {"end": "others"}).cookies.values()
    assert morsel["max-age"] == str(14 * 24 * 3600), "a new id does not change that"


def test_the_form_says_how_long_one_stays_and_keeps_what_was_ticked(visitor: CheckedClient) -> None:
    page = visitor.get("/login").text
    assert "For 14 days after your last visit, 30 days at most." in page and " checked>" not in page
    assert " checked>" in visitor.sign_in("wrong", stay="yes").text


def test_signing_out_clears_what_the_browser_keeps_but_not_other_cookies(ada: CheckedClient) -> None:
    ada.cookies["tea"] = "green"
    answer = ada.post("/logout")
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    assert answer.headers["cache-control"] == "no-store"
    assert "tea" in ada.cookies and ada.user() is None
