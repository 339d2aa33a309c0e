"""The race: what it shows is what the store has, on every backend; and it takes nothing but what it is for."""

from __future__ import annotations

import html
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.games import MOST as KEPT
from lab.race import FEWEST, MOST, ticks
from lab.race_modes import MODES, THINKING
from lab.race_run import Hit, Run
from tests.lab.laboratory import Laboratory, laboratory, stored
from tests.support.backends import BACKENDS
from tests.support.client import JSON, CheckedClient

SAFE, LOSING = ("around", "implicit"), ("none", "late", "two")
HOLDS = {"none": 0, "late": 1, "two": 2, "around": 1, "implicit": 1}
RACE = {"mode": "two", "requests": "2", "predicted": "2"}


@pytest.fixture(scope="module", params=BACKENDS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with laboratory(request.param, tmp_path_factory.mktemp("race")) as lab:
        yield lab


@pytest.fixture
def visitor(lab: Laboratory) -> CheckedClient:
    return CheckedClient(lab.visitor.url)


one_lab = pytest.mark.parametrize("lab", ["ram"], indirect=True)


def in_store(lab: Laboratory, visitor: CheckedClient) -> dict[str, Any]:
    """What the store has of a visitor's session."""
    return stored(lab.store("session_id"), visitor.cookies["session_id"])[1]


def fire(visitor: CheckedClient, mode: str, requests: int = 5) -> Any:
    """Let the site send the requests, and return the result."""
    form = {"mode": mode, "requests": str(requests), "predicted": "1"}
    sent_to = visitor.post("/lab/race/fire", form).redirects_to
    return visitor.get(sent_to.removesuffix("#outcome"), **JSON).json


def spans(hit: Any, kind: str) -> list[Any]:
    return [(start, end) for name, start, end in hit["spans"] if name == kind]


# --- the measured and the stored --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(lab: Laboratory) -> dict[str, tuple[Any, int]]:
    """One race of each mode: its result, and what the store had right after it."""
    visitor = CheckedClient(lab.visitor.url)
    return {mode: (fire(visitor, mode), in_store(lab, visitor)["race"]) for mode in MODES}


def test_the_count_is_the_stores_own_and_only_one_step_loses_nothing(
    lab: Laboratory, ran: dict[str, tuple[Any, int]]
) -> None:
    locks = lab.store("session_id").capabilities.locks_threads
    for mode, (told, in_the_store) in ran.items():
        # Where the cookie is the store, the requests have cookies of their own, and that of the visitor says 0.
        assert in_the_store == (told["count"] if locks else 0)
        assert told["count"] + told["lost"] == told["expected"] == 5
        assert sum(hit["counted"] for hit in told["hits"]) == told["count"] >= 1
        assert (told["lost"] == 0) == (locks and mode in SAFE), told
        assert {hit["status"] for hit in told["hits"]} == {200} and told["missing"] == 0


def test_what_is_drawn_was_measured(lab: Laboratory, ran: dict[str, tuple[Any, int]]) -> None:
    locks = lab.store("session_id").capabilities.locks_threads
    for mode, (told, _) in ran.items():
        assert {hit["number"] for hit in told["hits"]} == {1, 2, 3, 4, 5}
        for hit in told["hits"]:
            assert hit["wrote"] == hit["read"] + 1
            assert hit["arrived"] <= hit["read_at"] <= hit["saved_at"] <= hit["finished"]
            assert hit["saved_at"] - hit["read_at"] >= THINKING * 1000, "the thinking was really waited for"
            assert len(spans(hit, "holding")) == HOLDS[mode], mode
            assert all(hit["arrived"] <= start <= end <= hit["finished"] for start, end in spans(hit, "holding"))
        if locks and mode in SAFE:
            held = sorted(span for hit in told["hits"] for span in spans(hit, "holding"))
            assert all(end - start >= THINKING * 1000 for start, end in held)
            for before, later in zip(held, held[1:], strict=False):
                assert before[1] <= later[0] and later[0] - before[0] >= THINKING * 1000, "never two at once"
            assert any(hit["waited"] > 0 for hit in told["hits"])


def test_the_increments_that_count_are_a_chain_of_what_one_wrote_and_the_next_read() -> None:
    run = Run("two", 5, 0, "server", count=2)
    for number, (read, read_at, saved_at) in enumerate([(0, 1, 5), (0, 2, 6), (0, 3, 9), (1, 7, 8), (1, 7.5, 10)], 1):
        hit = run.hits[number] = Hit(number, 0)
        hit.read, hit.wrote, hit.read_at, hit.finished = read, read + 1, read_at, saved_at
    assert run.counted() == {2, 5}, "5 was saved last, and 2 is what it had read; 3 came later and was overwritten"


def test_a_request_that_was_refused_is_shown_as_such(tmp_path: Path) -> None:
    with laboratory("ram", tmp_path, **{"tools.sessions.lock_timeout": THINKING * 1.5}) as lab:
        visitor = lab.visitor
        told = fire(visitor, "around")
        assert 0 < told["missing"] == sum(hit["status"] == 503 and hit["wrote"] is None for hit in told["hits"]) < 5
        assert told["count"] == 5 - told["missing"] == in_store(lab, visitor)["race"]
        page = visitor.get(f"/lab/race?run={told['run']}").text
        assert page.count("answered 503") == told["missing"]


@one_lab
def test_a_browser_sends_the_requests_itself_and_tells_how_long_they_waited_in_it(visitor: CheckedClient) -> None:
    begun = visitor.post("/lab/race/begin", {"mode": "implicit", "requests": "4", "predicted": "4"}, **JSON).json
    paths = [f"{begun['hit']}?run={begun['run']}&number={number}" for number in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda path: visitor.twin().post(path), paths))
    assert sorted(answer.json["wrote"] for answer in answers) == [1, 2, 3, 4]
    told = visitor.post(f"/lab/race/finish?run={begun['run']}", {"outside": "0,0,0,1500.5"}, **JSON).json
    assert (told["by"], told["count"], told["predicted"]) == ("browser", 4, 4)
    late = next(hit for hit in told["hits"] if hit["number"] == 4)
    assert late["outside"] == 1500.5 and late["arrived"] == 1500.5, "it was asked for first, and so began at 0"
    assert spans(late, "outside") == [(0.0, 1500.5)]
    assert visitor.get(f"/lab/race?run={begun['run']}", **JSON).json == told


