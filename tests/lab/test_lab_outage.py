"""The experiment /lab/outage: a server that stands still, what a visitor sees, and that it goes on whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sessions
from lab import pause
from lab.listening import NotOurs, servers_at
from lab.outage import PATH
from lab.pause import PauseError, paused, state
from services import account, free_port
from sessions.codec import decode
from sessions.events import unsubscribe
from tests.lab.laboratory import Laboratory, laboratory
from tests.pages.test_browser_access import ALL, violations
from tests.support.backends import environment_of, memcached, postgresql, redis
from tests.support.chromium import expect, press
from tests.support.client import JSON, Client
from tests.support.process import wait_until
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

SERVERS = {
    "memcached": lambda: memcached().address,
    "postgresql": lambda: f"127.0.0.1:{postgresql().port}",
    "redis": lambda: redis().address,
}
every_server = pytest.mark.parametrize("profile", SERVERS)


def processes_of(profile: str) -> list[int]:
    return [number for pid in servers_at(SERVERS[profile]()) for number in (pid, *pause.descendants(pid))]


def stands_still(profile: str) -> bool:
    return all(state(pid) == "T" for pid in processes_of(profile))


def runs(profile: str) -> bool:
    return not any(state(pid) == "T" for pid in processes_of(profile))


@pytest.fixture
def here(profile: str, tmp_path: Path) -> Iterator[Laboratory]:
    with laboratory(profile, tmp_path) as here:
        yield here


# --- the experiment ---------------------------------------------------------------------------------------------------


@every_server
def test_503s_with_retry_after_and_then_the_session_unharmed_as_the_store_has_it(here: Laboratory) -> None:
    saved: list[str] = []

    def note(event: sessions.Event) -> None:
        if event.name == "saved" and event.key:
            saved.append(event.key)

    sessions.subscribe(note)
    try:
        told = here.visitor.post("/lab/outage", {"seconds": "2"}, **JSON).json
    finally:
        unsubscribe(note)
    refused = [shot for shot in told["shots"] if shot["status"] != 200]
    assert {(shot["status"], shot["cookie_kept"], bool(shot["retry_after"])) for shot in refused} == {(503, True, True)}
    assert all(told["stopped"] < shot["end"] and shot["at"] < told["went_on"] for shot in refused)
    assert len(refused) == told["refused"] >= 2
    assert [shot["count"] for shot in told["shots"] if shot["status"] == 200][:3] == [2, 3, 4], "before the outage"
    store = here.store("lab_outage")
    record = store.load(saved[-1])
    assert len(set(saved)) == 1 and record
    assert decode(record.data)["count"] == told["count"] == told["expected"]
    assert here.visitor.cookies == {}


def test_the_page_shows_it_in_a_browser(page_at: Any) -> None:
    page: Page = page_at("memcached")
    page.goto("/lab/outage")
    press(page, "Stop the server")
    expect(page.get_by_role("heading", name="the session is unharmed")).to_be_focused()
    rows = page.get_by_role("table").get_by_role("row").all_inner_texts()[1:]
    refused = sum("503" in row for row in rows)
    expect(page.get_by_role("heading", name=f"{refused} of {len(rows)} requests were refused")).to_be_visible()
    visits = int(page.locator(".count .digits").nth(1).inner_text())
    assert refused and visits == len(rows) - refused + 2
    assert page.locator("html").evaluate("html => html.scrollWidth") <= 360
    assert violations(page, ALL) == []


@pytest.fixture
def page_at(browser: Any) -> Iterator[Any]:
    """Opens a page of a site with a profile, on a telephone."""
    sites: list[Site] = []

    def open_page(profile: str) -> Any:
        sites.append(Site(profile, env=environment_of(profile)))
        return browser.new_page(base_url=sites[0].url, viewport={"width": 360, "height": 640})

    yield open_page
    for site in sites:
        site.close()


# --- it goes on, whatever happens -------------------------------------------------------------------------------------


@every_server
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_goes_on_when_the_site_ends_meanwhile(profile: str, signum: int) -> None:
    with Site(profile, env=environment_of(profile)) as site:
        asked = threading.Thread(target=cut_off, args=(site,))
        asked.start()
        site.wait_until(lambda: stands_still(profile), "stop the server")
        site.process.send_signal(signum)
        assert site.process.wait(15) == (0 if signum == signal.SIGTERM else -signum)
        wait_until(lambda: runs(profile), "the server goes on")
        asked.join()


def cut_off(site: Site) -> None:
    try:
        assert Client(site.url).post("/lab/outage", {"seconds": "6"}).status == 503
    except OSError:
        pass  # killed
    except Exception as error:  # http.client: the connection was closed without an answer
        assert "closed" in str(error) or "BadStatusLine" in repr(error)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child, of this account."""
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process


