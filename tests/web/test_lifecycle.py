"""The site as a process: how it starts, stops and reloads, and that it runs under another server as well."""

from __future__ import annotations

import http.client
import json
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

from tests.support.site import Site, environment, folder, free_port
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
        assert one.request("GET", "/healthz")[0].status == two.request("GET", "/healthz")[0].status == 200


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_site_cleanly_and_soon(signum: int) -> None:
    with Site() as site:
        waiting = http.client.HTTPConnection(*site.address)
        waiting.request("GET", "/healthz")
        waiting.getresponse().read()  # kept alive, as browsers do
        silent = [socket.create_connection(site.address) for _ in range(20)]  # more than there are threads
        assert site.stop(signum) == 0
        assert "Traceback" not in site.output()
        waiting.close()
        for connection in silent:
            connection.close()


class Mute(Site):
    """A site that cannot print where it is."""

    @property
    def url(self) -> str:
        """The address that it was given."""
        return f"http://127.0.0.1:{self.port}"


def test_a_site_whose_welcome_nobody_can_read_serves_and_stops_all_the_same() -> None:
    command = f"{sys.executable} {ROOT / 'app.py'} --profile ram > /dev/full"
    with Mute(command=command, port=free_port()) as site:
        assert site.request("GET", "/counter")[0].status == 200
        assert site.stop() == 0
        assert "standard output is closed: No space left on device" in site.output()


def test_every_answer_carries_the_headers_and_the_look_of_the_site() -> None:
    with Site("ram") as site:
        answers = [site.request("GET", path) for path in ("/", "/static/favicon.svg", "/nothing", "/static/nothing")]
        answers.append(site.request("POST", "/name", {"Content-Type": "x" * 60_000}, b"x"))
        answers.append(site.request("GET", "/", {"Host": ""}))
        for response, body in answers:
            assert response.getheader("Server") == "CherryPy"
            assert response.getheader("X-Content-Type-Options") == "nosniff"
            assert "default-src 'self'" in str(response.getheader("Content-Security-Policy"))
            assert response.status == 200 or (b"/static/" in body and b"Traceback" not in body)


def test_a_request_is_bounded() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with Site("ram") as site:
        response, body = site.request("POST", "/name", form, b"first=" + b"a" * 1024 * 1024)
        assert response.status == 413 and b"</html>" in body
        assert site.request("GET", "/", {"X-Much": "a" * 64 * 1024})[0].status == 413


def test_a_failing_page_is_logged_with_its_traceback_and_the_cookies_are_not(project: Path) -> None:
    page = project / "pages" / "tour.py"
    page.write_text(page.read_text() + "\nTour.index = cherrypy.expose(lambda self: 1 // 0)\n")
    with Site(root=project) as site:
        response, body = site.request("GET", "/", {"Cookie": "session_id=0123456789abcdef"})
        assert response.status == 500 and b"ZeroDivision" not in body
        assert "ZeroDivisionError" in site.output() and "0123456789abcdef" not in site.output()


def test_a_change_reloads_the_site_and_keeps_the_session_and_the_password(project: Path) -> None:
    with Site(root=project, reload=True, port=free_port()) as site:
        first, _ = site.request("GET", "/counter")
        visitor = {"Cookie": str(first.getheader("Set-Cookie")).split(";")[0], "Accept": "application/json"}
        for changed, starts in ((project / "pages" / "tour.py", 2), (project / "site.conf", 3)):
            site.wait_until(touched(changed, site, starts), "reload")
            site.wait_until(site.answers, "answer")
        assert json.loads(site.request("GET", "/counter", visitor)[1]) == {"count": 2}
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
        assert b"<p>changed</p>" in site.request("GET", "/")[1]


def test_the_procfile_starts_the_site_in_production_behind_a_proxy() -> None:
    kind, command = (ROOT / "Procfile").read_text().strip().split(": ", 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Site(command=command, env={"HOST": "127.0.0.1", "PATH": path}) as site:
        assert kind == "web" and site.request("GET", "/healthz")[0].status == 200
        counted = site.request("GET", "/counter", {"X-Forwarded-Proto": "https"})[0]
        assert str(counted.getheader("Set-Cookie")).startswith("__Host-session_id=")
        assert counted.getheader("Strict-Transport-Security")


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
