"""Connections on which no request comes, or only a part of one, by http and by https: nobody else waits for them."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sessions.locks import MAX_WAITING
from tests.support.process import START_SECONDS
from tests.support.site import Site
from web.server import Server

MANY = 40  # four times as many as the site has threads
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /logout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
FORM = POST + b"Content-Length: 22\r\n\r\n" + b"&" * 22
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BIG = POST + b"Content-Length: 100000\r\n\r\n"  # more than is read ahead
PARTS = {
    "nothing": b"",
    "a byte": GET[:1],
    "half a line": GET[:9],
    "half of the headers": GET[:-2],
    "no body": FORM[:-22],
    "half a body": FORM[:-11],
    "no big body": BIG,
    "half a big body": BIG + b"&" * 70_000,
    "no chunk": POST + CHUNKED,
    "a body to be asked for": FORM[:-22].replace(b"Content-Type", b"Expect: 100-continue\r\nContent-Type"),
    "a second request": GET + GET[:9],
}
HANDSHAKES = {"no handshake": b"", "half a handshake": b"\x16\x03\x01\x02\x00"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class SecureSite(Site):
    """The site by https, with a certificate of its own."""

    scheme = "https"

    def _write(self, config: dict[str, dict[str, Any]]) -> Path:
        key, certificate = self.scratch / "key.pem", self.scratch / "site.pem"
        subprocess.run(
            ["openssl", "req",  # noqa: S607
             "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
             "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o644)
        self.tls = ssl.create_default_context(cafile=str(certificate))
        config["global"] |= {"server.ssl_certificate": str(certificate), "server.ssl_private_key": str(key)}
        return super()._write(config)


def a_site(scheme: str, **options: Any) -> Site:
    return (SecureSite if scheme == "https" else Site)("ram", config={"global": options})


@pytest.fixture(scope="module", params=["http", "https"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One site for all tests, which has ten threads and does not drop a client before the test has seen enough."""
    with a_site(request.param, **{"server.socket_timeout": 2 * START_SECONDS, "server.shutdown_timeout": 1}) as site:
        yield site


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def plain(site: Site, stack: ExitStack, sent: bytes = b"", buffer: int = 1 << 18) -> socket.socket:
    """Connect without TLS, and send these bytes; `buffer` is how much the system keeps of answers that nobody reads."""
    connection = stack.enter_context(socket.socket())
    connection.settimeout(START_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect(site.address)
    connection.sendall(sent)
    return connection


def connected(site: Site, stack: ExitStack, sent: bytes = b"", buffer: int = 1 << 18) -> socket.socket:
    """Connect, with TLS if the site speaks it, and send these bytes."""
    connection = plain(site, stack, b"", buffer)
    if site.tls:
        connection = stack.enter_context(site.tls.wrap_socket(connection, server_hostname="127.0.0.1"))
    connection.sendall(sent)
    return connection


def answers(connection: socket.socket, number: int) -> list[tuple[int, bytes]]:
    """Read so many answers: their status and body."""
    with connection.makefile("rb") as file:
        found = []
        for _ in range(number):
            status, length = int(file.readline().split()[1]), 0
            for line in iter(file.readline, b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            found.append((status, file.read(length)))
        return found


def waits(connection: socket.socket) -> bool:
    """Return whether the site has neither answered nor closed the connection. It may have asked for the body."""
    connection.setblocking(False)
    try:
        return connection.recv(1000) == CONTINUE and waits(connection)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(START_SECONDS)


def assert_others_are_served(site: Site, stack: ExitStack) -> None:
    assert site.client().get("/healthz").status == 200
    assert answers(connected(site, stack, FORM), 1)[0][0] == 303


@pytest.mark.parametrize("part", PARTS)
def test_whoever_sends_a_part_of_a_request_keeps_nobody_waiting(site: Site, stack: ExitStack, part: str) -> None:
    """They are all still connected when somebody else has been served."""
    waiting = [connected(site, stack, PARTS[part]) for _ in range(MANY)]
    if part == "a second request":
        assert [answers(connection, 1)[0][0] for connection in waiting] == [200] * MANY
    assert_others_are_served(site, stack)
    assert all(map(waits, waiting))


@pytest.mark.parametrize("part", HANDSHAKES)
@pytest.mark.parametrize("site", ["https"], indirect=True)
def test_whoever_does_not_finish_the_handshake_keeps_nobody_waiting(site: Site, stack: ExitStack, part: str) -> None:
    waiting = [plain(site, stack, HANDSHAKES[part]) for _ in range(MANY)]
    assert_others_are_served(site, stack)
    assert all(map(waits, waiting))


@pytest.mark.parametrize("site", ["https"], indirect=True)
def test_what_is_no_tls_ends_its_connection_and_no_other(site: Site, stack: ExitStack) -> None:
    assert plain(site, stack, GET).recv(100) in (b"", b"\x15\x03\x03\x00\x02\x02\x0a")
    assert_others_are_served(site, stack)
    assert "Traceback" not in site.output()


@pytest.mark.parametrize(("request_", "status"), [(GET, 200), (FORM, 303), (GET + FORM, 200)])
def test_a_request_may_come_byte_by_byte(site: Site, stack: ExitStack, request_: bytes, status: int) -> None:
    connection = connected(site, stack)
    for byte in request_:
        connection.sendall(bytes([byte]))
    assert answers(connection, 1)[0][0] == status


def test_a_silent_connection_can_be_used_later_and_again(site: Site, stack: ExitStack) -> None:
    connection = connected(site, stack)
    assert_others_are_served(site, stack)
    for request_, status in ((GET, 200), (FORM, 303), (GET, 200)):
        connection.sendall(request_)
        assert answers(connection, 1)[0][0] == status


def test_requests_that_come_together_are_answered_in_their_order(site: Site, stack: ExitStack) -> None:
    connection = connected(site, stack, GET + FORM + GET + FORM[:-11])
    assert [status for status, _ in answers(connection, 3)] == [200, 303, 200]
    connection.sendall(FORM[-11:] + GET)
    assert [status for status, _ in answers(connection, 2)] == [303, 200]


@pytest.mark.parametrize("size", [60_000, 65_400, 65_536, 70_000, 300_000])
def test_a_body_of_any_size_comes_whole(site: Site, stack: ExitStack, size: int) -> None:
    """Around as much as is read ahead, and as a TLS record holds."""
    connection = connected(site, stack, POST + b"Content-Length: %d\r\n\r\n" % size + b"&" * size + GET)
    assert [status for status, _ in answers(connection, 2)] == [303, 200]
    connection = connected(site, stack, POST + CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"&" * size))
    assert answers(connection, 1)[0][0] == 303


def test_what_a_page_does_not_read_is_not_taken_for_a_request(site: Site, stack: ExitStack) -> None:
    """The page reads no body of this type; what a chunk begins with may look like the first line of a request."""
    unread = POST.replace(b"application/x-www-form-urlencoded", b"text/plain") + CHUNKED
    connection = connected(site, stack, unread + b"A; /healthz HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n")
    assert answers(connection, 1)[0][0] == 303
    assert connection.recv(1) == b""


def test_of_too_many_connections_the_silent_ones_go_the_longest_silent_first(site: Site, stack: ExitStack) -> None:
    most = Server.keep_alive_conn_limit
    silent = [connected(site, stack) for _ in range(most + MANY)]
    for connection in silent[:MANY]:
        assert connection.recv(1) == b""
    assert all(map(waits, silent[-most // 2 :]))
    silent[-1].sendall(GET)
    assert answers(silent[-1], 1)[0][0] == 200
    assert_others_are_served(site, stack)


@pytest.mark.parametrize("site", ["http"], indirect=True)
def test_whoever_takes_no_answer_keeps_nobody_waiting(site: Site, stack: ExitStack) -> None:
    """More than fits into the buffers of the system, from more clients than there are threads."""
    deaf = [connected(site, stack, GET.replace(b"/healthz", b"/login") * 100, 1) for _ in range(12)]
    for _ in range(100):
        assert site.client().get("/healthz").status == 200
    assert [status for status, _ in answers(deaf[0], 100)] == [200] * 100


@pytest.mark.parametrize("site", ["http"], indirect=True)
def test_of_too_many_bodies_at_once_one_is_refused(site: Site, stack: ExitStack) -> None:
    uploads = [connected(site, stack, BIG) for _ in range(MAX_WAITING // 2 + 1)]
    [refused], _, _ = select.select(uploads, [], [], START_SECONDS)
    assert answers(refused, 1)[0][0] == 503
    assert_others_are_served(site, stack)
    uploads.remove(refused)
    assert all(map(waits, uploads))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_site_stops_whatever_its_clients_have_sent(scheme: str) -> None:
    with ExitStack() as stack, a_site(scheme, **{"server.shutdown_timeout": 0.2}) as site:
        for part in PARTS.values():
            for _ in range(3):
                connected(site, stack, part)
        if scheme == "https":
            for part in HANDSHAKES.values():
                plain(site, stack, part)
        assert_others_are_served(site, stack)
        assert site.stop() == 0
        assert "Traceback" not in site.output()
