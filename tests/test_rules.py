"""Each rule of a session (the numbers are those of README.md), over HTTP, on every backend that can keep it.

The order of requests is forced with words: a page says that it is in, and waits until the test says the next word. Only
the counting tests leave it to chance, and count over many tries.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import leaks
from tests.backends import BACKENDS, SECRET, SERVER_SIDE, SHARED, options_of
from tests.site import ROOT, account, environment, folder
from tests.visitor import Answer, Visitor

TIMEOUT = 60 * 60  # seconds: the default of 60 minutes


class Server:
    """tests/rules_app.py as a process."""

    def __init__(self, backend: str, place: Path, **options: Any) -> None:
        self.folder = place
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rules_app", json.dumps(options_of(backend, place) | options)],
            cwd=ROOT, env=environment({"STORAGE_PATH": str(place)}), stdout=self.log, stderr=self.log, **account(),
        )  # fmt: skip
        end = time.monotonic() + 30
        while not (found := re.findall(r"^http://\S+$", self.output(), re.M)):
            assert self.process.poll() is None and time.monotonic() < end, self.output()
            time.sleep(0.01)
        self.url = found[0]

    def output(self) -> str:
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def visitor(self, **cookies: str) -> Visitor:
        return Visitor(self.url, cookies)

    def say(self, word: str) -> None:
        """Let the page that waits for it go on."""
        assert self.visitor().get(f"/say?word={word}").text == "said"

    def listen(self, word: str) -> None:
        assert self.visitor().get(f"/listen?word={word}").text == "heard"

    def wait_until_waiting(self, requests: int) -> None:
        end = time.monotonic() + 30
        while int(self.visitor().get("/waiting").text) < requests:
            assert time.monotonic() < end, f"not {requests} requests wait"

    def move_clock(self, seconds: float) -> None:
        assert self.visitor().get(f"/clock?add={seconds}").text == "moved"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        leaks.spool.wrote("log", self.output())
        self.log.close()


@contextmanager
def a_server(backend: str, **options: Any) -> Iterator[Server]:
    """A site of the test's own, on an empty folder."""
    place = folder()
    try:
        with Server(backend, place, **options) as server:
            yield server
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[Server]:
    """One site for all tests of a backend; each test is a visitor of its own."""
    with a_server(backend) as server:
        yield server


@pytest.fixture
def visitor(server: Server) -> Visitor:
    return server.visitor()


@pytest.fixture
def known(visitor: Visitor) -> Visitor:
    """A visitor with a session that has counted to 1."""
    assert visitor.get("/count").text == "1"
    return visitor


@dataclass
class UnderWay:
    """A request that a page keeps until the test says its word."""

    server: Server
    word: str
    answer: Future[Answer]

    def finish(self) -> Answer:
        self.server.say(self.word)
        return self.answer.result(60)


@pytest.fixture
def under_way(server: Server) -> Iterator[Any]:
    """Start a request in the background; returns when its page is in."""
    count = 0
    with ThreadPoolExecutor(20) as pool:

        def start(visitor: Visitor, path: str) -> UnderWay:
            nonlocal count
            count += 1
            word = f"w{time.monotonic_ns()}"
            request = UnderWay(server, word, pool.submit(visitor.get, f"{path}?word={word}"))
            server.listen(f"{word}-in")
            return request

        yield start


def session_id(visitor: Visitor, name: str = "session_id") -> str:
    return visitor.cookies[name]


# ---------------------------------------------------------------- 1: nothing before the first write


@pytest.mark.parametrize("path", ["/untouched", "/read", "/explicit/read", "/regenerate", "/delete", "/expire"])
def test_01_nothing_is_stored_or_set_before_the_first_write(server: Server, visitor: Visitor, path: str) -> None:
    before = visitor.get("/length").text
    answer = visitor.get(path)
    assert answer.status == 200
    assert answer.set_cookie == []
    assert visitor.get("/length").text == before


def test_01_a_page_that_does_not_touch_the_session_sends_no_session_headers(known: Visitor) -> None:
    answer = known.get("/untouched")
    assert answer.set_cookie == []
    assert "vary" not in answer.headers
    assert "cache-control" not in answer.headers


