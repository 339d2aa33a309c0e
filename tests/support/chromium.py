"""Debian's Chromium, driven by Playwright, for the browser tests and the screenshots."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.support import leaks

try:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # milliseconds: a busy machine hashes two passwords for longer than five seconds
except ImportError:  # chromium() says so, as the failure of each test that needs it
    expect = sync_playwright = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, Request

__all__ = [
    "LIGHT", "OTHER_HOST", "WHOLE", "MissingError", "NewPage", "arguments", "chromium", "expect", "expect_path", "keep",
    "launched", "press", "program", "sign_in", "watch",
]  # fmt: skip

# Debian's Chromium built without windows: its processes start, and show a page, in half the time or less. It keeps no
# page for the back button to show, as the whole one does.
LIGHT = "/usr/bin/chromium-headless-shell"
WHOLE = "/usr/bin/chromium"

OTHER_HOST = "site.test"  # leads here as well, and is no name of this machine: browsers trust such a one by https alone

NewPage = Callable[..., "Page"]  # called with options of Playwright's new_context


class MissingError(RuntimeError):
    """Something that the browser tests need is not there; the message says how to install it."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser of most tests, and end it afterwards. Raises MissingError."""
    if sync_playwright is None:
        raise MissingError("Playwright is missing; pip install -r requirements-dev.txt installs it")
    program(LIGHT)  # before Playwright starts, of which there can be one only
    sys.audit("subprocess.Popen")  # as it is about to do in an event loop, where a skip would get lost
    with sync_playwright() as playwright, launched(playwright.chromium, LIGHT) as browser:
        yield browser


@contextmanager
def launched(kind: BrowserType, path: str) -> Iterator[Browser]:
    """Start this browser, unless CHROMIUM names another, and end it afterwards. Raises MissingError."""
    # Playwright switches the cache off that a browser's back button shows pages from; visitors have it.
    browser = kind.launch(
        executable_path=program(path), args=arguments(), ignore_default_args=["--disable-back-forward-cache"]
    )
    try:
        yield browser
    finally:
        browser.close()


def arguments() -> list[str]:
    """Return the options with which a browser of the tests is started."""
    options = ["--disable-background-networking", f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1"]
    return [*options, "--no-sandbox"] if os.geteuid() == 0 else options  # root has no sandbox to go into


def program(path: str) -> str:
    """Return this program, or the one that CHROMIUM names. Raises MissingError."""
    path = os.environ.get("CHROMIUM") or path
    if not shutil.which(path):
        raise MissingError(f"there is no browser at {path}; install it with apt-get install chromium "
                           "chromium-headless-shell, or name another in the environment variable CHROMIUM")  # fmt: skip
    return path


def watch(context: BrowserContext, host: str, trouble: list[str]) -> None:
    """Note in `trouble` what goes wrong on any page of a browser profile without a visitor seeing it."""

    def console(message: Any) -> None:
        # Chromium reports the status of an error page itself, as an error of the page that it is.
        leaks.recorder.wrote("console", message.text)
        own = message.location["url"] == message.page.url and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not own:
            trouble.append(f"{message.page.url}: {message.type}: {message.text}")

    def request(request: Request) -> None:
        leaks.recorder.wrote("address", request.url)
        leaks.recorder.sent((), request.post_data_buffer)
        if urlsplit(request.url).netloc != host:
            trouble.append(f"a request went to {request.url}")

    context.on("console", console)
    context.on("weberror", lambda error: trouble.append(f"{error.page.url}: {error.error}"))
    context.on("request", request)


def keep(context: BrowserContext) -> None:
    """Keep for the search for secrets what a browser profile shows at the end of a test, and its session cookies."""
    for page in context.pages:
        leaks.recorder.wrote("page", page.content())
    for cookie in context.cookies():
        leaks.recorder.cookie(f"{cookie['name']}={cookie['value']}")


def sign_in(page: Page, password: str) -> None:
    """Fill in the login form that is shown, and send it."""
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


def press(page: Page, name: str) -> None:
    """Press a button of the page."""
    page.get_by_role("main").get_by_role("button", name=name, exact=True).click()


def expect_path(page: Page, path: str) -> None:
    """Wait until the address is this one, whatever it has to say there."""
    expect(page).to_have_url(re.compile(rf"^https?://[^/]+{re.escape(path)}$"))
