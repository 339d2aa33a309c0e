"""The site behind proxies, below a path, and under other servers: whose address, cookies, host and links it has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import cheroot.wsgi
import cherrypy
import pytest

import app
import sessions
from sessions.cookies import request_cookies, unjoin
from tests.conftest import PASSWORD
from tests.support.application import Counter, application
from tests.support.backends import BACKENDS, options_of
from tests.support.balancer import Balancer, Nginx, Proxy
from tests.support.client import JSON, Client, Headers, Response, WsgiClient, new_address, send_raw
from tests.support.page import Page
from tests.support.process import folder
from tests.support.site import Site, mounted
from web import csrf, settings
from web.csrf import address_of
from web.server import TrustedProxy
from web.settings import ROOT, StartError

CHEROOT = """
import sys, threading
sys.path.insert(0, {root!r})
import cheroot.wsgi, app
from web import server
server.show_what_matters()
site = app.create_app("file", {config!r})
threading.Thread(target=cheroot.wsgi.Server({file!r}, site).start, daemon=True).start()
listener = cheroot.wsgi.Server(("127.0.0.1", 0), site)
listener.prepare()
print("http://127.0.0.1:%s" % listener.bind_addr[1], flush=True)
listener.serve()
"""


# --- real proxies in front of real servers ----------------------------------------------------------------------------


@dataclass
class Front:
    """A proxy in front of a site. `get` and `post` send headers as they are, also two of one name."""

    proxy: Proxy
    site: Site

    def get(self, path: str, headers: Headers) -> Response:
        return self.proxy.client().ask("GET", path, None, headers)

    def post(self, path: str, headers: Headers, form: dict[str, str] | None = None, address: str = "") -> Response:
        return self.proxy.client(address).ask("POST", path, urlencode(form or {}), headers)


@pytest.fixture(scope="module")
def by_app() -> Iterator[Site]:
    """`python app.py` as in production, behind a proxy."""
    config: dict[str, Any] = settings.read(ROOT / "deploy" / "behind-proxy.conf")
    config["global"]["server.drain"] = 0
    with Site("file", args=["--production"], config=config) as site:
        yield site


@pytest.fixture(scope="module", params=["haproxy", "nginx", "nginx-gunicorn-file", "nginx-cheroot-file"])
def front(request: pytest.FixtureRequest, by_app: Site) -> Iterator[Front]:
    """HAProxy and nginx in front of `app.py`, and nginx in front of servers that listen on a socket file."""
    config: dict[str, Any] = settings.read(ROOT / "deploy" / "behind-proxy.conf")
    place = folder()
    file = str(place / "socket")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        if request.param in ("haproxy", "nginx"):
            site, at = by_app, f"127.0.0.1:{by_app.port}"
        else:
            config["/"]["wsgi.proxy.trusted"].append("unix:")
            if request.param == "nginx-gunicorn-file":
                call = f"app:create_app(config={config!r}, production=True)".replace('"', '\\"')
                command = (
                    f"{sys.executable} -m gunicorn --config deploy/gunicorn.conf.py --workers 1 --no-control-socket "
                    f'--bind 127.0.0.1:$PORT --bind unix:{file} "{call}"'
                )
            else:
                (place / "program.py").write_text(CHEROOT.format(root=str(ROOT), config=config, file=file))
                command = f"{sys.executable} {place}/program.py"
            site = stack.enter_context(Site(command=command, env={"PROFILE": "file"}))
            at = f"unix:{file}"
        proxy = Balancer(site.port, site.port) if request.param == "haproxy" else Nginx(at)
        yield Front(stack.enter_context(proxy), site)


@pytest.mark.parametrize("name", ["127.0.0.1", "Example.org", "example.org.", "[::1]", "xn--bcher-kva.example"])
def test_the_form_of_the_site_itself_is_taken_on_any_port_without_sec_fetch_site(front: Front, name: str) -> None:
    own = f"https://{name.lower()}:{front.proxy.port}"
    sent = [("Host", f"{name}:{front.proxy.port}"), ("Origin", own)]
    answer = front.post("/name", sent, {"first": "Ada", "last": "Lovelace"})
    assert (answer.status, answer.headers["location"]) == (303, f"{own}/hello")


def test_the_log_says_what_was_compared_when_a_form_is_refused(front: Front) -> None:
    own, other = f"https://example.org:{front.proxy.port}", "https://example.org:1"
    sent = [("Host", own.partition("//")[2]), ("Origin", other)]
    assert front.post("/logout", sent).status == 403
    front.site.wait_until(lambda: f" origin={other} site={own}\n" in front.site.output(), "log it")
    assert front.post("/logout", [*sent[:1], ("Sec-Fetch-Site", "same-site")]).status == 403
    front.site.wait_until(lambda: f"sec_fetch_site=same-site site={own}\n" in front.site.output(), "log it")


def test_one_who_guesses_slows_down_nobody_else(front: Front) -> None:
    guesser, other = new_address(), new_address()
    form = {"username": "ada", "password": "wrong"}
    # What a visitor says of itself, with hyphens or the underscores that WSGI makes of them, is worth nothing.
    made_up = [(name, "192.0.2.9") for name in ("X-Forwarded-For", "X_Forwarded_For", "X-Real-IP")]
    made_up.append(("Forwarded", "for=192.0.2.9;host=evil.example"))
    tries = [front.post("/login", [*made_up, *JSON.items()], form, guesser).status for _ in range(17)]
    assert tries == sorted(tries) and {*tries} == {403, 429}
    assert front.post("/login", [*JSON.items()], form, other).status == 403
    front.site.wait_until(lambda: f"address={other}\n" in front.site.output(), "log it")
    assert re.search(rf"too many tries account=\S+ address={guesser} purpose=password\n", front.site.output())
    assert "192.0.2.9" not in front.site.output()


def test_every_cookie_header_is_read(front: Front) -> None:
    session = front.get("/counter", [*JSON.items()]).set_cookie[0].partition(";")[0]
    for others in (["a=1", session], [session, 'a=1; prefs={"b":1,"c":2}'], ["a=1", "b=2", session, "c=3"]):
        sent = [*(("Cookie", one) for one in others), *JSON.items()]
        answer = front.get("/counter", sent)
        assert (answer.status, answer.set_cookie) == (200, [])
    if mounted(["/cookie/read"]):
        sent = [("Cookie", "a=1"), ("Cookie", f'{session}; b={{"c":1,"d":2}}'), *JSON.items()]
        read = front.get("/cookie/read", sent).json["cookies"]
        assert read["a"] == "1" and read["b"] == '{"c":1,"d":2}'
    assert front.get("/counter", [("Cookie", session), *JSON.items()]).json == {"count": 5}


def test_over_http_2_the_crumbs_of_the_cookies_arrive(front: Front) -> None:
    session = front.get("/counter", []).set_cookie[0].partition(";")[0]
    command = ["curl", "--http2", "--silent", "--cacert", str(front.proxy.folder / "site.pem"), "--write-out",
               "%{http_version}", "--header", "Accept: application/json", "--header", "Cookie: a=1", "--header",
               f"Cookie: {session}", "--header", "Cookie: b=2",
               f"https://127.0.0.1:{front.proxy.port}/counter"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == '{"count": 2}\n2'


@pytest.fixture(scope="module")
def plain() -> Iterator[cherrypy.Application]:
    """The site as a WSGI application."""
    application = app.create_app("ram")
    yield application
    sessions.close_stores(application)


# --- several Cookie headers -------------------------------------------------------------------------------------------


class Reader(Counter):
    @cherrypy.expose
    def read(self) -> str:
        return repr(request_cookies())


TWO = ["{}, a=1", "a=1,{}", "a=1, {}", "a=1,b=2,{},c=3", 'p={{"x":1,"y":[2,3]}},{}', "{},a=1; b=2", "b=2; a=1,{}",
       ",{},"]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_is_found_where_the_server_has_joined_cookie_headers_by_a_comma(backend: str, tmp_path: Path) -> None:
    client = WsgiClient(application(Reader(), **options_of(backend, tmp_path)))
    count = 0
    try:
        own = cherrypy._cprequest.Request  # a class of the site's own, which cannot read the last of them
        for request_class, headers in ((client.app.request_class, TWO), (own, TWO[:-1])):
            client.app.request_class = request_class
            for joined in headers:
                client.get()
                twin = WsgiClient(client.app)
                count += 2
                assert twin.get(cookie=joined.format(client.cookie)).text == str(count), joined
                client.cookies |= twin.cookies
    finally:
        sessions.close_stores(client.app)


UNJOINED = [
    ('prefs={"a":1,"b":2}; list=1,2,3', 'prefs={"a":1,"b":2}; list=1,2,3'),
    ("a=b=1,c=2", "a=b=1,c=2"),
    # What may be a part of some value comes after what is a cookie of its own, and does not count at all in quotes ...
    ("lang=en,sid=MADE-UP; sid=LIVE", "lang=en; sid=LIVE;sid=MADE-UP"),
    ("lang=en,sid=MADE-UP,sid=AGAIN; sid=LIVE", "lang=en; sid=LIVE;sid=MADE-UP;sid=AGAIN"),
    ('x="1,sid=MADE-UP"', 'x="1,sid=MADE-UP"'),
    (r'x="\",sid=MADE-UP"', r'x="\",sid=MADE-UP"'),
    ("sid=LIVE,a=1,b=2", "sid=LIVE;a=1,b=2"),
    ("xsid=1,ysid=2", "xsid=1,ysid=2"),
    (",,;,", ",,;,"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "expected"), UNJOINED)
def test_only_the_commas_beside_the_cookie_of_the_session_are_taken_for_ends(header: str, expected: str) -> None:
    assert unjoin(header, "sid") == expected


@pytest.mark.parametrize("prefix", ["__Host-", "__Secure-", "__host-"])
def test_nothing_behind_a_comma_is_a_cookie_that_no_other_host_can_have_set(prefix: str) -> None:
    name = f"{prefix}sid"
    assert unjoin(f"a=1,{name}=MADE-UP", name) == f"a=1,{name}=MADE-UP"
    assert unjoin(f"{name}=LIVE,a=1,{name}=MADE-UP", name) == f"{name}=LIVE;a=1,{name}=MADE-UP"


def test_cherrypys_server_reads_every_cookie_header_and_leaves_commas_alone() -> None:
    listener = cheroot.wsgi.Server(("127.0.0.1", 0), site := application(Reader()))
    listener.prepare()
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.bind_addr[1]}"
        begin = b"GET / HTTP/1.1\r\nHost: site\r\nConnection: close\r\n"
        session = re.search(rb"Set-Cookie: (session_id=[^;\r]+)", send_raw(url, begin + b"\r\n")[1])
        assert session
        for lines in ([b"a=1", session[1]], [session[1], b"a=1"], [b"a=1\r\n " + session[1]]):
            sent = begin + b"".join(b"cookie: " + line + b"\r\n" for line in lines) + b"\r\n"
            assert b"Set-Cookie" not in send_raw(url, sent)[1], lines
        lines = b'Cookie: a=1,session_id=MADE-UP\r\nCOOKIE: b={"c":1,"d":2}\r\nCookie: e=f=1,g=2\r\n\r\n'
        read = send_raw(url, begin.replace(b"/ ", b"/read ") + lines)[1]
        assert read.endswith(repr([("a", "1,session_id=MADE-UP"), ("b", '{"c":1,"d":2}'), ("e", "f=1,g=2")]).encode())
    finally:
        listener.stop()
        thread.join()
        sessions.close_stores(site)


# --- addresses, as proxies write them ---------------------------------------------------------------------------------

WRITTEN = {
    "192.0.2.7": ["192.0.2.7", " 192.0.2.7 ", "192.0.2.7:4711", '"192.0.2.7:4711"', "192.0.2.7:_port", "[192.0.2.7]",
                  "::ffff:192.0.2.7", "[::FFFF:192.0.2.7]:80"],
    "2001:db8::1": ["2001:db8::1", "2001:DB8:0::1", "[2001:db8::1]", '"[2001:db8::1]"', "[2001:db8::1]:4711",
                    '"[2001:db8::1]:4711"', "2001:db8:0:0:0:0:0:1:4711", "[2001:db8::1%eth0]:80"],
    "fe80::1": ["fe80::1%eth0", "[fe80::1%25eth0]:80", '"[fe80::1%eth0]"'],
    "None": ["", " ", "unknown", "_hidden", '"_hidden:_port"', "1.2.3.4.5", "localhost", "%eth0", ":80", "[]", "<b>",
             "192.0.2.7 198.51.100.1", "\xff"],
}  # fmt: skip


@pytest.mark.parametrize(("written", "address"), [(one, to) for to, forms in WRITTEN.items() for one in forms])
def test_an_address_is_read_in_every_form_in_which_proxies_write_it(written: str, address: str) -> None:
    assert str(address_of(written)) == address


# What the peer is trusted to say, and what the site then takes the visitor, the host and the scheme to be.
FOR, FORWARDED, REAL = "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP"
HOST, PROTO = "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO"
TOLD: list[tuple[dict[str, str], dict[str, str]]] = [
    ({FOR: "1.1.1.1,192.0.2.1"}, {FOR: "192.0.2.1"}),
    ({FOR: "192.0.2.1 ,10.0.0.1, 127.0.0.1"}, {FOR: "192.0.2.1"}),
    ({FOR: "192.0.2.1:80, [::1]:80,"}, {FOR: "192.0.2.1"}),
    ({FOR: "192.0.2.1, x, 10.0.0.1"}, {FOR: "unknown"}),
    ({FOR: "10.0.0.7, 10.0.0.1"}, {FOR: "10.0.0.7"}),  # a visitor whose network is that of the proxies
    ({FOR: ""}, {FOR: "unknown"}),
    ({PROTO: "HTTPS"}, {PROTO: "https", FOR: "unknown"}),
    ({FORWARDED: 'for="[2001:db8::1]:4711";proto=https'}, {FOR: "2001:db8::1", PROTO: "https"}),
    ({FORWARDED: "For=192.0.2.1; Proto=HTTPS ;by=10.0.0.1;host=Shop.example"},
     {FOR: "192.0.2.1", PROTO: "https", HOST: "shop.example"}),
    ({FORWARDED: "for=1.1.1.1;host=evil.example, for=192.0.2.1;proto=https, for=10.0.0.1;proto=http"},
     {FOR: "192.0.2.1", PROTO: "https"}),
    ({FORWARDED: 'for=", for=192.0.2.1;host="shop.example:8443"'}, {FOR: "192.0.2.1", HOST: "shop.example:8443"}),
    ({FORWARDED: "for=_hidden;proto=https"}, {FOR: "unknown", PROTO: "https"}),
    ({FORWARDED: "proto=https"}, {FOR: "unknown", PROTO: "https"}),
    ({FORWARDED: "for=unknown"}, {FOR: "unknown"}),
    ({FORWARDED: ";;,=,"}, {FOR: "unknown"}),
    ({FORWARDED: "for=1.1.1.1;proto=https", FOR: "192.0.2.1", PROTO: "http"}, {FOR: "192.0.2.1", PROTO: "http"}),
    ({REAL: "192.0.2.1"}, {FOR: "192.0.2.1"}),
    ({REAL: "1.1.1.1", FOR: "192.0.2.1"}, {FOR: "192.0.2.1"}),
]  # fmt: skip


def left(environ: dict[str, Any], trusted: list[str]) -> dict[str, str]:
    """Return what TrustedProxy leaves of the headers of proxies."""
    TrustedProxy(lambda environ, start_response: (), trusted)(environ, lambda *_: None)
    assert environ[csrf.THROUGH_A_PROXY]
    return {name: value for name, value in environ.items() if name.startswith(("HTTP_X_", FORWARDED))}


@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:10.0.0.1", "", "localhost", "unix"])
def test_the_visitor_is_the_last_address_that_is_no_proxys(peer: str) -> None:
    for told, expected in TOLD:
        assert left({"REMOTE_ADDR": peer, **told}, ["10.0.0.0/8", "127.0.0.0/8", "::1", "unix:"]) == expected, told


def test_anybody_else_names_nobody() -> None:
    for told, _ in TOLD:
        assert left({"REMOTE_ADDR": "192.0.2.66", **told}, ["10.0.0.0/8", "unix:"]) == {}, told
        assert left({"REMOTE_ADDR": "", **told}, ["10.0.0.0/8"]) == {}, "a socket file that is not named"
        assert left(dict(told), ["127.0.0.0/8"]) == {}, "nor is a peer that the server does not name"


def test_several_headers_of_a_chain_of_proxies_are_read_as_one() -> None:
    config = {"/": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["127.0.0.0/8", "10.0.0.0/8"]}}
    with Site("ram", config=config) as site:
        for number, lines in enumerate((b"X-Forwarded-For: %s\r\nX-Forwarded-For: 10.0.0.1\r\n",
                                        b"Forwarded: for=%s\r\nForwarded: for=10.0.0.1\r\n",
                                        b"X-Forwarded-For: %s\r\nX_Forwarded_For: 198.51.100.9\r\n")):  # fmt: skip
            address = f"192.0.2.{number}"
            head = b"POST /logout HTTP/1.1\r\nHost: site\r\nOrigin: null\r\n" + lines % address.encode()
            assert send_raw(site.url, head + b"Content-Length: 0\r\n\r\n")[0] == 403
            assert f"refused address={address} " in site.output()


def test_visitors_whose_address_nobody_knows_are_not_one(
    plain: cherrypy.Application, caplog: pytest.LogCaptureFixture
) -> None:
    # A socket file has no address, and some servers have a word for it; 21 tries of one address were one too many.
    for n, address in enumerate(["", "localhost", "unix"] * 7):
        form = {"username": f"user{n}", "password": "wrong"}
        answer = WsgiClient(plain, address=address).post("/login", form, x_forwarded_for="192.0.2.1")
        assert answer.status == 403
    said = [line for line in caplog.messages if "visitors have no address" in line]
    assert len(said) == 1 and "X-Forwarded-For" in said[0] and "'unix:'" in said[0]
    assert "192.0.2.1" not in caplog.text


def test_production_takes_a_socket_file_as_a_proxy_where_it_is_named() -> None:
    config: dict[str, Any] = {"/": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["unix:", "10.0.0.0/8"]}}
    sessions.close_stores(app.create_app("ram", config, production=True))
    with pytest.raises(StartError, match=re.escape("wsgi.proxy.trusted")):
        app.create_app("ram", {"/": {"tools.proxy.on": True, "wsgi.proxy.trusted": ["unix"]}})


@pytest.mark.parametrize("port", ["80", "", "db8", "None", "x"])
def test_what_servers_call_a_port_on_a_socket_file_breaks_nothing(plain: cherrypy.Application, port: str) -> None:
    """gunicorn takes it from the Host, where it finds "db8" in [2001:db8::1], and waitress says "None"."""
    for environ in ({"SERVER_PORT": port}, {"REMOTE_PORT": port}):
        visitor = WsgiClient(with_environ(plain, environ), address="", url="http://[2001:db8::1]")
        assert visitor.get("/").status == 200


def with_environ(application: Any, more: dict[str, str]) -> Callable[..., Any]:
    return lambda environ, start: application({**environ, **more}, start)


# --- the same site by another spelling --------------------------------------------------------------------------------

SAME = [
    ("http", "site", "http://site:80"), ("http", "site:80", "http://site"), ("https", "site:443", "https://site"),
    ("https", "site", "https://SITE:443"), ("http", "SITE:8080", "http://site:8080"), ("http", "site", "http://site."),
    ("https", "site.:8443", "https://site:8443"), ("http", "[2001:DB8::1]:80", "http://[2001:db8::1]"),
    ("http", "site:443", "https://site"), ("http", "site:8443", "https://site:8443"), ("http", "site:", "http://site"),
]  # fmt: skip
OTHER = [
    ("https", "site", "http://site"), ("http", "site", "http://site:8080"), ("http", "site:8080", "http://site"),
    ("http", "site", "http://site.evil"), ("http", "site", "http://sit"), ("https", "site:8443", "https://site:8444"),
    ("http", "site", "null"), ("http", "site", ""), ("http", "site", "http://site:80:80"), ("http", "site", "site"),
    ("http", "[::1]", "http://[::1]:8080"), ("http", "[::80]", "http://[::"), ("http", "site", "http://site:4430"),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "host", "told", "status"),
                         [*((*one, 303) for one in SAME), *((*one, 403) for one in OTHER)])  # fmt: skip
def test_an_origin_is_the_sites_own_in_every_spelling(
    plain: cherrypy.Application, scheme: str, host: str, told: str, status: int
) -> None:
    assert WsgiClient(plain, url=f"{scheme}://{host}").post("/logout", origin=told).status == status


# --- below a path -----------------------------------------------------------------------------------------------------


def dispatcher(application: Any, mount: str) -> Callable[..., Any]:
    """Do what other frameworks do to run several applications below their paths (PEP 3333)."""
    raw = mount.encode().decode("latin-1")

    def dispatch(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if not f"{path}/".startswith(f"{raw}/"):
            start_response("404 Not Found", [])
            return []
        moved = {"SCRIPT_NAME": environ["SCRIPT_NAME"] + raw, "PATH_INFO": path.removeprefix(raw)}
        return application({**environ, **moved}, start_response)

    return dispatch


def grafted(application: Any, mount: str) -> Any:
    tree = cherrypy._cptree.Tree()
    tree.graft(application, mount)
    return tree


@dataclass
class Crawler:
    """Follows whatever a page names, as far as it is of the site.

    Attributes:
        client: who asks.
        mount: below which everything has to be.
        seen: the status of each address.
    """

    client: Client
    mount: str
    seen: dict[str, int] = field(default_factory=dict)

    def crawl(self) -> None:
        """Ask for every address that can be reached; AssertionError for one that is elsewhere, or is not there."""
        waiting = [(self.mount + path, "") for path in mounted(["/", "/account", "/hello", "/cookie", "/session/off"])]
        while waiting:
            path, source = waiting.pop()
            if path in self.seen:
                continue
            assert f"{path}/".startswith(f"{self.mount}/"), f"{source} leads to {path}"
            answer = self.client.get(path)
            self.seen[path] = answer.status
            assert answer.status in (200, 301, 303, 403, 405), f"{source} leads to {path}: {answer.status}"
            if "location" in answer.headers:
                waiting.append((self._of_site(answer.headers["location"]), path))
            for line in answer.set_cookie:
                (morsel,) = SimpleCookie(line).values()
                assert morsel.key != "session_id" or morsel["path"] == self.mount, line
            if answer.status == 200:
                base = f"http://site{path}"
                waiting += [(self._of_site(urljoin(base, to)), path) for to in self._named(answer)]
                if answer.headers["content-type"].startswith("text/html"):
                    told = self.client.get(path, **JSON).text
                    waiting += [(to, f"{path} in JSON") for to in re.findall(r'^{.*?": "(/[^"#]*)', told)]

    @staticmethod
    def _of_site(address: str) -> str:
        parts = urlsplit(address)
        return parts.path.replace(" ", "%20") + (f"?{parts.query}" if parts.query else "")  # as browsers do

    @staticmethod
    def _named(answer: Response) -> list[str]:
        kind = answer.headers["content-type"].partition(";")[0]
        if kind == "text/css":
            return re.findall(r"url\(['\"]?([^'\")]+)", answer.text)
        if kind.endswith("javascript"):
            return re.findall(r"(?:import|from)\s*\(?[\"'](\.[^\"']+)", answer.text)
        if kind != "text/html":
            return []
        named = []
        for _, attributes in Page(answer.text).tags:
            own = [attributes.get(name) for name in ("href", "src", "action", "formaction")]
            own += [value for name, value in attributes.items() if re.match("data-.*=/", f"{name}={value}")]
            named += [one for one in own if one and not one.startswith("#")]
        return [one for one in named if "//" not in one.partition("?")[0] and not one.startswith(("mailto:", "data:"))]


MOUNTED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dispatcher": ("/demo", lambda site: dispatcher(site, "/demo")),
    "dispatcher in another": ("/outer/demo", lambda site: dispatcher(dispatcher(site, "/demo"), "/outer")),
    "tree": ("/demo", lambda site: grafted(site, "/demo")),
    "slash at the end": ("/demo", lambda site: with_script_name(site, "/demo/")),
    "tilde": ("/~ada", lambda site: dispatcher(site, "/~ada")),
    "space": ("/my%20demo", lambda site: dispatcher(site, "/my demo")),
}


def with_script_name(application: Any, name: str) -> Callable[..., Any]:
    """Do what some servers do: the path that belongs to the site is told, and is gone."""
    return lambda environ, start: application(
        {**environ, "SCRIPT_NAME": name, "PATH_INFO": environ["PATH_INFO"].removeprefix(name.rstrip("/"))}, start
    )


@pytest.mark.parametrize("how", MOUNTED)
def test_wherever_it_is_mounted_every_link_leads_somewhere(how: str) -> None:
    mount, mounting = MOUNTED[how]
    application = app.create_app("ram")
    try:
        crawler = Crawler(WsgiClient(mounting(application)), mount)
        crawler.crawl()
        assert len(crawler.seen) > 12 and {f"{mount}/static/style.css", f"{mount}/login"} <= crawler.seen.keys()
    finally:
        sessions.close_stores(application)


def test_below_a_path_that_is_not_ascii_the_pages_are_found() -> None:
    application = app.create_app("ram")
    try:
        visitor = WsgiClient(dispatcher(application, "/süd"))
        answer = visitor.get(f"{quote('/süd')}/counter")
        assert answer.status == 200 and f'href="{quote("/süd")}/static/style.css"' in answer.text
        assert "; Path=/;" in answer.set_cookie[0]  # which is wider, and which every browser takes
        assert visitor.get(f"{quote('/süd')}/static/style.css").status == 200
    finally:
        sessions.close_stores(application)


def test_a_path_with_two_slashes_is_no_other_host(plain: cherrypy.Application) -> None:
    site = with_environ(plain, {"SCRIPT_NAME": "//evil.example", "PATH_INFO": "/account"})
    answer = WsgiClient(site).get("/account")
    assert (answer.status, answer.headers["location"]) == (303, "http://site/evil.example/login?next=/account")


def test_an_application_can_still_be_mounted_in_the_tree_as_it_is() -> None:
    application, tree = app.create_app("ram"), cherrypy._cptree.Tree()
    try:
        assert tree.mount(application) is application
        assert WsgiClient(tree).get("/counter").status == 200
    finally:
        sessions.close_stores(application)


@pytest.fixture(scope="module")
def below() -> Iterator[Site]:
    """The site in development, which is told by SCRIPT_NAME where its visitors find it."""
    with Site("file", env={"SCRIPT_NAME": "/demo/", "DEMO_PASSWORD": PASSWORD}) as site:
        yield site


def test_app_py_can_be_told_where_visitors_find_it(below: Site) -> None:
    assert f"Serving {below.url}/demo with" in below.output()

    visitor = below.client()
    assert visitor.get("/demo/account").redirects_to == "/demo/login?next=/account"
    assert visitor.get("/demo").headers["location"] == f"{below.url}/demo/"
    form = {"username": "ada", "password": PASSWORD, "next": "/account/sessions"}
    answer = visitor.post("/demo/login", form)
    assert answer.redirects_to == "/demo/account/sessions" and "; Path=/demo;" in answer.set_cookie[0]
    crawler = Crawler(visitor, "/demo")
    crawler.crawl()
    assert len(crawler.seen) > 15 and crawler.seen["/demo/account/password"] == 200
    assert visitor.get("/healthz").status == 200, "a balancer asks the process itself"
    assert visitor.get("/demonstration").status == 404


def test_app_py_refuses_a_path_that_is_none() -> None:
    for wrong in ("demo", "//evil.example", "/a b", "http://site/demo"):
        with pytest.raises(StartError, match="SCRIPT_NAME"):
            app.create_app("ram", {"/": {"wsgi.proxy.prefix": wrong}})


@pytest.fixture(scope="module")
def gunicorn_below() -> Iterator[Site]:
    command = (
        f"{sys.executable} -m gunicorn --config deploy/gunicorn.conf.py --workers 1 --no-control-socket "
        "--bind 127.0.0.1:$PORT"
    )
    with Site(command=command, env={"PROFILE": "file", "SCRIPT_NAME": "/demo"}) as site:
        yield site


@pytest.mark.parametrize("passed", ["", "/", "/demo/"])
def test_below_a_location_of_nginx_every_link_leads_somewhere(below: Site, gunicorn_below: Site, passed: str) -> None:
    """The proxy may pass the path as it is, or without what is the site's; gunicorn wants it as it is."""
    for site in [below, gunicorn_below][: 1 if passed == "/" else 2]:
        with Nginx(f"127.0.0.1:{site.port}", "/demo/", passed) as nginx:
            crawler = Crawler(nginx.client(), "/demo")
            crawler.crawl()
            assert len(crawler.seen) > 12


def test_gunicorn_takes_the_path_from_a_header_of_the_proxy(gunicorn_below: Site) -> None:
    answer = gunicorn_below.client().ask("GET", "/other/counter", None, {"SCRIPT_NAME": "/other"})
    assert answer.status == 200 and 'href="/other/static/style.css"' in answer.text
