"""The started site, with the default profile or one that a test asks for; visitors to it, by HTTP and in a browser."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sessions.registry import backend
from tests.support import leaks
from tests.support.backends import BACKENDS, environment_of
from tests.support.chromium import NewPage, chromium, keep, watch
from tests.support.client import CheckedClient, new_address
from tests.support.process import LESSONS, MOUNTED, ROOT
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROFILE = "file"  # the pages know of no difference; test_profiles.py and every_profile have them all
PASSWORD = "correct horse battery staple"  # noqa: S105 - made up here, and given to the site as its demo account's

# The tests of what has been deleted, or does not go along into a site of one's own.
collect_ignore = [part for part in ("bench", "docs", "examples", "lab", "lessons") if not (ROOT / part).is_dir()]
collect_ignore += [] if LESSONS else ["web/test_new.py"]
_NUMBERS = itertools.count()
every_profile = pytest.mark.parametrize("profile", BACKENDS, indirect=True)
# What a page does without scripts is the same wherever the sessions are kept.
every_profile_and_one_without_scripts = pytest.mark.parametrize(
    ("profile", "scripts"),
    [*((name, True) for name in BACKENDS), (PROFILE, False)],
    indirect=["profile"],
    ids=[*BACKENDS, f"{PROFILE}-no-scripts"],
)
scripts_or_none = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])


def survives_restart(profile: str) -> bool:
    """Return whether the sessions of a profile are there again after the site was restarted."""
    return backend(profile).store_class.capabilities.survives_restart


@pytest.fixture(scope="session", autouse=True)
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sites in this process have their users: never among those of the project."""
    place = tmp_path_factory.mktemp("users")
    os.environ["USERS_URL"] = f"sqlite:///{place}/users.sqlite"
    return place


@pytest.fixture(autouse=True)
def users_of_this_test(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERS_URL", f"sqlite:///{users}/{next(_NUMBERS)}.sqlite")


@pytest.fixture(scope="session", params=[PROFILE])
def profile(request: pytest.FixtureRequest) -> str:
    """The name of a profile; a test may ask for others."""
    return str(request.param)


@pytest.fixture(scope="session")
def site(profile: str) -> Iterator[Site]:
    """The site with this profile; all tests share it, and each is a visitor of its own."""
    with Site(profile, env={"DEMO_PASSWORD": PASSWORD, **environment_of(profile)}) as site:
        yield site


@pytest.fixture
def visitor(site: Site) -> CheckedClient:
    """Somebody who has never been here, from an address of their own."""
    return CheckedClient(site.url, address=new_address())


@pytest.fixture
def known(visitor: CheckedClient) -> CheckedClient:
    """Somebody with a session, whose count is 1."""
    assert visitor.count() == 1
    return visitor


@pytest.fixture
def ada(visitor: CheckedClient) -> CheckedClient:
    """Somebody who is signed in."""
    assert visitor.sign_in(PASSWORD).status == 303
    return visitor


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of all tests but those that need the whole one."""
    with chromium() as browser:
        yield browser


@contextmanager
def opening(browser: Browser, site: Site) -> Iterator[NewPage]:
    """Return a function that opens a page in a browser profile of its own, with options of Playwright's new_context.

    What goes wrong on it unnoticed fails the test: an error on the console, a failed script, a request to another host.
    """
    with ExitStack() as stack:
        trouble: list[str] = []

        def new(**options: Any) -> Page:
            context = stack.enter_context(browser.new_context(base_url=site.url, **options))
            watch(context, urlsplit(site.url).netloc, trouble)
            stack.callback(keep, context)
            return context.new_page()

        yield new
        assert trouble == []


@pytest.fixture
def new_page(browser: Browser, site: Site) -> Iterator[NewPage]:
    """A function that opens a page, see `opening`."""
    with opening(browser, site) as new:
        yield new


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """An empty page in a new browser profile."""
    return new_page()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make test`."""
    parser.addoption("--all", action="store_true", help="also run what starts a program: a site, a server, a browser")


def skip_programs(event: str, _: tuple[Any, ...]) -> None:
    """Skip the test that is about to start a program."""
    if event == "subprocess.Popen":
        pytest.skip("it starts a program, which `make test` and `pytest --all` do")


def pytest_configure() -> None:
    """Let `timeout` and CI end a run as Ctrl-C does: SIGTERM alone would leave the servers of the tests running.

    And keep what this process itself logs for the search for secrets, like what the sites log.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(MOUNTED)
    logging.getLogger().addHandler(leaks.Keep())


@pytest.fixture(scope="session", autouse=True)
def programs_or_none(pytestconfig: pytest.Config) -> None:
    """Let tests start programs only when they were asked for: what is left takes two minutes."""
    if not pytestconfig.getoption("--all"):
        sys.addaudithook(skip_programs)


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Search all that the tests of this process wrote for passwords and ids, when the last one has ended."""
    yield
    assert "\n".join(leaks.recorder.leaks()) == ""
