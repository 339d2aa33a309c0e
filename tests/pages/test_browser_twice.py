"""A double click, in Chromium: a form is sent once where scripts run, and twice does no harm where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.conftest import PASSWORD, every_profile, opening, scripts_or_none
from tests.support.backends import environment_of
from tests.support.chromium import NewPage, expect, expect_path, sign_in
from tests.support.client import JSON, Client
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

TRIES = 5
CHANGED = "Your password was changed."


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("main").get_by_role("button", name=name, exact=True)


def double_click(page: Page, name: str) -> None:
    """Press a button of the page twice at once, as many people do. Chromium itself may send the form once only."""
    button(page, name).dblclick()


def click_twice(page: Page, button: Locator) -> None:
    """Press a button again when its form is under way: one that leaves the page there for a while, as a hash does."""
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    with page.expect_request(lambda request: request.method == "POST"):
        page.mouse.click(*place)
    page.mouse.click(*place)


def fill(page: Page, **fields: str) -> None:
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)


def sent(page: Page) -> list[str]:
    """The paths that this page sends forms to from now on."""
    found: list[str] = []
    page.on("request", lambda request: request.method == "POST" and found.append(urlsplit(request.url).path))
    return found


def a_visitor(page: Page) -> None:
    """Let somebody come who has a count of 3 and a name."""
    for _ in range(3):
        page.context.request.get("/counter")
    page.context.request.get("/name?first=Grace&last=Hopper")


def assert_all_kept(page: Page) -> None:
    """Look, as the same visitor, whether all of it is there, and who is signed in."""
    answers = [page.context.request.get(path, headers=JSON).json() for path in ("/counter", "/hello", "/account")]
    assert answers == [{"count": 4}, {"first": "Grace", "last": "Hopper"}, {"user": "ada"}]


# --- signing in and out -----------------------------------------------------------------------------------------------


@scripts_or_none
def test_a_double_click_on_sign_in_keeps_what_the_visitor_had_in_each_of_five_tries(
    new_page: NewPage, scripts: bool
) -> None:
    for _ in range(TRIES):
        signs_in_by_double_click(new_page(java_script_enabled=scripts), scripts)


@every_profile
def test_a_double_click_on_sign_in_keeps_what_the_visitor_had_wherever_it_is(new_page: NewPage) -> None:
    signs_in_by_double_click(new_page(java_script_enabled=False), scripts=False)


def signs_in_by_double_click(page: Page, scripts: bool) -> None:
    a_visitor(page)
    page.goto("/login")
    fill(page, User_name="ada", Password=PASSWORD)
    forms = sent(page)
    click_twice(page, button(page, "Sign in"))
    expect_path(page, "/account")
    assert forms == ["/login"] * (1 if scripts else 2)
    assert_all_kept(page)


@scripts_or_none
def test_a_double_click_on_sign_out_signs_out(new_page: NewPage, scripts: bool) -> None:
    page = new_page(java_script_enabled=scripts)
    page.goto("/login")
    sign_in(page, PASSWORD)
    expect_path(page, "/account")
    forms = sent(page)
    double_click(page, "Sign out")
    expect_path(page, "/")
    assert forms == ["/logout"] or not scripts
    page.goto("/account")
    expect_path(page, "/login?next=/account")


# --- a new password, and other devices --------------------------------------------------------------------------------


@pytest.fixture
def own_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site of one test, whose password it changes, with this profile."""
    with Site(request.param, env={"DEMO_PASSWORD": PASSWORD, **environment_of(request.param)}) as site:
        yield site


@pytest.fixture
def open_page(browser: Browser, own_site: Site) -> Iterator[NewPage]:
    """A function that opens a page of that site."""
    with opening(browser, own_site) as new:
        yield new


# Where a session moves, and where its cookie is the session.
@pytest.mark.parametrize(
    ("own_site", "scripts"), [("file", True), ("file", False), ("cookie", False)], indirect=["own_site"]
)
def test_a_password_form_that_is_sent_twice_says_that_the_password_was_changed(
    open_page: NewPage, own_site: Site, scripts: bool
) -> None:
    passwords = [PASSWORD, "a purple umbrella over 9 teapots", "a teapot over 9 purple umbrellas"]
    for old, new, ends_others in zip(passwords, passwords[1:], (True, False), strict=False):
        page = open_page(java_script_enabled=scripts)
        a_visitor(page)
        page.goto("/login?next=/account/password")
        page.get_by_label("Stay signed in").check()
        sign_in(page, old)
        expect_path(page, "/account/password")
        fill(page, Current_password=old, New_password=new, New_password_again=new)
        page.get_by_label("Sign out everywhere else").set_checked(ends_others)
        forms = sent(page)
        click_twice(page, button(page, "Change the password"))
        expect(page.get_by_role("status")).to_have_text(CHANGED)
        expect_path(page, "/account")
        assert forms == ["/account/password"] * (1 if scripts else 2)
        [cookie] = [cookie for cookie in page.context.cookies() if cookie["name"] == "session_id"]
        assert cookie["expires"] > 0, "the visitor asked to stay signed in"
        page.reload()
        expect(page.get_by_role("status")).to_have_count(0)
        assert_all_kept(page)
        assert Client(own_site.url).post("/login", {"username": "ada", "password": new}).status == 303


def test_a_form_that_ends_a_session_and_is_sent_twice_leads_to_the_list(new_page: NewPage) -> None:
    desk, phone = new_page(java_script_enabled=False), new_page(user_agent="curl/8.5.0")
    for page in (desk, phone):
        page.goto("/login?next=/account/sessions")
        sign_in(page, PASSWORD)
        expect_path(page, "/account/sessions")
    number = phone.locator(".number").first.inner_text().split()[-1]
    desk.reload()
    other = desk.get_by_role("listitem").filter(has_text=number)
    click_twice(desk, other.get_by_role("button", name="End"))
    expect(other).to_have_count(0)
    expect_path(desk, "/account/sessions")
    phone.goto("/account")
    expect_path(phone, "/login?next=/account")


# --- forms of everybody -----------------------------------------------------------------------------------------------


def name(page: Page) -> None:
    page.goto("/name")
    fill(page, First_name="Grace", Last_name="Hopper")
    double_click(page, "Keep my name")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Grace Hopper")


def reset(page: Page) -> None:
    page.goto("/counter")
    page.goto("/counter")
    double_click(page, "Start over")
    expect(page.locator(".digits")).to_have_text("1")


@scripts_or_none
def test_a_form_that_is_sent_twice_does_what_it_does_once(new_page: NewPage, scripts: bool) -> None:
    for form, clicks in ((name, 1), (reset, 1)):
        page = new_page(java_script_enabled=scripts)
        forms = sent(page)
        form(page)
        assert len(forms) == clicks or not scripts, forms


# --- when it may be sent again ----------------------------------------------------------------------------------------


def test_a_form_whose_answer_leaves_the_page_as_it_is_can_be_sent_again(page: Page) -> None:
    """A download, an empty answer, or one that the visitor did not wait for."""
    page.clock.install()
    page.goto("/counter")
    forms = sent(page)
    page.route("**/counter/reset", lambda route: route.fulfill(status=204))
    with page.expect_response("**/counter/reset"):
        click_twice(page, button(page, "Start over"))
    assert forms == ["/counter/reset"]
    page.unroute("**/counter/reset")
    page.clock.fast_forward(5_000)
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".digits")).to_have_text("1")
    assert forms == ["/counter/reset"] * 2
