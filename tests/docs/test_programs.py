"""The programs of CherryPy's own documentation, as docs/migrating.md and docs/events.md have them."""

from __future__ import annotations

import re
import runpy
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import cherrypy
import pytest

import sessions
from sessions.events import unsubscribe
from sessions.registry import registry
from tests.support.application import Counter, application, logged
from tests.support.backends import memcached
from tests.support.client import WsgiClient
from tests.support.process import ROOT, folder
from tests.support.program import running

FILES = dict(
    re.findall(
        r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$",
        "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("migrating.md", "events.md")),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with all of these files."""
    path = folder()
    for name, text in FILES.items():
        (path / name).write_text(text)
    yield path
    shutil.rmtree(path)


def test_a_cookie_is_set_read_and_deleted_by_a_class_at_cookie(place: Path) -> None:
    with running(place / "cookies.py") as visitor:
        assert visitor.get("/cookie/read").text == "0 cookies"
        morsel = visitor.get("/cookie/set").cookies["cookieName"]
        assert (morsel.value, morsel["path"], morsel["max-age"]) == ("cookieValue", "/", "3600")
        visitor.cookies["other"] = '"<b>"'
        assert "name: cookieName, value: cookieValue" in visitor.get("/cookie/read").text
        assert "<b>" not in visitor.get("/cookie/read").text
        visitor.get("/cookie/delete")
        assert "cookieName" not in visitor.cookies


def counts(place: Path, configuration: str) -> None:
    """Assert that the counter counts, and goes on after a restart unless it is in memory."""
    with running(place / "home.py", configuration, place=place) as visitor:
        assert [visitor.get("/").text for _ in range(3)] == ["1", "2", "3"]
    with running(place / "home.py", configuration, place=place) as later:
        later.cookies = visitor.cookies
        assert later.get("/").text == ("1" if configuration == "home.conf" else "4")


@pytest.mark.parametrize("configuration", ["home.conf", "files.conf", "file_class.conf"])
def test_a_counter_reads_its_configuration(place: Path, configuration: str) -> None:
    counts(place, configuration)
    assert (place / "stored").is_dir() is (configuration != "home.conf")


def test_a_counter_keeps_its_sessions_in_memcached(place: Path) -> None:
    text = FILES["memcached_class.conf"]
    (place / "memcached_class.conf").write_text(text.replace("127.0.0.1:11211", memcached().address))
    counts(place, "memcached_class.conf")


def test_two_functions_keep_the_sessions_in_a_table_of_two_columns(place: Path) -> None:
    counts(place, "functions.conf")
    with closing(sqlite3.connect(place / "sessions.sqlite")) as database:
        [(id, data)] = database.execute("SELECT sessionId, sessionData FROM session_data").fetchall()
    assert re.search(r"\b[0-9a-f]{64}$", id) and '"count":4' in data.replace(" ", "")


def test_a_tool_and_a_handler_lock_by_themselves_and_lose_no_visit(place: Path) -> None:
    with running(place / "visits.py", place=place) as visitor:
        assert visitor.get("/").text == "1 visits, 1 orders"
        twins = [visitor.twin() for _ in range(4)]
        with ThreadPoolExecutor(len(twins)) as pool:
            list(pool.map(lambda twin: [twin.get("/").status for _ in range(5)], twins))
        assert visitor.get("/").text == "22 visits, 22 orders"
    assert (place / "stored").is_dir()


class Pages(Counter):
    @cherrypy.expose
    def end(self) -> None:
        sessions.expire()


def test_callbacks_are_called_when_a_session_begins_and_ends(place: Path) -> None:
    called = runpy.run_path(str(place / "callbacks.py"))
    app = application(Pages())
    (store,) = registry.stores(app)
    now = store.clock()
    try:
        with logged("cherrypy.error") as lines:
            visitor = WsgiClient(app)
            for path in ("/", "/", "/end", "/"):
                visitor.get(path)
            store.clock = lambda: now + 3601
            visitor.get("/")
    finally:
        for name in ("on_create", "on_delete", "on_expire"):
            unsubscribe(called[name])
        sessions.close_stores(app)
    said = [line.partition("] ")[2].strip() for line in lines if "SESSIONS" not in line]
    assert said == [
        "on_create: {'n': 1}", "on_delete: a visitor", "on_create: {'n': 1}", "on_expire: {'n': 1}",
        "on_create: {'n': 1}",
    ]  # fmt: skip
