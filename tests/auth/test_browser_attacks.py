"""Attacks that need a victim's browser, in a real one: another site sends forms, fetches, frames and links to this one.

The other site is a small server of the tests on a port of its own. Under the name localhost it is another site to the
browser (Sec-Fetch-Site: cross-site); under 127.0.0.1 it is another origin of the same site, which gets the cookies.
"""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.conftest import PASSWORD
from tests.support.chromium import expect, keep, press, sign_in
from tests.support.site import Site, mounted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTS = ["localhost", "127.0.0.1"]
NEW = "what Mallory would choose"
FORMS = {
    "/logout": {},
    "/counter/reset": {},
    "/cookie/delete": {"name": "session_id"},
    "/name": {"first": "Mallory", "last": "M"},
    "/login": {"username": "ada", "password": PASSWORD},
    "/account/password": {"current": PASSWORD, "new": NEW, "again": NEW, "end_others": "1"},
    "/account/sessions": {"end": "others"},
    "/account/second-factor": {"do": "begin"},
    "/login/code": {"cancel": "yes"},
}
FORMS = {path: FORMS[path] for path in mounted(FORMS)}
# What each page of the other site does with the address that it is given.
PAGES = {
    "/form": '<form method="post" action="{url}">{fields}<button>Win a prize</button></form>',
    "/frame": '<iframe src="{url}"></iframe>',
    "/image": '<img src="{url}" alt="">',
    "/link": '<a href="{url}">Win a prize</a>',
    "/empty": "",
}


