"""Signing in and out over HTTP, and what the site refuses: forms of other sites, damaged ones, and too big ones."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from tests.conftest import PASSWORD
from tests.support.client import JSON, CheckedClient, new_address
from tests.support.page import Page
from tests.support.site import Site, mounted

FORMS = mounted(["/cookie/delete", "/counter/reset", "/name", "/login", "/logout", "/account/password",
                 "/account/sessions", "/account/second-factor", "/login/code"])  # fmt: skip

# --- signing in -------------------------------------------------------------------------------------------------------


def test_the_account_is_for_who_is_signed_in(visitor: CheckedClient) -> None:
    assert visitor.get("/account").redirects_to == "/login?next=/account"
    refused = visitor.get("/account", **JSON)
    assert refused.status == refused.json["status"] == 401 and refused.json["error"]
    assert "www-authenticate" in refused.headers
    assert visitor.user() is None
    assert visitor.sign_in(PASSWORD).redirects_to == "/account"
    assert visitor.get("/account", **JSON).json == {"user": "ada"}
    assert visitor.get("/account").headers["cache-control"] == "no-store"
    assert visitor.user() == "ada"
    assert visitor.post("/logout").redirects_to == "/"
    assert visitor.get("/account", **JSON).status == 401


def test_the_session_gets_a_new_id_at_login_and_at_logout_and_the_old_ones_are_worthless(known: CheckedClient) -> None:
    before = known.twin()
    known.sign_in(PASSWORD)
    during = known.twin()
    assert during.cookies != before.cookies and before.user() is None
    assert known.count() == 2  # the visitor's own session went along
    known.post("/logout")
    assert known.cookies != during.cookies and during.user() is None
    assert known.count() == 1


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(visitor: CheckedClient) -> None:
    attempts = [("ada", "wrong"), ("nobody", PASSWORD), ("ada", ""), ("", ""), ("adda", PASSWORD), ("ad a", PASSWORD)]
    for headers in ({}, JSON):
        answers = [visitor.post("/login", {"username": u, "password": p}, **headers) for u, p in attempts]
        # The form keeps the user name as it was typed; nothing else may differ but the times in the X-ray.
        pages = [re.sub(r"<aside.*</aside>", "", answer.text, flags=re.S) for answer in answers]
        texts = {re.sub(r'(name="username" type="text" value=)"[\w ]*"', r"\1", page) for page in pages}
        assert {answer.status for answer in answers} == {403} and len(texts) == 1
        assert not any(answer.set_cookie for answer in answers)
    assert PASSWORD not in texts.pop()


AS_TYPED = ["ADA", "ada ", " Ada\u00a0", "a\u200bda", "\uff21\uff24\uff21"]


@pytest.mark.parametrize("typed", AS_TYPED)
def test_a_name_typed_in_another_way_signs_in_to_the_account_as_it_is_registered(
    visitor: CheckedClient, site: Site, typed: str
) -> None:
    before = site.output()
    assert visitor.post("/login", {"username": typed, "password": PASSWORD}).status == 303
    assert visitor.user() == "ada" and visitor.get("/account", **JSON).json == {"user": "ada"}
    own = [row for row in visitor.get("/account/sessions", **JSON).json["sessions"] if row["current"]]
    assert len(own) == 1, "its sessions are listed under that name"
    assert "sign-in account=ada " in f"{site.output().removeprefix(before)} ".replace("\n", " ")


def test_a_name_typed_in_another_way_gives_no_further_tries(visitor: CheckedClient) -> None:
    answers = [visitor.post("/login", {"username": name, "password": "wrong"}).status for name in AS_TYPED * 4]
    assert answers == sorted(answers) and {*answers} == {403, 429}
    assert visitor.sign_in(PASSWORD).status == 429


def test_the_demo_account_is_for_this_machine_alone_however_its_name_is_typed(visitor: CheckedClient) -> None:
    for typed in ("ada", *AS_TYPED):
        form = {"username": typed, "password": PASSWORD}
        visitor.address = new_address()
        assert visitor.post("/login", form, Host="elsewhere.example").status == 403


@pytest.mark.parametrize("target", ["/counter", "/hello", "/cookie/set?name=a&value=b", "/account#x"])
def test_signing_in_leads_on_to_where_one_was_going(visitor: CheckedClient, target: str) -> None:
    page = Page(visitor.get(f"/login?{urlencode({'next': target})}").text)
    assert target in page.values("input", "value")
    wrong = Page(visitor.sign_in("wrong", next=target).text)
    assert target in wrong.values("input", "value")
    assert visitor.sign_in(PASSWORD, next=target).redirects_to == target.partition("#")[0]


ATTACKS = [
    "//evil.example", "/\\evil.example", "///evil.example", "\\\\evil.example", "https://evil.example/",
    "/\t/evil.example", "/\n/evil.example", " //evil.example", "/..//evil.example", "/.//evil.example",
    "/a/..//evil.example", "/%2e/%2fevil.example", "/%2e//evil.example",
    "http:/evil.example", "@evil.example", ":80@evil.example", "javascript:alert(1)", "/a\r\nSet-Cookie: x=1",
    "/\x00", "//", "evil", "/" + "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("target", ATTACKS)
def test_signing_in_never_leads_to_another_site(visitor: CheckedClient, target: str) -> None:
    tags = Page(visitor.get(f"/login?{urlencode({'next': target})}").text).tags
    hidden = [attrs["value"] or "" for _, attrs in tags if attrs.get("name") == "next"]
    assert all(re.match(r"/(?![/\\])", value) for value in hidden)
    answer = visitor.sign_in(PASSWORD, next=target)
    assert re.match(r"/(?![/\\])", answer.redirects_to)
    assert "x" not in visitor.cookies


TAKEN = [("/login", "username"), ("/login", "password"), ("/account/password", "current"), ("/account/password", "new"),
         ("/account/password", "again"), ("/account/second-factor", "code"), ("/login/code", "code"),
         ("/login/code", "recovery")]  # fmt: skip


@pytest.mark.parametrize(("path", "field"), TAKEN)
def test_a_password_in_an_address_is_refused(ada: CheckedClient, path: str, field: str) -> None:
    """An address is kept in logs and histories; the form would work with it all the same (ASVS 14.2.1)."""
    address = f"{path}?{field}=in-the-address"
    form = {"username": "ada", "current": "x", "new": "y", "again": "y", "password": "x"} | dict.fromkeys(
        ("code", "recovery"), "x"
    )
    fields = {name: form[name] for page, name in TAKEN if page == path and name != field}
    before = dict(ada.cookies)
    for answer in (ada.get(address, **JSON), ada.post(address, fields, **JSON)):
        assert answer.status == answer.json["status"] == 400
        assert f"The field '{field}' was in the address" in answer.json["error"]
    assert "in-the-address" not in ada.get(address).text and ada.cookies == before


HALF = "/+2AA-"  # in UTF-7: a slash and half of a surrogate pair, which no UTF-8 has
UTF_7 = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-7"}
HALVES = {
    "/login": ["username", "password", "next", "stay"], "/name": ["first", "last"],
    "/account/password": ["current", "new", "again", "end_others"], "/account/sessions": ["end"],
    "/account/second-factor": ["do", "code"], "/login/code": ["code", "recovery", "cancel"],
    "/cookie/delete": ["name"],
}  # fmt: skip


@pytest.mark.parametrize("path", mounted(HALVES))
def test_half_of_a_character_in_a_field_is_the_senders_mistake(ada: CheckedClient, path: str) -> None:
    sound = {"username": "ada", "password": PASSWORD, "current": PASSWORD, "next": "/counter"}
    for field in HALVES[path]:
        body = urlencode({name: HALF if name == field else sound.get(name, "x") for name in HALVES[path]})
        for headers in (UTF_7, UTF_7 | JSON):
            answer = ada.ask("POST", path, body, headers)
            assert answer.status == 400, f"{field}: {answer.text}"
    assert ada.get("/hello").status == ada.get("/login").status == 200


# --- who is refused ---------------------------------------------------------------------------------------------------

ELSEWHERE = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
             {"Sec-Fetch-Site": "same-site"}]  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
def test_a_form_of_another_site_changes_nothing(ada: CheckedClient, path: str) -> None:
    ada.count()
    before = dict(ada.cookies)
    form = {"/name": {"first": "M", "last": "M"}, "/cookie/delete": {"name": "session_id"}}.get(path, {})
    for origin in ELSEWHERE:
        answer = ada.post(path, form, **origin, **JSON)
        assert answer.status == answer.json["status"] == 403 and answer.set_cookie == []
        assert "<h1>That is not allowed</h1>" in ada.post(path, form, **origin).text
    assert ada.cookies == before and ada.user() == "ada" and ada.count() == 2
    assert ada.get("/hello", **JSON).json["first"] == ""


@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site", "Referer"])
def test_the_sites_own_form_is_taken(known: CheckedClient, header: str) -> None:
    own = {"Origin": known.url, "Sec-Fetch-Site": "same-origin", "Referer": known.url + "/counter"}
    assert known.post("/counter/reset", **{header: own[header]}).status == 303


URLENCODED = "application/x-www-form-urlencoded"
DAMAGED = {
    "field twice": (URLENCODED, "first=a&first=b&last=c"),
    "charset": (URLENCODED + ";charset=nothing", "first=a&last=b"),
    "not UTF-8": (URLENCODED + ";charset=utf-8", "first=%ff&last=b"),
    "multipart without boundary": ("multipart/form-data", "first"),
    "multipart cut off": ("multipart/form-data; boundary=x", '--x\r\nContent-Disposition: form-data; name="first"\r\n'),
    "file": (
        "multipart/form-data; boundary=x",
        '--x\r\nContent-Disposition: form-data; name="first"; filename="a"\r\n\r\nb\r\n--x--\r\n',
    ),
}


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_form_is_the_senders_error(visitor: CheckedClient, path: str, damage: str) -> None:
    kind, body = DAMAGED[damage]
    answer = visitor.ask("POST", path, body, {"Content-Type": kind, **JSON})
    assert answer.status < 500, answer.text
    if path == "/name":
        assert answer.status == answer.json["status"] == 400
        page = visitor.ask("POST", path, body, {"Content-Type": kind})
        assert page.status == 400 and page.text.rstrip().endswith("</html>")


@pytest.mark.parametrize("path", FORMS)
def test_too_much_is_413(visitor: CheckedClient, path: str) -> None:
    too_much = {"first": "a" * 1024 * 1024}
    answer = visitor.post(path, too_much, **JSON)
    assert answer.status == answer.json["status"] == 413
    assert "<h1>That is too big</h1>" in visitor.post(path, too_much).text
