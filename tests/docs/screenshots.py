"""The pictures of the README, taken from the running site: make screenshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import PASSWORD
from tests.support.chromium import chromium, press, sign_in
from tests.support.client import Client
from tests.support.process import ROOT
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = ROOT / "docs" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 940}, {"width": 390, "height": 844}
USUAL = "http://127.0.0.1:8080"  # the address in the pictures; the port they are taken from is any free one
COMPUTER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
TELEPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)
MAX_BYTES = 150_000  # of a picture: a README should load quickly, and a repository keeps every version

RENAME = "(all, [from, to]) => all.forEach(code => { code.textContent = code.textContent.replaceAll(from, to); })"


def tour(page: Page) -> None:
    """Show the tour."""
    page.goto("/")


def cookies(page: Page) -> None:
    """Show a list of two cookies."""
    page.goto("/counter")
    page.goto("/cookie/set")
    page.goto("/cookie/read")


def counter(page: Page) -> None:
    """Show the counter at 3."""
    for _ in range(3):
        page.goto("/counter")


def xray(page: Page) -> None:
    """Show what the third visit to the counter did."""
    counter(page)
    page.get_by_text("X-ray of this request").click()
    page.get_by_text("X-ray of this request").evaluate("summary => summary.scrollIntoView()")


def login(page: Page) -> None:
    """Show the form to sign in."""
    page.goto("/login")


def account(page: Page) -> None:
    """Show the account of somebody who has signed in."""
    page.goto("/login")
    sign_in(page, PASSWORD)
    page.wait_for_url("**/account")


def devices(page: Page) -> None:
    """Show that the account is signed in here and on a phone, and nowhere else."""
    account(page)
    url = page.url.removesuffix("/account")
    phone = Client(url, headers={"User-Agent": TELEPHONE})
    phone.post("/login", {"username": "ada", "password": PASSWORD})
    page.goto("/account/sessions")
    press(page, "End all others")
    page.get_by_text("You are signed in on this device only.").wait_for()
    phone.post("/login", {"username": "ada", "password": PASSWORD})
    page.reload()


def backends(page: Page) -> None:
    """Show the backends side by side."""
    page.goto("/backends")


def race(page: Page) -> None:
    """Show what came of ten requests at once that lock in two blocks."""
    page.goto("/lab/race")
    page.get_by_label("Two blocks").check()
    page.get_by_label("How many at once?").fill("10")
    page.get_by_label("Say first").fill("10")
    with page.expect_navigation():
        press(page, "Send them all")
    page.locator(".chart").wait_for()


PICTURES: list[tuple[Callable[[Page], None], dict[str, int], str]] = [
    *((show, DESKTOP, "") for show in (tour, cookies, counter, xray, login, account, devices, backends, race)),
    *((show, PHONE, "-phone") for show in (tour, counter)),
]


def take(browser: Browser, url: str, folder: Path) -> list[Path]:
    """Take each picture in light and dark, and return the files; AssertionError when one has grown too big."""
    files = []
    for show, viewport, suffix in PICTURES:
        for scheme in ("light", "dark"):
            page = browser.new_page(
                base_url=url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce", user_agent=COMPUTER
            )
            show(page)
            page.locator("code").evaluate_all(RENAME, [url, USUAL])
            files.append(folder / f"{show.__name__}{suffix}-{scheme}.png")
            page.screenshot(path=files[-1])
            page.close()
            if files[-1].stat().st_size > MAX_BYTES:
                raise AssertionError(f"{files[-1]} has more than {MAX_BYTES} bytes")
    return files


def main() -> None:
    """Start the site, take the pictures and say where they are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site, chromium() as browser:
        for file in take(browser, site.url, FOLDER):
            print(f"{file.relative_to(ROOT)}  {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
