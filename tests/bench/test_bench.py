"""The benchmark runs, and prints what it says it measures. How fast it is, is for a quiet machine to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import calls, peers
from bench.client import ELAPSED, PROCESSOR, Client, RequestFailed
from bench.report import Report
from bench.stage import BACKENDS, SERVERS, SHARED
from bench.visitors import percentile
from docs import generate
from tests.support.process import ROOT, environment

TITLES = [
    "Cost of a session", "Calls of a session", "Round trips a request", "One session, many requests",
    "Growth: cost with many live sessions",
    "Growth: bytes a session", "Growth: 20 expired sessions are removed while the site serves",
    "Growth: after 20 anonymous visits, and 20 sessions made and expired", "The whole page, /counter",
    "Watching a session",
]  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that run keeps its figures."""
    return tmp_path_factory.mktemp("bench") / "figures.json"


@pytest.fixture(scope="module")
def printed(figures: Path) -> str:
    """What a run of all sections prints, with sizes that tell nothing."""
    command = [sys.executable, "-m", "bench", "--size", "tiny", "--figures", str(figures)]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def section(printed: str, title: str) -> str:
    return printed.partition(f"\n== {title} ==\n")[2].partition("\n== ")[0]


def row(text: str, name: str) -> list[float]:
    found = re.search(rf"^{re.escape(name)}(?: \*)?  +([-\d. ,]+)$", text, re.MULTILINE)
    assert found, f"no row {name} in:\n{text}"
    return [float(cell.replace(",", "")) for cell in found[1].split()]


def test_every_section_is_printed_with_the_versions_of_everything(printed: str) -> None:
    head = printed.partition("\n== ")[0]
    assert all(name in head for name in ("CPython", "CherryPy 18.10", "memcached 1.", "PostgreSQL", "wrk", "load"))
    assert re.findall(r"^== (.*) ==$", printed, re.MULTILINE) == TITLES


def test_the_cost_of_every_backend_stands_beside_cherrypys_own(printed: str) -> None:
    text = section(printed, "Cost of a session")
    assert all(len(row(text, name)) == 3 for name in [*BACKENDS, "CherryPy ram", "CherryPy file"])


def test_what_a_session_calls_is_counted_and_compared_with_the_budget(printed: str) -> None:
    text = section(printed, "Calls of a session")
    _, beyond, functions, modules = re.split("^(?:calls beyond|functions|modules) +write.*$", text, flags=re.M)
    for name in calls.BACKENDS:
        write, read, untouched = row(beyond, name)
        assert write > read > untouched > 0
        assert write > row(functions, name)[0] > row(modules, name)[0] > 1
    budgets = [*calls.CALLS, *calls.FUNCTIONS, *calls.MODULES]
    assert len(re.findall(r"^  (?:met   |MISSED)  ", text, re.M)) == len(budgets)


def test_a_session_looks_a_few_times_whether_anybody_watches(printed: str) -> None:
    _, _, looks, all_looks = row(section(printed, "Watching a session"), "ram write")
    assert 4 < looks < 20 and all_looks > 0


def test_a_locked_request_makes_two_round_trips_and_an_untouched_page_none(printed: str) -> None:
    text = section(printed, "Round trips a request")
    assert [row(text, name) for name in SERVERS] == [[2, 2, 0]] * len(SERVERS)


def test_no_increment_is_lost_by_one_process_nor_by_two(printed: str) -> None:
    text = section(printed, "One session, many requests")
    assert re.findall(r"^  (\S+) +(.*), increments lost: (\d+) ", text, re.MULTILINE) == [
        ("met", "file, 1 process", "0"),
        ("met", "file, 2 processes", "0"),
    ]


def test_growth_says_what_a_session_takes_and_what_stays(printed: str) -> None:
    assert all(row(section(printed, TITLES[4]), name)[1] for name in ("ram", *SHARED))
    assert row(section(printed, TITLES[5]), "file") == [4096]
    assert row(section(printed, TITLES[7]), "file, made")[-2:] == [0, 0]


def test_the_whole_page_is_measured_with_one_process_and_with_two(printed: str) -> None:
    one, _, two, _ = row(section(printed, "The whole page, /counter"), "file")
    assert one > 0 and two > 0


def test_the_documents_take_the_figures_of_the_last_run(
    printed: str, figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "FIGURES", figures)
    texts = {part: generate.figures(part) for part in bench.SECTIONS if part != "peers"}
    assert re.findall(r"^\*\*(.*)\.\*\* ", "\n".join(texts.values()), re.MULTILINE) == TITLES
    assert all(printed.partition(",")[0] in text for text in texts.values()), "the date is that of the run"
    (cells,) = re.findall(r"^\| ram \| (.*) \| .* \| .* \|$", texts["cost"], re.MULTILINE)
    assert row(section(printed, "Cost of a session"), "ram")[0] == float(cells)
    (row_of_file,) = (line for line in generate.backends().splitlines() if "`file`" in line)
    assert row_of_file.endswith(f" {row(section(printed, 'Cost of a session'), 'file')[0]:.0f} µs |")
    targets = sum(len(re.findall(r" \| (?:met|missed) \|$", text, re.MULTILINE)) for text in texts.values())
    assert targets == len(re.findall("^  (?:met   |MISSED)  ", printed, re.MULTILINE))


def test_the_end_counts_the_targets_that_were_printed(printed: str) -> None:
    met, missed = (len(re.findall(rf"^  {word} ", printed, re.MULTILINE)) for word in ("met   ", "MISSED"))
    assert f"\n{met} targets met, {missed} missed" in printed


def test_a_framework_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "_PACKAGES", ["re", "no_such_framework"])
    assert bench.main(["peers"]) == 2
    assert capsys.readouterr().err == (
        "bench: no_such_framework cannot be imported: make bench-peers installs what it needs\n"
    )


def answering(status: str, body: bytes) -> Any:
    class Answer(list[bytes]):
        def close(self) -> None:
            pass

    def app(environ: dict[str, Any], start_response: Any) -> Answer:
        start_response(status, [("Set-Cookie", "session_id=1")])
        return Answer([body])

    return app


@pytest.mark.parametrize("app", [answering("500 Oops", b"1"), answering("200 OK", b"1")])
def test_a_page_that_fails_or_does_not_count_is_not_measured(app: Any) -> None:
    with pytest.raises(RequestFailed):
        Client(app, "/read").warm_up(1)


def test_a_cost_is_the_median_of_differences_and_not_the_difference_of_medians() -> None:
    page, plain = Client(None, "/read"), Client(None, "/plain")
    plain.batches = [(1, 1), (100, 10), (2, 1)]
    page.batches = [(2, 3), (101, 13), (9, 4)]
    assert (page.beyond(plain, PROCESSOR), page.beyond(plain, ELAPSED)) == (1, 3)


def test_a_target_is_met_at_its_limit_and_missed_beyond(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.section("Cost", "How it was measured.")
    report.target("cost", 0.8, 0.8)
    report.target("cost", 0.81, 0.8)
    report.target("rate", 90, 90, " %", at_least=True)
    report.target("rate", 89, 90, " %", at_least=True)
    assert report.met == ["cost: 0.8 (at most 0.8)", "rate: 90 % (at least 90 %)"]
    assert report.missed == ["cost: 0.81 (at most 0.8)", "rate: 89 % (at least 90 %)"]
    report.end()
    assert "2 targets met, 2 missed:" in capsys.readouterr().out


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 95, 100)] == [1, 2, 4, 4]
