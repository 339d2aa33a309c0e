"""What a visitor can send: every value is shown and never obeyed, and no cookie breaks a page or a session."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

import pytest

from tests.support.client import JSON, CheckedClient, Response, new_address, send_raw
from tests.support.page import Page
from tests.support.site import Site, mounted

VALUES = {
    "tag": "<x-probe>",
    "script": "</textarea></title></script><script>x-probe</script>",
    "double quote": '" x-probe="1',
    "apostrophe": "' x-probe='1",
    "entity": "&lt;x-probe&gt;",
    "template": "{{ 7919 * 7927 }}{% x-probe %}",
    "emoji": "👩‍🚀 é",
    "NUL": "a\0b",
    "lines": "a\r\nX-Probe: 1\r\n\r\n<x-probe>",
    "controls": "".join(map(chr, [*range(1, 32), *range(127, 160)])),
    "right to left": "\u202e\u2066x",
    "long": "x" * 10_000,
    "long emoji": "🚀" * 1_500,
}


@pytest.fixture(params=VALUES)
def value(request: pytest.FixtureRequest) -> str:
    """Something that a visitor might send."""
    return VALUES[request.param]


def assert_harmless(answer: Response) -> None:
    """Raise AssertionError when a value of VALUES was obeyed: as markup, as a header, or as a control character."""
    assert answer.status < 500, answer.text
    assert "x-probe" not in answer.headers
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", answer.text)
    if answer.headers.get("content-type", "").startswith("text/html"):
        tags = Page(answer.text).tags
        assert not [name for name, attributes in tags if name == "x-probe" or "x-probe" in attributes]
        assert all("src" in attributes for name, attributes in tags if name == "script")
        assert "62773913" not in answer.text


# --- values -----------------------------------------------------------------------------------------------------------

FIELDS = {
    "GET /": ["anything"],
    "GET /nothing": ["anything"],
    "GET /cookie/set": ["name", "value"],
    "GET /cookie/set/": ["value"],
    "POST /cookie/delete": ["name"],
    "GET /counter": ["anything"],
    "GET /name": ["first", "last"],
    "POST /name": ["first", "last"],
    "GET /login": ["username", "password", "next"],
    "GET /login/": ["next", "cookie"],
    "POST /login": ["username", "password", "next"],
}


@pytest.mark.parametrize("request_line", mounted(FIELDS))
def test_a_value_in_a_field_is_shown_and_not_obeyed(visitor: CheckedClient, request_line: str, value: str) -> None:
    method, path = request_line.split()
    for form in (dict.fromkeys(FIELDS[request_line], value), {value: "1"}):
        for headers in ({}, JSON):
            if method == "GET":
                assert_harmless(visitor.get(f"{path}?{urlencode(form)}", **headers))
            else:
                assert_harmless(CheckedClient(visitor.url, address=new_address()).post(path, form, **headers))


def test_a_value_in_an_address_is_shown_and_not_obeyed(visitor: CheckedClient, value: str) -> None:
    for path in ("/", "/cookie/", "/cookie/set/", "/static/", "/counter/"):
        for headers in ({}, JSON):
            assert_harmless(visitor.get(path + quote(value, safe=""), **headers))


def test_a_name_is_kept_as_it_was_typed(visitor: CheckedClient, value: str) -> None:
    assert visitor.post("/name", {"first": value, "last": value}).status == 303
    assert visitor.get("/hello", **JSON).json == {"first": value.strip(), "last": value.strip()}
    for path in ("/hello", "/name", "/cookie/read"):
        assert_harmless(visitor.get(path))
        assert_harmless(visitor.get(path, **JSON))


@pytest.mark.parametrize("header", ["Host", "Accept", "Accept-Language", "Referer", "User-Agent", "X-Forwarded-Host",
                                    "X-Forwarded-For", "Forwarded", "Origin",
                                    "If-Modified-Since", "If-None-Match", "Content-Type", "Authorization"])  # fmt: skip
@pytest.mark.parametrize("path", ["/counter", "/nothing", "/static/favicon.svg"])
def test_a_value_in_a_header_is_shown_and_not_obeyed(visitor: CheckedClient, header: str, path: str) -> None:
    for value in ("<x-probe>", '" x-probe="1', "{{ 7919 * 7927 }}", "a\x01b", "a\0b", "\xff", "x" * 10_000, ""):
        assert_harmless(visitor.get(path, **{header: value}))


RANGES = ["", "x", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=\xff-", "bytes=1--2", "bytes=5-1", "lines=1-2",
          "bytes=0-1,2-3", "bytes=" + "0-," * 9_999]  # fmt: skip


@pytest.mark.parametrize("wanted", RANGES)
def test_a_range_that_makes_no_sense_is_ignored(visitor: CheckedClient, wanted: str) -> None:
    whole = visitor.get("/static/style.css")
    answer = visitor.get("/static/style.css", Range=wanted)
    assert (answer.status, answer.body) == (200, whole.body)


def test_a_part_of_a_static_file_can_be_had(visitor: CheckedClient) -> None:
    whole = visitor.get("/static/style.css").body
    for wanted, part in (("0-9", whole[:10]), ("10-", whole[10:]), ("-10", whole[-10:]), ("5-5", whole[5:6])):
        answer = visitor.get("/static/style.css", Range=f"bytes={wanted}")
        assert (answer.status, answer.body) == (206, part)
    assert visitor.get("/static/style.css", Range=f"bytes={len(whole)}-").status == 416


# --- cookies ----------------------------------------------------------------------------------------------------------

OTHERS = {
    "json": b'prefs={"a":1}',
    "parenthesis": b"br(oken=1",
    "tag": b"<b>=1",
    "tag as value": b"a=<x-probe>",
    "attribute": b'" x-probe="=1',
    "no name": b"=1",
    "no value": b"a",
    "nothing": b";;; ;",
    "open quote": b'a="b',
    "octal": b'a="\\000\\015\\012X-Probe: 1"',
    "quoted semicolon": b'a="b; c"',
    "reserved": b"Path=/; expires=never; $Version=1; Version=1",
    "equals": b"a=b=c==",
    "UTF-8": "ключ=значение 🚀".encode(),
    "not UTF-8": b"\xff\xfe=\x80\x81",
    "NUL": b"a\0b=c\0d",
    "controls": b"a\x01\x1b[31mb=c\x7f",
    "spaces": b"  a  b  =  c  d  ",
    "long name": b"x" * 10_000 + b"=1",
    "long value": b"a=" + b"x" * 10_000,
    "many": b"; ".join(b"c%d=%d" % (n, n) for n in range(2000, 3500)),
    "same name": b"a=1; a=2; a=3",
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_cookies_of_other_programs_break_neither_page_nor_session(known: CheckedClient, other: str) -> None:
    text, own = OTHERS[other].decode("latin-1"), f"session_id={known.cookies['session_id']}"
    for count, header in enumerate((f"{text}; {own}", f"{own}; {text}", f"a=1; {text}; {own}; b=2"), start=2):
        assert known.get("/counter", Cookie=header, **JSON).json == {"count": count}
        for path in ("/", "/cookie/", "/cookie/read", "/hello", "/login", "/nothing"):
            assert_harmless(known.get(path, Cookie=header))


# --- session ids ------------------------------------------------------------------------------------------------------

IDS = {
    "empty": b"",
    "quotes": b'""',
    "long": b"x" * 5_000,
    "path": b"../x",
    "absolute path": b"/etc/passwd",
    "folder": b"..",
    "marker": b".writable",
    "NUL": b"a\0b",
    "only NUL": b"\0",
    "octal NUL": b'"\\000"',
    "octal path": b'"\\056\\056/x"',
    "controls": b"\x01\x02\x1b[31m\x7f",
    "tab": b"a\tb",
    "carriage return": b"a\rb",
    "latin-1": b"\xe9" * 43,
    "UTF-8": "ä".encode() * 21,
    "not UTF-8": b"\xff\xfe\xc0\x80",
    "wide digits": "１".encode() * 14,
    "tag": b"<x-probe>",
    "wildcard": b"*" * 43,
    "well-formed": b"A" * 43,
    "hash": b"0" * 64,
    "key": b"e3b0c442-" + b"0" * 64,
    "new": b"A" * 43 + b".new",
}


@pytest.mark.parametrize("hostile", IDS)
@pytest.mark.parametrize("path", mounted(["/counter", "/account", "/login", "/hello", "/cookie/read"]))
def test_a_hostile_id_is_an_unknown_id(site: Site, hostile: str, path: str) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: session_id=%s\r\n\r\n"
    status, answer = send_raw(site.url, request % (path.encode(), IDS[hostile]))
    # A bare CR is no header any more (RFC 9112 section 2.2), so the server may refuse the request as a whole.
    assert status in (200, 303) or (hostile == "carriage return" and status == 400), answer
    assert b"<x-probe>" not in answer
    given = re.search(rb"Set-Cookie: session_id=([^;]*)", answer)
    assert bool(given) is (path == "/counter" and status == 200)
    assert given is None or re.fullmatch(rb"[\w-]{40,}", given[1])


@pytest.mark.parametrize("path", mounted(["/counter/reset", "/logout", "/cookie/delete", "/login"]))
def test_a_form_with_a_hostile_id_does_no_harm(site: Site, path: str) -> None:
    body = b"name=session_id&username=ada&password=wrong"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    form = b"Content-Type: application/x-www-form-urlencoded\r\nCookie: session_id="
    for hostile in IDS.values():
        status, answer = send_raw(site.url, head + form + hostile + b"\r\n\r\n" + body)
        assert status < 500, answer


def test_the_session_of_another_file_is_not_found_by_its_name() -> None:
    with Site("file") as site:
        known = CheckedClient(site.url)
        assert known.count() == 1
        [file] = [path for path in site.storage.glob("??/*") if path.is_file() and not path.name.startswith(".")]
        inside = file.relative_to(site.storage)
        hash = file.name.partition("-")[2]
        for name in (file.name, str(file), str(inside), f"../{inside}", hash, file.name[:43], hash[:43]):
            assert CheckedClient(site.url, {"session_id": name}).count() == 1
        assert known.count() == 2


# --- headers ----------------------------------------------------------------------------------------------------------

WORDS = ["http://x/?a=?utf-8?q?x?=", "=?utf-8?q?=ff?=", "=?bogus?q?x?=", "=?utf-8?b?x?=", "=?utf-8?q?text/html?="]


@pytest.mark.parametrize("name", ["Referer", "User-Agent", "Accept", "Range", "If-None-Match", "X-Requested-With"])
def test_what_looks_like_an_encoded_word_of_a_mail_is_text(site: Site, name: str) -> None:
    """CherryPy decodes such words, and a link can put one into a Referer."""
    for word in WORDS:
        request = f"GET /counter HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{name}: {word}\r\n\r\n"
        status, answer = send_raw(site.url, request.encode())
        assert status == 200, (word, answer)


def test_an_encoded_word_is_no_host(site: Site) -> None:
    for version in ("1.0", "1.1"):
        status, answer = send_raw(site.url, f"GET / HTTP/{version}\r\nHost: =?bogus?q?x?=\r\n\r\n".encode())
        assert status == 400, answer


def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read(site: Site) -> None:
    """Request smuggling: a proxy may go by the other one (RFC 9112 section 6.1)."""
    head = b"POST /name HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, answer = send_raw(site.url, head + b"0\r\n\r\nGET /counter HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status == 400 and answer.count(b"HTTP/1.1 ") == 1 and b"Set-Cookie" not in answer
