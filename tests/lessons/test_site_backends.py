"""/backends: what it says of each backend, and of this machine."""

from __future__ import annotations

import html

from services import free_port
from sessions.registry import BACKENDS, backend
from tests.support.client import JSON, CheckedClient, Client
from tests.support.site import Site


def test_it_says_what_each_backend_cannot_do_in_its_own_words(visitor: CheckedClient) -> None:
    compared = visitor.get("/backends")
    for name in BACKENDS:
        assert backend(name).store_class.capabilities.limitations in html.unescape(compared.text)
    assert compared.set_cookie == []


def test_it_says_which_profile_runs_which_could_and_which_server_is_away() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    env = {
        "MEMCACHED_SERVERS": nowhere,
        "DATABASE_URL": f"postgresql://ada@{nowhere}/ada",
        "REDIS_URL": f"redis://{nowhere}",
    }
    with Site("ram", env=env) as site:
        backends = Client(site.url, headers=JSON).get("/backends").json["backends"]
        assert {name: found["state"] for name, found in backends.items()} == {
            "ram": "running",
            "file": "ready",
            "cookie": "ready",  # on a loopback address the site would make a secret
            "functions": "ready",
            "memcached": "away",
            "postgresql": "away",
            "redis": "away",
        }
        assert f"memcached at {nowhere}" in site.output(), "where it was looked for stands in the log"
