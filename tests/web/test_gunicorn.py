"""The site under gunicorn, with the configuration in deploy/: two workers on one store."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.memcached import Memcached
from tests.conftest import PASSWORD
from tests.support.backends import SHARED, environment_of
from tests.support.client import JSON, Client
from tests.support.process import ROOT, folder, wait_until
from tests.support.site import Site
from tests.web.test_cluster import LOVELACE, Slow

COMMAND = (
    f"{sys.executable} -m gunicorn --config deploy/gunicorn.conf.py --bind 127.0.0.1:$PORT --no-control-socket "
    "--access-logfile - --access-logformat 'answered by %(p)s' {more} 'app:create_app()'"
)


@pytest.fixture(params=SHARED)
def gunicorn(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site, with the account ada. Its workers are forked when the stores are open, and share nothing by that."""
    environ = {**environment_of(request.param), "PROFILE": request.param, "DEMO_PASSWORD": PASSWORD}
    with Site(command=COMMAND.format(more="--preload"), env=environ) as site:
        yield site


class Guest(Client):
    """Not a CheckedClient: gunicorn names itself in the Server header, without its version, whatever the site says."""

    def count(self) -> int:
        return int(self.get("/counter", **JSON).json["count"])


def test_two_workers_of_gunicorn_share_the_sessions_and_stop_gracefully(gunicorn: Site) -> None:
    visitor = Guest(gunicorn.url)
    assert visitor.post("/login", {"username": "ada", "password": PASSWORD}).status == 303 and visitor.count() == 1
    with ThreadPoolExecutor(8) as pool:
        counts = pool.map(lambda twin: [twin.count() for _ in range(10)], [visitor.twin() for _ in range(8)])
        assert sorted(sum(counts, [])) == list(range(2, 82))
    assert len(set(re.findall(r"answered by <?(\d+)", gunicorn.output()))) == 2

    slow = Slow(gunicorn.url)
    gunicorn.process.send_signal(signal.SIGTERM)
    gunicorn.wait_until(lambda: "Handling signal: term" in gunicorn.output(), "hear the signal")
    named = slow.finish()
    assert gunicorn.process.wait(30) == 0 and "Traceback" not in gunicorn.output()
    gunicorn.restart()
    assert visitor.get("/account", **JSON).json["user"] == "ada" and visitor.count() == 82
    assert named.get("/hello", **JSON).json == LOVELACE


def test_the_configuration_in_deploy_is_for_production_behind_a_proxy() -> None:
    command = COMMAND.format(more="").replace("'app:create_app()'", "")
    with Site(command=command, env={"PROFILE": "file"}) as site:
        answer = site.client().get("/counter", x_forwarded_proto="https", x_forwarded_for="192.0.2.7")
        assert answer.set_cookie[0].startswith("__Host-session_id=") and answer.headers["strict-transport-security"]
        assert site.client().post("/login", {"username": "ada"}, x_forwarded_for="192.0.2.7").status == 403
        site.wait_until(lambda: "address=192.0.2.7" in site.output(), "log whom the proxy named")
    with pytest.raises(AssertionError, match="DEMO_PASSWORD is set, and production has no demo account"):
        Site(command=command, env={"PROFILE": "file", "DEMO_PASSWORD": PASSWORD})


# ---------------------------------------------------------------- the ram profile, whose sessions only one worker has

RAM = COMMAND.replace("-m gunicorn", str(Path(sys.executable).with_name("gunicorn"))).replace(
    "'app:create_app()'",
    "--workers 1 \"app:create_app('ram', {{'/': {{'tools.sessions.snapshot_path': '$STORAGE_PATH/snapshot'}}}})\"",
)


def workers(site: Site) -> list[int]:
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", site.output())]


def wait_for(site: Site, text: str, times: int = 1) -> None:
    site.wait_until(lambda: site.output().count(text) >= times, f"say {text!r} for the {times}. time")


