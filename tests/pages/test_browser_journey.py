"""The whole way of an account, in a real browser; test_new.py runs it in a site that `python app.py new` has made."""

from __future__ import annotations

import time

from tests.pages.test_browser_signup import FIRST, SECOND, fill, follow, new_page, open_site, sign_in
from tests.support.chromium import NewPage, expect, expect_path, press
from tests.support.factor import CODE, PAGE, Device

__all__ = ["new_page", "open_site"]  # the fixtures


def test_an_account_from_signing_up_to_ending_a_lost_device(new_page: NewPage) -> None:  # noqa: F811
    page, name, email = new_page(), "Hopper", "hopper@example.org"
    page.goto("/signup")
    page.get_by_label("E-mail address").fill(email)
    press(page, "Send me a link")
    follow(page)
    fill(page, User_name=name, Password=FIRST, Password_again=FIRST)
    press(page, "Make the account")

    page.goto("/login/forgot")
    page.get_by_label("E-mail address").fill(email)
    press(page, "Send me a link")
    follow(page)
    fill(page, New_password=SECOND, New_password_again=SECOND)
    press(page, "Change the password")
    sign_in(page, name, SECOND)
    expect_path(page, "/account")

    page.goto(PAGE)
    press(page, "Set it up")
    device = Device(page.locator(".secret").inner_text().replace(" ", ""), [], time.time)
    page.get_by_label("The code that the app shows now").fill(device.code())
    press(page, "Turn it on")
    device.recovery += page.locator(".codes code").all_inner_texts()
    page.get_by_role("link", name="I have kept them").click()

    lost = new_page()
    lost.goto("/login?next=/account")
    sign_in(lost, name, SECOND)
    expect_path(lost, CODE)
    lost.goto("/account")
    expect_path(lost, "/login?next=/account")  # half a session is none
    lost.goto(CODE)
    lost.get_by_label("Code from your app").fill(device.code(1))
    press(lost, "Sign in")
    expect_path(lost, "/account")

    page.goto("/account/sessions")
    expect(page.locator(".devices li")).to_have_count(2)
    press(page, "End")  # who has just been signed out everywhere else has not proved anything since
    page.get_by_label("Password", exact=True).fill(SECOND)
    press(page, "Go on")
    page.get_by_text("The device is not at hand").click()
    page.get_by_label("One of your recovery codes").fill(device.recovery[0])
    press(page, "Sign in with it")
    expect_path(page, "/account/sessions")
    press(page, "End")
    expect(page.locator(".devices li")).to_have_count(1)
    lost.reload()
    expect_path(lost, "/login?next=/account")
    lost.close()  # before its page is searched: it shows the password of the demo account
    page.goto("/account")
    expect_path(page, "/account")
