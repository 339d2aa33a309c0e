"""--production: what it refuses, what it sets, and whose word it takes about who asks and whether by https."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import argon2
import cherrypy
import pytest

import app
import sessions
from auth.accounts import Accounts
from auth.database import Database
from tests.support import hashing
from tests.support.client import JSON, SECURITY, Client, Response, WsgiClient
from tests.support.process import folder
from tests.support.site import Site, run
from web import production
from web.server import trusted_proxies
from web.settings import SITE_CONF, Sections, StartError, load_settings, read

PASSWORD = "a lamp, two ladders, no cat"  # noqa: S105 - made up here
PROXY = "127.0.0.2"  # from where a trusted proxy asks; any other address is a visitor's own
BEHIND = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example", "X-Forwarded-For": "192.0.2.7"}
HSTS = "max-age=31536000; includeSubDomains"

# --- what is refused --------------------------------------------------------------------------------------------------


def headers(**changed: str) -> list[tuple[str, str]]:
    """The headers of site.conf, with some changed; an empty text takes one out."""
    new = {name.replace("_", "-"): value for name, value in changed.items()}
    kept = [(name, value) for name, value in read(SITE_CONF)["/"]["wsgi.headers.always"] if name not in new]
    return kept + [(name, value) for name, value in new.items() if value]


def policy(text: str) -> dict[str, Any]:
    return {"wsgi.headers.always": headers(Content_Security_Policy=text)}


class OwnSession(cherrypy.lib.sessions.FileSession):
    """Written for CherryPy's own tool. Its stock class itself would be answered by that of the package."""


cherrypy.lib.sessions.OwnSession = OwnSession  # as add-ons do it
STRICT = "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'"
UNSAFE: dict[str, dict[str, Any]] = {
    "name of no host": {"tools.sessions.name": "session_id"},
    "name for subdomains": {"tools.sessions.name": "__Secure-session_id"},
    "cookie over http": {"tools.sessions.secure": "auto"},
    "cookie always over http": {"tools.sessions.secure": False},
    "cookie for scripts": {"tools.sessions.httponly": False},
    "cookie for other sites": {"tools.sessions.samesite": "None"},
    "cookie for other hosts": {"tools.sessions.domain": "example.org"},
    "cookie for a path": {"tools.sessions.path": "/shop"},
    "cookie for any path": {"tools.sessions.path_header": "X-Path"},
    "no end": {"tools.sessions.lifetime": None},
    "late end": {"tools.sessions.lifetime": 43201},
    "no end of text": {"tools.sessions.lifetime": "long"},
    "no end if remembered": {"tools.sessions.remember_lifetime": None},
    "late end if remembered": {"tools.sessions.remember_lifetime": 525600},
    "steps of sessions in the log": {"tools.sessions.debug": True},
    "no secret": {"tools.sessions.secret": ""},
    "forms of other sites": {"tools.same_origin.on": False},
    "sessions of CherryPy's own": {"tools.sessions.storage_class": OwnSession},
    "sessions of an add-on": {"tools.sessions.storage_type": "own"},
    "cookies in the log": {"tools.log_headers.on": True},
    "tracebacks": {"request.show_tracebacks": True},
    "names of parameters": {"request.show_mismatched_params": True},
    "a policy of a page": {"tools.response_headers.headers": [("content-security-policy", "default-src *")]},
    "another address": {"tools.proxy.on": True, "tools.proxy.remote": "X-Client"},
    "another host": {"tools.proxy.on": True, "tools.proxy.local": "Origin"},
    "another scheme": {"tools.proxy.on": True, "tools.proxy.scheme": "X-Ssl"},
    "everybody a proxy": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["10.0.0.0/8", "0.0.0.0/0"]},
    "everybody by a mask": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["0.0.0.0/0.0.0.0"]},
    "everybody in two halves": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["0.0.0.0/1", "128.0.0.0/1"]},
    "everybody in IPv6": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["::1", "2000::/3"]},
    "no headers": {"wsgi.headers.always": []},
    "no policy": policy(""),
    "inline scripts": policy(STRICT.replace("'self'", "'self' 'unsafe-inline'")),
    "inline styles": policy(STRICT + "; style-src 'self' 'unsafe-inline'"),
    "evaluated scripts": policy(STRICT + "; script-src 'self' 'unsafe-eval'"),
    "scripts of anybody": policy(STRICT + "; script-src https:"),
    "scripts in addresses": policy(STRICT + "; script-src-elem 'self' data:"),
    "scripts of any host": policy(STRICT + "; script-src https://*"),
    "scripts of any port": policy(STRICT + "; script-src *:443"),
    "scripts of any path": policy(STRICT + "; script-src wss://*:*/x"),
    "scripts behind a tab": policy("script-src\t*; " + STRICT),
    "scripts of files": policy(STRICT + "; worker-src filesystem:"),
    "no policy for the rest": policy(STRICT.replace("default-src 'self'; ", "")),
    "in anybody's frame": policy(STRICT.replace("; frame-ancestors 'none'", "")),
    "in other frames": policy(STRICT.replace("frame-ancestors 'none'", "frame-ancestors https:")),
    "the second policy counts for nothing": policy("frame-ancestors *; " + STRICT),
    "plugins": policy(STRICT.replace("object-src 'none'; ", "")),
    "another base": policy(STRICT.replace("base-uri 'none'", "base-uri *")),
    "sniffing": {"wsgi.headers.always": headers(X_Content_Type_Options="")},
    "addresses told": {"wsgi.headers.always": headers(Referrer_Policy="unsafe-url")},
    "http again": {"wsgi.headers.https": []},
    "http again soon": {"wsgi.headers.https": [("Strict-Transport-Security", "max-age=3600; includeSubDomains")]},
    "http below": {"wsgi.headers.https": [("Strict-Transport-Security", "max-age=31536000")]},
}


