"""A second factor in a browser: turned on, asked for, replaced by a recovery code, turned off; also without scripts."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from auth.accounts import Accounts
from auth.database import Database
from tests.conftest import PASSWORD
from tests.pages.test_browser_access import faults
from tests.support.chromium import NewPage, expect, expect_path, press
from tests.support.factor import CODE, PAGE, Device
from tests.support.hashing import line
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROFILES = [("file", True), ("file", False), ("cookie", True)]


def sign_in(page: Page, name: str) -> None:
    """Open the form, and send it."""
    page.goto(f"/login?next={PAGE}")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Sign in")


@pytest.mark.parametrize(("profile", "scripts"), PROFILES, indirect=["profile"])
def test_a_second_factor_from_the_first_code_to_the_last(new_page: NewPage, site: Site, scripts: bool) -> None:
    name = f"mary-{secrets.token_hex(4)}"
    Accounts(Database(site.users_url)).insert(name, line(PASSWORD))
    page = new_page(java_script_enabled=scripts)
    sign_in(page, name)

    press(page, "Set it up")
    expect(page.get_by_role("img", name="A QR code")).to_be_visible()
    device = Device(page.locator(".secret").inner_text().replace(" ", ""), [], time.time)
    code = page.get_by_label("The code that the app shows now")
    expect(code).to_have_attribute("autocomplete", "one-time-code")
    expect(code).to_have_attribute("inputmode", "numeric")
    code.fill("1")
    press(page, "Turn it on")
    expect(code).to_be_focused()
    expect(code).to_have_accessible_description(re.compile("That is not the code"))
    assert not scripts or faults(page) == []
    used = device.code()
    code.fill(used)
    press(page, "Turn it on")
    expect(page.locator(".codes li")).to_have_count(10)
    device.recovery += page.locator(".codes code").all_inner_texts()
    assert not scripts or faults(page) == []
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_role("main")).to_contain_text("It is on. Recovery codes that are left: 10.")
    assert not scripts or faults(page) == []
    press(page, "Sign out")

    sign_in(page, name)
    expect_path(page, CODE)
    code = page.get_by_label("Code from your app")
    expect(code).to_be_focused()
    expect(code).to_have_attribute("autocomplete", "one-time-code")
    expect(code).to_have_attribute("inputmode", "numeric")
    code.fill(used)
    press(page, "Sign in")
    expect(code).to_have_accessible_description(re.compile("was used before"))
    assert not scripts or faults(page) == []
    code.fill(device.code(1))
    press(page, "Sign in")
    expect_path(page, PAGE)
    expect(page.get_by_role("status")).to_have_text("You are signed in.")
    press(page, "Sign out")

    sign_in(page, name)
    page.get_by_text("The device is not at hand").click()
    page.get_by_label("One of your recovery codes").fill(device.recovery[0].upper())
    press(page, "Sign in with it")
    expect(page.get_by_role("main")).to_contain_text("Recovery codes that are left: 9.")
    press(page, "Turn it off")
    expect(page.get_by_role("main")).to_contain_text("It is off.")
    press(page, "Sign out")
    sign_in(page, name)
    expect_path(page, PAGE)


def test_cancelling_leads_back_to_the_form(new_page: NewPage, site: Site) -> None:
    Accounts(Database(site.users_url)).insert("jean", line(PASSWORD), totp_secret="A" * 32, totp_step=0)  # noqa: S106
    page = new_page()
    sign_in(page, "jean")
    expect_path(page, CODE)
    press(page, "Cancel")
    expect_path(page, "/login")
    page.goto(CODE)
    expect_path(page, "/login")
