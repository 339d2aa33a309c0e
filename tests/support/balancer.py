"""HAProxy and nginx with the configurations in deploy/, and visitors who come through them by https."""

from __future__ import annotations

import csv
import datetime
import http.client
import ipaddress
import signal
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services import account, free_port
from tests.support.client import JSON, Client, Headers, Response
from tests.support.process import ROOT, Process, folder, installed, wait_until

BAD_GATEWAY = 502  # of the balancer: a process was gone before it had answered
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
# The same for nginx, within whose own file the other stands.
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
    {site}
}}
"""


class Proxy(Process):
    """A server in front of sites, by https. Raises ServiceError when it is not installed.

    Args:
        command: its program and arguments.
        config: its file in deploy/.
        changes: what that says, and what it says in a test.
        around: what stands around it.
        values: what to fill in.
    """

    def __init__(self, command: str, config: str, changes: Mapping[str, str], around: str, **values: object) -> None:
        name, *arguments = command.split()
        program = installed(name)
        self.folder, self.port = folder(), free_port()
        text = (ROOT / "deploy" / config).read_text()
        values |= {"folder": self.folder, "http": free_port(), "https": self.port}
        for old, new in changes.items():
            old = old.replace("{{", "{")
            assert text.count(old) == 1, f"deploy/{config} has changed: {old!r}"
            text = text.replace(old, new.format(**values))
        (self.folder / config).write_text(around.format(site=text, **values))
        certificate = make_certificate()
        (self.folder / "site.pem").write_bytes(certificate)
        self.tls = ssl.create_default_context(cadata=certificate[certificate.index(b"-----BEGIN CERT") :].decode())
        started = [program, *(one.format(folder=self.folder) for one in arguments)]
        url = f"https://127.0.0.1:{self.port}"
        super().__init__(started, cwd=Path("/"), url=url, account=account(), scratch=self.folder)

    def client(self, address: str = "") -> Client:
        """Return somebody who has never been here, and comes from this address."""
        return Client(self.url, address=address, tls=self.tls)


class Balancer(Proxy):
    """HAProxy in front of the sites at two ports, both of which it has found."""

    ends_with = signal.SIGKILL

    def __init__(self, one: int, two: int) -> None:
        self.clients: list[BalancedClient] = []
        super().__init__("haproxy -db -f {folder}/haproxy.cfg", "haproxy.cfg", _CHANGES, "{site}", one=one, two=two)

    def ready(self) -> bool:
        """Return whether both sites can be asked through it."""
        return (self.folder / "control").exists() and self.up() == {"one", "two"}

    def close(self) -> None:
        """Stop it, when its clients have closed their connections."""
        for client in self.clients:
            client.close()
        super().close()

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


class Nginx(Proxy):
    """nginx in front of one site.

    Args:
        at: where the site is, host:port or unix:/path.
        path: below which visitors find the site.
        passed: what the site is told in the place of that; empty for the path as it is.
    """

    def __init__(self, at: str, path: str = "/", passed: str = "") -> None:
        command = "nginx -e stderr -c {folder}/nginx.conf"
        super().__init__(command, "nginx.conf", _CHANGES_OF_NGINX, _NGINX, at=at, path=path, passed=passed)


class BalancedClient(Client):
    """Somebody with a browser of their own, who keeps the connection to the balancer as browsers do.

    Attributes:
        counts: what the counter has shown.
        failures: for each request that was not answered by the site, when it began, and the balancer's status, or 0
            for none.
    """

    def __init__(self, balancer: Balancer, cookies: Mapping[str, str] | None = None) -> None:
        super().__init__(balancer.url, cookies, JSON, tls=balancer.tls, keep=True)
        self.counts: list[int] = []
        self.failures: list[tuple[float, int]] = []
        balancer.clients.append(self)

    def ask(self, method: str, path: str, body: str | bytes | None = None, headers: Headers | None = None) -> Response:
        """Send one request, and return the answer of a site that knows of the https."""
        response = super().ask(method, path, body, headers)
        for line in response.set_cookie:
            assert line.startswith("__Host-session_id=") and "; Secure" in line
        return response

    def count(self) -> bool:
        """Visit the counter; False, and a failure noted, when the site did not answer."""
        began = time.monotonic()
        try:
            response = self.get("/counter")
        except (OSError, http.client.HTTPException):
            self.failures.append((began, 0))
            return False
        if response.status != 200:
            self.failures.append((began, response.status))
            return False
        self.counts.append(response.json["count"])
        return True


class Load:
    """A context manager: in the block, each client visits the counter again and again, in a thread of its own.

    Args:
        clients: who.
        goes_on: whether a client goes on after a failure.
    """

    def __init__(self, clients: list[BalancedClient], goes_on: bool) -> None:
        self.clients, self._goes_on = clients, goes_on
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in clients]

    def _run(self, client: BalancedClient) -> None:
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


def make_certificate() -> bytes:
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
