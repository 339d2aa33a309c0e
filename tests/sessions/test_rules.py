"""Each rule of a session (the numbers are those of docs/rules.md), over HTTP, on every backend that can keep it.

The order of requests is forced with words: a page says that it is in, and waits until the test says the next word. Only
the counting tests leave it to chance, and count over many tries.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.backends import BACKENDS, options_of
from tests.support.client import Client, Response
from tests.support.members import able
from tests.support.process import Process, account, folder, wait_until

TIMEOUT = 60 * 60  # seconds: the default of 60 minutes


def on(backends: list[str]) -> pytest.MarkDecorator:
    """Run a test on these backends only: those that can keep the rule."""
    return pytest.mark.parametrize("backend", backends, indirect=True)


two_shapes = on(["ram", "cookie"])  # for a rule that no store can change: kept on the server, and in the cookie
locking = on(able("locks_threads"))
shared = on(able("locks_processes"))
revoking = on(able("revokes"))


class Server(Process):
    """tests/support/rules_app.py as a process, on a folder of its own unless it is given one."""

    module = "tests.support.rules_app"

    def __init__(self, backend: str, place: Path | None = None, **options: Any) -> None:
        self.folder = place or folder()
        command = [sys.executable, "-m", self.module, json.dumps(options_of(backend, self.folder) | options)]
        env, scratch = {"STORAGE_PATH": str(self.folder)}, None if place else self.folder
        super().__init__(command, env=env, account=account(), scratch=scratch)

    def visitor(self, **cookies: str) -> Client:
        return Client(self.url, cookies)

    def say(self, word: str) -> None:
        """Let the page that waits for it go on."""
        assert self.visitor().get(f"/say?word={word}").text == "said"

    def listen(self, word: str) -> None:
        assert self.visitor().get(f"/listen?word={word}").text == "heard"

    def wait_until_waiting(self, requests: int) -> None:
        self.wait_until(lambda: int(self.visitor().get("/waiting").text) >= requests, f"let {requests} requests wait")

    def move_clock(self, seconds: float) -> None:
        assert self.visitor().get(f"/clock?add={seconds}").text == "moved"


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[Server]:
    """One site for all tests of a backend; each test is a visitor of its own."""
    with Server(backend) as server:
        yield server


@pytest.fixture
def visitor(server: Server) -> Client:
    return server.visitor()


@pytest.fixture
def known(visitor: Client) -> Client:
    """A visitor with a session that has counted to 1."""
    assert visitor.get("/count").text == "1"
    return visitor


@dataclass
class UnderWay:
    """A request that a page keeps until the test says its word."""

    server: Server
    word: str
    answer: Future[Response]

    def finish(self) -> Response:
        self.server.say(self.word)
        return self.answer.result(60)


@pytest.fixture
def under_way(server: Server) -> Iterator[Any]:
    """Start a request in the background; returns when its page is in."""
    count = 0
    with ThreadPoolExecutor(20) as pool:

        def start(visitor: Client, path: str) -> UnderWay:
            nonlocal count
            count += 1
            word = f"w{time.monotonic_ns()}"
            request = UnderWay(server, word, pool.submit(visitor.get, f"{path}?word={word}"))
            server.listen(f"{word}-in")
            return request

        yield start


def session_id(visitor: Client, name: str = "session_id") -> str:
    return visitor.cookies[name]


# ---------------------------------------------------------------- 1: nothing before the first write


@two_shapes
@pytest.mark.parametrize("path", ["/untouched", "/read", "/explicit/read", "/regenerate", "/delete", "/expire"])
def test_01_nothing_is_stored_or_set_before_the_first_write(server: Server, visitor: Client, path: str) -> None:
    before = visitor.get("/live").text
    answer = visitor.get(path)
    assert answer.status == 200
    assert answer.set_cookie == []
    assert visitor.get("/live").text == before


@two_shapes
def test_01_a_page_that_does_not_touch_the_session_sends_no_session_headers(known: Client) -> None:
    answer = known.get("/untouched")
    assert answer.set_cookie == []
    assert "vary" not in answer.headers
    assert "cache-control" not in answer.headers


@two_shapes
def test_01_an_explicit_load_begins_a_session(visitor: Client) -> None:
    assert "session_id" in visitor.get("/load").cookies
    assert json.loads(visitor.get("/identity").text)["adopted"]


# ---------------------------------------------------------------- 2: unknown ids

MALFORMED = {
    "empty": "",
    "long": "x" * 5000,
    "path": "../../../etc/passwd",
    "dots": "..",
    "quoted": '"quoted value"',
    "non-ASCII": "\xe9" * 43,
    "control": "a\x01b",
    "json": '{"a":1}',
    "equals": "a=b=c",
    "hash": hashlib.sha256(b"x").hexdigest(),
    "wildcard": "*" * 43,
    "well-formed": "A" * 43,
}


@two_shapes
@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", ["/count", "/explicit/count", "/early"])
def test_02_an_unknown_id_is_never_adopted(server: Server, name: str, path: str) -> None:
    visitor = server.visitor(session_id=MALFORMED[name])
    answer = visitor.get(path)
    assert (answer.status, answer.text) == (200, "1")
    assert session_id(visitor) != MALFORMED[name]
    assert re.fullmatch(r"[\w-]{40,}", session_id(visitor).split(".")[0])
    assert visitor.get(path).text == "2"


@two_shapes
@pytest.mark.parametrize("name", MALFORMED)
def test_02_reading_with_an_unknown_id_is_no_error(server: Server, name: str) -> None:
    answer = server.visitor(session_id=MALFORMED[name]).get("/identity")
    assert answer.status == 200
    assert not answer.json["adopted"]
    assert answer.json["missing"]
    assert answer.set_cookie == []


@two_shapes
def test_02_the_name_of_a_stored_record_is_no_id(server: Server, known: Client) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    assert server.visitor(session_id=key).get("/read").text == "None"


OTHERS = ['prefs={"a":1}', "br(oken=1", "<b>=1", "=", "a", "a=b=c", '"', "session_id", "\xff=\xfe"]


@two_shapes
@pytest.mark.parametrize("other", OTHERS)
def test_02_cookies_of_other_programs_do_not_break_the_session(known: Client, other: str) -> None:
    own = f"session_id={session_id(known)}"
    for header in (f"{other}; {own}", f"{own}; {other}", f"a=1; {other}; {own}; b=2"):
        answer = known.get("/read", Cookie=header)
        assert (answer.status, answer.text) == (200, "1"), header


# ---------------------------------------------------------------- 3: ids


def test_03_ids_carry_enough_random_bits_and_do_not_repeat(server: Server) -> None:
    ids = set()
    for _ in range(50):
        visitor = server.visitor()
        visitor.get("/count")
        ids.add(session_id(visitor).split(".")[0])
    assert len(ids) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", id) for id in ids)  # 43 characters of 6 bits


@pytest.mark.parametrize("backend", ["file", "functions"], indirect=True)
def test_03_the_store_holds_the_hash_and_not_the_id(server: Server, known: Client) -> None:
    stored = [str(path).encode() + path.read_bytes() for path in server.folder.rglob("*") if path.is_file()]
    assert hashlib.sha256(session_id(known).encode()).hexdigest().encode() in b"".join(stored)
    assert session_id(known).encode() not in b"".join(stored)


# ---------------------------------------------------------------- 4: locking


@locking
def test_04_nobody_reads_a_session_between_first_access_and_end(under_way: Any, known: Client) -> None:
    first = under_way(known, "/hold")
    assert known.twin().get("/short/read").status == 503
    assert first.finish().text == "2"
    assert known.get("/short/read").text == "2"


@locking
@pytest.mark.parametrize("path", ["/slow_count", "/locked_count", "/explicit/locked_count", "/explicit/acquired_count"])
def test_04_no_increment_is_lost_between_threads(known: Client, path: str) -> None:
    """Left to chance: 6 clients, 20 increments each."""

    def count(_: int) -> None:
        for _ in range(20):
            assert known.twin().get(path).status == 200

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert known.get("/read").text == "121"


@shared
def test_04_no_increment_is_lost_between_processes(server: Server, backend: str, known: Client) -> None:
    """Left to chance: 2 processes, 4 clients each, 50 increments each: 400."""

    def count(url: str) -> None:
        visitor = Client(url, known.cookies)
        for _ in range(50):
            assert visitor.get("/slow_count").status == 200

    with Server(backend, server.folder) as other, ThreadPoolExecutor(8) as pool:
        list(pool.map(count, [server.url, other.url] * 4))
    assert known.get("/read").text == "401"


@locking
def test_04_the_explicit_mode_reads_without_the_lock(under_way: Any, known: Client) -> None:
    first = under_way(known, "/hold")
    assert known.twin().get("/explicit/read").text == "1"
    first.finish()
    assert known.twin().get("/explicit/read").text == "2"


def send_half_a_form(visitor: Client, path: str) -> socket.socket:
    place = urlsplit(visitor.url)
    connection = socket.create_connection((place.hostname, place.port), 30)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {visitor.cookie}\r\nConnection: close\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\na=1".encode()
    )
    return connection


def finish_the_form(connection: socket.socket) -> bytes:
    with connection:
        connection.sendall(b"&b=2")
        return b"".join(iter(lambda: connection.recv(65536), b""))


@locking
def test_04_early_locks_before_the_body_is_read(known: Client) -> None:
    half = send_half_a_form(known, "/early")
    wait_until(lambda: known.get("/short/read").status == 503, "a request whose body has not come holds the session")
    assert finish_the_form(half).endswith(b"\r\n\r\n2")


@locking
def test_04_implicit_does_not_lock_while_the_body_comes_in(server: Server, known: Client) -> None:
    half = send_half_a_form(known, "/short/put")
    for _ in range(5):
        assert known.get("/read").text == "1"
    finish_the_form(half)


@locking
def test_04_after_an_early_release_the_session_is_others_and_is_loaded_again(under_way: Any, known: Client) -> None:
    first = under_way(known, "/release")
    assert known.twin().get("/short/count").text == "3", "the release saves what was counted"
    assert first.finish().text == "3"


# ---------------------------------------------------------------- 5: session_lock()


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_that_raises_changes_nothing(known: Client, mode: str) -> None:
    assert known.get(f"{mode}/lock_fails").text == "1"
    assert known.get("/read").text == "1"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_is_reentrant_and_saves_on_leaving(known: Client, mode: str) -> None:
    assert known.get(f"{mode}/lock_in_lock").text == "2"
    assert known.get("/read").text == "2"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_an_inner_block_that_raises_leaves_the_outer_writes(known: Client, mode: str) -> None:
    assert known.get(f"{mode}/inner_lock_fails").text == "1 kept"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_what_a_block_saved_stays_though_the_handler_fails_later(known: Client, mode: str) -> None:
    assert known.get(f"{mode}/lock_then_boom").status == 500
    assert known.get("/read").text == "2"


ANSWERS = {"redirect": 303, "404": 404, "403": 403}


@pytest.mark.parametrize("mode", ["", "/explicit"])
@pytest.mark.parametrize("how", ANSWERS)
def test_05_a_redirect_or_an_error_below_500_leaves_a_block_as_a_return_does(
    known: Client, mode: str, how: str
) -> None:
    assert known.get(f"{mode}/lock_answers?how={how}").status == ANSWERS[how]
    assert known.get("/read").text == "2"


@pytest.mark.parametrize("how", [*ANSWERS, "inside"])
def test_05_what_such_a_block_has_saved_stays_though_the_handler_fails_later(known: Client, how: str) -> None:
    assert known.get(f"/held_lock_answers?how={how}").status == 500
    assert known.get("/read").text == "2"


@on([name for name in BACKENDS if name != "cookie"])  # see rule 11
@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_an_internal_redirect_leaves_a_block_as_a_return_does(known: Client, mode: str) -> None:
    assert known.get(f"{mode}/lock_answers?how=inside").text == "2"
    assert known.get("/read").text == "2"


@pytest.mark.parametrize("mode", ["", "/explicit"])
@pytest.mark.parametrize("status", [500, 503])
def test_05_an_error_of_the_server_throws_the_blocks_writes_away(known: Client, mode: str, status: int) -> None:
    assert known.get(f"{mode}/lock_answers?how={status}").status == status
    assert known.get("/read").text == "1"


@locking
@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_waits_for_the_lock(server: Server, under_way: Any, known: Client, mode: str) -> None:
    first = under_way(known, "/hold")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(known.twin().get, f"{mode}/locked_count")
        server.wait_until_waiting(1)
        assert first.finish().text == "2"
        assert second.result(60).text == "3", "it must load what the first one saved"


# ---------------------------------------------------------------- 6: waiting is bounded


@locking
def test_06_a_lock_is_not_waited_for_longer_than_lock_timeout(under_way: Any, known: Client) -> None:
    first = under_way(known, "/hold")
    answer = known.twin().get("/short/read")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.set_cookie == []
    first.finish()


@shared
def test_06_a_killed_holder_blocks_nobody(server: Server, backend: str, known: Client) -> None:
    with Server(backend, server.folder) as other, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(Client(other.url, known.cookies).get, "/hold?word=never")
        Client(other.url).get("/listen?word=never-in")
        assert known.get("/short/read").status == 503
        other.kill()
        assert known.get("/read").text == "1"
        with pytest.raises(OSError):
            lost.result(30)


@locking
def test_06_many_requests_on_one_session_do_not_starve_others(server: Server, under_way: Any, known: Client) -> None:
    """As many requests on one session as nginx passes on of one browser; the server has 10 threads. All are under way
    when the others ask, and none is refused."""
    first = under_way(known, "/hold")
    with ThreadPoolExecutor(127) as pool:
        waiting = [pool.submit(known.twin().get, "/count") for _ in range(127)]
        server.wait_until_waiting(127)
        for _ in range(10):
            other = server.visitor()
            assert [other.get("/count").text for _ in range(2)] == ["1", "2"]
            assert not any(request.done() for request in waiting)
        assert first.finish().text == "2"
        assert sorted(int(request.result(60).text) for request in waiting) == list(range(3, 130))


# ---------------------------------------------------------------- 7: writes and renewals


def test_07_an_unchanged_session_is_not_written_and_sets_no_cookie(server: Server, known: Client) -> None:
    files = {path: path.stat().st_mtime_ns for path in server.folder.rglob("*") if path.is_file()}
    assert known.get("/read").set_cookie == []
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_07_a_nested_change_is_saved(visitor: Client) -> None:
    assert [visitor.get("/nested").text for _ in range(3)] == ["1", "2", "3"]


@locking
def test_07_the_deadline_is_renewed_after_a_tenth_of_the_timeout_cookie_and_record_together(
    server: Server, known: Client
) -> None:
    server.move_clock(TIMEOUT / 10 - 60)
    assert known.get("/count").set_cookie == [], "a write alone renews nothing"
    server.move_clock(61)
    renewed = known.get("/read")
    assert renewed.cookies["session_id"]["max-age"] == str(TIMEOUT)
    assert known.get("/read").set_cookie == []
    server.move_clock(TIMEOUT - 60)
    assert known.get("/read").text == "2", "the record was renewed with the cookie"


# ---------------------------------------------------------------- 8: deleted stays deleted


@revoking
@pytest.mark.parametrize("end", ["/delete", "/expire", "/explicit/delete", "/explicit/expire"])
def test_08_a_session_deleted_meanwhile_is_not_brought_back(server: Server, under_way: Any, end: str) -> None:
    for path in ("/hold", "/explicit/hold", "/release"):
        known = server.visitor()
        known.get("/count")
        old = known.twin()
        slow = under_way(old.twin(), path)
        with ThreadPoolExecutor(1) as pool:
            deletion = pool.submit(known.get, end)  # waits for the holder where a held session cannot be ended
            wait([deletion], timeout=0.5)
            assert slow.finish().status == 200
            assert deletion.result(60).status == 200
        assert old.get("/read").text == "None", path


@revoking
@pytest.mark.parametrize("end", ["/delete", "/expire"])
def test_08_delete_is_final_expires_the_cookie_and_a_replay_is_anonymous(known: Client, end: str) -> None:
    old = known.twin()
    answer = known.get(end)
    assert answer.cookies["session_id"]["max-age"] == "0"
    assert "session_id" not in known.cookies
    assert old.twin().get("/read").text == "None"
    assert old.twin().get("/identity").json["missing"]
    assert old.get("/count").text == "1"
    assert session_id(old) != ""


# ---------------------------------------------------------------- 9: regenerate


@revoking
@pytest.mark.parametrize("path", ["/regenerate", "/explicit/regenerate", "/tool_regenerate"])
def test_09_regenerate_keeps_the_data_and_kills_the_old_id(known: Client, path: str) -> None:
    old = known.twin()
    assert known.get(path).status == 200
    assert session_id(known) != session_id(old)
    assert known.get("/read").text == "1"
    assert old.get("/read").text == "None"
    assert old.get("/count").text == "1"
    assert known.get("/read").text == "1"


@locking
def test_09_a_request_under_way_while_the_session_moves_does_not_sign_the_visitor_out(
    under_way: Any, known: Client
) -> None:
    old = known.twin()
    late = under_way(old, "/late")
    known.get("/regenerate")
    answer = late.finish()
    assert (answer.status, answer.text) == (200, "1")
    assert answer.set_cookie == [], "the browser would put it over the new id"
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 10: cookie and headers


@two_shapes
def test_10_the_cookie_is_httponly_and_lax_and_lives_as_long_as_the_session(visitor: Client) -> None:
    answer = visitor.get("/count")
    cookie = answer.cookies["session_id"]
    assert len(answer.set_cookie) == 1
    assert cookie["httponly"] is True
    assert (cookie["samesite"], cookie["path"], cookie["max-age"]) == ("Lax", "/", str(TIMEOUT))
    assert cookie["secure"] == "", "on http a secure cookie would be lost"
    assert visitor.get("/read").set_cookie == []


@two_shapes
def test_10_the_path_of_the_cookie_is_where_the_application_is_mounted(server: Server) -> None:
    visitor = server.visitor()
    answers = [visitor.get(f"/other/{page}") for page in ("count", "regenerate", "delete")]
    assert [answer.cookies["session_id"]["path"] for answer in answers] == ["/other"] * 3


@two_shapes
def test_10_a_touched_page_is_private_and_varies_by_cookie(visitor: Client) -> None:
    for path in ("/read", "/count", "/read", "/identity", "/regenerate"):
        answer = visitor.get(path)
        assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Cookie", "private"), path


@two_shapes
def test_10_the_headers_of_the_page_itself_win(known: Client) -> None:
    answer = known.get("/own_headers")
    assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Accept, Cookie", "no-store")


@two_shapes
def test_10_a_cookie_set_by_hand_leads_to_the_same_session_and_never_repeats_an_unknown_id(
    server: Server, known: Client
) -> None:
    assert known.get("/cookie_by_hand").headers["vary"] == "Cookie"
    assert known.get("/read").text == "1"
    other = server.visitor(session_id="A" * 43)
    other.get("/cookie_by_hand")
    assert session_id(other) != "A" * 43


@two_shapes
@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_10_an_error_page_of_a_touched_session_varies_by_cookie(known: Client, mode: str) -> None:
    answer = known.get(f"{mode}/boom")
    assert (answer.status, answer.headers["vary"]) == (500, "Cookie")


@two_shapes
def test_10_the_hooks_can_be_called_by_hand(known: Client) -> None:
    assert known.get("/closed_by_hand").text == "closed"
    assert known.get("/read").text == "2"


@two_shapes
def test_10_the_session_is_a_mapping(known: Client) -> None:
    known.get("/put?name=a&value=b")
    assert known.get("/listed").json == [["n", "a"], ["a", "n"]]
    assert known.get("/mapping").json == [2, True, True, [["n", 1], ["a", "b"]], {"n": 1, "a": "b"}]
    assert known.get("/read").set_cookie == []


# ---------------------------------------------------------------- 11: what saves


@two_shapes
@pytest.mark.parametrize("mode", ["", "/explicit"])
@pytest.mark.parametrize("path", ["/boom", "/fail?status=500", "/fail?status=503", "/answer?status=500"])
def test_11_a_5xx_saves_nothing(known: Client, mode: str, path: str) -> None:
    assert known.get(mode + path).status >= 500
    assert known.get("/read").text == "1"


@on(["ram"])  # where the cookie is the session, it could not reach the browser in between
def test_11_an_internal_redirect_saves(known: Client) -> None:
    assert known.get("/redirect_inside").text == "2"


@two_shapes
@pytest.mark.parametrize("path", ["/fail?status=403", "/fail?status=404", "/answer?status=404", "/redirect"])
def test_11_errors_below_500_and_redirects_save(known: Client, path: str) -> None:
    assert 300 <= known.get(path).status < 500
    assert known.get("/read").text == "2"


@two_shapes
def test_11_a_new_visitor_who_gets_a_5xx_gets_no_cookie(visitor: Client) -> None:
    for path in ("/boom", "/fail?status=500"):
        assert visitor.get(path).set_cookie == []


# ---------------------------------------------------------------- 12: values


@two_shapes
def test_12_values_come_back_as_they_went_in(visitor: Client) -> None:
    assert visitor.get("/values_in").text == "stored"
    assert visitor.get("/values_out").json == []


@two_shapes
def test_12_anything_else_is_an_error_that_names_the_key_and_changes_nothing(server: Server, known: Client) -> None:
    answer = known.get("/unstorable")
    assert answer.status == 500
    assert "session['culprit']" in server.output()
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 13 to 15: damage, kills and outages


def quarantined(server: Server, key: str) -> int:
    """Return how often the log says that the record of this session was."""
    return len(re.findall(rf"unreadable record of session quarantined .*session={key[:8]}", server.output()))


@pytest.mark.parametrize("backend", ["file"], indirect=True)
def test_13_an_unreadable_record_is_quarantined_logged_once_and_the_visitor_begins_anew(
    server: Server, known: Client
) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    (path,) = server.folder.rglob(f"*{key}")
    path.write_bytes(path.read_bytes().replace(b"n", b"m", 1))
    old = known.twin()
    assert known.get("/count").text == "1"
    assert old.get("/read").text == "None"
    assert quarantined(server, key) == 1


@pytest.mark.parametrize("backend", ["functions"], indirect=True)
@pytest.mark.parametrize("path", ["/count", "/explicit/count"])
def test_13_an_unreadable_record_of_the_functions_is_kept_under_another_name(
    server: Server, known: Client, path: str
) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    with closing(sqlite3.connect(server.folder / "sessions.sqlite", isolation_level=None)) as database:
        damage = "UPDATE session_data SET sessionData = 'x' || sessionData WHERE sessionId LIKE ?"
        assert database.execute(damage, (f"%{key}",)).rowcount == 1
        assert known.get(path).text == "1"
        kept = "SELECT count(*) FROM session_data WHERE sessionId LIKE 'unreadable:%' || ?"
        assert database.execute(kept, (key,)).fetchone() == (1,)
    assert quarantined(server, key) == 1


@pytest.mark.parametrize("backend", ["file", "functions"], indirect=True)
@pytest.mark.parametrize("path", ["/read", "/count", "/explicit/read", "/explicit/count", "/redirect"])
def test_15_a_store_that_does_not_answer_is_a_503_and_the_session_is_there_afterwards(
    server: Server, backend: str, known: Client, path: str
) -> None:
    storage = server.folder / ("sessions" if backend == "file" else "sessions.sqlite")
    storage.rename(server.folder / "unmounted")
    try:
        answer = known.get(path)
        assert answer.status == 503
        assert answer.set_cookie == []
        assert int(answer.headers["retry-after"]) > 0
        assert str(server.folder) not in answer.text
        fresh = server.visitor().get("/count")
        assert (fresh.status, fresh.set_cookie) == (503, [])
    finally:
        (server.folder / "unmounted").rename(storage)
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 16: limits


def test_16_an_idle_session_ends_though_the_client_keeps_its_cookie(server: Server, known: Client) -> None:
    server.move_clock(TIMEOUT - 1)
    assert known.get("/read").text == "1"
    other = server.visitor()
    other.get("/count")
    server.move_clock(TIMEOUT + 1)
    assert other.get("/read").text == "None"
    assert other.get("/identity").json["missing"]


def test_16_a_busy_session_ends_at_its_lifetime(backend: str) -> None:
    with Server(backend, timeout=60, lifetime=90) as server:
        visitor = server.visitor()
        assert visitor.get("/count").cookies["session_id"]["max-age"] == "3600"
        for _ in range(2):
            server.move_clock(40 * 60)
            visitor.get("/count")
        assert visitor.get("/read").text == "3"
        server.move_clock(10 * 60 + 1)
        assert visitor.get("/read").text == "None"


def test_16_a_timeout_of_the_sessions_own_holds_from_then_on(server: Server, known: Client) -> None:
    """`cherrypy.session.timeout = 5`: for this request's save, and for the next ones."""
    assert known.get("/timeout").text.startswith("60 ")
    answer = known.get("/timeout?minutes=5")
    assert (answer.text[:2], answer.cookies["session_id"]["max-age"]) == ("5 ", "300")
    server.move_clock(200)
    assert known.get("/count").cookies["session_id"]["max-age"] == "300"
    server.move_clock(299)
    assert known.get("/read").text == "2"
    server.move_clock(301)
    assert known.get("/read").text == "None"


