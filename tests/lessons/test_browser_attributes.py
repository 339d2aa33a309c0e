"""/cookie/attributes in Chromium: what a browser really keeps, sends back, and shows to scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import scripts_or_none
from tests.support.chromium import NewPage, expect, press
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HOME = "/cookie/attributes"
SCRIPTS = 2  # the column of what a script can read
REFUSED = {"demo_domain", "demo_none", "__Host-refused"}


def cells_of_scripts(page: Page) -> Locator:
    return page.locator(f".demos tbody tr td:nth-of-type({SCRIPTS + 1})")


def column(page: Page, number: int) -> dict[str, str]:
    """A column of the table, by the names of the cookies."""
    rows = page.locator(".demos tbody tr").all()
    return {row.locator("code").get_attribute("id") or "": row.locator("td").nth(number).inner_text() for row in rows}


def yes(page: Page, number: int) -> set[str]:
    """The cookies with a yes in a column."""
    if number == SCRIPTS:
        expect(cells_of_scripts(page).filter(has_text="?")).to_have_count(0)  # until the page's script has run
    return {name for name, text in column(page, number).items() if text == "yes"}


def test_what_came_back_is_what_the_browser_keeps(page: Page) -> None:
    page.goto(HOME)
    press(page, "Set them all")
    expect(page.locator(".demos tbody tr").first.locator("td").first).to_have_text("yes")
    names = set(column(page, 0))
    kept = {cookie["name"] for cookie in page.context.cookies()} - {"demo_set"}
    assert yes(page, 0) == names and kept == names - REFUSED
    assert yes(page, 1) == kept - {"demo_path"}
    assert yes(page, SCRIPTS) == kept - {"demo_path", "demo_httponly"}
    page.get_by_role("link", name="Look at the page below it").click()
    page.wait_for_url("**/below")
    assert yes(page, 1) == kept and yes(page, SCRIPTS) == kept - {"demo_httponly"}
    press(page, "Clear them all")
    page.wait_for_url(f"**{HOME}")
    assert page.context.cookies() == [] and yes(page, 1) == set()


@scripts_or_none
def test_one_is_set_with_its_own_button_and_the_column_of_scripts_says_if_none_has_run(
    new_page: NewPage, scripts: bool
) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto(HOME)
    row = page.locator(".demos tbody tr").filter(has_text="demo_httponly")
    row.get_by_role("button", name="Set").click()
    expect(row.locator("td").nth(1)).to_have_text("yes")
    assert {cookie["name"] for cookie in page.context.cookies()} == {"demo_set", "demo_httponly"}
    cells = cells_of_scripts(page)
    expect(cells).to_have_text(["no" if scripts else "?"] * cells.count())


def test_the_exercise_a_link_of_another_site_brings_lax_and_not_strict(browser: object, site: Site) -> None:
    """localhost and 127.0.0.1 are two sites to a browser, so this page may not be watched for requests elsewhere."""
    context = browser.new_context()  # type: ignore[attr-defined]
    try:
        page = context.new_page()
        page.goto(site.url + HOME)
        press(page, "Set them all")
        page.goto(site.url.replace("127.0.0.1", "localhost") + HOME)
        assert yes(page, 1) == set()
        page.evaluate(f"location = '{site.url}{HOME}'")
        page.wait_for_url(site.url + HOME)
        came = yes(page, 1)
        assert "demo_lax" in came and "demo_strict" not in came
        page.get_by_role("link", name="Ask again").click()
        expect(page.locator(".demos tbody tr").filter(has_text="demo_strict").locator("td").nth(1)).to_have_text("yes")
    finally:
        context.close()