@pytest.fixture(autouse=True)
def no_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tester's shell holds."""
    for name in ("DEMO_PASSWORD", "PROFILE", "SESSION_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_production_refuses_an_unsafe_setting_and_names_it(unsafe: str) -> None:
    options = UNSAFE[unsafe]
    with pytest.raises(StartError) as refusal:
        app.create_app("ram", {"/": options}, production=True)
    line = str(refusal.value)
    assert any(name in line for name in options) and "\n" not in line


def test_every_check_has_refused_something() -> None:
    """A check that no test above fails would be one that no test proves."""
    safe = load_settings("ram", {"/": {"tools.proxy.on": True}}, {}, production=True)["/"]
    for rule in (*production.CHECKS, *production.SITE_CHECKS):
        assert rule.safe(safe.get(rule.option, rule.default)), rule.option
        tried = [options[rule.option] for options in UNSAFE.values() if rule.option in options]
        assert not all(map(rule.safe, [value for value in tried if value != "long"])), rule.option


def test_what_nobody_sets_is_refused_where_the_default_is_unsafe() -> None:
    settings: Sections = {"global": {}, "/": {}, "users": {}}
    assert {rule.option for rule in production.CHECKS if not rule.safe(rule.default)} == {
        "tools.sessions.name", "tools.sessions.secure", "tools.sessions.lifetime", "tools.same_origin.on",
        "tools.log_headers.on", "request.show_tracebacks", "request.show_mismatched_params",
    }  # fmt: skip
    with pytest.raises(StartError, match=re.escape("tools.sessions.name")):
        production.check(settings, {})


def test_an_unsafe_setting_of_one_path_is_refused_too() -> None:
    with pytest.raises(StartError, match=r"show_tracebacks.*\[/account\]"):
        app.create_app("ram", {"/account": {"request.show_tracebacks": True}}, production=True)


def test_an_unsafe_setting_of_global_is_refused_too() -> None:
    """CherryPy looks there for what neither the path nor [/] sets."""
    with pytest.raises(StartError, match=r"httponly is False in \[global\]"):
        app.create_app("ram", {"global": {"tools.sessions.httponly": False}}, production=True)
    with pytest.raises(sessions.ConfigError, match=r"tools\.sessions\.secure in \[global\] has no effect here"):
        app.create_app("ram", {"global": {"tools.sessions.secure": False}}, production=True)


@pytest.mark.parametrize("section", ["global", "/", "/login"])
def test_a_header_of_the_site_is_not_set_for_one_path(section: str) -> None:
    for option in ("response.headers.Strict-Transport-Security", "response.headers.content-security-policy"):
        with pytest.raises(StartError, match=rf"{option} is set in \[{section}\]"):
            app.create_app("ram", {section: {option: "max-age=0"}}, production=True)
    own: Sections = {"/login": {"tools.response_headers.headers": [("X-Mine", "1")], "response.headers.x-too": "2"}}
    sessions.close_stores(app.create_app("ram", own, production=True))


@pytest.mark.parametrize(("option", "value"), [("httponly", False), ("samesite", "None"), ("accounts", None)])
def test_an_unsafe_setting_in_the_code_of_a_page_is_refused_too(
    option: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.Account.index._cp_config, f"tools.sessions.{option}", value)
    with pytest.raises(StartError, match=rf"tools\.sessions\.{option}.*code"):
        app.create_app("ram", production=True)


PLACES = [("global", False), ("/", False), ("/account", False), ("/account", True), ("production", True)]


@pytest.mark.parametrize(("section", "in_production"), PLACES)
def test_nothing_but_the_site_says_which_accounts_end_a_session(section: str, in_production: bool) -> None:
    with pytest.raises(StartError, match=r"tools\.sessions\.accounts.*take it out"):
        app.create_app("ram", {section: {"tools.sessions.accounts": None}}, production=in_production)


def test_a_hash_that_is_cheap_to_guess_at_is_refused() -> None:
    accounts = Accounts(Database(os.environ["USERS_URL"]))

    def parameters(memory: int, passes: int) -> argon2.Parameters:
        return dataclasses.replace(hashing.CHEAP, memory_cost=memory, time_cost=passes)

    for memory, passes in ((64, 1), (19455, 2), (19456, 1)):
        cheap = hashing.line(PASSWORD, parameters(memory, passes))
        accounts.insert("bob", cheap)
        with pytest.raises(StartError, match="the hash of 'bob'.*user password bob") as refusal:
            app.create_app("ram", production=True)
        assert cheap not in str(refusal.value)
        sessions.close_stores(app.create_app("ram"))
        accounts.remove("bob")
    accounts.insert("bob", hashing.line(PASSWORD, parameters(19456, 2)))
    sessions.close_stores(app.create_app("ram", production=True))


def test_production_has_no_demo_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_PASSWORD", PASSWORD)
    with pytest.raises(StartError, match="DEMO_PASSWORD.*user add NAME") as refusal:
        app.create_app("ram", production=True)
    assert PASSWORD not in str(refusal.value)


def test_a_secret_that_is_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET", "short")
    with pytest.raises(sessions.ConfigError, match="5 characters"):
        app.create_app("cookie", production=True)


SERVERS: list[tuple[Sections, str]] = [
    ({}, "tools.proxy.on"),
    ({"/": {"tools.proxy.on": False}}, "server.ssl_certificate"),
    ({"global": {"engine.autoreload.on": True}, "/": {"tools.proxy.on": True}}, "engine.autoreload.on"),
]


@pytest.mark.parametrize(("extra", "named"), SERVERS)
def test_the_sites_own_server_needs_https_and_no_reloading(extra: Sections, named: str) -> None:
    with pytest.raises(StartError, match=re.escape(named)):
        production.check_server(load_settings("ram", extra, {}, production=True))


@pytest.mark.parametrize("profile", ["file", "cookie"])
def test_a_fresh_copy_is_refused_in_one_line_also_on_this_machine(profile: str) -> None:
    result = run("--production", "--profile", profile, "--port", "0")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"app\.py: [^\n]*(tools\.proxy\.on|SESSION_SECRET)[^\n]*\n", result.stderr)