@two_shapes
def test_16_to_read_the_timeout_is_to_read(visitor: Client) -> None:
    assert visitor.get("/timeout").set_cookie == []
    visitor.get("/count")
    assert visitor.get("/timeout").set_cookie == []


# ---------------------------------------------------------------- 17: applications


def test_17_applications_do_not_see_each_others_sessions_or_settings(server: Server, known: Client) -> None:
    assert known.get("/other/read").text == "None"
    other = server.visitor()
    answer = other.get("/named/count")
    assert answer.cookies["named_id"]["max-age"] == "60"
    assert server.visitor(session_id=session_id(other, "named_id")).get("/read").text == "None"
    assert server.visitor(named_id=session_id(known)).get("/named/read").text == "None"
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 18: cleaning


@on(able("purges", "counts"))
def test_18_the_cleaner_removes_what_has_expired_and_all_it_left(backend: str) -> None:
    files = {"ram": 0, "file": 2, "postgresql": 0}  # a session and its lock
    with Server(backend, clean_freq=0.001) as server:
        visitors = [server.visitor() for _ in range(20)]
        for visitor in visitors:
            visitor.get("/count")
        visitors[0].get("/regenerate")
        stays = server.visitor()
        server.move_clock(TIMEOUT - 10)
        stays.get("/count")
        server.move_clock(70)
        wait_until(lambda: stays.get("/live").text == "1", "all sessions go but one")
        wait_until(lambda: len(session_files(server.folder)) <= files[backend], "their files go")
        assert stays.get("/read").text == "1"
        assert len(session_files(server.folder)) == files[backend]


