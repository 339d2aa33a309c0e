"""From the first visit to a forgotten password, in a real browser; and each page of the way, for everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import opening, scripts_or_none
from tests.pages.test_browser_access import faults
from tests.support.backends import environment_of
from tests.support.chromium import NewPage, expect, expect_path, press
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FIRST, SECOND = "a purple umbrella over 9 teapots", "no lamp, two ladders, one cat"
TWO_PROFILES = pytest.mark.parametrize("open_site", ["file", "cookie"], indirect=True)


@pytest.fixture(scope="module", params=["file"])
def open_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site where one can sign up."""
    config = {"/": {"auth.signup": "open"}}
    with Site(request.param, config=config, env=environment_of(request.param)) as site:
        yield site


@pytest.fixture
def new_page(browser: Browser, open_site: Site) -> Iterator[NewPage]:
    with opening(browser, open_site) as new:
        yield new


def fill(page: Page, **fields: str) -> None:
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)


def follow(page: Page) -> None:
    """Go to the mailbox, and open the link of the last mail."""
    page.get_by_role("link", name="its mailbox").click()
    expect_path(page, "/dev/mailbox")
    page.locator(".mail").first.get_by_role("link", name="token").click()


def sign_in(page: Page, name: str, password: str) -> None:
    fill(page, User_name=name, Password=password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


@TWO_PROFILES
@scripts_or_none
def test_from_signing_up_to_a_new_password(new_page: NewPage, scripts: bool) -> None:
    page, name = new_page(java_script_enabled=scripts), f"Grace {scripts}"
    email = f"grace.{scripts}@example.org"
    page.goto("/login")
    page.get_by_role("link", name="Sign up").click()
    fill(page, **{"E-mail address": email})
    press(page, "Send me a link")
    expect(page.get_by_role("status")).to_contain_text("A mail with a link is on its way")
    follow(page)
    expect_path(page, "/signup/confirm")
    fill(page, User_name=name, Password="password", Password_again="password")  # noqa: S106
    press(page, "Make the account")
    expect(page.get_by_label("Password", exact=True)).to_have_accessible_description(re.compile("15 characters"))
    expect(page.get_by_label("User name")).to_have_value(name)
    fill(page, Password=FIRST, Password_again=FIRST)
    press(page, "Make the account")
    expect_path(page, "/login")
    expect(page.get_by_role("status")).to_contain_text("You have an account now")
    sign_in(page, name, FIRST)
    expect_path(page, "/account")
    press(page, "Sign out")

    page.goto("/login")
    page.get_by_role("link", name="Forgot your password?").click()
    page.get_by_label("E-mail address").fill(email)
    press(page, "Send me a link")
    follow(page)
    expect_path(page, "/login/reset")
    fill(page, New_password=SECOND, New_password_again=SECOND)
    press(page, "Change the password")
    expect_path(page, "/login")
    expect(page.get_by_role("status")).to_contain_text("Your password is changed")
    sign_in(page, name, FIRST)
    expect(page.get_by_role("alert")).to_have_text("That name and password do not go together.")
    sign_in(page, name, SECOND)
    expect_path(page, "/account")
    page.goto("/login/reset")
    expect(page.get_by_role("heading", level=1)).to_have_text("This link does not work, or no more")


@scripts_or_none
def test_a_double_click_makes_one_account(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/signup")
    page.get_by_label("E-mail address").fill(f"twice.{scripts}@example.org")
    page.get_by_role("button", name="Send me a link").dblclick()
    follow(page)
    fill(page, User_name=f"twice {scripts}", Password=FIRST, Password_again=FIRST)
    page.get_by_role("button", name="Make the account").dblclick()
    way_on = page.get_by_role("main").get_by_role("link", name="Sign in")  # of the page for a link that was used
    expect(way_on.or_(page.get_by_role("button", name="Sign in"))).to_be_visible()
    page.goto("/login")
    sign_in(page, f"twice {scripts}", FIRST)
    expect_path(page, "/account")


def test_each_page_of_the_way_is_for_everybody(new_page: NewPage) -> None:
    """axe-core, WCAG 2.2 AA: on a phone in light, on a desk in dark, with errors and without."""
    page, wrong, hints = new_page(), list[str](), dict[str, list[str | None]]()

    def look(name: str) -> None:
        wrong.extend(f"{name}: {fault}" for fault in faults(page))
        assert page.title().strip(" –")
        fields = page.locator("main input:not([type=hidden])")
        hints[name] = fields.evaluate_all("fields => fields.map(field => field.autocomplete)")

    def send(name: str, **fields: str) -> None:
        """Send a form, past what the browser checks by itself."""
        for field, value in fields.items():
            page.locator(f"[name={field}]").fill(value)
        page.locator("form.fields").evaluate("form => { form.noValidate = true; }")
        with page.expect_navigation():
            page.locator("form.fields button").click()
        look(name)

    for path in ("/signup", "/login/forgot"):
        page.goto(path)
        look(path)
        send(f"{path} wrong", email="nobody")
        send(f"{path} sent", email="everybody@example.org")
        follow(page)
        look(f"{path} link")
        if path == "/signup":
            send("confirm wrong", username="x" * 200, new="a", again="b")
            send("confirm sent", username="Everybody", new=FIRST, again=FIRST)
        else:
            send("reset wrong", new="a", again="b")
    for path in ("/dev/mailbox", "/signup/confirm?token=none"):
        page.goto(path)
        look(path)
    assert not wrong, "\n".join(wrong)
    assert hints["/signup"] == hints["/login/forgot wrong"] == ["email"]
    assert hints["/signup link"] == hints["confirm wrong"] == ["username", "new-password", "new-password"]
    assert hints["/login/forgot link"] == ["username", "new-password", "new-password"]