def test_01_an_explicit_load_begins_a_session(visitor: Visitor) -> None:
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


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", ["/count", "/explicit/count", "/early"])
def test_02_an_unknown_id_is_never_adopted(server: Server, name: str, path: str) -> None:
    visitor = server.visitor(session_id=MALFORMED[name])
    answer = visitor.get(path)
    assert (answer.status, answer.text) == (200, "1")
    assert session_id(visitor) != MALFORMED[name]
    assert re.fullmatch(r"[\w-]{40,}", session_id(visitor).split(".")[0])
    assert visitor.get(path).text == "2"


@pytest.mark.parametrize("name", MALFORMED)
def test_02_reading_with_an_unknown_id_is_no_error(server: Server, name: str) -> None:
    answer = server.visitor(session_id=MALFORMED[name]).get("/identity")
    assert answer.status == 200
    assert not answer.json["adopted"]
    assert answer.json["missing"] is bool(MALFORMED[name])
    assert answer.set_cookie == []


def test_02_the_name_of_a_stored_record_is_no_id(server: Server, known: Visitor) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    assert server.visitor(session_id=key).get("/read").text == "None"


OTHERS = ['prefs={"a":1}', "br(oken=1", "<b>=1", "=", "a", "a=b=c", '"', "session_id", "\xff=\xfe"]


@pytest.mark.parametrize("other", OTHERS)
def test_02_cookies_of_other_programs_do_not_break_the_session(known: Visitor, other: str) -> None:
    own = f"session_id={session_id(known)}"
    for header in (f"{other}; {own}", f"{own}; {other}", f"a=1; {other}; {own}; b=2"):
        answer = known.get("/read", Cookie=header)
        assert (answer.status, answer.text) == (200, "1"), header


def test_02_of_two_session_cookies_the_one_that_can_be_an_id_counts(known: Visitor) -> None:
    assert known.get("/read", Cookie=f"session_id=junk; session_id={session_id(known)}").text == "1"


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
def test_03_the_store_holds_the_hash_and_not_the_id(server: Server, known: Visitor) -> None:
    stored = [str(path).encode() + path.read_bytes() for path in server.folder.rglob("*") if path.is_file()]
    assert hashlib.sha256(session_id(known).encode()).hexdigest().encode() in b"".join(stored)
    assert session_id(known).encode() not in b"".join(stored)


# ---------------------------------------------------------------- 4: locking


def test_04_nobody_reads_a_session_between_first_access_and_end(under_way: Any, known: Visitor) -> None:
    first = under_way(known, "/hold")
    assert known.twin().get("/short/read").status == 503
    assert first.finish().text == "2"
    assert known.get("/short/read").text == "2"


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
@pytest.mark.parametrize("path", ["/slow_count", "/locked_count", "/explicit/locked_count", "/explicit/acquired_count"])
def test_04_no_increment_is_lost_between_threads(known: Visitor, path: str) -> None:
    """Left to chance: 6 clients, 20 increments each."""

    def count(_: int) -> None:
        for _ in range(20):
            assert known.twin().get(path).status == 200

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert known.get("/read").text == "121"


@pytest.mark.parametrize("backend", SHARED, indirect=True)
def test_04_no_increment_is_lost_between_processes(server: Server, backend: str, known: Visitor) -> None:
    """Left to chance: 2 processes, 4 clients each, 50 increments each: 400."""

    def count(url: str) -> None:
        visitor = Visitor(url, dict(known.cookies))
        for _ in range(50):
            assert visitor.get("/slow_count").status == 200

    with Server(backend, server.folder) as other, ThreadPoolExecutor(8) as pool:
        list(pool.map(count, [server.url, other.url] * 4))
    assert known.get("/read").text == "401"


def test_04_the_explicit_mode_reads_without_the_lock(under_way: Any, known: Visitor) -> None:
    first = under_way(known, "/hold")
    assert known.twin().get("/explicit/read").text == "1"
    first.finish()
    assert known.twin().get("/explicit/read").text == "2"


