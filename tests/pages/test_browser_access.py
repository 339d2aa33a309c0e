"""Every page for those who do not see it, or not as others do: axe-core, WCAG 2.2 AA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.base import AXE_SCRIPT

from tests.conftest import PASSWORD
from tests.pages.test_browser_pages import PHONE, every_page
from tests.support.chromium import sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

ALL = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}  # all that the scheme can change
DESK: ViewportSize = {"width": 1280, "height": 800}
OPEN = "() => document.querySelectorAll('details').forEach(details => { details.open = true; })"


def violations(page: Page, rules: dict[str, object]) -> list[str]:
    """What axe-core finds wrong with the page as it is shown."""
    if not page.evaluate("'axe' in window"):  # half a megabyte of script, once for each page
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("rules => axe.run({runOnly: rules, resultTypes: ['violations']})", rules)["violations"]
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def faults(page: Page) -> list[str]:
    """What is wrong with the page, all unfolded, on a phone in light and on a desk in dark; and if it is too wide."""
    page.evaluate(OPEN)
    wrong = []
    for size, scheme, rules in ((PHONE, "light", ALL), (DESK, "dark", COLOURS)):
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        wrong += [f"{scheme}: {violation}" for violation in violations(page, rules)]
        width = page.locator("html").evaluate("html => html.scrollWidth - html.clientWidth")
        wrong += [f"{width} pixels too wide for {size}"] if width > 0 else []
    return wrong


def test_no_page_breaks_a_rule_of_wcag_2_2_aa_light_or_dark(page: Page) -> None:
    page.goto("/login")
    sign_in(page, PASSWORD)
    page.wait_for_url("**/account")
    wrong = []
    for path in every_page(page):
        wrong += [f"{path}: {fault}" for fault in faults(page)]
    assert not wrong, "\n".join(wrong)
