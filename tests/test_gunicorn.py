"""The site under gunicorn, with the configuration in deploy/: two workers on one store."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.backends import SHARED, environment_of
from tests.conftest import PASSWORD
from tests.site import Site
from tests.test_cluster import Slow
from tests.visitor import Visitor

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


class Guest(Visitor):
    """Not a Witness: gunicorn names itself in the Server header, without its version, whatever the site says."""

    def count(self) -> int:
        return int(self.get("/counter", Accept="application/json").json["count"])


def test_two_workers_of_gunicorn_share_the_sessions_and_stop_gracefully(gunicorn: Site) -> None:
    visitor = Guest(gunicorn.url)
    assert visitor.post("/login", {"username": "ada", "password": PASSWORD}).status == 303 and visitor.count() == 1
    with ThreadPoolExecutor(8) as pool:
        twins = [Guest(visitor.url, dict(visitor.cookies)) for _ in range(8)]
        counts = pool.map(lambda twin: [twin.count() for _ in range(10)], twins)
        assert sorted(sum(counts, [])) == list(range(2, 82))
    assert len(set(re.findall(r"answered by <?(\d+)", gunicorn.output()))) == 2

    slow = Slow(gunicorn.address)
    assert gunicorn.process
    gunicorn.process.send_signal(signal.SIGTERM)
    gunicorn.wait_until(lambda: "Handling signal: term" in gunicorn.output(), "hear the signal")
    answer = slow.finish()
    assert answer.status == 303
    assert gunicorn.process.wait(30) == 0 and "Traceback" not in gunicorn.output()
    gunicorn.restart()
    assert visitor.get("/account", Accept="application/json").json["user"] == "ada" and visitor.count() == 82
    named = {"Cookie": str(answer.getheader("Set-Cookie")).split(";")[0], "Accept": "application/json"}
    assert json.loads(gunicorn.request("GET", "/hello", named)[1]) == {"first": "Ada", "last": "Lovelace"}


def test_the_configuration_in_deploy_is_for_production_behind_a_proxy() -> None:
    command = COMMAND.format(more="").replace("'app:create_app()'", "")
    with Site(command=command, env={"PROFILE": "file"}) as site:
        answer = site.request("GET", "/counter", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"})[0]
        assert str(answer.getheader("Set-Cookie")).startswith("__Host-session_id=")
        assert answer.getheader("Strict-Transport-Security")
        assert Guest(site.url).post("/login", {"username": "ada"}, **{"X-Forwarded-For": "192.0.2.7"}).status == 403
        site.wait_until(lambda: "address=192.0.2.7" in site.output(), "log whom the proxy named")
    with pytest.raises(AssertionError, match="DEMO_PASSWORD is set, and production has no demo account"):
        Site(command=command, env={"PROFILE": "file", "DEMO_PASSWORD": PASSWORD})
