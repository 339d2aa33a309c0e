"""`python -m sessions`: what an operator can do on each backend, and that one which cannot says so in one line."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import cherrypy
import pytest

import sessions
from sessions import Record
from sessions.cli import main
from sessions.registry import backend
from sessions.tool import reference as reference_of
from tests.support.application import application
from tests.support.backends import BACKENDS, options_of
from tests.support.members import Accounts, Browser, Pages, SignInApp, able, sign_in_app
from tests.support.process import ROOT, environment

CAPABILITIES = {name: backend(name).store_class.capabilities for name in BACKENDS}
REACHED = able("lists", "shared")
OTHERS = [name for name in BACKENDS if name not in REACHED]
SCANNED = [name for name in REACHED if backend(name).store_class.scan is not sessions.Store.scan]
PURGED = able("lists", "shared", "purges")
ACCOUNTS = Accounts(time.time)
_numbers = itertools.count()


def a_site(profile: str, place: str) -> cherrypy.Application:
    """The factory of these tests: the same site as that of the fixture, opened once more, as by another process."""
    return application(Pages(), accounts=ACCOUNTS, **options_of(profile, Path(place)))


def a_site_in_production(profile: str, place: str, production: bool = False) -> cherrypy.Application:
    assert production is True
    return a_site(profile, place)


def a_site_without_accounts(profile: str, place: str) -> cherrypy.Application:
    return application(Pages(), **options_of(profile, Path(place)))


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Operator:
    """Somebody at the console of the site, in the process of the test: a new Python would take its time to start."""

    def __init__(self, capsys: pytest.CaptureFixture[str], backend: str, place: Path) -> None:
        self._capsys, self.backend, self.place = capsys, backend, place

    def __call__(self, *args: str, app: str = "a_site") -> Ended:
        self._capsys.readouterr()
        options = ["--app", f"{__name__}:{app}", "--profile", self.backend, "--config", str(self.place)]
        try:
            status = main([*args, *options])
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
        return Ended(status, *self._capsys.readouterr())

    def refused(self, *args: str, app: str = "a_site") -> str:
        """The one line that says why not."""
        status, out, err = self(*args, app=app)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"python -m sessions: [^\n]+\n", err), err
        return err

    def listed(self, *args: str) -> list[dict[str, Any]]:
        status, out, err = self("list", "--json", *args)
        assert (status, err) == (0, "")
        found: list[dict[str, Any]] = json.loads(out)
        return found


@pytest.fixture(scope="module", params=REACHED)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, SignInApp]]:
    place = tmp_path_factory.mktemp(f"operators_{request.param}")
    with sign_in_app(request.param, place, accounts=ACCOUNTS) as site:
        yield request.param, place, site


@pytest.fixture
def site(opened: tuple[str, Path, SignInApp]) -> SignInApp:
    """The site as it runs."""
    ACCOUNTS.since.clear()
    ACCOUNTS.failing = False
    return opened[2]


@pytest.fixture
def operator(opened: tuple[str, Path, SignInApp], capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(capsys, opened[0], opened[1])


@pytest.fixture
def user() -> str:
    """A user of this test's own: the tests share the store."""
    return f"ada{next(_numbers)}"


def on(backends: list[str]) -> pytest.MarkDecorator:
    """Return a mark: run a test on these backends only."""
    return pytest.mark.parametrize("opened", backends, indirect=True)


def without(backends: list[str]) -> list[str]:
    """Return the other ones that an operator can reach."""
    return [name for name in REACHED if name not in backends]


def reference(browser: Browser) -> str:
    return reference_of(browser.cookies["session_id"])


# -------------------------------------------------------------------- list


def test_the_sessions_of_a_user_are_listed_as_a_table(site: SignInApp, operator: Operator, user: str) -> None:
    browsers = [site.signed_in(user), site.signed_in(user, remember=True)]
    site.signed_in(f"{user}x")
    status, out, err = operator("list", "--user", user)
    assert (status, err) == (0, "")
    titles, *rows = [re.split("  +", line) for line in out.splitlines()]
    assert titles == ["reference", "user", "started", "last used", "ends", "remembered"]
    assert {row[0] for row in rows} == {reference(browser) for browser in browsers}
    assert {(row[1], row[5]) for row in rows} == {(user, "no"), (user, "yes")}
    for row in rows:
        started, used, ends = (datetime.fromisoformat(text).timestamp() for text in row[2:5])
        assert started == pytest.approx(time.time(), abs=30)
        assert started <= used < ends


