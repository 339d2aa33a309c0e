"""HAProxy and nginx with the configurations in deploy/, and visitors who come through them by https."""

from __future__ import annotations

import contextlib
import csv
import datetime
import http.client
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services import ServiceError, account, free_port
from tests.support import leaks
from tests.support.site import ROOT, START_SECONDS, folder

BAD_GATEWAY = 502  # of the balancer: a process was gone before it had answered
_JSON = {"Accept": "application/json"}
# What the file in deploy/ says, and what it says in a test. A check of a busy test machine may take its time.
_CHANGES = {
    "bind :80\n": "bind 127.0.0.1:{http}\n",
    "bind :443 ssl crt /etc/haproxy/site.pem": "bind 127.0.0.1:{https} ssl crt {folder}/site.pem",
    "inter 1s fastinter 200ms": "inter 200ms fastinter 100ms",
    "timeout check 4s": "timeout check 20s",
    "server one 127.0.0.1:5000": "server one 127.0.0.1:{one}",
    "server two 127.0.0.1:5001": "server two 127.0.0.1:{two}",
    "    log /dev/log local0\n": "    stats socket {folder}/control\n",
}
# The same for nginx, in whose own file the other stands.
_CHANGES_OF_NGINX = {
    "server 127.0.0.1:5000 max_fails=1 fail_timeout=2s;": "server {at};",
    "    server 127.0.0.1:5001 max_fails=1 fail_timeout=2s;\n": "",
    "listen 80;": "listen 127.0.0.1:{http};",
    "listen 443 ssl;": "listen 127.0.0.1:{https} ssl http2;",
    "/etc/ssl/site.pem;": "{folder}/site.pem;",
    "/etc/ssl/site.key;": "{folder}/site.pem;",
    "location / {{": "location {path} {{",
    "proxy_pass http://site;": "proxy_pass http://site{passed};",
}
_NGINX = """
pid {folder}/pid;
error_log stderr;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def wait_until(happened: Callable[[], Any], what: str) -> None:
    """Wait until happened() is true; AssertionError when it takes far too long."""
    end = time.monotonic() + START_SECONDS
    while not happened():
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(0.01)


class Balancer:
    """A context manager: it runs in the block, in front of the sites at two ports.

    Raises:
        ServiceError: it is not installed, or did not start.
    """

    def __init__(self, one: int, two: int) -> None:
        self.port = free_port()
        self.clients: list[Client] = []
        self.folder = folder()
        text = (ROOT / "deploy" / "haproxy.cfg").read_text()
        ports = {"http": free_port(), "https": self.port, "one": one, "two": two}
        for old, new in _CHANGES.items():
            assert text.count(old) == 1, f"deploy/haproxy.cfg has changed: {old!r}"
            text = text.replace(old, new.format(folder=self.folder, **ports))
        (self.folder / "haproxy.cfg").write_text(text)
        self.tls = _write_certificate(self.folder)

    def __enter__(self) -> Balancer:
        self._process = _started(self.folder, "haproxy", "-db", "-f", str(self.folder / "haproxy.cfg"))
        try:
            wait_until(lambda: self._process.poll() is not None or (self.folder / "control").exists(), "haproxy starts")
            wait_until(lambda: self.up() == {"one", "two"}, "haproxy finds both processes")
        except (AssertionError, OSError) as error:
            said = (self.folder / "log").read_text()
            self.__exit__()
            raise ServiceError(f"haproxy did not start: {error}\n{said}") from error
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients:
            client.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)

    def up(self) -> set[str]:
        """The processes whose last check went well."""
        rows = [row for row in self._statistics() if row["svname"] in ("one", "two")]
        return {row["svname"] for row in rows if row["status"] == "UP" and row["check_status"] == "L7OK"}

    def served(self) -> dict[str, int]:
        """How many requests each process was given."""
        return {row["svname"]: int(row["stot"]) for row in self._statistics() if row["svname"] in ("one", "two")}

    def _statistics(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.folder / "control"))
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        return list(csv.DictReader(text.removeprefix("# ").splitlines()))


class Nginx:
    """A context manager: it runs in the block, in front of one site.

    Args:
        at: where the site is, host:port or unix:/path.
        path: below which visitors find the site.
        passed: what the site is told in the place of that; empty for the path as it is.

    Raises:
        ServiceError: it is not installed, or did not start.
    """

    def __init__(self, at: str, path: str = "/", passed: str = "") -> None:
        self.port = free_port()
        self.folder = folder()
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        values = {"at": at, "http": free_port(), "https": self.port, "folder": self.folder, "path": path}
        for old, new in _CHANGES_OF_NGINX.items():
            old = old.replace("{{", "{")
            assert text.count(old) == 1, f"deploy/nginx.conf has changed: {old!r}"
            text = text.replace(old, new.format(**values, passed=passed))
        (self.folder / "site.conf").write_text(text)
        (self.folder / "nginx.conf").write_text(_NGINX.format(folder=self.folder))
        self.tls = _write_certificate(self.folder)

    def __enter__(self) -> Nginx:
        self._process = _started(self.folder, "nginx", "-e", "stderr", "-c", str(self.folder / "nginx.conf"))
        try:
            wait_until(lambda: self._process.poll() is not None or self._listens(), "nginx starts")
            assert self._process.poll() is None, "it has ended"
        except AssertionError as error:
            said = (self.folder / "log").read_text()
            self.__exit__()
            raise ServiceError(f"nginx did not start: {error}\n{said}") from error
        return self

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def __exit__(self, *error: object) -> None:
        self._process.terminate()  # and so its workers
        self._process.wait()
        shutil.rmtree(self.folder)


def _started(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise ServiceError(f"{name} is missing. Install it with: sudo apt-get install {name}")
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **account()
        )


def _write_certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate with its key, and return the context of somebody who believes it."""
    certificate = _certificate()
    (folder / "site.pem").write_bytes(certificate)
    return ssl.create_default_context(cadata=certificate[certificate.index(b"-----BEGIN CERT") :].decode())


