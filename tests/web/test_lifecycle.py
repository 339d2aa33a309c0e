"""The site as a process: how it starts, stops and reloads, and that it runs under another server as well."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services import free_port
from tests.support.client import JSON, SECURITY, Client
from tests.support.process import environment, folder
from tests.support.site import Site
from web.settings import ROOT


@pytest.fixture
def project() -> Iterator[Path]:
    """A copy of the project, for tests that change its files."""
    path = folder()
    ignored = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache")
    yield Path(shutil.copytree(ROOT, path / "project", ignore=ignored))
    shutil.rmtree(path)


def test_port_0_is_any_free_port_and_the_real_address_is_printed() -> None:
    with Site(args=["--port", "0"]) as one, Site(args=["--port", "0"]) as two:
        assert one.url != two.url
        assert one.client().get("/healthz").status == two.client().get("/healthz").status == 200


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_site_cleanly_and_soon(signum: int) -> None:
    with Site() as site:
        waiting = Client(site.url, keep=True)
        waiting.get("/healthz")
        silent = [socket.create_connection(site.address) for _ in range(20)]  # more than there are threads
        assert site.stop(signum) == 0
        assert "Traceback" not in site.output()
        waiting.close()
        for connection in silent:
            connection.close()


def test_a_site_whose_welcome_nobody_can_read_serves_and_stops_all_the_same() -> None:
    command, port = f"{sys.executable} {ROOT / 'app.py'} --profile ram > /dev/full", free_port()
    with Site(command=command, port=port, url=f"http://127.0.0.1:{port}") as site:
        assert site.client().get("/counter").status == 200
        assert site.stop() == 0
        assert "standard output is closed: No space left on device" in site.output()


def test_every_answer_carries_the_headers_and_the_look_of_the_site() -> None:
    with Site("ram") as site:
        client = site.client()
        answers = [client.get(path) for path in ("/", "/static/favicon.svg", "/nothing", "/static/nothing")]
        answers += [client.ask("POST", "/name", "x", {"Content-Type": "x" * 60_000}), client.get("/", host="")]
        for answer in answers:
            assert SECURITY.items() <= {**dict.fromkeys(SECURITY), **answer.headers}.items()
            assert answer.status == 200 or ("/static/" in answer.text and "Traceback" not in answer.text)


def test_a_request_is_bounded() -> None:
    with Site("ram") as site:
        answer = site.client().post("/name", {"first": "a" * 1024 * 1024})
        assert answer.status == 413 and "</html>" in answer.text
        assert site.client().get("/", x_much="a" * 64 * 1024).status == 413


def test_a_failing_page_is_logged_with_its_traceback_and_the_cookies_are_not(project: Path) -> None:
    page = project / "pages" / "tour.py"
    page.write_text(page.read_text() + "\nTour.index = cherrypy.expose(lambda self: 1 // 0)\n")
    with Site(root=project) as site:
        answer = site.client().get("/", cookie="session_id=0123456789abcdef")
        assert answer.status == 500 and "ZeroDivision" not in answer.text
        assert "ZeroDivisionError" in site.output() and "0123456789abcdef" not in site.output()


def test_a_change_reloads_the_site_and_keeps_the_session_and_the_password(project: Path) -> None:
    with Site(root=project, reload=True, port=free_port()) as site:
        visitor = site.client()
        visitor.get("/counter")
        for changed, starts in ((project / "pages" / "tour.py", 2), (project / "site.conf", 3)):
            site.wait_until(touched(changed, site, starts), "reload")
            site.wait_until(site.ready, "answer")
        assert visitor.get("/counter", **JSON).json == {"count": 2}
        passwords = re.findall(r"as ada with the password (\S+)", site.output())
        assert len(passwords) == 3 and len(set(passwords)) == 1


def touched(path: Path, site: Site, starts: int) -> Callable[[], bool]:
    """Return a check whether the site has started that often; it touches the path until the site has noticed."""
    mtime = path.stat().st_mtime

    def check() -> bool:
        nonlocal mtime
        mtime += 1  # the reloader only notices what is newer than at its first look, a second after the start
        os.utime(path, (mtime, mtime))
        return len(re.findall("^Serving ", site.output(), re.MULTILINE)) >= starts

    return check


def test_a_changed_template_is_shown_without_a_restart(project: Path) -> None:
    with Site("ram", root=project) as site:
        layout = project / "templates" / "layout.html"
        layout.write_text(layout.read_text().replace("</body>", "<p>changed</p></body>"))
        assert "<p>changed</p>" in site.client().get("/").text


def test_the_procfile_starts_the_site_in_production_behind_a_proxy() -> None:
    kind, command = (ROOT / "Procfile").read_text().strip().split(": ", 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Site(command=command, env={"HOST": "127.0.0.1", "PATH": path}) as site:
        assert kind == "web" and site.client().get("/healthz").status == 200
        counted = site.client().get("/counter", x_forwarded_proto="https")
        assert counted.set_cookie[0].startswith("__Host-session_id=") and counted.headers["strict-transport-security"]


def test_another_wsgi_server_needs_only_create_app() -> None:
    program = """
import sys
from wsgiref.util import setup_testing_defaults
sys.path.insert(0, sys.argv[1])
import app
environ, answer = {}, []
setup_testing_defaults(environ)
page = b"".join(app.create_app("ram")(environ, lambda *status_and_headers: answer.extend(status_and_headers)))
assert answer[0] == "200 OK" and ("X-Content-Type-Options", "nosniff") in answer[1]
assert b"</html>" in page
"""
    command = [sys.executable, "-W", "error", "-c", program, str(ROOT)]
    subprocess.run(command, cwd="/", env=environment(), capture_output=True, check=True)
