"""The race and the sign-out in a real browser: it sends the requests itself, and all can follow what came of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.conftest import every_profile, opening
from tests.pages.test_browser_access import ALL, COLOURS, violations
from tests.support.chromium import NewPage, expect, press
from tests.support.client import JSON
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NARROW = {"width": 360, "height": 700}


def race(page: Page, mode: str, requests: int, predicted: int) -> None:
    """Fill in the form, send it and wait for the result."""
    page.get_by_label(mode, exact=True).check()
    page.get_by_label("How many at once?").fill(str(requests))
    page.get_by_label("Say first: how many will be counted?").fill(str(predicted))
    with page.expect_navigation():
        press(page, "Send them all")
    expect(page).to_have_url(re.compile(r"/lab/race\?run=.+#outcome$"))
    expect(page.locator("#outcome")).to_be_focused()  # it is read out, and Tab goes on from it


def numbers(page: Page) -> list[list[str]]:
    """The table, row by row."""
    cells = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    rows: list[list[str]] = page.locator(".numbers tbody tr").evaluate_all(cells)
    return rows


@every_profile
def test_the_browser_runs_the_race_and_the_page_shows_what_was_measured(page: Page, profile: str) -> None:
    page.goto("/lab/race")
    for mode, loses in (("Two blocks", True), ("The default", profile == "cookie")):
        race(page, mode, 8, 8)
        count = int(page.locator(".outcome .digits").last.inner_text())
        assert (count < 8) == loses and count >= 1
        expect(page.get_by_text("Just as you said.")).to_have_count(0 if loses else 1)
        rows = numbers(page)
        assert len(rows) == 8 and sum(row[3] == "yes" for row in rows) == count
        told = page.request.get(page.url, headers=JSON).json()
        assert (told["by"], told["count"], told["predicted"]) == ("browser", count, 8)
        assert rows == [
            [str(hit["number"]), str(hit["read"]), str(hit["wrote"]), "yes" if hit["counted"] else "overwritten"]
            + [f"{hit[name]:.1f}" for name in ("outside", "arrived", "waited", "held", "finished")]
            for hit in told["hits"]
        ]
        if not loses:  # six connections: two had to wait in the browser until another was over
            first_over = min(hit["saved_at"] for hit in told["hits"])
            late = [hit["outside"] for hit in told["hits"] if hit["arrived"] >= first_over]
            assert len(late) >= 2 and all(outside > 0 for outside in late)


def test_without_scripts_the_site_sends_the_requests_and_shows_the_same(new_page: NewPage) -> None:
    page = new_page(java_script_enabled=False)
    page.goto("/lab/race")
    race(page, "One block", 3, 2)
    expect(page.get_by_role("heading", name="One block: every request was counted")).to_be_visible()
    expect(page.get_by_text("the site sent them to itself")).to_be_visible()
    assert sorted(row[2] for row in numbers(page)) == ["1", "2", "3"]


def test_below_a_path_of_a_proxy_the_browser_runs_it_as_well(browser: Browser) -> None:
    with Site(env={"SCRIPT_NAME": "/demo"}) as site, opening(browser, site) as new:
        page = new()
        page.goto("/demo/lab/race")
        race(page, "The default", 3, 3)
        expect(page.get_by_text("Just as you said.")).to_have_count(1)


def test_a_race_that_cannot_be_run_says_why(browser: Browser, site: Site) -> None:
    page = browser.new_page(base_url=site.url)  # not watched: a refusal is an error on its console
    try:
        page.goto("/lab/race")
        page.get_by_label("How many at once?").evaluate("field => { field.max = 50; field.value = 50; }")
        page.get_by_label("Say first").fill("3")
        press(page, "Send them all")
        said = "The race could not be run: The field 'requests' must be a whole number from 2 to 20."
        expect(page.get_by_role("status")).to_have_text(said)
        expect(page.get_by_role("button", name="Send them all")).to_be_enabled()
    finally:
        page.close()


def test_both_results_are_for_everybody_narrow_dark_and_by_keyboard(new_page: NewPage) -> None:
    page = new_page(viewport=NARROW)
    page.goto("/lab/race")
    page.get_by_label("No lock").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("A block to write")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("4")
    page.keyboard.press("Tab")
    page.keyboard.type("4")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lab/race?run=*#outcome")
    assert_for_everybody(page)
    page.goto("/lab/logout-race")
    for room in ("ours", "theirs"):
        page.locator(f"#{room}-dead").focus()
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lab/logout-race?run=*#outcome")
    expect(page.locator(".result .large")).to_have_text(["Dead", "Alive again"])
    assert_for_everybody(page)


def assert_for_everybody(page: Page) -> None:
    assert page.locator("main").evaluate("main => main.scrollWidth") <= NARROW["width"]
    for scheme, rules in (("light", ALL), ("dark", COLOURS)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert violations(page, rules) == []
