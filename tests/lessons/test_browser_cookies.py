"""/cookie/set and /cookie/read in Chromium: what they say of a cookie is what the browser makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from lessons.attributes.page import DEMOS
from tests.support.balancer import Balancer
from tests.support.chromium import OTHER_HOST, expect, press, watch
from tests.support.process import ROOT
from tests.support.site import Site
from web import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Browsers compare the prefixes without case; __HostHttp- is of a draft, and promises nothing any more.
PROMISING = ["__Host-tea", "__host-tea", "__HOST-Tea", "__Secure-tea", "__sEcUrE-tea", "__Http-tea", "__HTTP-tea",
             "__Host-Http-tea", "__host-HTTP-tea"]  # fmt: skip
OTHERS = ["tea", "__Hostile", "__HostHttp-tea", "Host-tea", "_Secure-tea"]


@pytest.fixture(scope="module")
def by_https() -> Iterator[str]:
    """The address of the site in production, behind a balancer that ends TLS."""
    config = settings.read(ROOT / "deploy" / "behind-proxy.conf")
    with Site("ram", args=["--production"], config=config) as site, Balancer(site.port, site.port) as balancer:
        yield f"https://{OTHER_HOST}:{balancer.port}"


@pytest.fixture(params=["this machine", "http", "https"])
def place(request: pytest.FixtureRequest, site: Site) -> str:
    """The address of the site: as this machine, as another one by plain http, and by https."""
    if request.param == "https":
        return str(request.getfixturevalue("by_https"))
    return site.url if request.param == "this machine" else f"http://{OTHER_HOST}:{site.port}"


@pytest.fixture
def here(browser: Browser, place: str) -> Iterator[Page]:
    """A page of a new browser profile, to go to this place."""
    trouble: list[str] = []
    with browser.new_context(base_url=place, ignore_https_errors=True) as context:
        watch(context, urlsplit(place).netloc, trouble)
        yield context.new_page()
    # By plain http from elsewhere Chromium says on each page that it does not look at this header.
    assert [line for line in trouble if "Cross-Origin-Opener-Policy header has been ignored" not in line] == []


def kept(page: Page) -> set[str]:
    return {cookie["name"] for cookie in page.context.cookies()}


def test_the_page_says_where_the_browser_may_refuse_a_cookie_and_each_that_is_kept_can_be_deleted(
    here: Page, place: str
) -> None:
    for name in PROMISING + OTHERS:
        here.goto(f"/cookie/set?name={name}")
        warned = bool(here.get_by_text("your browser refuses it").count())
        assert (name in kept(here)) == (name in OTHERS or "https" in place or OTHER_HOST not in place), name
        assert warned == (name in PROMISING and "https" not in place), name
        assert here.title().startswith("Cookie sent" if warned else "Cookie set"), name
        assert bool(here.get_by_text("keeps the note for an hour").count()) != warned, name
    here.get_by_role("link", name="Read it back").click()
    delete_all(here, len(kept(here)))
    assert kept(here) == set()


def delete_all(page: Page, count: int) -> None:
    buttons = page.get_by_role("button", name="Delete")
    for left in reversed(range(count)):
        buttons.first.click()
        expect(buttons).to_have_count(left)


def test_a_secure_cookie_of_another_program_can_be_deleted(here: Page, place: str) -> None:
    """One without a prefix, and one that only https could bring."""
    if place.startswith(f"http://{OTHER_HOST}"):
        return  # the browser does not send it there
    for name in ("token", "__Host-token", "__SECURE-token"):
        here.context.add_cookies([{"name": name, "value": "1", "url": place.replace("http:", "https:")}])
    here.goto("/cookie/read")
    delete_all(here, 3)
    assert kept(here) == set()


def test_the_cookies_of_the_attributes_are_kept_and_cleared_as_their_table_says(here: Page, place: str) -> None:
    refused = {"demo_domain", "demo_none", "__Host-refused"}
    if place.startswith(f"http://{OTHER_HOST}"):
        refused |= {"demo_secure", "__Host-demo"}
    here.goto("/cookie/attributes")
    press(here, "Set them all")
    expect(here.locator(".demos tbody tr td:nth-child(2)").first).to_have_text("yes")
    assert kept(here) == {*DEMOS, "demo_set"} - refused
    press(here, "Clear them all")
    expect(here.locator(".demos tbody").get_by_role("button", name="Set")).to_have_count(len(DEMOS))
    assert kept(here) == set()


@pytest.mark.parametrize("length", [4086, 4087])
def test_a_cookie_too_long_for_the_browser_is_refused_by_the_site(page: Page, length: int) -> None:
    answer = page.goto(f"/cookie/set?value={'x' * length}")
    assert answer is not None
    assert (answer.status, kept(page)) == ((200, {"cookieName"}) if length == 4086 else (400, set()))


@pytest.mark.parametrize("value", ["__Host-tea", "__Host-tea=1", "=__Secure-tea"])
def test_a_value_that_looks_like_a_prefix_is_a_value(page: Page, value: str) -> None:
    answer = page.goto(f"/cookie/set?name=&value={quote(value)}")
    assert answer is not None and answer.status == 400 and kept(page) == set()
    page.goto(f"/cookie/set?value={quote(value)}")
    page.goto("/cookie/read")
    expect(page.get_by_role("listitem").filter(has_text=f"name: cookieName, value: {value}")).to_have_count(1)
