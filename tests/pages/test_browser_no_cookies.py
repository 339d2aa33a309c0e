"""A browser that keeps no cookies, in Chromium with the visitor's own setting for that: each page says so."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import pytest
from argon2.profiles import RFC_9106_LOW_MEMORY

from tests.conftest import PASSWORD
from tests.support.chromium import OTHER_HOST, WHOLE, arguments, expect, press, program, sign_in, watch
from tests.support.client import JSON, CheckedClient, new_address
from tests.support.hashing import line
from tests.support.site import Site, mounted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DID_NOT_COME_BACK = "The cookie did not come back, so you are not signed in"
BLOCK = 2  # the browser's number for this setting
SETTINGS = {"profile": {"default_content_setting_values": {"cookies": BLOCK}}}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site of these tests."""
    with Site("ram", env={"DEMO_PASSWORD": PASSWORD}) as site:
        yield site


@pytest.fixture(scope="module")
def blocking(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of the whole browser, whose settings block all cookies."""
    trouble: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        preferences = Path(folder, "Default", "Preferences")
        preferences.parent.mkdir()
        preferences.write_text(json.dumps(SETTINGS))
        context = browser.browser_type.launch_persistent_context(
            folder, executable_path=program(WHOLE), args=arguments(), base_url=site.url
        )
        watch(context, urlsplit(site.url).netloc, trouble)
        yield context.pages[0]
        assert context.cookies() == []
        context.close()
    assert trouble == []


@pytest.mark.parametrize("start", ["/login", "/account", "/login?next=/counter", "/login?next=/account/password"])
def test_whoever_signs_in_is_told_that_the_cookie_did_not_come_back(blocking: Page, start: str) -> None:
    page = blocking
    page.goto(start)
    expect(page.get_by_text(DID_NOT_COME_BACK)).to_have_count(0)
    for _ in range(2):
        sign_in(page, PASSWORD)
        expect(page.get_by_role("alert")).to_contain_text(DID_NOT_COME_BACK)
        expect(page.get_by_label("User name")).to_be_visible()
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("That name and password do not go together.")


def test_whoever_tells_a_name_is_told_that_no_cookie_came(blocking: Page) -> None:
    page = blocking
    page.goto("/name")
    page.get_by_label("First name").fill("Grace")
    page.get_by_label("Last name").fill("Hopper")
    press(page, "Keep my name")
    expect(page.get_by_text("your browser keeps no cookies")).to_be_visible()


@pytest.mark.parametrize("path", mounted(["/counter", "/session"]))
def test_a_page_that_begins_a_session_each_time_says_why(blocking: Page, path: str) -> None:
    blocking.goto(path)
    expect(blocking.get_by_text("your browser keeps no cookies")).to_be_visible()


# --- a cookie that the browser does not take --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [({"tools.sessions.secure": True}, "it is for https only, and this page came by plain http"),
     ({"tools.sessions.domain": "example.com"}, "your browser keeps none of this site")],
)  # fmt: skip
def test_a_session_cookie_that_the_browser_refuses_is_told(
    browser: Browser, options: dict[str, object], told: str
) -> None:
    """By another name than this machine's, to which browsers make an exception."""
    users = {"ada": line(PASSWORD, RFC_9106_LOW_MEMORY)}
    with (
        Site("ram", config={"/": options}, users=users) as site,
        browser.new_context(base_url=f"http://{OTHER_HOST}:{site.port}") as context,
    ):
        page = context.new_page()
        page.goto("/login")
        sign_in(page, PASSWORD)
        expect(page.get_by_role("alert")).to_contain_text(DID_NOT_COME_BACK)
        expect(page.get_by_role("alert")).to_contain_text(told)
        assert context.cookies() == []


# --- the address that says that a cookie is due -----------------------------------------------------------------------


def signing_in(visitor: CheckedClient, **form: str) -> str:
    """Sign in as a browser does, and return where it is sent."""
    answer = visitor.post("/login", {"username": "ada", "password": PASSWORD, **form}, Origin=visitor.url)
    return answer.redirects_to


def test_whoever_keeps_the_cookie_goes_on_to_where_they_were_going(visitor: CheckedClient) -> None:
    for target in ("/account", "/cookie/set?name=a&value=b", "/name?first=%C3%A9"):
        new = CheckedClient(visitor.url, address=new_address())
        assert new.get(signing_in(new, next=target)).redirects_to == target
    assert signing_in(new, next="/counter") == "/counter", "its cookie came with the form"


def test_the_cookie_of_a_session_that_is_over_proves_nothing(visitor: CheckedClient) -> None:
    """An older one may stay, where the browser refuses the new one."""
    visitor.cookies["session_id"] = "A" * 43
    assert signing_in(visitor).startswith("/login?")


def test_the_address_stores_nothing_and_opens_nothing(visitor: CheckedClient) -> None:
    due = signing_in(visitor)
    visitor.cookies.clear()
    for _ in range(2):
        answer = visitor.get(due)
        assert (answer.status, answer.set_cookie) == (403, []) and DID_NOT_COME_BACK in answer.text
    refused = visitor.get(due, **JSON)
    assert refused.status == refused.json["status"] == 403 and DID_NOT_COME_BACK in refused.json["error"]
    assert visitor.user() is None


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example/", "/.//evil.example"])
def test_the_address_leads_to_no_other_site(ada: CheckedClient, target: str) -> None:
    assert ada.get(f"/login?{urlencode({'next': target, 'cookie': 'due'})}").redirects_to == "/account"


def test_a_link_tells_nothing_to_whoever_is_signed_in_or_comes_from_another_site(ada: CheckedClient) -> None:
    assert ada.get("/login?cookie=due").redirects_to == "/account"
    stranger = CheckedClient(ada.url, address=new_address())
    for header in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        answer = stranger.get("/login?cookie=due", **header)
        assert answer.status == 200 and DID_NOT_COME_BACK not in answer.text


def test_a_program_is_told_whether_a_cookie_came(visitor: CheckedClient) -> None:
    assert "no session cookie came" in visitor.get("/account", **JSON).json["error"]
    visitor.cookies["session_id"] = "A" * 43
    assert visitor.get("/account", **JSON).json["error"] == "Sign in first."