class Client:
    """Somebody with a browser of their own, who keeps the connection to the balancer as browsers do.

    Attributes:
        counts: what the counter has shown.
        failures: for each request that was not answered by the site, when it began, and the balancer's status, or 0
            for none.
    """

    def __init__(self, balancer: Balancer, cookie: str = "") -> None:
        self.cookie = cookie
        self.counts: list[int] = []
        self.failures: list[tuple[float, int]] = []
        balancer.clients.append(self)
        self._connection = http.client.HTTPSConnection("127.0.0.1", balancer.port, timeout=60, context=balancer.tls)

    def ask(self, method: str, path: str, form: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Send one request, keep the cookie that comes, and return the status and what the JSON says, if it is any."""
        body = urlencode(form) if form else None
        headers = {**_JSON, **({"Cookie": self.cookie} if self.cookie else {})}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        leaks.spool.sent(headers, body)
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        leaks.spool.answered(f"{method} {path}", response.getheaders(), answer)
        for line in response.headers.get_all("Set-Cookie") or []:
            assert line.startswith("__Host-session_id=") and "; Secure" in line, "it does not know of the https"
            self.cookie = line.split(";")[0]
        of_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(answer) if of_json else None

    def count(self) -> bool:
        """Visit the counter; False, and a failure noted, when the site did not answer."""
        began = time.monotonic()
        try:
            status, told = self.ask("GET", "/counter")
        except (OSError, http.client.HTTPException):
            status = 0
        if status != 200:
            self.failures.append((began, status))
            return False
        self.counts.append(told["count"])
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Load:
    """A context manager: in the block, each client visits the counter again and again, in a thread of its own.

    Args:
        clients: who.
        goes_on: whether a client goes on after a failure.
    """

    def __init__(self, clients: list[Client], goes_on: bool) -> None:
        self.clients, self._goes_on = clients, goes_on
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in clients]

    def _run(self, client: Client) -> None:
        while not self._stopped.is_set():
            if not client.count() and not self._goes_on:
                return

    def wait_for(self, visits: int) -> None:
        """Wait until every client that still goes on has had so many more answers."""
        before = [len(client.counts) for client in self.clients]

        def all_had() -> bool:
            rows = zip(self.clients, self._threads, before, strict=True)
            return all(not thread.is_alive() or len(client.counts) >= had + visits for client, thread, had in rows)

        wait_until(all_had, f"{visits} more visits of each")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def _certificate() -> bytes:
    """A key and a certificate for 127.0.0.1, as HAProxy wants them: in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    day, today = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - day).not_valid_after(today + day)
    made = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + made.public_bytes(serialization.Encoding.PEM)