def send_half_a_form(url: str, path: str, cookies: dict[str, str]) -> socket.socket:
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), 30)
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {cookie}\r\nConnection: close\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\na=1".encode()
    )
    return connection


def finish_the_form(connection: socket.socket) -> bytes:
    with connection:
        connection.sendall(b"&b=2")
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_04_early_locks_before_the_body_is_read(known: Visitor) -> None:
    half = send_half_a_form(known.url, "/early", known.cookies)
    end = time.monotonic() + 30
    while known.get("/short/read").status != 503:  # until the first half has come in
        assert time.monotonic() < end, "a request whose body has not come does not hold the session"
    assert finish_the_form(half).endswith(b"\r\n\r\n2")


def test_04_implicit_does_not_lock_while_the_body_comes_in(server: Server, known: Visitor) -> None:
    half = send_half_a_form(known.url, "/short/put", known.cookies)
    for _ in range(5):
        assert known.get("/read").text == "1"
    finish_the_form(half)


def test_04_after_an_early_release_the_session_is_others_and_is_loaded_again(under_way: Any, known: Visitor) -> None:
    first = under_way(known, "/let_go")
    assert known.twin().get("/short/count").text == "3", "the release saves what was counted"
    assert first.finish().text == "3"


# ---------------------------------------------------------------- 5: session_lock()


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_that_raises_changes_nothing(known: Visitor, mode: str) -> None:
    assert known.get(f"{mode}/lock_fails").text == "1"
    assert known.get("/read").text == "1"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_is_reentrant_and_saves_on_leaving(known: Visitor, mode: str) -> None:
    assert known.get(f"{mode}/lock_in_lock").text == "2"
    assert known.get("/read").text == "2"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_an_inner_block_that_raises_leaves_the_outer_writes(known: Visitor, mode: str) -> None:
    assert known.get(f"{mode}/inner_lock_fails").text == "1 kept"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_what_a_block_saved_stays_though_the_handler_fails_later(known: Visitor, mode: str) -> None:
    assert known.get(f"{mode}/lock_then_boom").status == 500
    assert known.get("/read").text == "2"


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_05_a_block_waits_for_the_lock(server: Server, under_way: Any, known: Visitor, mode: str) -> None:
    first = under_way(known, "/hold")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(known.twin().get, f"{mode}/locked_count")
        server.wait_until_waiting(1)
        assert first.finish().text == "2"
        assert second.result(60).text == "3", "it must load what the first one saved"


# ---------------------------------------------------------------- 6: waiting is bounded


def test_06_a_lock_is_not_waited_for_longer_than_lock_timeout(under_way: Any, known: Visitor) -> None:
    first = under_way(known, "/hold")
    answer = known.twin().get("/short/read")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.set_cookie == []
    first.finish()


@pytest.mark.parametrize("backend", SHARED, indirect=True)
def test_06_a_killed_holder_blocks_nobody(server: Server, backend: str, known: Visitor) -> None:
    with Server(backend, server.folder) as other, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(Visitor(other.url, dict(known.cookies)).get, "/hold?word=never")
        Visitor(other.url).get("/listen?word=never-in")
        assert known.get("/short/read").status == 503
        other.process.kill()
        other.process.wait()
        assert known.get("/read").text == "1"
        with pytest.raises(OSError):
            lost.result(30)


def test_06_many_requests_on_one_session_do_not_starve_others(server: Server, under_way: Any, known: Visitor) -> None:
    """15 requests on one session; the server has 10 threads. All are under way when the others ask."""
    first = under_way(known, "/hold")
    with ThreadPoolExecutor(15) as pool:
        waiting = [pool.submit(known.twin().get, "/count") for _ in range(14)]
        server.wait_until_waiting(14)
        for _ in range(30):
            stranger = server.visitor()
            assert [stranger.get("/count").text for _ in range(2)] == ["1", "2"]
            assert not any(request.done() for request in waiting)
        assert first.finish().text == "2"
        assert sorted(int(request.result(60).text) for request in waiting) == list(range(3, 17))