def test_the_sessions_of_a_user_are_listed_as_json(site: SignInApp, operator: Operator, user: str) -> None:
    browser = site.signed_in(user, remember=True)
    (one,) = operator.listed("--user", user)
    assert list(one) == ["reference", "user", "started", "last_used", "ends", "remembered"]
    assert (one["reference"], one["user"], one["remembered"]) == (reference(browser), user, True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one[name]) for name in ("started", "last_used", "ends"))


def test_a_listing_holds_no_value_no_id_and_no_key(site: SignInApp, operator: Operator, user: str) -> None:
    browser = site.signed_in(user)
    browser.run(lambda session: session.update(said="open sesame"))
    id = browser.cookies["session_id"]
    for options in ([], ["--json"]):
        out = operator("list", "--user", user, *options).out
        assert reference(browser) in out
        assert not [secret for secret in ("said", "sesame", id[:9], site.store.key_of(id)[-64:][:9]) if secret in out]


def test_a_user_nobody_is_signed_in_as_has_no_sessions(site: SignInApp, operator: Operator) -> None:
    assert operator.listed("--user", "nobody") == []
    assert operator("list", "--user", "nobody").out.count("\n") == 1


@on(SCANNED)
def test_everybody_is_listed_visitors_too(site: SignInApp, operator: Operator, user: str) -> None:
    member, visitor = site.signed_in(user), site.browser()
    visitor.run(lambda session: session.update(n=1))
    found = {one["reference"]: one["user"] for one in operator.listed()}
    assert (found[reference(member)], found[reference(visitor)]) == (user, None)
    (row,) = [line.split() for line in operator("list").out.splitlines() if reference(visitor) in line]
    assert row[1] == "-"


@on(["file"])
def test_the_name_of_a_user_cannot_forge_a_line(site: SignInApp, operator: Operator) -> None:
    for name in ('a b"', "x\nforged", "\x1b[2J", "é"):
        site.signed_in(name)
        assert [one["user"] for one in operator.listed("--user", name)] == [name]
        line = operator("list", "--user", name).out.splitlines()[1]
        assert json.dumps(name) in line


def test_to_look_disturbs_nobody(site: SignInApp, operator: Operator, user: str) -> None:
    """Neither a request that holds its session, nor the cleaner, whose work it does not do."""
    browser, now = site.signed_in(user), time.time()
    key, expired = site.store.key_of(browser.cookies["session_id"]), site.store.new_key()
    site.store.create(expired, Record("{}", now - 90, now - 30, user))
    hold = site.store.acquire(key, 5)
    began = time.monotonic()
    assert [one["reference"] for one in operator.listed("--user", user)] == [reference(browser)]
    assert time.monotonic() - began < 5  # it did not wait
    assert hold.record is not None
    assert hold.commit(hold.record)
    assert browser.user() == user
    if CAPABILITIES[operator.backend].purges:
        assert site.store.load(expired) is not None


@on(["file"])
def test_the_site_is_made_for_production_only_when_asked(site: SignInApp, operator: Operator) -> None:
    assert operator("list", "--production", app="a_site_in_production").status == 0
    assert "AssertionError" in operator.refused("list", app="a_site_in_production")
    assert "production" in operator.refused("list", "--production")  # a factory that knows of none


# -------------------------------------------------------------------- revoke


def test_all_sessions_of_a_user_are_ended(site: SignInApp, operator: Operator, user: str) -> None:
    browsers, other = [site.signed_in(user), site.signed_in(user, remember=True)], site.signed_in(f"{user}x")
    ended = operator("revoke", "--user", user)
    assert (ended.status, ended.out) == (0, "2 sessions ended\n")
    assert [browser.user() for browser in (*browsers, other)] == [None, None, f"{user}x"]
    assert ACCOUNTS.since[user] == pytest.approx(time.time(), abs=30), "also what no store can find"
    again = operator("revoke", "--user", user)
    assert (again.status, again.out) == (1, "0 sessions ended\n")