def test_a_certificate_that_cannot_be_read_is_named() -> None:
    scratch = folder()
    extra = scratch / "tls.conf"
    extra.write_text(f"[global]\nserver.ssl_certificate = '{extra}'\n")
    extra.chmod(0o644)
    result = run("--production", "--profile", "ram", "--port", "0", "--config", str(extra))
    shutil.rmtree(scratch)
    assert result.returncode == 2 and result.stderr.startswith("app.py: server.ssl_certificate and ")
    assert result.stderr.count("\n") == 1


def test_the_sites_own_settings_are_safe() -> None:
    sessions.close_stores(app.create_app("ram", production=True))


def test_development_stays_as_it_is() -> None:
    options = load_settings("ram", None, {})["/"]
    assert options["tools.sessions.secure"] == "auto" and "tools.sessions.name" not in options


def test_the_extra_config_wins_over_production_and_can_add_to_it() -> None:
    extra: Sections = {"/": {"tools.sessions.name": "__Host-mine"}, "production": {"tools.sessions.timeout": 15}}
    options = load_settings("ram", extra, {}, production=True)["/"]
    assert options["tools.sessions.name"] == "__Host-mine" and options["tools.sessions.timeout"] == 15
    assert "tools.sessions.secure" not in load_settings("ram", extra, {}).get("production", {})
    assert load_settings("ram", extra, {})["/"]["tools.sessions.timeout"] == 30


