"""Every page for those who do not see it, or not as others do: axe-core, WCAG 2.2 AA; and its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.sync_playwright import Axe

from tests.chromium import NewPage, sign_in
from tests.conftest import PASSWORD, one_profile
from tests.test_browser_pages import PHONE, every_page

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response, ViewportSize

ALL = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}  # all that the scheme can change
DESK: ViewportSize = {"width": 1280, "height": 800}
MOST = 150_000  # bytes of a page with all that it loads
OPEN = "() => document.querySelectorAll('details').forEach(details => { details.open = true; })"



def violations(page: Page, rules: dict[str, object]) -> list[str]:
    """What axe-core finds wrong with the page as it is shown."""
    found = Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def faults(page: Page) -> list[str]:
    """What is wrong with the page, all unfolded, on a phone in light and on a desk in dark; and if it is too wide."""
    page.evaluate(OPEN)
    wrong = []
    for size, scheme in ((PHONE, "light"), (DESK, "dark")):
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        wrong += [f"{scheme}: {violation}" for violation in violations(page, ALL)]
        width = page.locator("html").evaluate("html => html.scrollWidth - html.clientWidth")
        wrong += [f"{width} pixels too wide for {size}"] if width > 0 else []
    return wrong


@one_profile
def test_no_page_breaks_a_rule_of_wcag_2_2_aa_light_or_dark(page: Page) -> None:
    page.goto("/login")
    sign_in(page, PASSWORD)
    page.wait_for_url("**/account")
    wrong = []
    for path in every_page(page):
        wrong += [f"{path}: {fault}" for fault in faults(page)]
    assert not wrong, "\n".join(wrong)


@one_profile
def test_no_page_weighs_more_than_150_kilobytes_with_all_that_it_loads(new_page: NewPage) -> None:
    page, weight = new_page(), dict[str, int]()
    page.on("response", lambda response: weight.update({response.url: size_of(response)}))
    heaviest = {}
    for path in every_page(page):
        heaviest[path] = sum(weight.values())
        weight.clear()
    assert {path: size for path, size in heaviest.items() if size > MOST} == {}


def size_of(response: Response) -> int:
    """The length that an answer says it has; an unchanged file that the browser had already is as long as it was."""
    return int(response.headers.get("content-length", 0))
