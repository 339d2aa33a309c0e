"""The site in a real browser: Debian's Chromium, driven by Playwright, as people use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import (
    PASSWORD,
    every_profile,
    every_profile_and_one_without_scripts,
    opening,
    survives_restart,
)
from tests.support.chromium import WHOLE, NewPage, expect, expect_path, launched, press, sign_in
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def expect_count(page: Page, count: int) -> None:
    """Wait until the page shows this count."""
    expect(page.locator(".digits")).to_have_text(str(count))


def test_the_session_cookie_cannot_be_read_by_scripts(page: Page) -> None:
    page.goto("/counter")
    [cookie] = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session_id", True, "Lax")
    assert page.evaluate("document.cookie") == ""
    assert cookie["value"] not in page.content()


@every_profile
def test_the_counter_after_a_restart_of_the_site(page: Page, site: Site, profile: str) -> None:
    for count in (1, 2):
        page.goto("/counter")
        expect_count(page, count)
    site.restart()
    page.reload()
    expect_count(page, 3 if survives_restart(profile) else 1)
    page.reload()
    expect_count(page, 4 if survives_restart(profile) else 2)


@every_profile_and_one_without_scripts
def test_signing_in_and_out(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/account")
    expect_path(page, "/login?next=/account")
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("That name and password do not go together.")
    expect(page.get_by_label("User name")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_have_value("")
    sign_in(page, PASSWORD)
    expect_path(page, "/account")
    expect(page.get_by_role("heading", level=1)).to_have_text("Only you see this")
    page.goto("/login")
    expect(page.get_by_role("main")).to_contain_text("You are signed in as ada.")
    press(page, "Sign out")
    expect_path(page, "/")
    page.goto("/account")
    expect_path(page, "/login?next=/account")


def test_signing_in_leads_back_to_where_one_was_going(page: Page) -> None:
    page.goto("/login?next=/counter")
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_be_visible()
    sign_in(page, PASSWORD)
    expect_path(page, "/counter")


def test_the_session_gets_a_new_id_at_login_and_at_logout(page: Page) -> None:
    def id() -> str:
        return page.context.cookies()[0]["value"]

    page.goto("/counter")
    ids = [id()]
    page.goto("/login")
    sign_in(page, PASSWORD)
    expect_path(page, "/account")
    ids.append(id())
    press(page, "Sign out")
    expect_path(page, "/")
    ids += [cookie["value"] for cookie in page.context.cookies()]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def keeping_page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of the whole browser, which keeps pages for its back button."""
    with launched(browser.browser_type, WHOLE) as whole:
        assert keeps(whole, site), "a test with this browser could not fail"
        with opening(whole, site) as new_page:
            yield new_page()


def keeps(browser: Browser, site: Site) -> bool:
    """Whether its back button shows a page as it was left, where the page allows it."""
    with browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        page.goto("/static/style.css")
        page.evaluate("window.kept = true")
        page.goto("/healthz")
        page.go_back(wait_until="commit")
        return page.evaluate("window.kept") is True


def test_the_back_button_after_signing_out_shows_nothing_private(keeping_page: Page) -> None:
    page = keeping_page
    page.goto("/login")
    sign_in(page, PASSWORD)
    expect(page.get_by_role("heading", level=1)).to_have_text("Only you see this")
    press(page, "Sign out")
    expect_path(page, "/")
    # Not until it has loaded: a page that the browser had kept, which would be the defect, loads nothing.
    page.go_back(wait_until="commit")
    expect_path(page, "/login?next=/account")
    expect(page.get_by_text("Only you see this")).to_have_count(0)
    page.go_back(wait_until="commit")
    expect_path(page, "/login")
    expect(page.get_by_role("main").get_by_text("You are signed in")).to_have_count(0)


def test_a_form_can_be_sent_again_after_the_back_button(keeping_page: Page) -> None:
    page = keeping_page
    for last in ("Hopper", "Murray"):
        page.goto("/name") if last == "Hopper" else page.go_back(wait_until="commit")
        page.get_by_label("First name").fill("Grace")
        page.get_by_label("Last name").fill(last)
        press(page, "Keep my name")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Hello, Grace {last}")


def test_two_visitors_do_not_share_a_session(new_page: NewPage) -> None:
    ada, other = new_page(), new_page()
    ada.goto("/login?next=/counter")
    sign_in(ada, PASSWORD)
    expect_count(ada, 1)
    ada.reload()
    expect_count(ada, 2)
    other.goto("/counter")
    expect_count(other, 1)
    other.goto("/account")
    expect_path(other, "/login?next=/account")
    ada.goto("/account")
    expect_path(ada, "/account")


def test_another_device_is_ended_from_the_list(new_page: NewPage) -> None:
    desk, phone = new_page(java_script_enabled=False), new_page(user_agent="curl/8.5.0")
    for page in (desk, phone):
        page.goto("/login")
        sign_in(page, PASSWORD)
        expect_path(page, "/account")
    phone.goto("/account/sessions")
    number = phone.locator(".number").first.inner_text().split()[-1]
    desk.get_by_role("link", name="Your devices").click()
    expect(desk.get_by_role("listitem").filter(has_text="this device")).to_have_count(1)
    other = desk.get_by_role("listitem").filter(has_text=number)
    expect(other).to_contain_text("curl")
    expect(other.get_by_role("button")).to_have_accessible_description(re.compile(f"curl.* No. {number}"))
    other.get_by_role("button", name="End").click()
    expect(other).to_have_count(0)
    phone.goto("/account")
    expect_path(phone, "/login?next=/account")
    desk.reload()
    expect_path(desk, "/account/sessions")


def test_a_password_is_changed_in_a_browser(browser: Browser) -> None:
    new = "a purple umbrella over 9 teapots"
    with (
        Site("ram", env={"DEMO_PASSWORD": PASSWORD}) as site,
        browser.new_context(base_url=site.url) as context,
    ):
        page = context.new_page()
        page.goto("/login?next=/account/password")
        sign_in(page, PASSWORD)
        expect(page.get_by_label("Sign out everywhere else")).to_be_checked()
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_label("New password", exact=True).fill("password")
        page.get_by_label("New password again").fill("password")
        page.get_by_label("Sign out everywhere else").uncheck()
        press(page, "Change the password")
        field = page.get_by_label("New password", exact=True)
        expect(field).to_be_focused()
        expect(field).to_have_accessible_description(re.compile("."))
        expect(page.get_by_label("Sign out everywhere else")).not_to_be_checked()
        for label in ("Current password", "New password", "New password again"):
            expect(page.get_by_label(label, exact=True)).to_have_value("")
            page.get_by_label(label, exact=True).fill(PASSWORD if label == "Current password" else new)
        press(page, "Change the password")
        expect_path(page, "/account")
        press(page, "Sign out")
        expect_path(page, "/")
        page.goto("/login")
        sign_in(page, PASSWORD)
        expect(page.get_by_role("alert")).to_be_visible()
        sign_in(page, new)
        expect_path(page, "/account")


def test_two_tabs_share_a_session(page: Page) -> None:
    page.goto("/counter")
    second = page.context.new_page()
    second.goto("/counter")
    expect_count(second, 2)
    page.reload()
    expect_count(page, 3)