def test_what_was_ended_is_logged(site: SignInApp, operator: Operator, user: str) -> None:
    browser = site.signed_in(user)
    assert operator("revoke", "--user", user).err.splitlines() == [
        f"python -m sessions: all sessions of the account were revoked account={user}",
        f"python -m sessions: session was ended from elsewhere account={user} session={reference(browser)}",
    ]


def test_a_user_without_an_account_is_signed_out_and_no_account_is_made(
    site: SignInApp, operator: Operator, user: str
) -> None:
    browser = site.signed_in(user)
    ACCOUNTS.since[user] = None
    assert operator("revoke", "--user", user).out == "1 session ended\n"
    assert ACCOUNTS.since == {user: None}
    assert browser.user() is None


def test_a_site_that_has_no_accounts_ends_what_the_store_finds(site: SignInApp, operator: Operator, user: str) -> None:
    browser = site.signed_in(user)
    assert operator("revoke", "--user", user, app="a_site_without_accounts").out == "1 session ended\n"
    assert browser.user() is None


def test_one_session_is_ended_by_its_reference(site: SignInApp, operator: Operator, user: str) -> None:
    one, two = site.signed_in(user), site.signed_in(user)
    ended = operator("revoke", "--user", user, "--reference", reference(one))
    assert (ended.status, ended.out) == (0, "1 session ended\n")
    assert (one.user(), two.user()) == (None, user)
    assert user not in ACCOUNTS.since
    assert operator("revoke", "--user", f"{user}x", "--reference", reference(two)).status == 1
    assert two.user() == user


@on(SCANNED)
def test_a_reference_alone_is_enough_where_everybody_is_listed(site: SignInApp, operator: Operator) -> None:
    visitor = site.browser()
    visitor.run(lambda session: session.update(n=1))
    arguments = ["revoke", "--reference", reference(visitor)]
    assert operator(*arguments).out == "1 session ended\n"
    assert visitor.run(lambda session: session.get("n")) == "None"
    assert operator(*arguments).status == 1


@on(["file"])
def test_what_is_to_be_ended_has_to_be_said(operator: Operator) -> None:
    for arguments in ([], ["--user", ""]):
        assert "--user NAME, --reference REF" in operator.refused("revoke", *arguments)
    for wrong in ("", "1234567", "123456789", "ABCDEF01", "../../x1", "1234567\n"):
        assert "must be 8 digits" in operator.refused("revoke", "--user", "ada", "--reference", wrong)


def test_accounts_that_do_not_answer_are_one_line(site: SignInApp, operator: Operator, user: str) -> None:
    browser = site.signed_in(user)
    ACCOUNTS.failing = True
    assert "the accounts do not answer" in operator.refused("revoke", "--user", user)
    ACCOUNTS.failing = False
    assert browser.user() == user


# -------------------------------------------------------------------- purge


@on(without(PURGED))
def test_a_store_that_is_cleaned_by_others_says_how(operator: Operator) -> None:
    assert CAPABILITIES[operator.backend].cleaning in operator.refused("purge")


@on(PURGED)
def test_what_has_expired_is_removed_now(site: SignInApp, operator: Operator, user: str) -> None:
    browser, now = site.signed_in(user), time.time()
    keys = [site.store.new_key() for _ in range(3)]
    for key in keys:
        site.store.create(key, Record("{}", now - 90, now - 30, user))
    operator("purge")  # what other tests have left, too
    assert [site.store.load(key) for key in keys] == [None] * 3
    assert operator("purge")[:2] == (0, "0 sessions removed\n")
    assert browser.user() == user


@on(["file"])
def test_more_than_one_batch_is_removed(site: SignInApp, operator: Operator) -> None:
    operator("purge")
    now = time.time()
    for _ in range(501):
        site.store.create(site.store.new_key(), Record("{}", now - 90, now - 30))
    assert operator("purge").out == "501 sessions removed\n"


# -------------------------------------------------------------------- backends that cannot


@on(without(SCANNED))
def test_a_store_that_cannot_list_everybody_says_that_it_can_list_a_user(operator: Operator) -> None:
    for arguments in (["list"], ["revoke", "--reference", "01234567"]):
        line = operator.refused(*arguments)
        assert "cannot list everybody's sessions" in line and "those of one user" in line