class Handler(BaseHTTPRequestHandler):
    """Answers GET /form?url=...&name=value with that page of PAGES."""

    def do_GET(self) -> None:
        """Send the page."""
        parts = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        url = html.escape(given.pop("url", ""))
        inputs = (f'<input type="hidden" name="{name}" value="{html.escape(v)}">' for name, v in given.items())
        page = PAGES[parts.path].format(url=url, fields="".join(inputs))
        body = f"<!doctype html><title>Prizes</title><link rel=icon href=data:,>{page}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of the other site."""
    with ThreadingHTTPServer(("", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(params=HOSTS)
def evil(request: pytest.FixtureRequest, port: int) -> str:
    """The address of the other site."""
    return f"http://{request.param}:{port}"


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of a browser in which nobody is signed in. What it tells the console is not watched: refusals belong."""
    with browser.new_context(base_url=site.url) as context:
        yield context.new_page()
        keep(context)


@pytest.fixture
def victim(page: Page) -> Page:
    """A page of a browser in which ada is signed in and has visited the counter once."""
    page.goto("/login?next=/counter")
    sign_in(page, PASSWORD)
    expect(page.locator(".digits")).to_have_text("1")
    return page


def ask(page: Page, path: str) -> dict[str, object]:
    """Return what the site answers this browser in JSON."""
    answer: dict[str, object] = page.context.request.get(path, headers={"Accept": "application/json"}).json()
    return answer


def assert_unharmed(victim: Page, visits: int = 2) -> None:
    """Raise AssertionError unless ada is signed in with the session and the name that she had."""
    assert ask(victim, "/account")["user"] == "ada"
    assert ask(victim, "/counter")["count"] == visits
    assert ask(victim, "/hello")["first"] == ""


def test_a_form_of_another_site_changes_nothing(victim: Page, evil: str, site: Site) -> None:
    """Cross-site request forgery, and signing the victim in as somebody else (ASVS 3.5.1)."""
    before = victim.context.cookies(site.url)
    for path, fields in FORMS.items():
        form = "".join(f"&{name}={quote(value)}" for name, value in fields.items())
        victim.goto(f"{evil}/form?url={site.url}{path}{form}")
        with victim.expect_navigation() as navigation:
            victim.get_by_role("button").click()
        assert navigation.value.status == 403, path
        expect(victim.get_by_role("heading", level=1)).to_have_text("That is not allowed")
    assert victim.context.cookies(site.url) == before
    assert_unharmed(victim)


def test_another_site_cannot_sign_a_stranger_in(page: Page, evil: str, site: Site) -> None:
    """Login CSRF: the victim would go on in an account of the attacker (ASVS 3.5.1)."""
    page.goto(f"{evil}/form?url={site.url}/login&username=ada&password={quote(PASSWORD)}")
    with page.expect_navigation() as navigation:
        page.get_by_role("button").click()
    assert navigation.value.status == 403
    assert page.context.cookies(site.url) == []


def test_a_script_of_another_site_changes_and_reads_nothing(victim: Page, evil: str, site: Site) -> None:
    """fetch() with the victim's cookies, in every mode that needs no consent of the site (ASVS 3.4.2, 3.5.1, 3.5.2)."""
    victim.goto(f"{evil}/empty")
    script = """async ([url, body, mode, type]) => {
        try {
            const options = {method: body === null ? "GET" : "POST", body, mode, credentials: "include"};
            if (type) options.headers = {"Content-Type": type};
            const answer = await fetch(url, options);
            return await answer.text();
        } catch (error) {
            return "";
        }
    }"""
    for path, fields in FORMS.items():
        body = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        for mode in ("no-cors", "cors"):
            for type in ("application/x-www-form-urlencoded", "text/plain"):
                assert victim.evaluate(script, [site.url + path, body, mode, type]) == ""
        json_type = "application/json"
        assert victim.evaluate(script, [site.url + path, json.dumps(fields), "cors", json_type]) == ""
    for path in ("/account", "/account/sessions", "/counter"):
        assert victim.evaluate(script, [f"{site.url}{path}?as=read", None, "cors", ""]) == ""
    assert ask(victim, "/account")["user"] == "ada"
    assert ask(victim, "/hello")["first"] == ""


def test_links_and_images_of_another_site_change_nothing(victim: Page, evil: str, site: Site) -> None:
    """No state changes on GET, whoever asks for it (ASVS 3.5.3)."""
    refused = {"/logout": 405, "/counter/reset": 405, "/cookie/delete?name=session_id": 405}
    lessons = {"/name?first=Evil&last=Link": 200, "/cookie/set?name=evil&value=1": 403}  # 200: the form, filled in
    for path, status in ((path, (refused | lessons)[path]) for path in mounted(refused | lessons)):
        with victim.expect_request(lambda request: request.resource_type == "image") as request:
            victim.goto(f"{evil}/image?url={site.url}{quote(path)}")  # which loads the image before it returns
        assert request.value.url == site.url + path
        victim.goto(f"{evil}/link?url={site.url}{quote(path)}")
        with victim.expect_navigation() as navigation:
            victim.get_by_role("link").click()
        assert navigation.value.status == status
    assert_unharmed(victim)
    victim.goto(f"{site.url}/hello")
    assert "Evil" not in victim.content()
    assert "evil" not in [cookie["name"] for cookie in victim.context.cookies()]


def test_another_site_cannot_put_a_page_into_a_frame(victim: Page, evil: str, site: Site) -> None:
    """Clickjacking: the browser refuses by frame-ancestors (ASVS 3.4.6)."""
    for path in ("/", "/login", "/account", "/nothing", "/static/style.css"):
        with victim.expect_console_message(lambda message: "frame-ancestors" in message.text):
            victim.goto(f"{evil}/frame?url={site.url}{path}")
        [frame] = victim.frames[1:]
        assert not frame.url.startswith(site.url)
        assert frame.get_by_role("heading").count() == 0


def test_another_site_that_opens_a_window_cannot_reach_into_it(victim: Page, evil: str, site: Site) -> None:
    """Cross-Origin-Opener-Policy cuts the window off (ASVS 3.4.8)."""
    victim.goto(f"{evil}/empty")
    with victim.expect_popup() as popup:
        victim.evaluate("url => { window.opened = window.open(url); }", f"{site.url}/account")
    expect(popup.value.get_by_role("heading", level=1)).to_be_visible()
    assert popup.value.evaluate("window.opener") is None
    victim.wait_for_function("window.opened.closed")


def test_the_same_forms_of_the_site_itself_work(victim: Page) -> None:
    """What is refused to others is not refused to everybody."""
    press(victim, "Start over")
    expect(victim.locator(".digits")).to_have_text("1")
    victim.goto("/login")
    press(victim, "Sign out")
    assert ask(victim, "/login")["user"] is None