@one_lab
def test_nothing_else_in_the_session_is_touched(lab: Laboratory, visitor: CheckedClient) -> None:
    visitor.post("/name", {"first": "Ada", "last": "Lovelace"})
    before, id = in_store(lab, visitor), visitor.cookies["session_id"]
    fire(visitor, "none", 2)
    assert {name: value for name, value in in_store(lab, visitor).items() if name != "race"} == before
    assert visitor.cookies["session_id"] == id


# --- the page ---------------------------------------------------------------------------------------------------------


@one_lab
def test_the_page_without_scripts_has_the_form_the_result_and_the_table(visitor: CheckedClient) -> None:
    first = visitor.get("/lab/race")
    assert "Set-Cookie" not in first.headers and not visitor.cookies, "looking stores nothing"
    assert 'action="/lab/race/fire"' in first.text and "You said" not in first.text
    told = fire(visitor, "two")
    page = html.unescape(visitor.get(f"/lab/race?run={told['run']}").text)
    assert f"Two blocks: {told['lost']} of 5 got lost" in page and "You said" in page
    assert page.count('<th scope="row">') == 5 and page.count("overwritten</td>") == told["lost"]
    assert page.count('class="wrote"') == 5 + 1, "one in the legend"


@one_lab
def test_the_page_explains_the_trap_and_shows_the_code_that_runs(visitor: CheckedClient) -> None:
    page = " ".join(visitor.get("/lab/race").text.split())
    assert "Two blocks, one after the other, are two steps" in page
    assert "What the second block does must not rest on what the first has read." in page
    for mode in MODES.values():
        assert " ".join(str(mode.source).split()) in page and mode.title in page
    assert MODES["none"].source == MODES["implicit"].source, "the difference is an option"


def test_what_the_backend_cannot_do_is_said_in_its_own_words(lab: Laboratory, visitor: CheckedClient) -> None:
    page = " ".join(html.unescape(visitor.get("/lab/race").text).split())
    store = lab.store("session_id")
    able = store.capabilities
    assert able.locking in page and able.limitations in page and type(store).__name__ not in page
    alone = able.locks_threads and not able.locks_processes
    assert ("would lose updates even with the last two ways" in page) == alone
    assert ("updates are lost here with all five ways" in page) == (not able.locks_threads)