def states(process: subprocess.Popen[bytes]) -> set[str]:
    return {"T" if state(pid) == "T" else "runs" for pid in (process.pid, *pause.descendants(process.pid))}


def test_a_process_and_its_children_stand_still_for_a_block(sleeper: subprocess.Popen[bytes]) -> None:
    with paused([sleeper.pid], 9):
        assert states(sleeper) == {"T"}
    assert states(sleeper) == {"runs"}
    with pytest.raises(RuntimeError, match="in the block"), paused([sleeper.pid], 9):
        raise RuntimeError("in the block")
    assert states(sleeper) == {"runs"}


def test_they_go_on_after_their_seconds_even_if_the_block_does_not_end(sleeper: subprocess.Popen[bytes]) -> None:
    with paused([sleeper.pid], -0.9):  # a second is added to it
        assert states(sleeper) == {"T"}
        wait_until(lambda: states(sleeper) == {"runs"}, "go on")


def test_they_go_on_if_the_helper_is_killed(sleeper: subprocess.Popen[bytes]) -> None:
    with paused([sleeper.pid], 9):
        [helper] = [pid for pid in pause.descendants(os.getpid()) if b"pause.py" in command_of(pid)]
        os.kill(helper, signal.SIGKILL)
    assert states(sleeper) == {"runs"}


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_process_that_is_gone_is_an_error() -> None:
    with subprocess.Popen(["true"]) as gone:  # noqa: S607
        pass
    with pytest.raises(PauseError, match="could not be stopped"), paused([gone.pid], 9):
        raise AssertionError("the block was entered")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["file"])
def test_without_a_server_the_page_says_what_to_do_and_stops_nothing(here: Laboratory) -> None:
    shown = here.visitor.get("/lab/outage").text
    assert "keeps its sessions in no server" in shown and "make services" in shown and "Stop the server" not in shown
    answer = here.visitor.post("/lab/outage", {"seconds": "2"}, **JSON)
    assert answer.status == 409 and "no server that could be stopped" in answer.json["error"]


@pytest.mark.parametrize("profile", ["memcached"])
def test_the_seconds_are_bounded_and_the_count_is_no_link(here: Laboratory) -> None:
    for seconds in ("", "7", "-1", "1e9"):
        assert here.visitor.post("/lab/outage", {"seconds": seconds}, **JSON).status == 400
    assert here.visitor.get(PATH).status == 405
    assert runs("memcached")


def test_a_server_elsewhere_or_of_somebody_else_is_not_ours() -> None:
    with pytest.raises(NotOurs, match="another machine"):
        servers_at("192.0.2.1:11211")  # RFC 5737: nobody's
    with pytest.raises(NotOurs, match="No server at"):
        servers_at(f"127.0.0.1:{free_port()}")
    with pytest.raises(NotOurs, match="no address"):
        servers_at("/var/run/postgresql:5432")
    why = "another account" if account() else "listens at"  # root's servers have an account of their own
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.create_server((host, 0), family=family) as mine, pytest.raises(NotOurs, match=why):
            servers_at(f"[{host}]:{mine.getsockname()[1]}")


def test_no_other_program_is_stopped_for_it_may_have_started_this_site_or_serve_somebody_else() -> None:
    program = "import socket; mine = socket.create_server(('127.0.0.1', 0)); print(mine.getsockname()[1], flush=True); "
    command = [sys.executable, "-c", program + "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **account()) as tunnel:
        assert tunnel.stdout
        address = f"127.0.0.1:{int(tunnel.stdout.readline())}"
        with pytest.raises(NotOurs, match=f"python.* listens at {address}, and is none of the servers"):
            servers_at(address)
        tunnel.kill()