# --- whose word is taken ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site in production, behind a proxy at PROXY."""
    config = {"/": {"tools.proxy.on": True, "wsgi.proxy.trusted": [PROXY, "10.0.0.0/8"]}}
    users = {"ada": argon2.PasswordHasher().hash(PASSWORD)}
    with Site("file", args=["--production"], config=config, users=users) as site:
        yield site


@pytest.fixture
def visitor(site: Site) -> Client:
    """Somebody who comes by https, through the proxy."""
    return Client(site.url, headers=BEHIND, address=PROXY)


def signed_in(visitor: Client, password: str) -> Response:
    return visitor.post("/login", {"username": "ada", "password": password}, **JSON)


def test_behind_a_proxy_the_cookie_is_for_this_host_and_https_only(visitor: Client) -> None:
    answer = signed_in(visitor, PASSWORD)
    [line] = answer.set_cookie
    attributes = {part.strip().partition("=")[0].lower(): part.partition("=")[2] for part in line.split(";")[1:]}
    assert line.startswith("__Host-session_id=")
    assert {"secure", "httponly"} <= set(attributes) and "domain" not in attributes
    assert (attributes["path"], attributes["samesite"]) == ("/", "Lax")
    assert answer.headers["location"] == "https://shop.example/account"
    assert visitor.get("/account", **JSON).json == {"user": "ada"}


@pytest.mark.parametrize("path", ["/", "/static/favicon.svg", "/nothing", "/static/nothing"])
def test_every_answer_by_https_asks_for_https_for_a_year(site: Site, visitor: Client, path: str) -> None:
    expected = SECURITY | {"strict-transport-security": HSTS}
    by_https, by_http = visitor.get(path), Client(site.url).get(path)
    assert {name: by_https.headers.get(name) for name in expected} == expected
    assert "strict-transport-security" not in by_http.headers


def test_a_request_that_is_refused_early_has_the_headers_too(site: Site, visitor: Client) -> None:
    answer = visitor.post("/login", **{"Content-Type": "x" * 60_000})
    assert answer.status >= 400 and answer.headers["strict-transport-security"] == HSTS


def test_the_word_of_anybody_but_a_trusted_proxy_counts_for_nothing(site: Site) -> None:
    liar = Client(site.url, headers={**BEHIND, "Forwarded": "for=192.0.2.9;proto=https"}, address="127.0.0.3")
    answer = liar.get("/account")
    assert answer.redirects_to == "/login?next=/account"
    assert "strict-transport-security" not in answer.headers
    assert signed_in(liar, "wrong").status == 403
    assert "account=ada address=127.0.0.3" in site.output()