# --- what it takes ----------------------------------------------------------------------------------------------------


@one_lab
@pytest.mark.parametrize("action", ["begin", "fire"])
@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("requests", ["1", "21", "-2", "2.5", "", "x", "9" * 5000, "²"], f"from {FEWEST} to {MOST}"),
        ("predicted", ["-1", "21", "", "many"], f"from 0 to {MOST}"),
        ("mode", ["", "Two", "_two"], "none, late, two, around, implicit"),
    ],
)
def test_a_field_out_of_bounds_is_a_400_that_says_the_bounds(
    visitor: CheckedClient, action: str, field: str, values: list[str], said: str
) -> None:
    for value in values:
        answer = visitor.post(f"/lab/race/{action}", {**RACE, field: value}, **JSON)
        assert answer.status == 400 and said in answer.json["error"] and field in answer.json["error"], value
    assert not visitor.cookies, "nothing was begun"


@one_lab
def test_a_request_that_belongs_to_no_race_is_refused(visitor: CheckedClient) -> None:
    run = visitor.post("/lab/race/begin", RACE, **JSON).json["run"]
    for path, status in {
        "/lab/race?run=x": 404,
        "/lab/race/hit/two?run=x&number=1": 404,
        "/lab/race/hit/two?number=1": 404,
        f"/lab/race/hit/two?run={run}&number=3": 400,
        f"/lab/race/hit/two?run={run}": 400,
        f"/lab/race/hit/none?run={run}&number=1": 400,
        f"/lab/race/hit/three?run={run}&number=1": 404,
        f"/lab/race/finish?run={run}x": 404,
        "/lab/race/begin?colour=red": 404,
        f"/lab/race/hit/two?run={run}&run={run}&number=1": 400,
        "/lab/race/fire?mode=two&mode=two&requests=2&predicted=2": 400,
    }.items():
        ask = visitor.get if path.startswith("/lab/race?") else visitor.post
        assert ask(path, **JSON).status == status, path
    assert [visitor.post(f"/lab/race/hit/two?run={run}&number=1").status for _ in range(2)] == [200, 400]
    assert visitor.post(f"/lab/race/hit/two?run={run}&number=2").status == 200
    for outside in ("", "1", "1,2,3", "1,x", "1,-1", "1,nan", "1,inf", "1,60001"):
        assert visitor.post(f"/lab/race/finish?run={run}", {"outside": outside}).status == 400, outside


@one_lab
def test_a_race_of_which_no_request_came_through_is_shown(
    visitor: CheckedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.race.PATIENCE", 0.01)
    run = visitor.post("/lab/race/begin", RACE, **JSON).json["run"]
    assert visitor.post(f"/lab/race/finish?run={run}", {"outside": "0,0"}, **JSON).json["missing"] == 2
    assert "2 of the requests wrote nothing" in visitor.get(f"/lab/race?run={run}").text


@one_lab
def test_a_race_may_take_as_long_as_its_visitor_likes(visitor: CheckedClient) -> None:
    run = visitor.post("/lab/race/begin", RACE, **JSON).json["run"]
    for number in (1, 2):
        assert visitor.post(f"/lab/race/hit/two?run={run}&number={number}").status == 200
    assert visitor.post(f"/lab/race/finish?run={run}", {"outside": "60000,0"}).status == 200
    assert visitor.get(f"/lab/race?run={run}").status == 200
    assert [len(ticks(time)) for time in (0, 10, 55_000, 1e8)] == [1, 2, 3, 6]


@one_lab
def test_what_changes_something_is_a_post_from_this_machine_and_this_site(visitor: CheckedClient) -> None:
    for action in ("begin", "fire", "finish", "hit/two"):
        assert visitor.get(f"/lab/race/{action}").status == 405
        assert visitor.post(f"/lab/race/{action}", RACE, Origin="http://other.example").status == 403
        assert visitor.post(f"/lab/race/{action}", RACE, Host="rebound.example").status == 403
    assert visitor.get("/lab/race", Host="rebound.example").status == 403
    assert not visitor.cookies


@one_lab
def test_the_last_races_are_kept_and_no_more(visitor: CheckedClient) -> None:
    runs = [visitor.post("/lab/race/begin", RACE, **JSON).json["run"] for _ in range(KEPT + 1)]
    found = [visitor.get(f"/lab/race?run={run}", **JSON).status for run in runs]
    assert found == [404] + [200] * KEPT
