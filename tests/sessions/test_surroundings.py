"""What surrounds a site and must not harm its sessions: clocks that are wrong, clients that go away, what pages leave
behind, caches, signals, and how and where Python was started."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sessions.registry import registry
from tests.conftest import PASSWORD
from tests.sessions.test_rules import Server, send_half_a_form, under_way
from tests.support.application import Counter, application
from tests.support.backends import BACKENDS, options_of
from tests.support.client import JSON, Client, WsgiClient
from tests.support.members import able
from tests.support.process import ROOT, folder, wait_until
from tests.support.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["under_way"]  # a fixture, of this file as well

DAY = 24 * 60 * 60.0


class Surrounded(Server):
    module = "tests.support.surroundings_app"


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[Surrounded]:
    """One site for all tests of a backend; each test is a visitor of its own."""
    with Surrounded(backend) as server:
        yield server


@pytest.fixture
def known(server: Surrounded) -> Client:
    """A visitor with a session that has counted to 1."""
    visitor = server.visitor()
    assert visitor.get("/count").text == "1"
    return visitor


locking = pytest.mark.parametrize("backend", able("locks_threads"), indirect=True)
two_shapes = pytest.mark.parametrize("backend", ["ram", "cookie"], indirect=True)


# ---------------------------------------------------------------- clocks


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """By how many seconds the clock of this process is wrong."""
    shift, right = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: right() + shift[0])
    yield shift


@pytest.mark.parametrize("storage", BACKENDS)
def test_a_clock_that_is_set_back_ends_no_session(storage: str, tmp_path: Path, shift: list[float]) -> None:
    """By a day, and to 1970, where a machine without a battery boots until it is told the time."""
    client = WsgiClient(application(Counter(), **options_of(storage, tmp_path)))
    (store,) = registry.stores(client.app)
    away = WsgiClient(client.app)
    assert client.get().text == away.get().text == "1"
    for n, wrong in enumerate((-DAY, 1000 - time.time())):
        shift[0] = wrong
        assert store.purge(100) == 0
        assert [client.get().text for _ in range(2)] == [str(2 * n + 2), str(2 * n + 3)]
        newcomer = WsgiClient(client.app)
        assert [newcomer.get().text for _ in range(2)] == ["1", "2"]
    shift[0] = 0.0
    assert away.get().text == "2", "who came meanwhile may have been away for a day, as far as anybody knows"
    registry.close(client.app)


# ---------------------------------------------------------------- no files left


def test_a_process_without_a_free_file_answers_503_at_worst_and_counts_on(
    server: Surrounded, known: Client, backend: str
) -> None:
    visitor = Client(server.url, known.cookies, keep=True)  # no new connection is accepted
    assert visitor.get("/count").text == "2"
    visitor.get("/files?limit=3")  # those that are open stay so
    answers = [visitor.get("/count") for _ in range(3)]
    visitor.get("/files?limit=-1")
    counted = [answer.text for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} == {503 if backend in ("file", "functions") else 200}
    assert counted == [str(n + 3) for n in range(len(counted))]
    assert visitor.get("/count").text == str(len(counted) + 3)
    visitor.close()


# ---------------------------------------------------------------- clients that go away


def reset(connection: socket.socket) -> None:
    """Close it as a browser does that crashes, or a phone that has lost its network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def ask(visitor: Client, path: str) -> socket.socket:
    """Ask for a page, on a connection that the test may close."""
    place = urlsplit(visitor.url)
    connection = socket.create_connection((place.hostname, place.port), 30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {visitor.cookie}\r\n\r\n".encode())
    return connection


gone = pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])


@locking
@gone
def test_whoever_goes_away_while_it_waits_for_its_session_keeps_nobody_from_it(
    server: Surrounded, under_way: Any, known: Client, leave: Callable[[socket.socket], None]
) -> None:
    first = under_way(known, "/hold")
    waits = ask(known, "/count")
    server.wait_until_waiting(1)
    leave(waits)
    assert first.finish().text == "2"
    assert known.get("/count").text == "4", "nobody can tell that it does not wait any more"


@locking
@gone
def test_whoever_goes_away_during_an_upload_keeps_nobody_from_its_session(
    server: Surrounded, known: Client, leave: Callable[[socket.socket], None]
) -> None:
    """The session is locked before the body is read."""
    upload = send_half_a_form(known, "/early")
    wait_until(lambda: known.get("/short/read").status == 503, "the upload begins")
    leave(upload)
    assert known.get("/count").text in ("2", "3"), "a server may take what came for the whole form"


@locking
@gone
def test_whoever_goes_away_while_it_reads_keeps_nobody_from_its_session(
    server: Surrounded, known: Client, leave: Callable[[socket.socket], None]
) -> None:
    word = f"w{time.monotonic_ns()}"
    reads = ask(known, f"/stream?word={word}")
    assert b"200 OK" in reads.recv(1000)
    leave(reads)
    server.say(word)
    counts = [int(known.get("/count").text) for _ in range(3)]
    assert counts[-1] in (5, 6) and sorted(set(counts)) == counts, "the stream may have counted once more"


# ---------------------------------------------------------------- what pages leave behind


@locking
def test_a_page_that_forks_keeps_nobody_from_its_session(known: Client) -> None:
    for n in (2, 4, 6):
        assert known.get("/fork").text == str(n)
        assert known.twin().get("/count").text == str(n + 1)


@locking
def test_a_thread_that_a_page_has_left_behind_writes_in_a_block(server: Surrounded, known: Client) -> None:
    word = f"w{time.monotonic_ns()}"
    assert known.get(f"/background?word={word}").text == "2"
    assert known.get("/count").text == "3"
    server.say(word)
    server.listen(f"{word}-done")
    assert known.get("/count").text == "5"