def test_the_log_has_the_address_that_the_proxy_saw(site: Site) -> None:
    forwarded = "198.51.100.1, 192.0.2.8, 10.1.2.3"  # made up by the visitor; the visitor; another proxy
    visitor = Client(site.url, headers={**BEHIND, "X-Forwarded-For": forwarded}, address=PROXY)
    assert signed_in(visitor, "wrong").status == 403
    assert "account=ada address=192.0.2.8" in site.output() and "198.51.100.1" not in site.output()


@pytest.mark.parametrize("damaged", ["", " ", ",", "unknown", "_hidden", "1.2.3.4.5", "<b>", "\xff",
                                     "192.0.2.1, nobody"])  # fmt: skip
def test_an_address_that_makes_no_sense_is_unknown(site: Site, damaged: str) -> None:
    visitor = Client(site.url, headers={**BEHIND, "X-Forwarded-For": damaged}, address=PROXY)
    before = site.output()
    assert visitor.post("/logout", Origin="null").status == 403
    assert "cross-site request refused address=unknown " in site.output().removeprefix(before)


def test_a_host_or_scheme_that_makes_no_sense_is_ignored(site: Site) -> None:
    for name, text in (("Host", "<b>"), ("Host", "evil/.example"), ("Host", "http://evil"), ("Proto", "javascript")):
        visitor = Client(site.url, headers={f"X-Forwarded-{name}": text}, address=PROXY)
        assert visitor.get("/account").headers["location"] == f"{site.url}/login?next=/account"


def test_of_what_several_proxies_have_added_the_last_counts(site: Site) -> None:
    told = {"X-Forwarded-Host": "evil.example, shop.example", "X-Forwarded-Proto": "http, https"}
    answer = Client(site.url, headers=told, address=PROXY).get("/account")
    assert answer.headers["location"] == "https://shop.example/login?next=/account"


def test_nobody_is_a_proxy_unless_the_proxy_tool_is_on() -> None:
    assert trusted_proxies({"wsgi.proxy.trusted": ["10.0.0.0/8"]}) == ()
    for wrong in ("10.0.0.0/8", ["shop.example"], 5):
        with pytest.raises(StartError, match=re.escape("wsgi.proxy.trusted")):
            trusted_proxies({"wsgi.proxy.trusted": wrong})


def test_a_session_over_plain_http_is_never_silent(site: Site) -> None:
    assert signed_in(Client(site.url), PASSWORD).set_cookie[0].startswith("__Host-session_id=")
    assert re.search(r"SESSIONS a Secure cookie was set on plain http.* address=127\.0\.0\.1", site.output())


def test_the_header_goes_with_another_servers_https_and_not_with_the_word_of_a_visitor() -> None:
    application = app.create_app("ram", production=True)
    try:
        by_https = WsgiClient(application, url="https://site").get("/")
        assert by_https.headers["strict-transport-security"] == HSTS
        told = WsgiClient(application).get("/", x_forwarded_proto="https")  # tools.proxy is off
        assert "strict-transport-security" not in told.headers
    finally:
        sessions.close_stores(application)


def test_production_tells_nobody_of_a_demo_account(site: Site) -> None:
    assert "Sign in as" not in site.output() and "There is no account" not in site.output()
    page = Client(site.url).get("/login")  # from this machine, by a name of this machine
    assert page.status == 200 and "Sign in as" not in page.text


# --- requests of other sites ------------------------------------------------------------------------------------------

OTHERS = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://shop.example"},
          {"Origin": "https://shop.example:8443"}, {"Origin": "https://shop.example.evil.example"},
          {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": ""},
          {"Sec-Fetch-Site": "cross-site", "Origin": "https://shop.example"}]  # fmt: skip
