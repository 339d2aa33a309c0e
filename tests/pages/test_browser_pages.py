"""Every page in a real browser: in order, on a phone, light and dark, without scripts, with the keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import tests.support.chromium
from tests.conftest import PASSWORD, scripts_or_none
from tests.support.chromium import MissingError, NewPage, chromium, expect, expect_path, sign_in
from tests.support.site import mounted

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

# What no link leads to: each kind of error page, and what a form shows when something is missing.
UNLINKED = mounted([
    "/nothing", "/logout", "/cookie/set?name=a+b", "/name?first=Ada", "/hello", "/account", "/account/password",
    "/account/sessions", "/login?next=/", "/login?cookie=due", "/login/forgot", "/login/reset",
    "/dev/mailbox", "/cookie/set?name=__Host-tea",
])  # fmt: skip
MOST = 150_000  # bytes of a page with all that it loads
PHONE = {"width": 360, "height": 640}
NAME_10_000 = "/name?first=" + "W" * 10_000 + "&last=" + "%F0%9F%9A%80" * 1_000


# --- what can be missing ----------------------------------------------------------------------------------------------


def test_a_missing_browser_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(MissingError, match="/nowhere/chromium; install it with apt-get install chromium"), chromium():
        pass


def test_a_missing_playwright_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.support.chromium, "sync_playwright", None)
    with pytest.raises(MissingError, match="requirements-dev.txt"), chromium():
        pass


# --- every page -------------------------------------------------------------------------------------------------------


def every_page(page: Page) -> Iterator[str]:
    """Go to every page that links lead to, and to UNLINKED; yield the address of each while it is shown."""
    waiting, seen = ["/", *UNLINKED], set[str]()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        page.goto(path)
        yield path
        links = page.locator("a[href]").evaluate_all("links => links.map(link => link.getAttribute('href'))")
        waiting += [link.partition("#")[0] for link in links if not link.startswith("#")]
    assert len(seen) > 12, f"the navigation leads to {sorted(seen)} only"


@scripts_or_none
def test_every_page_is_in_order_and_fits_a_phone_light_and_dark(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts, viewport=PHONE)
    page.goto("/login")
    sign_in(page, PASSWORD)
    expect_path(page, "/account")
    page.goto(NAME_10_000)
    page.wait_for_url("**/hello")
    for path in every_page(page):
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        assert page.title().strip(" –") and page.locator("html").get_attribute("lang") == "en"
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            width = page.locator("html").evaluate("html => html.scrollWidth")
            assert width <= PHONE["width"], f"{path} is {width} pixels wide ({scheme})"
            backgrounds.add(page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor"))
        assert len(backgrounds) == 2, f"{path} looks the same, light and dark"


def test_every_page_of_a_stranger_is_in_order_fits_a_phone_and_is_light(new_page: NewPage) -> None:
    page, weight = new_page(viewport=PHONE), dict[str, int]()
    page.on("response", lambda response: weight.update({response.url: size_of(response)}))
    for path in every_page(page):
        assert sum(weight.values()) <= MOST, (path, weight)
        weight.clear()
        assert page.locator("html").evaluate("html => html.scrollWidth") <= PHONE["width"], path
        unnamed = page.locator("input:not([type=hidden], [hidden])").evaluate_all(
            "all => all.filter(i => !i.labels.length)"
        )
        ids = page.locator("[id]").evaluate_all("all => all.map(element => element.id)")
        assert unnamed == [] and len(ids) == len(set(ids)), path


def size_of(response: Response) -> int:
    """The length that an answer says it has; an unchanged file that the browser had already is as long as it was."""
    return int(response.headers.get("content-length", 0))


# --- with the keyboard alone ------------------------------------------------------------------------------------------


def test_the_skip_link_comes_first_and_leads_to_the_page(page: Page) -> None:
    page.goto("/name")
    skip = page.get_by_role("link", name="Skip to the page")
    page.keyboard.press("Tab")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("First name")).to_be_focused()


def test_signing_in_and_out_with_the_keyboard(page: Page) -> None:
    page.goto("/login")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the skip link
    page.keyboard.press("Tab")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_label("Stay signed in on this computer")).to_be_checked()
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="Sign in")
    expect(button).to_be_focused()
    assert button.evaluate("b => b.matches(':focus-visible') && getComputedStyle(b).outlineStyle != 'none'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/account")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for name in ("Your devices", "Change your password", "Second factor"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name=name)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Sign out")).to_be_focused()
    page.keyboard.press("Space")
    page.wait_for_url("**/")
