"""A recent proof: what ends sessions asks for the password again, on the sign-in page, and leads back (ASVS 7.5.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pages.account import RECENT
from tests.conftest import PASSWORD, opening, scripts_or_none
from tests.support.backends import environment_of
from tests.support.chromium import NewPage, expect, expect_path, press, sign_in
from tests.support.client import JSON, CheckedClient, Response, new_address
from tests.support.page import Page
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OTHERS = {"end": "others"}
LIST, ASKED = "/account/sessions", "/login?next=%2Faccount%2Fsessions"
NOTHING_YET = "Thank you, it is you. Nothing has been changed yet."


@pytest.fixture(scope="module", params=["file", "cookie"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site with a page that makes a proof older, where sessions move, and where the cookie is the session."""
    env = {"DEMO_PASSWORD": PASSWORD, "MOUNT": "tests.support.stale", **environment_of(request.param)}
    with Site(request.param, env=env) as site:
        yield site


@pytest.fixture
def stale(site: Site) -> CheckedClient:
    """Somebody who has been signed in for an hour, and means to stay."""
    client = CheckedClient(site.url, address=new_address())
    assert client.sign_in(PASSWORD, stay="yes").status == 303
    assert client.post("/stale").status == 200
    return client


def end_others(client: CheckedClient) -> Response:
    """Send the form of the list, as a browser does."""
    return client.post(LIST, OTHERS, Referer=f"{client.url}{LIST}")


def test_an_hour_after_the_sign_in_no_session_is_ended_before_the_password_is_typed_again(
    site: Site, stale: CheckedClient
) -> None:
    phone = CheckedClient(site.url, address=new_address())
    phone.sign_in(PASSWORD)
    before = dict(stale.cookies)
    assert end_others(stale).redirects_to == ASKED
    assert (phone.user(), stale.user()) == ("ada", "ada")
    back = stale.sign_in(PASSWORD, next=LIST)
    assert back.redirects_to == LIST and NOTHING_YET in stale.get(back.redirects_to).text
    assert stale.cookies != before, "a proof gives a new id"
    assert phone.user() == "ada", "the form is not sent again"
    assert end_others(stale).redirects_to == LIST
    assert (phone.user(), stale.user()) == (None, "ada")


def test_the_list_is_shown_however_long_ago_the_sign_in_is(stale: CheckedClient) -> None:
    page = stale.get(LIST)
    assert page.status == 200 and f"more than {RECENT} minutes ago" in page.text


def test_a_program_gets_a_403(stale: CheckedClient) -> None:
    answer = stale.post(LIST, OTHERS, **JSON)
    assert answer.status == answer.json["status"] == 403 and "Sign in again" in answer.json["error"]


def test_the_form_is_that_of_the_sign_in_with_the_name_and_what_was_ticked_filled_in(stale: CheckedClient) -> None:
    form = {
        attrs["name"]: attrs for tag, attrs in Page(stale.get(ASKED).text).tags if tag == "input" and "name" in attrs
    }
    assert form.keys() == {"next", "username", "password", "stay"}
    assert (form["username"]["value"], form["username"]["autocomplete"]) == ("ada", "username")
    assert "readonly" in form["username"] and form["password"]["autocomplete"] == "current-password"
    sent = {str(name): attrs.get("value") or "" for name, attrs in form.items()}
    answer = stale.post("/login", sent | {"password": PASSWORD})
    [morsel] = answer.cookies.values()
    assert morsel["max-age"], "who asked to stay stays"


def test_who_is_signed_in_and_sent_by_nobody_is_asked_for_nothing(stale: CheckedClient) -> None:
    assert "password" not in Page(stale.get("/login").text).values("input", "name")


def test_a_wrong_password_is_a_403_that_says_so_and_is_slowed_down_like_a_sign_in(stale: CheckedClient) -> None:
    answers: list[Response] = []
    while not answers or answers[-1].status == 403:
        answers.append(stale.sign_in("guess", next=LIST))
        assert len(answers) < 20, "nothing slowed it down"
    assert "That name and password do not go together." in answers[0].text
    assert answers[-1].status == 429 and stale.user() == "ada"
    assert end_others(stale).redirects_to == ASKED


@pytest.mark.parametrize("referer", ["", "http://[", "https://evil.example//evil.example/x", "/\\evil.example"])
def test_the_way_back_never_leads_to_another_site(stale: CheckedClient, referer: str) -> None:
    asked = stale.post(LIST, OTHERS, Referer=referer).redirects_to
    [back] = Page(stale.get(asked).text).values("input", "value")[:1]
    assert asked.startswith("/login?next=") and "evil" not in back


def test_it_all_works_below_the_path_of_a_proxy() -> None:
    env = {"DEMO_PASSWORD": PASSWORD, "MOUNT": "tests.support.stale", "SCRIPT_NAME": "/demo"}
    with Site("ram", env=env) as site:
        client = CheckedClient(site.url, address=new_address())
        form = {"username": "ada", "password": PASSWORD, "next": LIST}
        assert client.post("/demo/login", form).status == 303
        assert client.post("/demo/stale").status == 200
        asked = client.post(f"/demo{LIST}", OTHERS, Referer=f"{site.url}/demo{LIST}")
        assert asked.redirects_to == f"/demo{ASKED}"
        back = client.post("/demo/login", form)
        assert back.redirects_to == f"/demo{LIST}" and NOTHING_YET in client.get(back.redirects_to).text


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def new_page(browser: Browser, site: Site) -> Iterator[NewPage]:
    """A function that opens a page of that site."""
    with opening(browser, site) as new:
        yield new


@scripts_or_none
def test_a_person_types_the_password_again_and_ends_the_other_sessions(new_page: NewPage, scripts: bool) -> None:
    desk, phone = new_page(java_script_enabled=scripts), new_page(user_agent="curl/8.5.0")
    for page in (desk, phone):
        page.goto("/login")
        sign_in(page, PASSWORD)
        expect_path(page, "/account")
    desk.context.request.post("/stale")
    desk.goto(LIST)
    press(desk, "End all others")
    expect_path(desk, ASKED)
    expect(desk.get_by_role("main")).to_contain_text("You are signed in as ada. Type your password once more")
    desk.get_by_label("Password", exact=True).fill("wrong")
    press(desk, "Go on")
    expect(desk.get_by_role("alert")).to_have_text("That name and password do not go together.")
    desk.get_by_label("Password", exact=True).fill(PASSWORD)
    press(desk, "Go on")
    expect(desk.get_by_role("status")).to_have_text(NOTHING_YET)
    expect_path(desk, LIST)
    press(desk, "End all others")
    expect(desk.get_by_role("status")).to_have_text("You are signed out everywhere else.")
    expect_path(desk, LIST)
    phone.goto("/account")
    expect_path(phone, "/login?next=/account")
