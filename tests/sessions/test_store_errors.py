"""What a page answers when its store fails (rule 15): 503 with Retry-After or 413, and nothing else happens.

The store is a FunctionSession whose functions raise: nothing is faked. A session is held, as on every backend, by the
fair locks of the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Record, Session, Store, Unavailable
from sessions.backends.functions import FunctionStore
from sessions.errors import SessionClosed
from sessions.events import Event, subscribe, unsubscribe
from sessions.locks import waiting
from tests.support.client import Response
from tests.support.members import MODES, Browser, SignInApp, Work, sign_in_app
from tests.support.process import wait_until

LONG = 30.0  # seconds that nothing here takes


class Table:
    """Two functions and a third, as a site has them.

    Attributes:
        rows: what is stored.
        failing: which of the functions raise an error.
    """

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.failing: set[str] = set()

    def load(self, id: str) -> str | None:
        self._answer("load")
        return self.rows.get(id)

    def save(self, id: str, data: str) -> None:
        self._answer("save")
        self.rows[id] = data

    def delete(self, id: str) -> None:
        self._answer("delete")
        self.rows.pop(id, None)

    def _answer(self, name: str) -> None:
        if name in self.failing:
            raise ConnectionRefusedError(f"no {name} today")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture(params=MODES)
def site(request: pytest.FixtureRequest, table: Table, tmp_path: Path) -> Iterator[SignInApp]:
    functions = {"load": table.load, "save": table.save, "delete": table.delete}
    with sign_in_app("functions", tmp_path, locking=request.param, accounts=None, **functions) as site:
        yield site


@pytest.fixture
def browser(site: SignInApp) -> Browser:
    """Return somebody who is signed in, with n=1 and a time-out that a visit renews."""
    browser = site.signed_in(remember=True)
    browser.run(lambda session: session.update(n=1))
    site.ahead = 15 * 60.0
    return browser


def refused(answer: Response, status: int = 503) -> None:
    assert (answer.status, list(answer.cookies)) == (status, [])
    assert ("retry-after" in answer.headers) is (status == 503)
    assert int(answer.headers.get("retry-after", 1)) > 0
    assert "location" not in answer.headers
    assert "today" not in answer.text, "what a function raises is for the log"


def no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in caplog.text


def as_before(browser: Browser, site: SignInApp, table: Table, rows: dict[str, str]) -> None:
    """Assert that nothing was stored, and that the session is there again when the store is."""
    assert table.rows == rows
    assert len(site.store.locks) == 0
    table.failing.clear()
    assert browser.run(lambda session: (session.user, dict(session.items()))) == "('ada', {'n': 1})"


def in_a_block(session: Session) -> None:
    with sessions.session_lock():
        session["n"] = 2


def not_found(session: Session) -> None:
    session["n"] = 2
    raise cherrypy.NotFound


def elsewhere(session: Session) -> None:
    session["n"] = 2
    raise cherrypy.HTTPRedirect("/elsewhere")


def inside(session: Session) -> None:
    session["n"] = 2
    raise cherrypy.InternalRedirect("/other")


def streamed(session: Session) -> None:
    cherrypy.response.stream = True
    session["n"] = 2


def nothing(session: Session) -> None:
    pass


WORKS: dict[str, Work] = {
    "read": lambda session: session.get("n"),
    "write": lambda session: session.update(n=2),
    "regenerate": lambda session: session.regenerate(),
    "sign in": lambda session: session.sign_in("ada"),
    "sign out": lambda session: session.sign_out(),
    "in a block": in_a_block,
    "a 404 after a write": not_found,
    "a redirect after a write": elsewhere,
    "an internal redirect after a write": inside,
    "a stream after a write": streamed,
}


@pytest.mark.parametrize("failing", ["load", "save"])
@pytest.mark.parametrize("work", WORKS)
def test_a_request_that_meets_a_failing_store_is_a_503_and_changes_nothing(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, work: str, failing: str
) -> None:
    """Whether it is met when the session is loaded, or only when it is saved: reading renews it."""
    rows = dict(table.rows)
    table.failing = {failing}
    caplog.clear()
    refused(browser.do(WORKS[work]))
    no_traceback(caplog)
    assert f"Unavailable: Table.{failing} failed: ConnectionRefusedError: no {failing} today" in caplog.text
    as_before(browser, site, table, rows)


class OwnRequest(cherrypy._cprequest.Request):
    """A request class of the site's own, made without this package."""


