"""What the package says of cookies that browsers refuse is what Chromium does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from sessions.backends.ram import RamSession
from sessions.options import parse

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

HTTP = [
    ("app.example.org", {"domain": "example.org"}), ("app.example.org", {"domain": ".Example.ORG"}),
    ("app.example.org", {"domain": "app.example.org"}), ("example.org", {"domain": "app.example.org"}),
    ("app.example.org", {"domain": "example.com"}), ("app.example.org", {"domain": "org"}),
    ("app.example.org", {"domain": "ample.org"}), ("localhost", {"domain": "localhost"}),
    ("app.localhost", {"domain": "localhost"}), ("intranet", {"domain": "intranet"}),
    ("app.intranet", {"domain": "intranet"}), ("127.0.0.1", {"domain": "127.0.0.1"}),
    ("127.0.0.1", {"domain": "0.0.1"}), ("example.org", {"samesite": "None"}), ("example.org", {"secure": True}),
    ("example.org", {}),
]  # fmt: skip
HTTPS: list[tuple[str, dict[str, Any]]] = [
    ("example.org", {"samesite": "None"}), ("example.org", {"secure": True, "name": "__Host-Http-sid"}),
]  # fmt: skip


def answering(headers: dict[str, str]) -> Callable[[Route], None]:
    return lambda route: route.fulfill(body="", headers=headers)


@pytest.mark.parametrize(("scheme", "cases"), [("http", HTTP), ("https", HTTPS)])
def test_a_browser_keeps_the_cookie_unless_the_package_says_that_it_does_not(
    browser: Browser, scheme: str, cases: list[tuple[str, dict[str, Any]]]
) -> None:
    for host, options in cases:
        settings = parse(options, RamSession)
        line = f"{settings.name}=1; Path=/; HttpOnly; SameSite={settings.samesite}"
        line += f"; Domain={settings.domain}" if settings.domain else ""
        line += "; Secure" if settings.secure is True or scheme == "https" else ""
        context = browser.new_context()
        try:
            page = context.new_page()
            page.route("**/*", answering({"Set-Cookie": line}))
            page.goto(f"{scheme}://{host}/")
            refused = [why for _, why in settings.refusals(f"{scheme}://{host}")]
            assert len(context.cookies()) == (not refused), (host, options, refused)
        finally:
            context.close()