@locking
def test_nine_long_polls_of_a_visitor_keep_nobody_from_the_session(under_way: Any, known: Client) -> None:
    """They have released it. The server has ten threads."""
    polls = [under_way(known.twin(), "/release") for _ in range(9)]
    assert known.get("/short/count").text == "11"
    assert {poll.finish().text for poll in polls} == {"11"}


# ---------------------------------------------------------------- caches


def test_an_answer_that_a_cache_asks_for_again_or_in_part_saves_the_session(known: Client) -> None:
    whole = known.get("/tagged", accept_encoding="gzip")
    assert gzip.decompress(whole.body) == b"the same " * 300
    assert {"Cookie", "Accept-Encoding"} <= set(whole.headers["vary"].split(", "))
    tag = known.get("/tagged").headers["etag"]
    assert known.get("/tagged", if_none_match=tag).status == 304
    assert known.get("/tagged", **{"If-Match": '"another"'}).status == 412
    head = known.ask("HEAD", "/tagged")
    assert (head.status, head.body, head.headers["etag"]) == (200, b"", tag)
    part = known.get("/part", Range="bytes=3-8")
    assert (part.status, part.body) == (206, Path("tests/support/surroundings_app.py").read_bytes()[3:9])
    assert known.get("/part", Range="bytes=1000000-").status == 416
    seen = known.get("/part").headers["last-modified"]
    assert known.get("/part", if_modified_since=seen).status == 304
    assert known.get("/read").text == "10"


PREFETCH = "document.head.append(Object.assign(document.createElement('link'), {rel: 'prefetch', href: '/counter'}))"
COUNT = "fetch('/counter', {headers: {Accept: 'application/json'}}).then(answer => answer.json())"


def test_what_a_browser_fetches_ahead_belongs_to_the_same_session(page: Page) -> None:
    page.goto("/")
    with page.expect_response("**/counter") as fetched:  # the first visit of all
        page.evaluate(PREFETCH)
    assert fetched.value.request.headers.get("sec-purpose") == "prefetch"
    (cookie,) = page.context.cookies()
    page.goto("/counter")
    counts = [page.evaluate(COUNT)["count"] for _ in range(2)]
    assert counts in ([2, 3], [3, 4]), "the browser may show what it has fetched"
    assert page.context.cookies() == [cookie]


# ---------------------------------------------------------------- signals


@two_shapes
def test_sigusr1_ends_nothing(server: Surrounded, known: Client) -> None:
    before = server.output().count("SIGUSR1")
    server.process.send_signal(signal.SIGUSR1)
    server.wait_until(lambda: server.output().count("SIGUSR1") > before, "hear the signal")
    assert known.get("/count").text == "2"


# ---------------------------------------------------------------- how and where Python was started


def turkish(place: Path) -> dict[str, str]:
    """Make a locale in which the small letter of I is another one, as far as this machine can."""
    command = ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(place / "tr_TR.UTF-8")]
    if not shutil.which("localedef") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("localedef and its sources (package locales) are missing")
    place.chmod(0o755)
    return {"LOCPATH": str(place), "LC_ALL": "tr_TR.UTF-8"}


ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # else Python makes UTF-8 of a locale without
STARTS: dict[str, dict[str, str]] = {
    "-OO": {"PYTHONOPTIMIZE": "2"},
    "LANG=C": {"LANG": "C", **ASCII},
    "LC_ALL=POSIX": {"LC_ALL": "POSIX", **ASCII},
    "tr_TR": {},
}


@pytest.fixture
def project() -> Iterator[Path]:
    """A copy of the project in a folder with a space in its name, which belongs to the account of the site."""
    place = folder()
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    project = Path(shutil.copytree(ROOT, place / "our site", ignore=ignored))
    os.chown(project, place.stat().st_uid, place.stat().st_gid)
    yield project
    shutil.rmtree(place)


def whole_visit(site: Site) -> None:
    visitor = Client(site.url)
    assert [visitor.get("/counter", **JSON).json["count"] for _ in range(2)] == [1, 2]
    assert visitor.post("/name", {"first": "İpek", "last": "Iğdır"}).status == 303
    assert visitor.get("/hello", **JSON).json == {"first": "İpek", "last": "Iğdır"}
    assert "İpek" in visitor.get("/hello").text
    answer = visitor.post("/login", {"username": "ada", "password": PASSWORD})
    assert answer.status == 303
    assert "İpek" not in str(answer.headers) and answer.headers["date"].endswith(" GMT")
    assert visitor.get("/account", **JSON).json["user"] == "ada"
    assert visitor.get("/no/%C4%B1%C5%9F").status == 404
    assert visitor.get("/static/style.css").status == 200
    site.restart()
    assert visitor.get("/counter", **JSON).json["count"] == 3
    assert visitor.get("/account", **JSON).json["user"] == "ada"
    assert "Traceback" not in site.output() and "UnicodeEncodeError" not in site.output()


@pytest.mark.parametrize("start", STARTS)
def test_the_site_is_the_same_however_python_was_started(start: str, tmp_path: Path) -> None:
    env = STARTS[start] or turkish(tmp_path)
    with Site("file", env={"DEMO_PASSWORD": PASSWORD, **env}) as site:
        whole_visit(site)


@pytest.mark.parametrize("profile", ["file", "ram", "functions"])  # that keep files
def test_the_site_runs_in_a_folder_with_a_space_in_its_name(project: Path, profile: str) -> None:
    config = {"/": {"tools.sessions.snapshot_path": "var/the snapshot"}} if profile == "ram" else {}
    storage = project / "var" / "our sessions"
    with Site(profile, root=project, storage=storage, config=config, env={"DEMO_PASSWORD": PASSWORD}) as site:
        whole_visit(site)
        assert any((project / "var").rglob("*"))
