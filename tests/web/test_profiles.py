"""Every profile of site.conf starts the site, counts, and keeps or loses the count just as its backend declares."""

from __future__ import annotations

import html
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sessions import registry
from sessions.registry import backend
from tests.support.backends import BACKENDS, SERVER_SIDE, SHARED, environment_of
from tests.support.client import JSON, Client
from tests.support.site import Site, run
from web.settings import SITE_CONF, find_profiles, read

PASSWORD = {"DEMO_PASSWORD": "correct horse battery staple"}


@pytest.fixture(scope="module", params=BACKENDS)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def site(profile: str) -> Iterator[Site]:
    with Site(profile, env=environment_of(profile) | PASSWORD) as site:
        yield site


def signed_in(site: Site, **form: str) -> Client:
    visitor = Client(site.url, headers=JSON)
    assert visitor.post("/login", {"username": "ada", "password": PASSWORD["DEMO_PASSWORD"], **form}).status == 303
    assert visitor.get("/account").json == {"user": "ada"}
    return visitor


def test_there_is_a_profile_for_every_backend_and_the_tests_run_on_each() -> None:
    assert set(find_profiles(read(SITE_CONF))) == set(registry.BACKENDS) == set(BACKENDS)


def test_it_counts_and_keeps_the_count_over_a_restart_as_its_backend_declares(site: Site, profile: str) -> None:
    visitor = Client(site.url, headers=JSON)
    assert [visitor.get("/counter").json for _ in range(3)] == [{"count": 1}, {"count": 2}, {"count": 3}]
    assert visitor.get("/healthz").json == {"status": "ok", "profile": profile}
    site.restart()
    survives = backend(profile).store_class.capabilities.survives_restart
    assert visitor.get("/counter").json == {"count": 4 if survives else 1}


def test_a_name_is_kept_across_pages_and_a_login_lasts_until_the_logout(site: Site) -> None:
    visitor = signed_in(site)
    assert visitor.post("/name", {"first": "Ada", "last": "Lovelace"}).status == 303
    assert visitor.get("/hello").json == {"first": "Ada", "last": "Lovelace"}
    assert visitor.post("/logout").status == 303
    assert visitor.get("/account").status == 401


def test_the_cookie_of_who_stays_signed_in_outlives_the_browser_and_no_other(site: Site) -> None:
    for form, age in (({}, ""), ({"stay": "yes"}, str(20160 * 60))):
        visitor = Client(site.url)
        signing_in = {"username": "ada", "password": PASSWORD["DEMO_PASSWORD"], **form}
        [morsel] = visitor.post("/login", signing_in).cookies.values()
        assert morsel["max-age"] == age


def own_reference(visitor: Client) -> str:
    """How the visitor's own session is called in the list of devices."""
    [own] = [entry for entry in visitor.get("/account/sessions").json["sessions"] if entry["current"]]
    return str(own["reference"])


def test_one_device_ends_another_and_then_all_others(site: Site, profile: str) -> None:
    """Where a backend cannot list them, the page says so in its words, and the accounts still end all others."""
    capabilities = backend(profile).store_class.capabilities
    desk, phone, tablet = signed_in(site), signed_in(site), signed_in(site, stay="yes")
    references = [own_reference(visitor) for visitor in (desk, phone, tablet)]
    assert len(set(references)) == 3
    listed = {entry["reference"] for entry in desk.get("/account/sessions").json["sessions"]}
    copy = desk.twin()
    end_phone = {"end": references[1]}
    ended = desk.post("/account/sessions", end_phone)
    if capabilities.lists:
        assert listed >= set(references)
        assert (ended.status, phone.get("/account").status) == (303, 401)
    else:
        assert listed == {references[0]}
        assert ended.status == 404 and capabilities.limitations in ended.json["error"]
        assert capabilities.limitations in html.unescape(desk.get("/account/sessions", Accept="text/html").text)
    assert tablet.get("/account").status == 200
    assert desk.post("/account/sessions", end_phone | {"end": "others"}).status == 303
    assert [visitor.get("/account").status for visitor in (phone, tablet, copy, desk)] == [401, 401, 401, 200]