@pytest.mark.parametrize(
    "more",
    ["", "--preload", "--worker-class sync --preload", "--worker-class gevent"],
    ids=["gthread", "preload", "sync", "gevent"],
)
def test_the_worker_that_has_the_sessions_is_replaced_and_nothing_is_lost(more: str) -> None:
    with Site(command=RAM.format(more=more)) as site:
        visitor = Guest(site.url)
        assert visitor.count() == 1

        request = Slow(site.url, expect=True)
        site.process.send_signal(signal.SIGHUP)
        wait_for(site, "This worker waits: snapshot_path: another process uses")
        assert request.finish().get("/hello", **JSON).json == LOVELACE
        assert visitor.count() == 2

        site.process.send_signal(signal.SIGUSR1)  # for logs: it ends nothing
        wait_for(site, "Handling signal: usr1")
        os.kill(workers(site)[-1], signal.SIGTERM)
        wait_for(site, "Booting worker", 3)
        assert visitor.count() == 3
        os.kill(workers(site)[-1], signal.SIGKILL)  # what the last snapshot has is there, as documented
        wait_for(site, "Booting worker", 4)
        assert visitor.count() == 3

        site.process.send_signal(signal.SIGTTIN)
        wait_for(site, "This worker waits", 2)
        assert [visitor.count() for _ in range(4)] == [4, 5, 6, 7]
        site.process.send_signal(signal.SIGTTOU)
        wait_for(site, "Worker exiting", 3)
        assert visitor.count() == 8

        request = Slow(site.url, expect=True)
        site.process.send_signal(signal.SIGTERM)
        wait_for(site, "Handling signal: term")
        named = request.finish()
        assert site.process.wait(30) == 0 and "Traceback" not in site.output()
        site.restart()
        assert visitor.count() == 9 and named.get("/hello", **JSON).json == LOVELACE


@pytest.mark.parametrize("more", ["", "--preload"], ids=["gthread", "preload"])
def test_a_new_gunicorn_takes_over_from_the_old_one(more: str) -> None:
    """SIGUSR2, then SIGTERM for the old one, which has a request under way."""
    with Site(command=RAM.format(more=more)) as site:
        visitor = Guest(site.url)
        assert visitor.count() == 1
        site.process.send_signal(signal.SIGUSR2)
        wait_for(site, "This worker waits")
        assert visitor.count() == 2
        request = Slow(site.url, expect=True)
        site.process.send_signal(signal.SIGTERM)
        named = request.finish()
        assert site.process.wait(30) == 0
        assert visitor.count() == 3 and named.get("/hello", **JSON).json == LOVELACE
        os.kill(int(re.findall(r"\[(\d+)\] \[INFO\] Starting gunicorn", site.output())[1]), signal.SIGTERM)
        wait_until(lambda: site.output().count("Shutting down: Master") == 2, "the new gunicorn has stopped")
        site.restart()
        assert visitor.count() == 4


def test_a_worker_that_has_served_its_share_is_replaced_and_nothing_is_lost() -> None:
    with Site(command=RAM.format(more="--preload --max-requests 6")) as site:
        visitor = Guest(site.url)
        assert [visitor.count() for _ in range(20)] == list(range(1, 21))
        assert len(workers(site)) > 3


def test_an_outage_of_the_store_while_a_worker_is_replaced_does_not_end_the_site() -> None:
    place = folder()
    server = Memcached(place)
    server.start()
    try:
        environ = {"PROFILE": "memcached", "MEMCACHED_SERVERS": server.address}
        with Site(command=COMMAND.format(more="--workers 1"), env=environ) as site:
            server.stop()
            os.kill(workers(site)[-1], signal.SIGKILL)
            wait_for(site, "exited with code 1")
            server.start()
            assert Guest(site.url).count() == 1
    finally:
        server.stop()
        shutil.rmtree(place)


@pytest.mark.parametrize("profile", SHARED)
def test_gevent_workers_share_the_sessions_and_stop_gracefully(profile: str) -> None:
    environ = {**environment_of(profile), "PROFILE": profile}
    with Site(command=COMMAND.format(more="--worker-class gevent --preload"), env=environ) as site:
        visitor = Guest(site.url)
        assert visitor.count() == 1
        with ThreadPoolExecutor(8) as pool:
            counts = pool.map(lambda twin: [twin.count() for _ in range(10)], [visitor.twin() for _ in range(8)])
            assert sorted(sum(counts, [])) == list(range(2, 82))
        request = Slow(site.url, expect=True)
        site.process.send_signal(signal.SIGTERM)
        wait_for(site, "Handling signal: term")
        named = request.finish()
        assert site.process.wait(30) == 0 and "Traceback" not in site.output()
        site.restart()
        assert visitor.count() == 82 and named.get("/hello", **JSON).json == LOVELACE


def test_gevent_that_replaces_the_threads_too_late_is_refused_before_visitors_share_a_session() -> None:
    code = "import cherrypy, gevent.monkey as m; m.patch_all(); from tests.support import application as a"
    code += "; a.application(a.Counter())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and "ConfigError: gevent has replaced Python's threads after" in ended.stderr