@on(OTHERS)
def test_a_backend_that_cannot_says_so_in_its_own_words(site: SignInApp, operator: Operator) -> None:
    site.signed_in("ada")
    can = CAPABILITIES[operator.backend]
    words = can.limitations if can.shared else can.sharing
    assert words in operator.refused("list")
    assert words in operator.refused("list", "--user", "ada", "--json")
    assert words in operator.refused("revoke", "--reference", "01234567")
    assert words in operator.refused("revoke", "--user", "ada", app="a_site_without_accounts")
    assert (can.cleaning if can.shared else words) in operator.refused("purge")


@on(OTHERS)
def test_the_accounts_end_the_sessions_of_a_user_on_every_backend(site: SignInApp, operator: Operator) -> None:
    browser, other = site.signed_in("ada"), site.signed_in("bob")
    status, out, err = operator("revoke", "--user", "ada")
    assert (status, err) == (0, "python -m sessions: all sessions of the account were revoked account=ada\n")
    assert out == "All sessions of 'ada' end at their next request. How many there are is unknown.\n"
    assert (browser.user(), other.user()) == (None, "bob")


@on(OTHERS)
def test_an_account_that_does_not_exist_is_named_where_only_the_accounts_could_help(
    site: SignInApp, operator: Operator
) -> None:
    ACCOUNTS.since["adda"] = None
    assert "the site has no account adda" in operator.refused("revoke", "--user", "adda")
    assert ACCOUNTS.since == {"adda": None}


def test_a_snapshot_that_the_site_uses_is_left_to_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with sign_in_app("ram", tmp_path, snapshot_path=str(tmp_path / "snapshot")):
        operator = Operator(capsys, "ram", tmp_path)
        assert "another process uses" in operator.refused("list", app="a_site_with_a_snapshot")


def a_site_with_a_snapshot(profile: str, place: str) -> cherrypy.Application:
    return application(Pages(), storage_type=profile, snapshot_path=f"{place}/snapshot")


# -------------------------------------------------------------------- sql


def test_the_sql_of_the_table_is_printed_and_a_wrong_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--table", "site.sessions"]) == 0
    assert 'CREATE TABLE IF NOT EXISTS "site"."sessions" (' in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["sql", "--table", "sessions; --"])
    assert re.fullmatch(r"python -m sessions: error: table is 'sessions; --'[^\n]+\n", capsys.readouterr().err)


# -------------------------------------------------------------------- what can go wrong


def a_site_that_is_down(profile: str, place: str) -> cherrypy.Application:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    down = {
        "memcached": {"servers": f"127.0.0.1:{port}"},
        "postgresql": {"dsn": f"postgresql://x@127.0.0.1:{port}/x"},
        "redis": {"url": f"redis://127.0.0.1:{port}"},
    }
    return application(Pages(), **{**options_of(profile, Path(place)), **down[profile]})


def a_site_without_its_folder(profile: str, place: str) -> cherrypy.Application:
    app = a_site_without_accounts(profile, f"{place}/gone")
    os.rename(f"{place}/gone", f"{place}/gone.{next(_numbers)}")
    return app


