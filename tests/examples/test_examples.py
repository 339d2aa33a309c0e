"""The programs in examples/: each runs alone, does what it says, and is short enough to be read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sessions import Store
from sessions.testing import StoreContract
from tests.support.client import Client
from tests.support.process import ROOT
from tests.support.program import running

EXAMPLES = ROOT / "examples"
sys.path.append(str(EXAMPLES))
own_backend = importlib.import_module("own_backend")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_at_most_forty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40


def test_the_cookie_is_set_read_and_deleted() -> None:
    with running(EXAMPLES / "cookie.py") as visitor:
        assert "no theme yet" in visitor.get("/").text
        assert visitor.get("/set").status == 303
        assert "You like: dark" in visitor.get("/").text
        assert visitor.get("/delete").status == 303
        assert (visitor.cookies, "no theme yet" in visitor.get("/").text) == ({}, True)


@pytest.mark.parametrize("name", ["counter.py", "own_backend.py"])
def test_the_counter_counts_for_each_visitor(name: str) -> None:
    with running(EXAMPLES / name) as visitor:
        assert [visitor.get("/").text for _ in range(3)] == [f"You have been here {n} times.\n" for n in (1, 2, 3)]
        assert Client(visitor.url).get("/").text == "You have been here 1 times.\n"


def test_the_name_is_kept_shown_as_text_and_forgotten() -> None:
    with running(EXAMPLES / "name.py") as visitor:
        assert ("What is your name?" in visitor.get("/").text, visitor.cookies) == (True, {})
        assert visitor.get("/keep?name=Ada").status == 405
        assert visitor.post("/keep", {"name": "<b>Ada</b>"}).status == 303
        assert "Hello, &lt;b&gt;Ada&lt;/b&gt;." in visitor.get("/").text
        visitor.post("/forget")
        assert ("What is your name?" in visitor.get("/").text, visitor.cookies) == (True, {})


def test_signing_in_gives_a_new_id_and_signing_out_another() -> None:
    with running(EXAMPLES / "login.py") as visitor:
        assert visitor.post("/login", {"user": "ada", "password": "wrong"}).status == 403
        assert visitor.post("/login", {"user": "bob", "password": "engine"}).status == 403
        assert visitor.post("/login", {"user": "ada", "password": "engine"}).status == 303
        assert "Hello, ada." in visitor.get("/").text
        thief = visitor.twin()
        visitor.post("/logout")
        assert ["Hello" in one.get("/").text for one in (visitor, thief)] == [False, False]


class TestOwnBackend(StoreContract):
    """The backend of the example keeps the contract."""

    store_class = own_backend.OwnStore

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Callable[[], Store]:
        return partial(own_backend.OwnStore, database=str(tmp_path / "sessions.sqlite"))

    def damage(self, store: Any, key: str) -> None:
        store.db.execute("UPDATE sessions SET line = ? WHERE key = ?", [b"torn", key])
