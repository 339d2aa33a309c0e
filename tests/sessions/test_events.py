"""The events of a session: each step in order, on every backend, and the log as one of their subscribers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Store, events
from sessions.errors import LockTimeout
from sessions.events import LOGGED, unsubscribe, write_to_log
from sessions.locks import FairLocks
from sessions.registry import registry
from tests.support.application import application, logged
from tests.support.backends import BACKENDS, options_of
from tests.support.client import WsgiClient
from tests.support.members import MODES, able

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
    unsubscribe(found.append)


@pytest.fixture(params=BACKENDS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WsgiClient]:
    app = application(Pages(), **options_of(request.param, tmp_path))
    yield WsgiClient(app)
    sessions.close_stores(app)


def names(found: list[sessions.Event]) -> list[str]:
    """The steps since this was last asked, but for the round trips."""
    steps = [event.name for event in found]
    assert set(steps) <= STEPS
    assert [event.at for event in found] == sorted(event.at for event in found)
    found.clear()
    return [step for step in steps if step != "trip"]


def test_each_step_of_a_request_is_published_in_order(client: WsgiClient, seen: list[sessions.Event]) -> None:
    client.get("/none")
    assert names(seen) == ["cookie"]
    client.get("/write")
    assert names(seen) == ["cookie", "saved", "cookie_set"]
    client.get("/write")
    sets = (
        ["cookie_set"] if "." in client.cookies["session_id"] else []
    )  # where the cookie is the store, each save sets it
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "compared", "saved", "unlocked", *sets]
    client.get("/read")
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "compared", "unsaved", "unlocked"]
    client.get("/fail")
    assert names(seen) == ["cookie", "asked", "locked", "loaded", "unsaved", "unlocked"]
    client.get("/rotate")
    assert names(seen) == [
        "cookie", "asked", "locked", "loaded", "saved", "moved", "saved", "unlocked", "cookie_set",
    ]  # fmt: skip
    client.get("/end")
    # The cookie is set at once, should the page fail, and with the answer.
    assert names(seen) == ["cookie", "deleted", "unlocked", "cookie_set", "cookie_set"]
    client.cookies["session_id"] = "x"
    client.get("/read")
    assert names(seen) == ["cookie", "malformed", "unsaved"]


def test_a_locked_write_is_two_round_trips_where_there_is_a_server(
    client: WsgiClient, seen: list[sessions.Event]
) -> None:
    client.get("/write")
    seen.clear()
    client.get("/write")
    trips = [event.details for event in seen if event.name == "trip"]
    silent = client.app.config["/"]["tools.sessions.storage_type"] in SILENT
    assert len(trips) == (0 if silent else 2)
    assert all(trip["to"] and trip["what"] for trip in trips)


def test_what_was_loaded_and_saved_is_published_and_can_be_located(
    client: WsgiClient, seen: list[sessions.Event]
) -> None:
    client.get("/write")
    seen.clear()
    client.get("/write")
    records = {event.name: event.details["record"] for event in seen if "record" in event.details}
    assert {name: record.data for name, record in records.items()} == {"loaded": '{"n":1}', "saved": '{"n":2}'}
    (store,) = registry.stores(client.app)
    shown = store.describe_location(seen[0].key) + store.describe_record(seen[0].key, records["saved"])
    assert '{"n":2}' in shown and client.cookies["session_id"].partition(".")[0] not in shown


def test_no_event_holds_an_id(client: WsgiClient, seen: list[sessions.Event]) -> None:
    ids = set()
    for path in ("/write", "/read", "/rotate", "/write", "/end"):
        ids.add(client.cookies.get("session_id", "no cookie yet").partition(".")[0])
        client.get(path)
    assert len(ids) == 3
    assert not [event for event in seen for id in ids if id in repr(event)]


def test_a_queued_request_knows_how_many_come_before(seen: list[sessions.Event]) -> None:
    locks = FairLocks()
    locks.acquire("key", 1)
    with pytest.raises(LockTimeout):
        locks.acquire("key", 0)
    assert [(event.name, event.key, event.details) for event in seen] == [("queued", "key", {"ahead": 1})]


def test_a_subscriber_that_fails_is_logged_and_harms_nobody() -> None:
    def broken(event: sessions.Event) -> None:
        raise ValueError("the subscriber's own")

    client = WsgiClient(application(Pages()))
    sessions.subscribe(broken)
    try:
        with logged() as lines:
            assert [client.get("/write").text for _ in range(2)] == ["1", "2"]
    finally:
        unsubscribe(broken)
    assert any("a subscriber of sessions failed at 'saved'" in line for line in lines)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Leave only the log: not the X-ray of a site, either, that another test has had in this process."""
    watching = events.watchers.copy()
    events.watchers.clear()
    yield
    events.watchers.extend(watching)


