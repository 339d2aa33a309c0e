"""What a watcher is told of a session: each step in order, on every backend, and nothing when nobody watches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cherrypy
import pytest

import sessions
from sessions import events
from sessions.locks import FairLocks
from sessions.table import stores
from tests.backends import BACKENDS, options_of
from tests.wsgi import Client, application, logged

SILENT = {"ram", "file", "cookie", "functions"}  # no server, so no round trip
STEPS = set(re.findall(r"^    (\w+) {2,}\w", str(events.__doc__), re.MULTILINE))


class Pages:
    @cherrypy.expose
    def write(self) -> str:
        cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
        return str(cherrypy.session["n"])

    @cherrypy.expose
    def read(self) -> str:
        return str(cherrypy.session.get("n"))

    @cherrypy.expose
    def none(self) -> str:
        return "nothing"

    @cherrypy.expose
    def rotate(self) -> str:
        cherrypy.session.regenerate()
        return "rotated"

    @cherrypy.expose
    def end(self) -> str:
        sessions.expire()
        return "ended"

    @cherrypy.expose
    def fail(self) -> str:
        cherrypy.session["n"] = "never stored"
        raise cherrypy.HTTPError(500)


@pytest.fixture
def seen() -> Iterator[list[sessions.Event]]:
    found: list[sessions.Event] = []
    sessions.subscribe(found.append)
    yield found
    sessions.unsubscribe(found.append)


@pytest.fixture(params=BACKENDS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    app = application(Pages(), **options_of(request.param, tmp_path))
    yield Client(app)
    sessions.close_stores(app)


def names(found: list[sessions.Event]) -> list[str]:
    """The steps since this was last asked, but for the round trips."""
    steps = [event.name for event in found]
    assert set(steps) <= STEPS
    assert [event.at for event in found] == sorted(event.at for event in found)
    found.clear()
    return [step for step in steps if step != "trip"]


def test_each_step_of_a_request_is_told_in_order(client: Client, seen: list[sessions.Event]) -> None:
    client.get("/none")
    assert names(seen) == ["cookie"]
    client.get("/write")
    assert names(seen) == ["cookie", "saved", "told"]
    client.get("/write")
    told = ["told"] if "." in client.jar["session_id"] else []  # where the cookie is the store, each save sets it
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "compared", "saved", "unlocked", *told]
    client.get("/read")
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "compared", "unsaved", "unlocked"]
    client.get("/fail")
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "unsaved", "unlocked"]
    client.get("/rotate")
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "saved", "saved", "unlocked", "told"]
    client.get("/end")
    assert names(seen) == ["cookie", "deleted", "told", "told"]  # at once, should the page fail, and with the answer
    client.jar["session_id"] = "x"
    client.get("/read")
    assert names(seen) == ["cookie", "unsaved"]


def test_a_locked_write_is_two_round_trips_where_there_is_a_server(client: Client, seen: list[sessions.Event]) -> None:
    client.get("/write")
    seen.clear()
    client.get("/write")
    trips = [event.details for event in seen if event.name == "trip"]
    silent = client.app.config["/"]["tools.sessions.storage_type"] in SILENT
    assert len(trips) == (0 if silent else 2)
    assert all(trip["to"] and trip["what"] for trip in trips)


def test_what_was_loaded_and_saved_is_told_with_the_place_where_it_is(
    client: Client, seen: list[sessions.Event]
) -> None:
    client.get("/write")
    seen.clear()
    client.get("/write")
    records = {event.name: event.details["record"] for event in seen if "record" in event.details}
    assert {name: record.data for name, record in records.items()} == {"loaded": b'{"n":1}', "saved": b'{"n":2}'}
    (store,) = stores.of(client.app)
    shown = store.place(seen[0].key) + store.as_stored(seen[0].key, records["saved"])
    assert '{"n":2}' in shown and client.jar["session_id"].partition(".")[0] not in shown


def test_no_step_tells_an_id(client: Client, seen: list[sessions.Event]) -> None:
    ids = set()
    for path in ("/write", "/read", "/rotate", "/write", "/end"):
        ids.add(client.jar.get("session_id", "no cookie yet").partition(".")[0])
        client.get(path)
    assert len(ids) == 3
    assert not [event for event in seen for id in ids if id in repr(event)]


def test_who_waits_in_the_queue_is_told_how_many_come_before(seen: list[sessions.Event]) -> None:
    locks = FairLocks()
    locks.acquire("key", 1)
    with pytest.raises(sessions.LockTimeout):
        locks.acquire("key", 0)
    assert [(event.name, event.key, event.details) for event in seen] == [("queued", "key", {"ahead": 1})]


def test_a_watcher_that_fails_is_logged_and_harms_nobody() -> None:
    def broken(event: sessions.Event) -> None:
        raise ValueError("the watcher's own")

    client = Client(application(Pages()))
    sessions.subscribe(broken)
    try:
        with logged() as lines:
            assert [client.get("/write").text for _ in range(2)] == ["1", "2"]
    finally:
        sessions.unsubscribe(broken)
    assert any("a watcher of sessions failed at 'saved'" in line for line in lines)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Nobody watches: not the X-ray of a site, either, that another test has had in this process."""
    others = events.watchers.copy()
    events.watchers.clear()
    yield
    events.watchers.extend(others)


@pytest.mark.usefixtures("nobody")
def test_nothing_is_put_together_while_nobody_watches(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[object] = []  # an error raised here would be a 500 of the page, and nobody would see it

    def publish(*args: object, **details: object) -> None:
        published.append(args)

    for module in ("tool", "life", "saving", "stored", "response", "locks"):
        monkeypatch.setattr(f"sessions.{module}.publish", publish)
    for module in ("memcached_server", "pglink"):
        monkeypatch.setattr(f"sessions.backends.{module}.publish", publish)
    for path in ("/none", "/write", "/write", "/read", "/rotate", "/end", "/fail"):
        client.get(path)
    assert published == []


def test_subscribing_twice_tells_once_and_unsubscribing_is_final(seen: list[sessions.Event]) -> None:
    sessions.subscribe(seen.append)
    events.publish("asked", "key")
    assert len(seen) == 1
    sessions.unsubscribe(seen.append)
    sessions.unsubscribe(seen.append)
    events.publish("asked", "key")
    assert len(seen) == 1
