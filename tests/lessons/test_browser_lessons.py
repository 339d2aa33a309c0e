"""The lessons in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import every_profile_and_one_without_scripts, scripts_or_none
from tests.pages.test_browser import expect_count, expect_path
from tests.pages.test_browser_twice import double_click, sent
from tests.support.chromium import NewPage, expect, press
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page


@scripts_or_none
def test_a_cookie_is_set_read_and_deleted(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/")
    page.get_by_role("navigation", name="Lessons").get_by_role("link", name="Cookies").click()
    page.get_by_label("Name").fill("color")
    page.get_by_label("Value").fill('"dark"; blue 🚀')
    press(page, "Set this cookie")
    expect(page.locator("pre.header")).to_contain_text("Set-Cookie: color=")
    assert {"color"} == {cookie["name"] for cookie in page.context.cookies()}
    page.get_by_role("link", name="Read it back").click()
    cookie = page.get_by_role("listitem").filter(has_text="name: color, value:")
    expect(cookie).to_contain_text('name: color, value: "dark"; blue 🚀')
    cookie.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No cookies.")).to_be_visible()
    assert page.context.cookies() == []


def test_a_cookie_of_another_program_can_be_deleted(page: Page, site: Site) -> None:
    page.context.add_cookies([{"name": name, "value": "1", "url": site.url} for name in ("<b>", "br(oken", "a'")])
    page.goto("/cookie/read")
    for left in (2, 1, 0):
        page.get_by_role("button", name="Delete").first.click()
        expect(page.get_by_role("button", name="Delete")).to_have_count(left)
    assert page.context.cookies() == []


@every_profile_and_one_without_scripts
def test_the_counter_counts_and_starts_over(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/counter")
    expect_count(page, 1)
    page.get_by_role("link", name="Count again").click()
    expect_count(page, 2)
    page.reload()
    expect_count(page, 3)
    press(page, "Start over")
    expect_count(page, 1)


@every_profile_and_one_without_scripts
def test_a_name_goes_along_from_page_to_page(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/name")
    page.get_by_label("First name").fill("<b>Grace</b>")
    press(page, "Keep my name")
    expect(page.get_by_text("Please fill in your last name.", exact=True)).to_be_visible()
    expect(page.get_by_label("First name")).to_have_value("<b>Grace</b>")
    expect(page.get_by_label("Last name")).to_be_focused()
    page.get_by_label("Last name").fill("Hopper")
    press(page, "Keep my name")
    expect_path(page, "/hello")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, <b>Grace</b> Hopper")
    page.goto("/")
    page.get_by_role("navigation", name="Lessons").get_by_role("link", name="Name").click()
    expect(page.get_by_label("Last name")).to_have_value("Hopper")
    page.goto("/hello")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, <b>Grace</b> Hopper")


def test_a_curl_line_can_be_copied(new_page: NewPage, site: Site) -> None:
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/counter")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl -s -b jar -c jar") and copied.endswith(f"{site.url}/counter")


# --- a double click ---------------------------------------------------------------------------------------------------


def delete(page: Page) -> None:
    page.goto("/cookie/set")
    page.goto("/cookie/read")
    double_click(page, "Delete")
    expect(page.get_by_text("No cookies.")).to_be_visible()


def attributes(page: Page) -> None:
    page.goto("/cookie/attributes")
    double_click(page, "Set them all")
    expect(page.locator(".demos tbody tr td:nth-child(2)").first).to_have_text("yes")
    double_click(page, "Clear them all")
    expect(page.locator(".demos tbody").get_by_role("button", name="Set").first).to_be_visible()


def session(page: Page) -> None:
    page.goto("/session")
    double_click(page, "Keep something")
    expect(page.get_by_text("A record.")).to_be_visible()
    double_click(page, "End this session")
    expect(page.get_by_text("No record.")).to_be_visible()


@scripts_or_none
def test_a_form_of_a_lesson_that_is_sent_twice_does_what_it_does_once(new_page: NewPage, scripts: bool) -> None:
    for form, clicks in ((delete, 1), (attributes, 2), (session, 2)):
        page = new_page(java_script_enabled=scripts)
        forms = sent(page)
        form(page)
        assert len(forms) == clicks or not scripts, forms