@pytest.mark.usefixtures("nobody")
def test_a_visit_costs_no_event_while_nobody_watches(client: WsgiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/write")
    published: list[str] = []  # an error raised here would be a 500 of the page, and nobody would see it
    for name, module in list(sys.modules.items()):
        if name.startswith("sessions.") and getattr(module, "publish", None) is events.publish:
            monkeypatch.setattr(module, "publish", lambda name, *args, **details: published.append(name))
    for path in ("/none", "/write", "/read", "/write"):
        assert client.get(path).status == 200
    assert published == []


def test_subscribing_twice_is_subscribing_once_and_unsubscribing_is_final(seen: list[sessions.Event]) -> None:
    sessions.subscribe(seen.append)
    events.publish("asked", "key")
    assert len(seen) == 1
    unsubscribe(seen.append)
    unsubscribe(seen.append)
    events.publish("asked", "key")
    assert len(seen) == 1


def test_a_subscriber_may_ask_for_some_events_only() -> None:
    found: list[str] = []
    client = WsgiClient(application(Pages()))

    def note(event: sessions.Event) -> None:
        found.append(event.name)

    sessions.subscribe(note, "saved", "deleted", "expired")
    try:
        for path in ("/write", "/write", "/read", "/end"):
            client.get(path)
    finally:
        unsubscribe(note)
    client.get("/write")
    assert found == ["saved", "saved", "deleted"]


# -------------------------------------------------------------------- the end of a session


@pytest.fixture
def expired() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collect the keys of the sessions that come to their end, with what was in them."""
    keys: list[tuple[str, dict[str, Any]]] = []

    def note(event: sessions.Event) -> None:
        keys.append((event.key, event.values))

    sessions.subscribe(note, "expired")
    yield keys
    unsubscribe(note)


def ended(backend: str, place: Path, locking: str, **options: Any) -> tuple[WsgiClient, str, Store]:
    """Return somebody whose session has just come to its end, its key, and its store."""
    app = application(Pages(), **options_of(backend, place), locking=locking, **options)
    client = WsgiClient(app)
    client.get("/write")
    (store,) = registry.stores(app)
    later = store.clock() + 3601
    store.clock = lambda: later
    return client, store.key_of(client.cookies["session_id"]), store


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("backend", able("revokes"))
def test_the_end_of_a_session_is_published_once_by_the_first_request_after(
    backend: str, locking: str, tmp_path: Path, expired: list[Any]
) -> None:
    client, key, store = ended(backend, tmp_path, locking)
    for _ in range(2):
        assert client.twin().get("/read").text == "None"
    store.purge(100)
    assert expired == [(key, {"n": 1})]
    sessions.close_stores(client.app)


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("backend", able("purges"))
def test_the_end_of_a_session_is_published_once_by_the_cleaner(
    backend: str, locking: str, tmp_path: Path, expired: list[Any]
) -> None:
    client, key, store = ended(backend, tmp_path, locking)
    assert [store.purge(100), store.purge(100)] == [1, 0]
    assert client.get("/read").text == "None"
    assert expired == [(key, {"n": 1})]
    sessions.close_stores(client.app)


@pytest.mark.parametrize("backend", able("purges"))
def test_a_tombstone_has_no_end_to_publish(backend: str, tmp_path: Path, expired: list[Any]) -> None:
    app = application(Pages(), **options_of(backend, tmp_path))
    client = WsgiClient(app)
    for path in ("/write", "/rotate"):
        client.get(path)
    (store,) = registry.stores(app)
    later = store.clock() + 61
    store.clock = lambda: later
    assert store.purge(100) == 1
    assert expired == []
    sessions.close_stores(app)


# -------------------------------------------------------------------- the log


def test_the_log_is_one_subscriber() -> None:
    sessions.install()
    client = WsgiClient(application(Pages()), {"session_id": "malformed"})
    with logged() as lines:
        client.twin().get("/read")
        unsubscribe(write_to_log)
        try:
            client.twin().get("/read")
        finally:
            sessions.subscribe(write_to_log, *LOGGED)
        client.twin().get("/read")
    assert lines == ["malformed id presented address=127.0.0.1"] * 2


def test_each_line_of_the_log_is_for_an_event_that_there_is() -> None:
    assert LOGGED.keys() <= STEPS


def test_debug_logs_each_step_of_the_requests_that_ask_for_it() -> None:
    with logged() as lines:
        WsgiClient(application(Pages())).get("/write")
        assert lines == []
        WsgiClient(application(Pages(), debug=True)).get("/write")
        steps = [re.fullmatch(r"step of a session address=127\.0\.0\.1 .*step=(\w+)( .*)?", line) for line in lines]
        assert [step and step[1] for step in steps] == ["cookie", "saved", "cookie_set"], lines
        del lines[:]
        WsgiClient(application(Pages())).get("/write")
        assert lines == []