OWN = [{"Origin": "https://shop.example"}, {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
       {"Sec-Fetch-Site": "none"}, {}]  # fmt: skip


@pytest.mark.parametrize("told", OTHERS)
def test_behind_a_proxy_a_request_of_another_site_is_refused_and_noted(
    site: Site, visitor: Client, told: dict[str, str]
) -> None:
    before = site.output()
    assert visitor.post("/logout", **told).status == 403
    assert "cross-site request refused address=192.0.2.7" in site.output().removeprefix(before)


@pytest.mark.parametrize("told", OWN)
def test_behind_a_proxy_the_sites_own_request_is_taken(visitor: Client, told: dict[str, str]) -> None:
    assert visitor.post("/logout", **told).status == 303


def test_it_is_refused_before_its_body_is_read(visitor: Client) -> None:
    damaged = {"Content-Type": "application/x-www-form-urlencoded;charset=nothing"}
    assert visitor.ask("POST", "/login", "username=a", damaged).status == 400
    assert visitor.ask("POST", "/login", "username=a", {**damaged, "Origin": "null"}).status == 403


class Added:
    """A page that a copier adds, and protects by nothing."""

    changed = 0

    @cherrypy.expose
    def index(self, **fields: str) -> str:
        """Change something."""
        Added.changed += 1
        cherrypy.session["changed"] = Added.changed
        return "changed"


def test_a_page_that_somebody_adds_is_covered_for_every_method_that_changes_something() -> None:
    application = app.create_app("ram")
    application.root.added, Added.changed = Added(), 0
    visitor = WsgiClient(application)
    try:
        for method in ("POST", "PUT", "PATCH", "DELETE", "ANYTHING"):
            answer = visitor.ask(method, "/added/", "", {"Origin": "https://evil.example"})
            assert (answer.status, answer.set_cookie) == (403, []), method
        assert Added.changed == 0
        assert visitor.post("/added/", origin="http://site").status == 200
        assert visitor.get("/added/", origin="https://evil.example").status == 200
        assert Added.changed == 2
    finally:
        sessions.close_stores(application)


# --- the demo account of another server ------------------------------------------------------------------------------


def test_without_production_the_demo_account_is_for_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_PASSWORD", PASSWORD)
    application = app.create_app("ram")

    def sign_in(password: str, address: str, host: str) -> tuple[int, bytes, list[tuple[int, int]]]:
        with hashing.computed() as costs:
            visitor = WsgiClient(application, address=address)
            answer = visitor.post("/login", {"username": "ada", "password": password}, host=host)
        return answer.status, answer.body, list(costs)

    try:
        for address, host in (("127.0.0.1", "localhost:8000"), ("::1", "[::1]"), ("::ffff:127.0.0.1", "127.0.0.1")):
            assert sign_in(PASSWORD, address, host)[0] == 303
        wrong = sign_in("wrong", "192.0.2.8", "localhost")
        assert wrong[0] == 403
        assert sign_in(PASSWORD, "192.0.2.9", "localhost") == wrong
        assert sign_in(PASSWORD, "::", "localhost") == wrong
        assert sign_in(PASSWORD, "", "localhost") == wrong, "a Unix socket"
        assert sign_in(PASSWORD, "127.0.0.1", "evil.example")[::2] == wrong[::2]
    finally:
        sessions.close_stores(application)


# --- what is logged ---------------------------------------------------------------------------------------------------


def test_times_in_the_log_are_utc_and_say_so_wherever_the_site_runs() -> None:
    with Site("ram", env={"TZ": "Pacific/Kiritimati"}) as site:  # 14 hours ahead
        wrong = {"username": "nobody", "password": secrets.token_urlsafe()}
        assert Client(site.url).post("/login", wrong).status == 403
        refused = next(line for line in site.output().splitlines() if "sign-in refused" in line)
    told = datetime.strptime(refused[: refused.index("]") + 1], "[%d/%b/%Y:%H:%M:%S %z]")
    assert told.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=10)