def session_files(place: Path) -> list[Path]:
    """Return the files of sessions, and those of their locks."""
    return [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]


# ---------------------------------------------------------------- 19: streams


@on(["ram"])  # in the cookie, the answer itself is what saves; see rule 20
def test_19_a_streamed_answer_is_saved_and_unlocked_before_its_first_byte(server: Server, known: Client) -> None:
    word = f"w{time.monotonic_ns()}"
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(known.twin().get, f"/stream?word={word}")
        wait_until(lambda: known.get("/short/read").text == "2", "the stream, which waits for its word, is saved")
        assert not stream.done()
        server.say(word)
        body = stream.result(60).text
    assert body.startswith("first ")
    assert "session_lock()" in body, "a write outside it is an error that says so"
    assert known.get("/read").text == "3"


@two_shapes
def test_19_a_generator_that_is_not_streamed_may_write(visitor: Client) -> None:
    assert [visitor.get("/generated").text for _ in range(3)] == ["1", "2", "3"]


# ---------------------------------------------------------------- 8 and 9 again, between two processes


@shared
@pytest.mark.parametrize("path", ["/hold", "/explicit/hold", "/late"])
def test_08_a_logout_in_one_process_is_not_undone_by_a_request_under_way_in_the_other(
    server: Server, backend: str, known: Client, path: str
) -> None:
    old = known.twin()
    word = f"w{time.monotonic_ns()}"
    with Server(backend, server.folder) as other, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(Client(other.url, old.cookies).get, f"{path}?word={word}")
        other.listen(f"{word}-in")
        logout = pool.submit(known.get, "/delete")  # waits for the holder where the backend cannot end a held session
        wait([logout], timeout=1)
        other.say(word)
        assert logout.result(60).status == 200
        assert slow.result(60).status == 200
        assert old.get("/read").text == "None"
        assert Client(other.url, old.cookies).get("/read").text == "None"


@shared
def test_09_a_login_with_a_late_request_in_another_process_keeps_the_visitor_signed_in(
    server: Server, backend: str, known: Client
) -> None:
    word = f"w{time.monotonic_ns()}"
    with Server(backend, server.folder) as other, ThreadPoolExecutor(1) as pool:
        late = pool.submit(Client(other.url, known.cookies).get, f"/late?word={word}")
        other.listen(f"{word}-in")
        known.get("/regenerate")
        other.say(word)
        assert late.result(60).set_cookie == []
        assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 20: what a cookie session cannot do


# See also test_cookies.py: what is in the cookie, and who can read it.


@on(["cookie"])
def test_20_a_cookie_session_cannot_change_in_a_stream_and_says_so(server: Server, known: Client) -> None:
    word = f"w{time.monotonic_ns()}"
    server.say(word)
    with pytest.raises(http.client.IncompleteRead):
        known.get(f"/stream?word={word}")
    assert "has gone before the streamed body" in server.output()