# ---------------------------------------------------------------- 7: writes and renewals


def test_07_an_unchanged_session_is_not_written_and_sets_no_cookie(server: Server, known: Visitor) -> None:
    files = {path: path.stat().st_mtime_ns for path in server.folder.rglob("*") if path.is_file()}
    assert known.get("/read").set_cookie == []
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_07_a_nested_change_is_saved(visitor: Visitor) -> None:
    assert [visitor.get("/nested").text for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
def test_07_the_deadline_is_renewed_after_a_tenth_of_the_timeout_cookie_and_record_together(
    server: Server, known: Visitor
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


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
@pytest.mark.parametrize("end", ["/delete", "/expire", "/explicit/delete", "/explicit/expire"])
def test_08_a_session_deleted_meanwhile_is_not_brought_back(server: Server, under_way: Any, end: str) -> None:
    for path in ("/hold", "/explicit/hold", "/let_go"):
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


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
@pytest.mark.parametrize("end", ["/delete", "/expire"])
def test_08_delete_is_final_expires_the_cookie_and_a_replay_is_anonymous(known: Visitor, end: str) -> None:
    old = known.twin()
    answer = known.get(end)
    assert answer.cookies["session_id"]["max-age"] == "0"
    assert "session_id" not in known.cookies
    assert old.twin().get("/read").text == "None"
    assert old.twin().get("/identity").json["missing"]
    assert old.get("/count").text == "1"
    assert session_id(old) != ""


# ---------------------------------------------------------------- 9: regenerate


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
@pytest.mark.parametrize("path", ["/regenerate", "/explicit/regenerate", "/tool_regenerate"])
def test_09_regenerate_keeps_the_data_and_kills_the_old_id(known: Visitor, path: str) -> None:
    old = known.twin()
    assert known.get(path).status == 200
    assert session_id(known) != session_id(old)
    assert known.get("/read").text == "1"
    assert old.get("/read").text == "None"
    assert old.get("/count").text == "1"
    assert known.get("/read").text == "1"


def test_09_a_request_under_way_while_the_session_moves_does_not_sign_the_visitor_out(
    under_way: Any, known: Visitor
) -> None:
    old = known.twin()
    late = under_way(old, "/late")
    known.get("/regenerate")
    answer = late.finish()
    assert (answer.status, answer.text) == (200, "1")
    assert answer.set_cookie == [], "the browser would put it over the new id"
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 10: cookie and headers


def test_10_the_cookie_is_httponly_and_lax_and_lives_as_long_as_the_session(visitor: Visitor) -> None:
    answer = visitor.get("/count")
    cookie = answer.cookies["session_id"]
    assert len(answer.set_cookie) == 1
    assert cookie["httponly"] is True
    assert (cookie["samesite"], cookie["path"], cookie["max-age"]) == ("Lax", "/", str(TIMEOUT))
    assert cookie["secure"] == "", "on http a secure cookie would be lost"
    assert visitor.get("/read").set_cookie == []


def test_10_a_touched_page_is_private_and_varies_by_cookie(visitor: Visitor) -> None:
    for path in ("/read", "/count", "/read", "/identity", "/regenerate"):
        answer = visitor.get(path)
        assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Cookie", "private"), path


def test_10_the_headers_of_the_page_itself_win(known: Visitor) -> None:
    answer = known.get("/own_headers")
    assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Accept, Cookie", "no-store")


def test_10_a_cookie_set_by_hand_leads_to_the_same_session_and_never_repeats_a_strangers_id(
    server: Server, known: Visitor
) -> None:
    assert known.get("/cookie_by_hand").headers["vary"] == "Cookie"
    assert known.get("/read").text == "1"
    stranger = server.visitor(session_id="A" * 43)
    stranger.get("/cookie_by_hand")
    assert session_id(stranger) != "A" * 43


@pytest.mark.parametrize("mode", ["", "/explicit"])
def test_10_an_error_page_of_a_touched_session_varies_by_cookie(known: Visitor, mode: str) -> None:
    answer = known.get(f"{mode}/boom")
    assert (answer.status, answer.headers["vary"]) == (500, "Cookie")


def test_10_the_hooks_can_be_called_by_hand(known: Visitor) -> None:
    assert known.get("/closed_by_hand").text == "closed"
    assert known.get("/read").text == "2"


def test_10_the_keys_can_be_iterated_over_on_every_backend(known: Visitor) -> None:
    known.get("/put?name=a&value=b")
    assert known.get("/listed").json == [["n", "a"], ["a", "n"]]


# ---------------------------------------------------------------- 11: what saves


@pytest.mark.parametrize("mode", ["", "/explicit"])
@pytest.mark.parametrize("path", ["/boom", "/fail?status=500", "/fail?status=503", "/answer?status=500"])
def test_11_a_5xx_saves_nothing(known: Visitor, mode: str, path: str) -> None:
    assert known.get(mode + path).status >= 500
    assert known.get("/read").text == "1"


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
def test_11_an_internal_redirect_saves(known: Visitor) -> None:
    assert known.get("/redirect_inside").text == "2"


@pytest.mark.parametrize("path", ["/fail?status=403", "/fail?status=404", "/answer?status=404", "/redirect"])
def test_11_errors_below_500_and_redirects_save(known: Visitor, path: str) -> None:
    assert 300 <= known.get(path).status < 500
    assert known.get("/read").text == "2"


def test_11_a_new_visitor_who_gets_a_5xx_gets_no_cookie(visitor: Visitor) -> None:
    for path in ("/boom", "/fail?status=500"):
        assert visitor.get(path).set_cookie == []


# ---------------------------------------------------------------- 12: values


def test_12_values_come_back_as_they_went_in(visitor: Visitor) -> None:
    assert visitor.get("/values_in").text == "stored"
    assert visitor.get("/values_out").json == []


def test_12_anything_else_is_an_error_that_names_the_key_and_changes_nothing(server: Server, known: Visitor) -> None:
    answer = known.get("/unstorable")
    assert answer.status == 500
    assert "session['culprit']" in server.output()
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 13 to 15: damage, kills and outages


@pytest.mark.parametrize("backend", ["file"], indirect=True)
def test_13_an_unreadable_record_is_set_aside_logged_once_and_the_visitor_begins_anew(
    server: Server, known: Visitor
) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    (path,) = server.folder.rglob(f"*{key}")
    path.write_bytes(path.read_bytes().replace(b"n", b"m", 1))
    old = known.twin()
    assert known.get("/count").text == "1"
    assert old.get("/read").text == "None"
    assert server.output().count(f"unreadable record of session {key[:8]}") == 1


@pytest.mark.parametrize("backend", ["functions"], indirect=True)
@pytest.mark.parametrize("path", ["/count", "/explicit/count"])
def test_13_an_unreadable_record_of_the_functions_is_kept_under_another_name(
    server: Server, known: Visitor, path: str
) -> None:
    key = hashlib.sha256(session_id(known).encode()).hexdigest()
    with closing(sqlite3.connect(server.folder / "sessions.sqlite", isolation_level=None)) as database:
        damage = "UPDATE session_data SET sessionData = 'x' || sessionData WHERE sessionId LIKE ?"
        assert database.execute(damage, (f"%{key}",)).rowcount == 1
        assert known.get(path).text == "1"
        kept = "SELECT count(*) FROM session_data WHERE sessionId LIKE 'unreadable:%' || ?"
        assert database.execute(kept, (key,)).fetchone() == (1,)
    assert server.output().count(f"unreadable record of session {key[:8]}") == 1


@pytest.mark.parametrize("backend", ["file", "functions"], indirect=True)
@pytest.mark.parametrize("path", ["/read", "/count", "/explicit/read", "/explicit/count", "/redirect"])
def test_15_a_store_that_does_not_answer_is_a_503_and_the_session_is_there_afterwards(
    server: Server, backend: str, known: Visitor, path: str
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


def test_16_an_idle_session_ends_though_the_client_keeps_its_cookie(server: Server, known: Visitor) -> None:
    server.move_clock(TIMEOUT - 1)
    assert known.get("/read").text == "1"
    other = server.visitor()
    other.get("/count")
    server.move_clock(TIMEOUT + 1)
    assert other.get("/read").text == "None"
    assert other.get("/identity").json["missing"]


def test_16_a_busy_session_ends_at_its_lifetime(backend: str) -> None:
    with a_server(backend, timeout=60, lifetime=90) as server:
        visitor = server.visitor()
        assert visitor.get("/count").cookies["session_id"]["max-age"] == "3600"
        for _ in range(2):
            server.move_clock(40 * 60)
            visitor.get("/count")
        assert visitor.get("/read").text == "3"
        server.move_clock(10 * 60 + 1)
        assert visitor.get("/read").text == "None"


# ---------------------------------------------------------------- 17: applications


def test_17_applications_do_not_see_each_others_sessions_or_settings(server: Server, known: Visitor) -> None:
    assert known.get("/other/read").text == "None"
    stranger = server.visitor()
    answer = stranger.get("/named/count")
    assert answer.cookies["named_id"]["max-age"] == "60"
    assert server.visitor(session_id=session_id(stranger, "named_id")).get("/read").text == "None"
    assert server.visitor(named_id=session_id(known)).get("/named/read").text == "None"
    assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 18: cleaning


@pytest.mark.parametrize("backend", ["ram", "file"], indirect=True)
def test_18_the_cleaner_removes_what_has_expired_and_all_it_left(backend: str) -> None:
    with a_server(backend, clean_freq=0.001) as server:
        visitors = [server.visitor() for _ in range(20)]
        for visitor in visitors:
            visitor.get("/count")
        visitors[0].get("/regenerate")
        stays = server.visitor()
        server.move_clock(TIMEOUT - 10)
        stays.get("/count")
        server.move_clock(70)
        end = time.monotonic() + 30
        while stays.get("/length").text != "1" or len(session_files(server.folder)) > 1:
            assert time.monotonic() < end, session_files(server.folder)
        assert stays.get("/read").text == "1"
        assert len(session_files(server.folder)) == (1 if backend == "file" else 0)


def session_files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]


# ---------------------------------------------------------------- 19: streams


@pytest.mark.parametrize("backend", SERVER_SIDE, indirect=True)
def test_19_a_streamed_answer_is_saved_and_unlocked_before_its_first_byte(server: Server, known: Visitor) -> None:
    word = f"w{time.monotonic_ns()}"
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(known.twin().get, f"/stream?word={word}")
        end = time.monotonic() + 30
        while known.get("/short/read").text != "2":  # the stream waits for its word all the while
            assert time.monotonic() < end, "a stream under way keeps its session"
        assert not stream.done()
        server.say(word)
        body = stream.result(60).text
    assert body.startswith("first ")
    assert "session_lock()" in body, "a write outside it is an error that says so"
    assert known.get("/read").text == "3"


def test_19_a_generator_that_is_not_streamed_may_write(visitor: Visitor) -> None:
    assert [visitor.get("/generated").text for _ in range(3)] == ["1", "2", "3"]


# ---------------------------------------------------------------- 8 and 9 again, between two processes


@pytest.mark.parametrize("backend", SHARED, indirect=True)
@pytest.mark.parametrize("path", ["/hold", "/explicit/hold", "/late"])
def test_08_a_logout_in_one_process_is_not_undone_by_a_request_under_way_in_the_other(
    server: Server, backend: str, known: Visitor, path: str
) -> None:
    old = known.twin()
    word = f"w{time.monotonic_ns()}"
    with Server(backend, server.folder) as other, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(Visitor(other.url, dict(old.cookies)).get, f"{path}?word={word}")
        other.listen(f"{word}-in")
        logout = pool.submit(known.get, "/delete")  # waits for the holder where the backend cannot end a held session
        wait([logout], timeout=1)
        other.say(word)
        assert logout.result(60).status == 200
        assert slow.result(60).status == 200
        assert old.get("/read").text == "None"
        assert Visitor(other.url, dict(old.cookies)).get("/read").text == "None"


@pytest.mark.parametrize("backend", SHARED, indirect=True)
def test_09_a_login_with_a_late_request_in_another_process_keeps_the_visitor_signed_in(
    server: Server, backend: str, known: Visitor
) -> None:
    word = f"w{time.monotonic_ns()}"
    with Server(backend, server.folder) as other, ThreadPoolExecutor(1) as pool:
        late = pool.submit(Visitor(other.url, dict(known.cookies)).get, f"/late?word={word}")
        other.listen(f"{word}-in")
        known.get("/regenerate")
        other.say(word)
        assert late.result(60).set_cookie == []
        assert known.get("/read").text == "1"


# ---------------------------------------------------------------- 20: what a cookie session cannot do, and what it can


@pytest.fixture
def in_cookie(server: Server) -> Visitor:
    visitor = server.visitor()
    assert visitor.get("/count").text == "1"
    return visitor


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_a_cookie_session_that_was_copied_works_until_it_expires(server: Server, in_cookie: Visitor) -> None:
    copy = in_cookie.twin()
    in_cookie.get("/delete")
    assert "session_id" not in in_cookie.cookies
    end = time.monotonic() + 30
    while copy.get("/read").text != "1":  # dead as long as the request that ended it is not over
        assert time.monotonic() < end
    server.move_clock(TIMEOUT + 1)
    assert copy.get("/read").text == "None"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_requests_under_way_together_share_one_cookie_session(
    server: Server, under_way: Any, in_cookie: Visitor
) -> None:
    first = under_way(in_cookie.twin(), "/hold")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(in_cookie.get, "/count")
        server.wait_until_waiting(1)
        assert first.finish().text == "2"
        assert second.result(60).text == "3"
    assert in_cookie.get("/read").text == "3"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_a_cookie_session_shows_nothing_and_takes_no_forgery(server: Server, in_cookie: Visitor) -> None:
    in_cookie.get("/put?name=password&value=correct-horse")
    value = session_id(in_cookie)
    id, token = value.split(".")
    assert b"horse" not in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    other = server.visitor()
    other.get("/count")
    forgeries = [value[:-9], value[:60], value + "A", f"{session_id(other).split('.')[0]}.{token}", f"{id}."]
    forgeries += [value[:n] + ("A" if value[n] != "A" else "B") + value[n + 1 :] for n in range(0, len(value) - 2, 7)]
    for forgery in forgeries:
        assert server.visitor(session_id=forgery).get("/read").text == "None", forgery
    assert in_cookie.get("/read").text == "1"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_too_much_for_a_cookie_is_an_error_that_names_it_and_the_cookie_stays(
    server: Server, in_cookie: Visitor
) -> None:
    answer = in_cookie.get(f"/put?name=essay&value={'x' * 4000}")
    assert (answer.status, answer.set_cookie) == (413, [])
    assert re.search(r"a session cookie of \d+ bytes is more than the 4096 bytes", server.output())
    assert "'essay' 40" in server.output()
    assert in_cookie.get("/read").text == "1"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_a_cookie_session_cannot_change_in_a_stream_and_says_so(server: Server, in_cookie: Visitor) -> None:
    word = f"w{time.monotonic_ns()}"
    server.say(word)
    with pytest.raises(http.client.IncompleteRead):
        in_cookie.get(f"/stream?word={word}")
    assert "has gone before the streamed body" in server.output()


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
def test_20_a_cookie_under_an_older_secret_is_read_and_written_anew(server: Server, in_cookie: Visitor) -> None:
    newer = "a secret that was made later than the other"
    with a_server("cookie", secret=f"{newer},{SECRET}") as both, a_server("cookie", secret=newer) as only_newer:
        moved = Visitor(both.url, dict(in_cookie.cookies))
        assert Visitor(only_newer.url, dict(in_cookie.cookies)).get("/read").text == "None"
        answer = moved.get("/read")
        assert (answer.text, len(answer.set_cookie)) == ("1", 1)
        assert moved.get("/read").set_cookie == []
        assert Visitor(only_newer.url, dict(moved.cookies)).get("/read").text == "1"