@pytest.mark.parametrize("work", ["write", "a stream after a write"])
def test_a_save_that_fails_is_a_503_in_a_request_class_of_the_sites_own(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, work: str
) -> None:
    site.app.request_class = OwnRequest
    rows = dict(table.rows)
    table.failing = {"save"}
    caplog.clear()
    refused(browser.do(WORKS[work]))
    no_traceback(caplog)
    as_before(browser, site, table, rows)


def test_a_request_class_of_the_sites_own_saves_and_unlocks_as_ours(site: SignInApp, browser: Browser) -> None:
    site.app.request_class = OwnRequest
    site.app.merge({"/": {"tools.log_headers.on": False}})  # it leaves the cookie among the headers that are logged
    site.pages.works["other"] = nothing
    assert browser.do(inside).status == 200
    assert browser.do(lambda session: (session.update(n=3), 1 / 0)).status == 500
    assert len(site.store.locks) == 0
    assert browser.run(lambda session: session["n"]) == "2"


def test_a_session_that_could_not_begin_is_a_503_without_a_cookie(
    site: SignInApp, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    table.failing = {"save"}
    refused(site.browser().do(lambda session: session.update(n=1)))
    no_traceback(caplog)
    assert table.rows == {}


@pytest.mark.parametrize("failing", ["load", "delete"])
def test_a_session_that_cannot_be_ended_is_a_503_and_stays(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    rows = dict(table.rows)
    table.failing = {failing}
    caplog.clear()
    for end in (lambda session: session.delete(), lambda session: sessions.expire()):
        refused(browser.do(end))
    no_traceback(caplog)
    as_before(browser, site, table, rows)


@pytest.mark.parametrize("failing", ["load", "save"])
@pytest.mark.parametrize("point", ["before_handler", "before_finalize"])
def test_a_hook_of_the_site_that_meets_a_failing_store_is_a_503(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, point: str, failing: str
) -> None:
    """A tool that asks who is signed in, for one."""
    rows = dict(table.rows)
    site.app.merge({"/": {f"hooks.{point}": lambda: cherrypy.session.get("n")}})
    table.failing = {failing}
    caplog.clear()
    refused(browser.do(nothing))
    no_traceback(caplog)
    as_before(browser, site, table, rows)


def test_an_error_page_that_wrote_what_cannot_be_saved_is_a_503(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    def page(**shown: str) -> str:
        cherrypy.session["n"] = 2
        return "nothing here"

    def work(session: Session) -> None:
        raise cherrypy.NotFound

    rows = dict(table.rows)
    site.app.merge({"/": {"error_page.404": page}})
    table.failing = {"save"}
    caplog.clear()
    refused(browser.do(work))
    no_traceback(caplog)
    as_before(browser, site, table, rows)


@pytest.mark.parametrize("failing", ["load", "save"])
@pytest.mark.parametrize("work", ["read", "write", "regenerate", "a redirect after a write"])
def test_the_page_of_a_503_finds_an_empty_session_and_the_store_is_not_asked_again(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, work: str, failing: str
) -> None:
    asked: list[set[str]] = []

    def page(**shown: str) -> str:
        asked.append(set(table.failing))
        table.failing = {"load", "save", "delete"}
        user, values = cherrypy.session.user, dict(cherrypy.session.items())
        cherrypy.session["flash"] = "sorry"
        return f"{user} {values}"

    rows = dict(table.rows)
    site.app.merge({"/": {"error_page.503": page, "hooks.before_finalize": lambda: cherrypy.session.get("n")}})
    table.failing = {failing}
    caplog.clear()
    answer = browser.do(WORKS[work])
    refused(answer)
    assert (answer.text, asked) == ("None {}", [{failing}])
    assert caplog.text.count("SESSIONS Unavailable: ") == 1
    no_traceback(caplog)
    site.app.merge({"/": {"error_page.503": "", "hooks.before_finalize": lambda: None}})
    as_before(browser, site, table, rows)


def failing_page(session: Session) -> None:
    session["lost"] = True
    raise RuntimeError("the page's own")


def refusing_page(session: Session) -> None:
    session["lost"] = True
    raise cherrypy.HTTPError(500)


def missing_page(session: Session) -> None:
    raise cherrypy.NotFound


@pytest.mark.parametrize("work", [missing_page, lambda session: 1 / 0, not_found, failing_page])
def test_an_error_page_that_is_the_first_to_meet_a_failing_store_has_an_empty_session(
    site: SignInApp, browser: Browser, table: Table, caplog: pytest.LogCaptureFixture, work: Work
) -> None:
    """The answer stays the one that it is, unless the page itself has asked the store."""
    asked: list[str] = []

    def page(**shown: str) -> str:
        asked.append(shown["status"][:3])
        cherrypy.session["flash"] = "sorry"
        return f"{cherrypy.session.user} {dict(cherrypy.session.items())}"

    rows = dict(table.rows)
    site.app.merge({"/": {"error_page.default": page}})
    table.failing = {"load", "save", "delete"}
    caplog.clear()
    answer = browser.do(work)
    early = site.app.config["/"]["tools.sessions.locking"] == "early"  # the store fails before the page is called
    if early or work in (not_found, failing_page):
        refused(answer)
        assert asked == ["503"]
    else:
        assert (answer.status, list(answer.cookies)) == (404 if work is missing_page else 500, [])
        assert len(asked) == 2, "made again, once"
    assert answer.text.strip() == "None {'flash': 'sorry'}"
    assert "Unavailable" not in answer.text
    assert caplog.text.count("SESSIONS Unavailable: ") == 1
    site.app.merge({"/": {"error_page.default": ""}})
    as_before(browser, site, table, rows)


def test_an_error_page_waits_once_for_a_session_that_another_request_holds(site: SignInApp, browser: Browser) -> None:
    waits: list[str] = []

    def page(**shown: str) -> str:
        return f"{cherrypy.session.user} {cherrypy.session.get('n')}"

    def work(session: Session) -> str:
        session.acquire_lock()
        with waiting_noted(waits):
            return browser.twin().meanwhile(missing_page).text.strip()

    site.app.merge({"/": {"error_page.default": page, "tools.sessions.lock_timeout": 0.05}})
    if site.app.config["/"]["tools.sessions.locking"] == "explicit":
        pytest.skip("reads without a lock")
    assert browser.run(work) == "None None"
    assert len(waits) == 1


@contextmanager
def waiting_noted(seen: list[str]) -> Iterator[None]:
    """Collect the requests that wait for a session meanwhile."""

    def subscriber(event: Event) -> None:
        seen.append(event.name)

    subscribe(subscriber, "queued")
    try:
        yield
    finally:
        unsubscribe(subscriber)


@pytest.mark.parametrize("work", [failing_page, refusing_page, lambda session: 1 / 0])
@pytest.mark.parametrize("newcomer", [False, True])
def test_an_error_page_may_write_after_a_page_that_failed(
    site: SignInApp, browser: Browser, work: Work, newcomer: bool
) -> None:
    """A flash, or a counter; what the failed page wrote is not kept."""

    def page(**shown: str) -> str:
        cherrypy.session["failures"] = cherrypy.session.get("failures", 0) + 1
        return f"{cherrypy.session['failures']}"

    site.app.merge({"/": {"error_page.500": page}})
    visitor = site.browser() if newcomer else browser
    assert [visitor.do(work).text.strip() for _ in range(2)] == ["1", "2"]
    kept = {} if newcomer else {"n": 1}
    assert visitor.run(lambda session: dict(session.items())) == str({**kept, "failures": 2})


def test_an_answer_to_unexpected_errors_of_the_sites_own_may_write_too(site: SignInApp, browser: Browser) -> None:
    def answer() -> None:
        cherrypy.session["failures"] = 1
        cherrypy.response.status, cherrypy.response.body = 500, b"sorry"

    site.app.merge({"/": {"request.error_response": answer}})
    assert browser.do(failing_page).text == "sorry"
    assert browser.run(lambda session: dict(session.items())) == "{'n': 1, 'failures': 1}"


def test_an_answer_of_the_sites_own_that_meets_a_failing_store_is_a_503(
    site: SignInApp, browser: Browser, table: Table
) -> None:
    def answer() -> None:
        cherrypy.session.get("n")

    rows = dict(table.rows)
    site.app.merge({"/": {"request.error_response": answer}})
    table.failing = {"load"}
    refused(browser.do(lambda session: 1 / 0))
    as_before(browser, site, table, rows)


@pytest.mark.parametrize("priority", [40, 60, 75, 89])
def test_a_hook_before_the_answer_is_made_may_write(site: SignInApp, browser: Browser, priority: int) -> None:
    """A tool of the site, for one: CherryPy saves at 90."""

    def hook() -> None:
        cherrypy.session["hook"] = priority

    tool = cherrypy.Tool("before_finalize", hook, priority=priority)
    site.app.toolboxes["own"] = box = cherrypy._cptools.Toolbox("own")
    box.late = tool
    site.app.merge({"/": {"own.late.on": True}})
    browser.run(nothing)
    site.app.merge({"/": {"own.late.on": False}})
    assert browser.run(lambda session: session["hook"]) == str(priority)


@pytest.mark.parametrize("point", ["on_end_resource", "on_end_request", "before_finalize"])
def test_a_hook_that_writes_too_late_is_told_where_to_write(
    site: SignInApp, browser: Browser, caplog: pytest.LogCaptureFixture, point: str
) -> None:
    def hook() -> None:
        cherrypy.session["hook"] = True

    said: list[str] = []

    def listening() -> None:
        try:
            hook()
        except SessionClosed as error:
            said.append(str(error))

    listening.priority = 91  # type: ignore[attr-defined]
    site.app.merge({"/": {f"hooks.{point}": listening}})
    browser.run(nothing)
    (line,) = said
    assert point in line and "before_finalize" in line and "session_lock" in line
    site.app.merge({"/": {f"hooks.{point}": lambda: None}})
    assert browser.run(lambda session: "hook" in session) == "False"


def test_a_page_that_fails_by_itself_while_the_store_does_is_a_503(
    site: SignInApp, browser: Browser, table: Table
) -> None:
    """What a block has saved for certain cannot be saved."""

    def work(session: Session) -> None:
        session.acquire_lock()
        in_a_block(session)
        table.failing = {"load", "save", "delete"}
        raise RuntimeError("the page's own")

    rows = dict(table.rows)
    refused(browser.do(work))
    as_before(browser, site, table, rows)


def test_a_block_is_saved_though_the_page_then_meets_an_error_of_another_store(
    site: SignInApp, browser: Browser
) -> None:
    def work(session: Session) -> None:
        session.acquire_lock()
        in_a_block(session)
        session["rest"] = 1
        raise Unavailable("the accounts do not answer")

    site.ahead = 0.0  # else the block renews the cookie
    refused(browser.do(work))
    assert browser.run(lambda session: dict(session.items())) == "{'n': 2}"


@pytest.mark.parametrize("site", ["implicit", "explicit"], indirect=True)
def test_a_page_may_do_without_its_session(site: SignInApp, browser: Browser, table: Table) -> None:
    def work(session: Session) -> str:
        with pytest.raises(Unavailable):
            session.get("n")
        return "not now"

    rows = dict(table.rows)
    table.failing = {"load"}
    assert browser.run(work) == "not now"
    as_before(browser, site, table, rows)


# -------------------------------------------------------------------- too large


def test_a_session_that_is_too_large_is_a_413_and_stays_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sign_in_app("cookie", tmp_path) as site:
        browser = site.signed_in()
        browser.run(lambda session: session.update(n=1))
        site.app.merge({"/": {"error_page.413": lambda **shown: f"{shown['message']} {cherrypy.session.user}"}})
        caplog.clear()
        answer = browser.do(lambda session: session.update(essay="x" * 5000))
        refused(answer, 413)
        assert answer.text == "This is more than your session can keep. Nothing was changed: please send less. ada"
        no_traceback(caplog)
        assert re.search(
            r"TooLarge: a session cookie of \d+ bytes is more than the 4096 bytes there is room for; "
            r"its largest values: 'essay' 5012 bytes, 'n' 7 bytes", caplog.text
        )  # fmt: skip
        assert browser.run(lambda session: dict(session.items())) == "{'n': 1}"


# -------------------------------------------------------------------- those who wait behind the one that found out


def in_line(store: Store, key: str, threads: int) -> tuple[list[threading.Thread], list[BaseException | Record | None]]:
    """Return threads that wait for a held session, and what each of them is going to get."""
    got: list[BaseException | Record | None] = []

    def wait() -> None:
        try:
            hold = store.acquire(key, LONG)
        except sessions.StoreError as error:
            got.append(error)
        else:
            got.append(hold.record)
            hold.release()

    line = [threading.Thread(target=wait) for _ in range(threads)]
    before = waiting.count
    for number, thread in enumerate(line, before + 1):
        thread.start()
        wait_until(lambda number=number: waiting.count >= number)  # type: ignore[misc]
    return line, got


class SlowTable(Table):
    """A table that fails only when the test says so, while a request asks it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.fail = threading.Event(), threading.Event()

    def _answer(self, name: str) -> None:
        if name in self.failing:
            self.asked.set()
            assert self.fail.wait(LONG)
        super()._answer(name)


HOLDERS: dict[str, tuple[str, Callable[[Store, str], Any]]] = {
    "load": ("load", lambda store, key: store.acquire(key, LONG)),
    "commit": ("save", lambda store, key: commit(store, key)),
}


def commit(store: Store, key: str) -> None:
    hold = store.acquire(key, LONG)
    assert hold.record
    hold.commit(hold.record._replace(data='{"n":2}'))


@pytest.mark.parametrize("how", HOLDERS)
def test_those_who_wait_behind_the_one_that_found_out_are_refused_with_it(how: str) -> None:
    """Each would wait for as long as that one has, one after the other."""
    table = SlowTable()
    store = FunctionStore(load=table.load, save=table.save, delete=table.delete)
    key, now = store.new_key(), store.clock()
    store.create(key, Record('{"n":1}', now, now + 600))
    failing, work = HOLDERS[how]
    table.failing = {failing}
    found: list[BaseException] = []

    def hold() -> None:
        with pytest.raises(Unavailable) as caught:
            work(store, key)
        found.append(caught.value)

    first = threading.Thread(target=hold)
    first.start()
    assert table.asked.wait(LONG)
    line, got = in_line(store, key, 5)
    table.fail.set()
    for thread in (first, *line):
        thread.join(LONG)
    assert [str(error) for error in (*found, *got)] == [str(found[0])] * 6
    assert {type(error) for error in got} == {Unavailable}
    assert len({id(error) for error in got}) == 5, "each raises an error of its own"
    assert len(store.locks) == 0
    table.failing.clear()
    hold_again = store.acquire(key, LONG)
    assert hold_again.record == Record('{"n":1}', now, now + 600)
    hold_again.release()


def test_those_who_wait_for_another_session_are_not_refused() -> None:
    table = SlowTable()
    store = FunctionStore(load=table.load, save=table.save)
    keys, now = [store.new_key() for _ in range(2)], store.clock()
    for key in keys:
        store.create(key, Record('{"n":1}', now, now + 600))
    other = store.acquire(keys[1], LONG)
    line, got = in_line(store, keys[1], 2)
    table.failing = {"load"}
    table.fail.set()
    with pytest.raises(Unavailable):
        store.acquire(keys[0], LONG)
    table.failing.clear()
    other.release()
    for thread in line:
        thread.join(LONG)
    assert [type(one) for one in got] == [Record, Record]


def test_requests_that_wait_are_503s_with_the_one_that_found_out(tmp_path: Path) -> None:
    table = SlowTable()
    functions = {"load": table.load, "save": table.save, "delete": table.delete}
    with sign_in_app("functions", tmp_path, accounts=None, **functions) as site:
        browser = site.signed_in()
        rows = dict(table.rows)
        answers: list[Response] = []

        def ask(work: Work) -> threading.Thread:
            twin = browser.twin()
            thread = threading.Thread(target=lambda: answers.append(twin.do(work)))
            thread.start()
            return thread

        table.failing = {"save"}
        threads = [ask(lambda session: session.update(n=2))]
        assert table.asked.wait(LONG)
        for number in range(1, 5):
            threads.append(ask(lambda session: session.update(n=3)))
            wait_until(lambda number=number: waiting.count >= number)  # type: ignore[misc]
        table.fail.set()
        for thread in threads:
            thread.join(LONG)
        assert len(answers) == 5
        for answer in answers:
            refused(answer)
        assert table.rows == rows
