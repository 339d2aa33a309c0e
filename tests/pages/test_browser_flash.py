"""Flash messages in Chromium: where they are, who hears of them, and what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import PASSWORD, scripts_or_none
from tests.support.chromium import NewPage, expect, press, sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Notes what is added to a live region after the page has come: only that do screen readers announce.
WATCH = """document.addEventListener("DOMContentLoaded", () => new MutationObserver((changes) => {
  for (const { target, addedNodes } of changes) {
    if (target.role && addedNodes.length) console.log(`new in ${target.role}`);
  }
}).observe(document, {childList: true, subtree: true}))"""


@scripts_or_none
def test_a_message_is_shown_once_and_takes_no_focus(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/login")
    sign_in(page, PASSWORD)
    expect(page.get_by_role("status")).to_have_text("You are signed in.")
    assert page.locator(":focus").count() == 0
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)
    press(page, "Sign out")
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.goto("/")
    expect(page.get_by_role("status")).to_have_count(0)


def test_a_script_lets_it_be_announced(page: Page) -> None:
    page.add_init_script(WATCH)
    with page.expect_console_message(lambda message: message.text == "new in status"):
        page.goto("/login")
        sign_in(page, PASSWORD)
    expect(page.get_by_role("status")).to_have_text("You are signed in.")


def test_two_tabs_each_get_their_own(new_page: NewPage) -> None:
    first = new_page()
    first.goto("/login")
    second = first.context.new_page()
    second.goto("/counter")
    sign_in(first, PASSWORD)
    press(second, "Start over")
    expect(first.get_by_role("status")).to_have_text("You are signed in.")
    expect(second.get_by_role("status")).to_have_text("The count is forgotten.")
