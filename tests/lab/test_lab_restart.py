"""The experiment /lab/restart: what is found on each profile; and its second sites, which are few, brief and alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from lab import instances
from lab.instances import Instances, Place
from lab.pause import descendants
from lab.restart import AT_ONCE, BEFORE, IN_TURN, QUESTIONS, capabilities_of
from services import free_port
from tests.pages.test_browser_access import ALL, violations
from tests.support.backends import BACKENDS, environment_of, options_of, postgresql
from tests.support.chromium import expect, press
from tests.support.client import JSON, CheckedClient, Client
from tests.support.process import environment, folder, wait_until
from tests.support.site import Site
from web.settings import ROOT, load_settings, read

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def first() -> Iterator[Site]:
    """A site whose second sites find every server, and leave their files where the test sees them."""
    place = folder()
    env = environment_of("memcached") | environment_of("postgresql") | environment_of("redis")
    with Site("ram", env=env | {"TMPDIR": str(place)}) as site:
        Client(site.url).get("/lab/restart")  # it opens each store for a moment, which makes the table
        yield site
    assert list(place.iterdir()) == [], "the experiments have left files behind"
    place.rmdir()


def second_sites(site: Site) -> list[int]:
    """The processes that a site has started."""
    return descendants(site.process.pid)


def sessions_in_the_database() -> set[str]:
    with psycopg.connect(postgresql().dsn) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM sessions WHERE kind = 'session'")}


# --- the experiment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", BACKENDS)
def test_what_is_found_is_what_the_backend_declares(first: Site, profile: str, tmp_path: Path) -> None:
    able = capabilities_of(options_of(profile, tmp_path))
    before = sessions_in_the_database() if profile == "postgresql" else set()
    told = CheckedClient(first.url).post("/lab/restart", {"profile": profile, "restart": "yes"}, **JSON).json
    found = {finding["question"]: finding for finding in told["findings"]}
    assert list(found) == list(QUESTIONS)
    assert [finding["predicted"] for finding in told["findings"]] == [True, False, False, False]
    assert [finding["right"] for finding in told["findings"]] == [f["predicted"] == f["found"] for f in found.values()]
    assert found["restart"]["found"] is found["restart"]["declared"] is able.survives_restart
    assert found["turns"]["found"] is found["turns"]["declared"] is able.shared
    assert found["secret"]["found"] is found["secret"]["declared"] is (able.survives_restart and profile != "cookie")
    if able.shared:
        assert found["restart"]["counts"] == [BEFORE + 1]
        assert found["turns"]["counts"] == [BEFORE + 1 + n for n in range(1, IN_TURN + 1)]
    else:
        assert found["restart"]["counts"] + found["turns"]["counts"] == [1] * (IN_TURN + 1), "a stranger each time"
    assert found["at_once"]["declared"] is (able.shared and able.locks_processes)
    if found["at_once"]["declared"]:
        assert found["at_once"]["counts"] == [BEFORE + 1 + IN_TURN + AT_ONCE + 1]
    else:
        assert 1 <= found["at_once"]["counts"][0] <= found["at_once"]["expected"][0]
    if not found["secret"]["found"]:
        assert found["secret"]["counts"] == [1]
    assert second_sites(first) == []
    if profile == "postgresql":
        assert sessions_in_the_database() <= before, "the session was ended"


def test_the_page_compares_it_with_the_prediction_in_a_browser(first: Site, browser: Browser) -> None:
    page = browser.new_page(base_url=first.url, viewport={"width": 360, "height": 640})
    page.goto("/lab/restart")
    page.get_by_label("file", exact=True).check()
    for question in list(QUESTIONS.values())[:2]:
        page.get_by_label(question).check()
    press(page, "Start the second site")
    expect(page.get_by_role("heading", name="file: you were right 2 times out of 4")).to_be_focused(timeout=60_000)
    rows = [row.split() for row in page.get_by_role("table").get_by_role("row").all_inner_texts()[1:]]
    assert [[word for word in row if word in ("yes", "no", "right", "wrong")] for row in rows] == [
        ["yes", "right", "yes", "yes"], ["yes", "right", "yes", "yes"],
        ["no", "wrong", "yes", "yes"], ["no", "wrong", "yes", "yes"],
    ]  # fmt: skip
    expect(page.get_by_label(list(QUESTIONS.values())[0])).to_be_checked()
    assert page.locator("html").evaluate("html => html.scrollWidth") <= 360
    assert violations(page, ALL) == []
    page.close()


def test_what_cannot_be_asked_is_refused(first: Site) -> None:
    visitor = CheckedClient(first.url)
    assert "Choose a profile: ram, file" in visitor.post("/lab/restart", {"profile": "fil"}, **JSON).json["error"]
    assert visitor.post("/lab/restart", {"profile": "ram", "turn": "yes"}, **JSON).status == 400
    assert second_sites(first) == []


def test_a_profile_that_cannot_run_here_says_what_to_do() -> None:
    with Site("ram", env={"MEMCACHED_SERVERS": f"127.0.0.1:{free_port()}", "DATABASE_URL": "nonsense"}) as site:
        visitor = Client(site.url)
        shown = visitor.get("/lab/restart").text
        assert "Its server does not answer: run make services." in shown and "a package is missing" in shown
        answer = visitor.post("/lab/restart", {"profile": "memcached"}, **JSON)
        assert answer.status == 503 and "`make services` starts one" in answer.json["error"]
        assert answer.headers["retry-after"] and second_sites(site) == []


# --- the second sites -------------------------------------------------------------------------------------------------


def test_there_are_two_at_most_one_experiment_at_a_time_and_all_end_with_the_site() -> None:
    for end in ("stop", "kill"):
        place = folder()
        with Site("ram", env={"TMPDIR": str(place)}) as site:
            asked = threading.Thread(target=ask_in_vain, args=(site,))
            asked.start()
            seen: set[int] = set()
            site.wait_until(lambda site=site, seen=seen: note(site, seen) >= 2, "start two second sites")
            if end == "stop":
                answer = Client(site.url).post("/lab/restart", {"profile": "ram"}, **JSON)
                assert answer.status == 503 and "one at a time" in answer.json["error"]
            running = second_sites(site)
            assert 1 <= len(running) <= 2
            assert site.stop() == 0 if end == "stop" else site.kill() is None  # type: ignore[func-returns-value]
            wait_until(lambda running=running: not any(Path(f"/proc/{pid}").exists() for pid in running), "they end")
            wait_until(lambda place=place: list(place.iterdir()) == [], "their files go")
            asked.join()
        place.rmdir()


def note(site: Site, seen: set[int]) -> int:
    """How many second sites there have been so far; never more than two at once."""
    running = second_sites(site)
    assert len(running) <= 2
    seen.update(running)
    return len(running)


def ask_in_vain(site: Site) -> None:
    try:
        assert Client(site.url).post("/lab/restart", {"profile": "file"}).status == 503
    except Exception as error:  # no answer: the site was killed
        assert isinstance(error, OSError) or "BadStatusLine" in repr(error) or "closed" in str(error)


def test_one_ends_by_itself_when_its_time_is_over() -> None:
    place = folder()
    command = [sys.executable, "-m", "lab.child", "0.2", str(place), "--profile", "ram", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.wait(30) == 0
    assert place.exists(), "the first site is still there, and has to look after its files"
    place.rmdir()


def test_one_more_than_there_may_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MOST", 0)
    with pytest.raises(instances.InstanceError, match="run already"):
        Instances().start(Place(tmp_path, "ram", {"storage_type": "ram"}), "secret")


def test_it_has_the_servers_of_this_site_and_nothing_else_that_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"PROFILE": "file", "HOST": "192.0.2.1", "PORT": "8080", "STORAGE_PATH": "/srv", "USERS_URL": "sqlite:////srv/a",
           "DEMO_PASSWORD": "first", "SESSION_SECRET": "first" * 8, "MEMCACHED_SERVERS": "127.0.0.1:1"}  # fmt: skip
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    options: dict[str, Any] = {
        "storage_type": "memcached", "servers": "127.0.0.1:2", "snapshot_path": "/srv/s", "lifetime": 720, "name": "a%"
    }  # fmt: skip
    place = Place(tmp_path, "memcached", options)
    given = {name: value for name, value in place.environment.items() if name in own}
    assert given.pop("MEMCACHED_SERVERS") == "127.0.0.1:2" and given.pop("DEMO_PASSWORD") != "first"
    assert given == {"STORAGE_PATH": f"{tmp_path}/sessions", "USERS_URL": f"sqlite:///{tmp_path}/users.sqlite"}
    settings = load_settings("memcached", place.configuration(), place.environment)
    found = settings["/"]
    assert (found["tools.sessions.servers"], found["tools.sessions.lifetime"]) == ("127.0.0.1:2", 720)
    assert found["tools.sessions.name"] == "a%" and found["mount.lab"] == ""
    assert found["users.url"] == f"sqlite:///{tmp_path}/users.sqlite"
    assert found["tools.sessions.snapshot_path"].startswith(str(tmp_path))
    assert settings["global"]["engine.autoreload.on"] is False
    assert "127.0.0.1:2" not in Path(place.configuration()).read_text(), "a DSN may hold a password"
    assert read(place.configuration())["profile:memcached"] == {}