@pytest.mark.parametrize("backend", ["memcached", "postgresql", "redis", "file"])
@pytest.mark.parametrize("command", ["list", "revoke", "purge"])
def test_a_store_that_does_not_answer_is_one_line(
    backend: str, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    operator = Operator(capsys, backend, tmp_path)
    arguments = [] if command == "purge" else ["--user", "ada"]
    operator.refused(
        command, *arguments, app="a_site_that_is_down" if backend != "file" else "a_site_without_its_folder"
    )


def not_an_application(profile: str, place: str) -> dict[str, str]:
    return {}


def an_application_without_sessions(profile: str, place: str) -> cherrypy.Application:
    return cherrypy.Application(Pages(), "", {})


def an_application_with_a_wrong_option(profile: str, place: str) -> cherrypy.Application:
    return application(Pages(), timeout="long")


def a_factory_that_fails(profile: str, place: str) -> cherrypy.Application:
    raise LookupError(f"there is no profile {profile!r},\nand this is another line")


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("nothing_here", "no attribute 'nothing_here'"),
        ("ROOT", "is no function"),
        ("not_an_application", "returned a dict"),
        ("an_application_without_sessions", "no page of it uses sessions"),
        ("an_application_with_a_wrong_option", "tools.sessions.timeout is 'long'"),
        ("a_factory_that_fails", "LookupError: there is no profile 'file', and this is another line"),
    ],
)
def test_a_site_that_cannot_be_opened_is_one_line(
    app: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert words in Operator(capsys, "file", tmp_path).refused("list", app=app)


@pytest.mark.parametrize("app", ["no_such_module:x", "app", ":x", "", "tests.sessions.test_operators."])
def test_a_site_that_cannot_be_found_is_one_line(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["list", "--app", app])
    line = capsys.readouterr().err
    assert re.fullmatch(r"python -m sessions: error: --app [^\n]+MODULE:FUNCTION\n", line), line


# -------------------------------------------------------------------- as which account


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of somebody else, for the console of root; whoever runs the tests may be root or not."""
    if os.geteuid() == 0:
        os.chown(tmp_path, pwd.getpwnam("nobody").pw_uid, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


@pytest.mark.parametrize("command", ["list", "revoke", "purge"])
def test_root_is_refused_and_the_account_of_the_site_is_named(
    command: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What root made among the files of the site, the site could not read."""
    owner = root.owner()
    (root / "sessions").mkdir(mode=0o700)
    os.chown(root / "sessions", root.stat().st_uid, -1)
    arguments = [] if command == "purge" else ["--user", "ada"]
    line = Operator(capsys, "file", root).refused(command, *arguments)
    assert f"{str(root / 'sessions')!r} is kept by the account {owner}, and this is root: " in line
    assert line.endswith(f"sudo -u {owner}\n")


def test_the_file_of_the_accounts_belongs_to_the_site_too(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "later" / "users.sqlite"
    monkeypatch.setenv("USERS_URL", f"sqlite:///{path}")
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["revoke", "--user", "ada", "--profile", "ram"])
    assert f"{str(path)!r} is kept by the account {root.owner()}, and this is root" in capsys.readouterr().err
    assert path.owner() == path.parent.owner() == root.owner()


# -------------------------------------------------------------------- as a program


def program(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sessions", *args]
    own = {"USERS_URL": os.environ["USERS_URL"]}  # which belong to whoever runs this
    return subprocess.run(command, cwd=ROOT, env=environment(own | env), capture_output=True, text=True, timeout=60)


def test_the_site_of_the_project_is_found_from_its_folder(tmp_path: Path) -> None:
    with sign_in_app("file", tmp_path) as site:
        browser = site.signed_in()
        ended = program("list", "--profile", "file", STORAGE_PATH=str(tmp_path / "sessions"), PYTHONSAFEPATH="")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines()[1].split()[:2] == [reference(browser), "ada"]


def test_what_only_production_sets_holds_with_production(tmp_path: Path) -> None:
    """Another folder, another name of the cookie: without --production these are other sessions."""
    extra = tmp_path / "my.conf"
    moved = tmp_path / "moved"
    extra.write_text(f"[production]\ntools.sessions.storage_path = {str(moved)!r}\n")
    options = ("list", "--profile", "file", "--config", str(extra))
    with sign_in_app("file", tmp_path, name="__Host-session_id", secure=True, storage_path=str(moved)) as site:
        browser = site.signed_in()
        ended = program(*options, "--production")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines()[1].split()[0] == reference_of(browser.cookies["__Host-session_id"])
        without = program(*options, STORAGE_PATH=str(tmp_path / "sessions"))
        assert (without.returncode, without.stderr, without.stdout.count("\n")) == (0, "", 1)


def test_a_wrong_profile_of_the_project_is_one_line() -> None:
    ended = program("purge", "--profile", "fil")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        r"python -m sessions: error: [^\n]*no profile 'fil'[^\n]*Did you mean 'file'[^\n]*\n", ended.stderr
    )


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sessions", "list", "--profile", "file"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        env = environment({"STORAGE_PATH": str(tmp_path / "sessions"), "USERS_URL": os.environ["USERS_URL"]})
        ended = subprocess.run(command, cwd=ROOT, env=env, stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
