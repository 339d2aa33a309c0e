"""Moving house: from any store to any other, without signing anybody out or losing a visit."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from services.redis import Redis
from sessions import ConfigError, Session, Store, Unavailable
from sessions.backends.file import FileStore
from sessions.backends.postgresql import PostgresqlStore
from sessions.cli import main
from sessions.moving import MovingStore
from sessions.record import reference
from sessions.registry import registry
from sessions.testing import Factory, StoreContract
from sessions.tool import reference as reference_of
from tests.support.application import Counter, application, logged
from tests.support.backends import SERVER_SIDE, options_of, postgresql, table_of
from tests.support.client import WsgiClient
from tests.support.members import Browser, Pages, SignInApp, sign_in_app
from tests.support.process import folder

PAIRS = [pair for pair in itertools.permutations(SERVER_SIDE, 2)]
_numbers = itertools.count()


def options(backend: str, place: Path) -> dict[str, Any]:
    """Return the options of a store that outlives its application."""
    return options_of(backend, place) | ({"snapshot_path": str(place / "snapshot")} if backend == "ram" else {})


class House:
    """A site that moves: `before` is in its former store, and `after` the same site later, in the new one."""

    def __init__(self, stack: ExitStack, former: str, new: str, place: Path) -> None:
        self._stack, self._place, self.former, self.new = stack, place, former, new
        self.user = f"mover {next(_numbers)}"  # the servers are shared by the tests
        self.before = self._open(former)

    def _open(self, backend: str, **more: Any) -> SignInApp:
        return self._stack.enter_context(sign_in_app(backend, self._place, **options(backend, self._place), **more))

    def move(self) -> SignInApp:
        sessions.close_stores(self.before.app)  # a snapshot is written now
        self.after = self._open(self.new, moving_from=options(self.former, self._place))
        assert isinstance(self.after.store, MovingStore)
        self.store = self.after.store
        return self.after

    def visitor(self, **values: Any) -> Browser:
        """Return somebody who has signed in before the move."""
        visitor = self.before.signed_in(self.user, remember=True)
        visitor.run(lambda session: session.update(values))
        return visitor

    def back(self, visitor: Browser) -> Browser:
        """Return the same browser, in front of the site that has moved."""
        return Browser(self.after.app, self.after.pages).having(visitor)


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """Return a site that moves from one backend to another."""
    with ExitStack() as stack:
        yield House(stack, *request.param, tmp_path)


def moving(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("house", pairs, indirect=True, ids=[f"{old} to {new}" for old, new in pairs])


def facts(session: Session) -> str:
    return repr((reference_of(session.id), session.user, session.remembered, session.signed_in_at, dict(session)))


def key_of(visitor: Browser) -> str:
    return visitor.run(lambda session: session.user and session.key)


# -------------------------------------------------------------------- what moves


@moving(*PAIRS)
def test_a_session_is_taken_over_with_all_that_it_is_and_is_in_one_store_only(house: House) -> None:
    visitor = house.visitor(n=1, basket=["tea"])
    known, key = visitor.run(facts), key_of(visitor)
    house.move()
    stored = house.store.former.load(key)
    assert stored
    visitor = house.back(visitor)
    assert visitor.run(facts) == known
    assert (house.store.former.load(key), house.store.new.load(key)) == (None, stored)
    assert visitor.do(lambda session: session.update(n=2)).set_cookie == []
    assert visitor.run(lambda session: session["n"]) == "2"


@moving(*PAIRS)
def test_the_sessions_of_a_user_are_found_in_both_stores_and_ended_in_both(house: House) -> None:
    one, two, three = house.visitor(), house.visitor(), house.visitor()
    house.move()
    one, two, three = map(house.back, (one, two, three))
    assert one.user() == house.user  # this one has moved
    assert one.run(lambda session: len(sessions.live_sessions())) == "3"
    assert two.user() == house.user
    assert one.run(lambda session: sessions.end_other_sessions()) == "2"
    assert (one.user(), two.user(), three.user()) == (house.user, None, None)
    assert house.store.former.live(house.user) == {}


@moving(("file", "redis"), ("postgresql", "file"))
@pytest.mark.parametrize("locking", ["explicit", "early"])
def test_every_locking_mode_finds_what_has_not_moved(house: House, locking: str) -> None:
    visitor = house.visitor(n=1)
    house.move()
    house.after.app.merge({"/": {"tools.sessions.locking": locking}})
    visitor = house.back(visitor)
    visitor.run(lambda session: session.update(n=session["n"] + 1))
    assert visitor.run(lambda session: session["n"]) == "2"
    assert visitor.user() == house.user


@moving(("file", "redis"))
def test_an_id_that_neither_store_knows_is_not_adopted(house: House) -> None:
    house.move()
    stranger = house.after.browser()
    stranger.cookies["session_id"] = "x" * 43
    assert stranger.run(lambda session: (session.missing, session.id != "x" * 43)) == "(True, True)"


@moving(("file", "redis"))
def test_a_form_that_was_under_way_while_its_session_moved_to_a_new_id_still_finds_it(house: House) -> None:
    visitor = house.visitor(n=1)
    late = visitor.twin()
    visitor.run(lambda session: session.sign_in(house.user))
    house.move()
    late = house.back(late)
    assert late.run(lambda session: (session.sign_in(house.user), session["n"])[1]) == "1"


@moving(("file", "memcached"))
def test_a_session_that_the_new_store_refuses_stays_where_it_is(house: House) -> None:
    visitor = house.visitor(text="x" * 1_100_000)
    key = key_of(visitor)
    house.move()
    assert house.back(visitor).do(lambda session: session.get("text")).status == 413
    assert house.store.former.load(key)


# -------------------------------------------------------------------- no revival


def leave_copy(house: House, visitor: Browser) -> str:
    """Leave in the former store what a process leaves that is killed between the two steps. Return the key."""
    key = key_of(visitor)
    house.move()
    record = house.store.former.load(key)
    assert record
    assert house.back(visitor).user() == house.user
    house.store.former.create(key, record)
    return key


ENDS = {
    "signing out": lambda session: session.sign_out(),
    "a new id": lambda session: session.regenerate(),
    "deleting": lambda session: session.delete(),
    "a shorter life": lambda session: setattr(session, "timeout", 1),
}


@moving(("file", "redis"), ("redis", "postgresql"), ("memcached", "file"))
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_copy_in_the_former_store_does_not_outlive_its_session(house: House, end: Any) -> None:
    visitor = house.visitor()
    key = leave_copy(house, visitor)
    assert house.back(visitor).do(end).status == 200
    assert house.store.former.load(key) is None


@moving(("file", "redis"))
def test_a_former_store_that_fails_half_way_loses_nothing_and_revives_nothing(house: House) -> None:
    visitor = house.visitor(n=1)
    key = key_of(visitor)
    house.move()
    visitor, former = house.back(visitor), house.store.former

    def fail(key: str) -> None:
        raise Unavailable("the disk is gone")

    with pytest.MonkeyPatch.context() as patch, logged() as lines:
        patch.setattr(former, "remove", fail)  # no real fault hits this step and none before it
        assert visitor.run(lambda session: session["n"]) == "1"
    assert any("a copy of it may be left in the other store: the disk is gone" in line for line in lines)
    assert former.load(key) is not None
    visitor.run(lambda session: session.sign_out())
    assert former.load(key) is None


# -------------------------------------------------------------------- outages


def test_an_outage_of_the_former_store_is_felt_by_who_is_still_there_and_by_nobody_else(tmp_path: Path) -> None:
    place = folder()
    server = Redis(place / "redis")
    server.start()
    try:
        former = {"storage_type": "redis", "url": server.url, "server_timeout": 0.2}
        with ExitStack() as stack:
            before = stack.enter_context(sign_in_app("redis", tmp_path, **former))
            moved, still_there = before.signed_in("ada"), before.signed_in("ada")
            after = stack.enter_context(sign_in_app("file", tmp_path, moving_from=former))
            moved, still_there = (Browser(after.app, after.pages).having(one) for one in (moved, still_there))
            assert moved.user() == "ada"
            server.pause()
            answer = still_there.do(lambda session: session.user)
            assert (answer.status, answer.set_cookie) == (503, [])
            assert moved.user() == "ada"
            after.store.ping()
            newcomer = after.signed_in("bob")
            assert newcomer.do(lambda session: session.sign_out()).status == 200
            server.resume()
            assert still_there.user() == "ada"
    finally:
        server.stop()
        shutil.rmtree(place)


# -------------------------------------------------------------------- at once


@pytest.mark.parametrize("former, new", [("file", "postgresql"), ("postgresql", "redis"), ("redis", "file")])
def test_while_one_process_has_changed_and_another_not_eight_clients_lose_no_visit(
    tmp_path: Path, former: str, new: str
) -> None:
    old, other = options(former, tmp_path), options(new, tmp_path)
    to_come = application(Counter(), **old, moving_to=other)
    changed = application(Counter(), **other, moving_from=old)  # their locks know nothing of each other
    try:
        visitors = [WsgiClient(to_come) for _ in range(4)]
        assert [visitor.get("/").text for visitor in visitors] == ["1"] * 4

        def visit(number: int) -> list[int]:
            counted = []
            for turn in range(20):
                client = WsgiClient((to_come, changed)[(turn + number // 4) % 2], visitors[number % 4].cookies)
                counted.append(int(client.get("/").text))
            return counted

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(visit, range(8)))
        for number in range(4):
            assert sorted(found[number] + found[number + 4]) == list(range(2, 42))
    finally:
        sessions.close_stores(to_come)
        sessions.close_stores(changed)


# -------------------------------------------------------------------- python -m sessions copy


def a_site(profile: str, place: str) -> cherrypy.Application:
    """The factory that the command is given."""
    return application(Pages(), **options(profile, Path(place)))


@pytest.fixture
def copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], tuple[int, str, str]]:
    """Run the command, in this process; return the exit status, and what it printed and said."""

    def run(former: str, new: str) -> tuple[int, str, str]:
        capsys.readouterr()
        app = ["--app", f"{__name__}:a_site", "--config", str(tmp_path)]
        try:
            status = main(["copy", "--from", former, "--to", new, *app])
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


@moving(("ram", "postgresql"), ("file", "redis"), ("postgresql", "file"), ("redis", "postgresql"))
def test_copy_moves_the_rest_and_can_be_run_again(house: House, copy: Any) -> None:
    visitors = [house.visitor(n=n) for n in range(3)]
    sessions.close_stores(house.before.app)
    status, out, told = copy(house.former, house.new)
    assert (status, told) == (0, "") and int(out.split()[0]) >= 3, "other tests may have left some in that server"
    assert copy(house.former, house.new) == (0, "0 sessions moved\n", "")
    house.move()
    assert house.store.former.live(house.user) == {}
    assert [house.back(one).run(lambda session: session["n"]) for one in visitors] == ["0", "1", "2"]


@moving(("file", "postgresql"))
def test_copy_shows_how_far_it_is_and_says_what_it_could_not_move(
    house: House, copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, _ = house.visitor(), house.visitor()
    monkeypatch.setattr("sessions.moving._PATIENCE", 0.05)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    key = key_of(busy)
    with ExitStack() as stack:
        hold = house.before.store.acquire(key, 1)
        stack.callback(hold.release)
        status, out, told = copy("file", "postgresql")
    assert (status, out) == (2, "1 session moved\n")
    assert f"\r[{'#' * 40}] 2 of 2\n" in told
    assert f"{reference(key)} is still in file: session {reference(key)} was locked by another process" in told
    assert copy("file", "postgresql")[:2] == (0, "1 session moved\n")


@moving(("memcached", "redis"), ("functions", "file"))
def test_copy_says_what_cannot_be_listed_and_how_it_moves_all_the_same(house: House, copy: Any) -> None:
    status, out, told = copy(house.former, house.new)
    assert (status, out) == (2, "")
    assert "move when their visitors come, as long as the site has moving_from" in told


def test_copy_refuses_what_is_no_move(copy: Any) -> None:
    assert "there is nothing to move" in copy("file", "file")[2]
    assert "can take no part in a move" in copy("cookie", "file")[2]


# -------------------------------------------------------------------- the contract


class MovingFromPostgresql(MovingStore):
    """From a table to files, as the registry makes it."""

    def __init__(self, place: Path, dsn: str) -> None:
        new = FileStore(storage_path=str(place / "sessions"))
        super().__init__(PostgresqlStore(dsn=dsn, table=table_of(place)), new, takes_over=True)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in ("clock", "namespace", "cookie_name") and "former" in vars(self):
            for store in (self.new, self.former):
                setattr(store, name, value)


class TestMoving(StoreContract):
    """A store that moves is one like any other."""

    store_class = MovingStore
    capabilities = FileStore.capabilities

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(MovingFromPostgresql, tmp_path, postgresql().dsn)

    def damage(self, store: Store, key: str) -> None:
        assert isinstance(store, MovingStore)
        assert isinstance(store.new, FileStore)
        Path(store.new.path(key)).write_bytes(b"\x80\x04 not one of ours\n")


# -------------------------------------------------------------------- what is refused


REFUSED = {
    "a cookie has no end": ({"storage_type": "cookie", "secret": "x" * 32}, "can take no part in a move"),
    "memory ends": ({"storage_type": "ram"}, "the sessions of a RamStore end with its process"),
    "an unknown option": ({"storage_type": "file", "storage_pth": "x"}, "did you mean storage_path"),
    "an option is missing": ({"storage_type": "file"}, "storage_path is missing"),
    "no such backend": ({"storage_type": "fiel"}, "did you mean file"),
    "a name": ("file", "must be a dict of the options of a store"),
}


@pytest.mark.parametrize("former, why", REFUSED.values(), ids=REFUSED)
def test_a_former_store_that_cannot_be_one_stops_the_start(tmp_path: Path, former: Any, why: str) -> None:
    with pytest.raises(ConfigError, match="moving_from.*" + why):
        application(Counter(), **options("functions", tmp_path), moving_from=former)


def test_a_process_that_cannot_see_the_new_store_cannot_follow_into_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="moving_to.*cannot be used here"):
        application(Counter(), **options("file", tmp_path), moving_to=options("ram", tmp_path))
    with pytest.raises(ConfigError, match="are both set"):
        application(Counter(), moving_to=options("file", tmp_path), moving_from=options("file", tmp_path))


def test_nobody_moves_into_cookies(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a CookieStore can take no part in a move"):
        application(Counter(), **options("cookie", tmp_path), moving_from=options("file", tmp_path))


def test_a_site_that_has_gone_back_to_its_former_store_goes_on(tmp_path: Path) -> None:
    with logged() as lines:
        app = application(Counter(), **options("file", tmp_path), moving_from=options("file", tmp_path))
    assert lines == ["moving_from names the store that is in use: nothing moves"]
    assert [type(store) for store in registry.stores(app)] == [FileStore]
    sessions.close_stores(app)