def test_the_id_changes_at_sign_in_at_sign_out_and_when_others_are_ended(site: Site) -> None:
    visitor = Client(site.url, headers=JSON)
    proof = {"username": "ada", "password": PASSWORD["DEMO_PASSWORD"]}
    visitor.get("/counter")
    ids = [visitor.cookies["session_id"]]
    for path, form in (
        ("/login", proof),
        ("/login", proof),
        ("/account/sessions", {"end": "others"}),
        ("/logout", {}),
    ):
        assert visitor.post(path, form).status == 303
        ids.append(visitor.cookies["session_id"])
    assert len(set(ids)) == 5


def test_the_pages_say_what_the_backend_cannot_do_in_its_own_words(site: Site, profile: str) -> None:
    capabilities = backend(profile).store_class.capabilities
    assert capabilities.limitations in html.unescape(Client(site.url).get("/counter").text)


@pytest.mark.parametrize("profile", SERVER_SIDE, indirect=True)
def test_a_copied_cookie_is_worth_nothing_after_the_logout(site: Site) -> None:
    visitor = signed_in(site)
    copy = visitor.twin()
    visitor.post("/logout")
    assert copy.get("/account").status == 401


@pytest.mark.parametrize("profile", SHARED, indirect=True)
def test_two_processes_four_clients_each_lose_no_increment(site: Site, profile: str) -> None:
    """Left to chance: 8 clients, 50 increments each."""
    with Site(profile, env=environment_of(profile), storage=site.storage) as other:
        visitor = Client(site.url, headers=JSON)
        visitor.get("/counter")

        def count(url: str) -> None:
            twin = Client(url, visitor.cookies, JSON)
            for _ in range(50):
                assert twin.get("/counter").status == 200

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count, [site.url, other.url] * 4))
        assert visitor.get("/counter").json == {"count": 402}


@pytest.mark.parametrize("profile", SHARED, indirect=True)
def test_two_time_zones_on_one_store_agree_on_when_a_session_ends(site: Site, profile: str) -> None:
    visitor = signed_in(site)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 14 hours before and 11 behind UTC
        with Site(profile, env=environment_of(profile) | PASSWORD | {"TZ": zone}, storage=site.storage) as other:
            assert Client(other.url, visitor.cookies, JSON).get("/account").json == {"user": "ada"}
    assert visitor.get("/account").json == {"user": "ada"}


# ---------------------------------------------------------------- the secret of the cookie profile


def refusal(args: Sequence[str], env: dict[str, str]) -> str:
    """The one line with which the site refuses to start."""
    ended: Any = run(*args, env=env)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    return str(line)


def test_a_short_secret_stops_the_start_and_shows_how_to_make_one() -> None:
    line = refusal(["--profile", "cookie", "--port", "0"], {"SESSION_SECRET": "too short"})
    assert "has 9 characters and needs at least 32" in line
    assert re.search(r"make one with: python -c '.*token_urlsafe", line)


def test_a_missing_secret_stops_the_start_on_an_address_that_others_can_reach() -> None:
    line = refusal(["--profile", "cookie", "--port", "0", "--host", "0.0.0.0"], {})  # noqa: S104
    assert "secret is missing" in line
    assert "make one with" in line


def test_in_development_the_site_makes_a_secret_and_keeps_it_private_outside_the_project(tmp_path: Path) -> None:
    with Site("cookie") as site:
        home = site.scratch / "state"
        site.env["XDG_STATE_HOME"] = str(home)
        site.restart()
        (secret,) = home.rglob("secret*")
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        made = secret.read_text()
        assert len(made) >= 32
        visitor = Client(site.url, headers=JSON)
        visitor.get("/counter")
        site.restart()
        assert visitor.get("/counter").json == {"count": 2}
        assert secret.read_text() == made
        assert made not in site.output()
        secret.chmod(0o644)
        with pytest.raises(AssertionError, match="others can read the secret"):
            site.restart()
