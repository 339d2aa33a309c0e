"""The documents: what they show is run, what they list is what the code knows, what they name is there."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cherrypy
import pytest

import sessions
from docs import generate
from sessions.events import LOGGED
from sessions.options import COMMON
from sessions.registry import known_options
from tests.docs.transcript import check, in_console
from tests.support.client import JSON, Client
from tests.support.process import account, environment, folder
from tests.support.program import running
from tests.support.site import Site, run
from web.settings import ROOT

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*generate.PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
}
README = DOCUMENTS["README.md"]
ADDRESS = "127.0.0.1:8080"  # of the site in the documents
NOT_RUN = "# not run by a test"  # at the end of a command


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTS[document], re.MULTILINE | re.DOTALL)


def the_file(name: str) -> str:
    """The code block that a document calls a file of this name."""
    (text,) = re.findall(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)^```$", "".join(DOCUMENTS.values()),
                         re.MULTILINE | re.DOTALL)  # fmt: skip
    return str(text)


def written(text: str) -> str:
    """A document without what make docs has put into it."""
    return generate.MARKED.sub("", text)


# --- what the code knows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.name)
def test_nothing_differs_after_make_docs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert generate.made(text) == text, "run make docs"
    assert text.count("<!-- made by make docs: ") == len(generate.MARKED.findall(text)), "a marker has no end"


def test_every_table_that_can_be_made_stands_in_one_document() -> None:
    marked = [words for text in DOCUMENTS.values() for _, words, _ in generate.MARKED.findall(text)]
    assert len(marked) == len(set(marked))
    assert {words.split()[0] for words in marked} == generate.MAKERS.keys()
    assert {f"example {path.name}" for path in (ROOT / "examples").glob("*.py")} <= set(marked)


def test_a_changed_default_changes_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    before = generate.options()
    monkeypatch.setattr(generate.Settings.__dataclass_fields__["lock_timeout"], "default", 11)
    changed = set(generate.options().splitlines()) - set(before.splitlines())
    assert [line.split(" | ")[:2] for line in changed] == [["| `lock_timeout`", "`11`"]]


def test_every_option_is_listed() -> None:
    assert set(re.findall(r"^\| `(\w+)` ", generate.options(), re.MULTILINE)) == COMMON
    assert set(re.findall(r"^\| `\w+` \| `(\w+)` ", generate.backend_options(), re.MULTILINE)) == known_options()


def test_every_event_of_the_log_is_listed_with_when_it_happens() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| \w+ \| (.*) \|$", generate.log(), re.MULTILINE))
    called = r"\blog_event\(\s*\"([^\"]+)\""
    logged = {event for path in generate.SOURCES for event in re.findall(called, path.read_text(encoding="utf-8"))}
    assert rows.keys() == {*logged, *LOGGED.values(), "step of a session"}
    assert [event for event, when in rows.items() if not when] == [], "say in docs/generate.py when it is logged"
    assert generate._WHEN.keys() <= rows.keys(), "this is not logged any more"


@pytest.mark.parametrize("table", ["options", "backend-options", "commands", "variables"])
def test_nothing_is_listed_without_a_meaning(table: str) -> None:
    assert not re.search(r"\|  \|$", generate.MAKERS[table](), re.MULTILINE)


def test_figures_that_were_never_measured_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_figures", dict)
    assert generate.figures("growth") == "Not measured yet: `make bench ARGS=growth`."


# --- what a reader runs -----------------------------------------------------------------------------------------------


def test_every_command_of_the_tutorial_prints_what_it_shows(scratch: Path) -> None:
    assert shutil.which("curl"), "the tutorial is followed with curl: sudo apt-get install curl"
    password = re.search(r"^DEMO_PASSWORD=(\w+) make run$", DOCUMENTS["docs/tutorial.md"], re.MULTILINE)
    assert password
    tour = in_console("".join(blocks("docs/tutorial.md", "console")))
    assert len([command for command, _ in tour if command.startswith("curl ")]) > 15
    with Site("file", env={"DEMO_PASSWORD": password[1]}) as site:
        (scratch / "var").mkdir()
        (scratch / "var" / "sessions").symlink_to(site.storage)
        check(tour, scratch, os.environ, ADDRESS, site.url.removeprefix("http://"))


def test_the_program_of_the_readme_has_twelve_lines_and_counts(scratch: Path) -> None:
    (program,) = blocks("README.md", "python")
    assert len(program.splitlines()) == 12
    (scratch / "hello.py").write_text(program)
    with running(scratch / "hello.py") as visitor:
        answers = [visitor.get("/") for _ in range(3)]
    assert [answer.text for answer in answers] == ["1", "2", "3"]
    assert answers[0].cookies["session_id"]["samesite"] == "Lax", "these are CherryPy's own sessions"


def test_the_contract_is_run_as_the_page_shows(scratch: Path) -> None:
    (scratch / "test_own_backend.py").write_text(the_file("test_own_backend.py"))
    # All of it is in test_examples.py; here are the tests that need what the page adds.
    options = ["-q", "-p", "no:cacheprovider", "-k", "unreadable"]
    command = [sys.executable, "-m", "pytest", *options, "test_own_backend.py"]
    env = environment({"PYTHONPATH": f"{ROOT / 'examples'}:{ROOT}"})
    result = subprocess.run(command, cwd=scratch, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) >= 2


@pytest.mark.parametrize("profile", ["own", "theirs"])
def test_a_backend_is_chosen_by_its_class(scratch: Path, profile: str) -> None:
    (scratch / "their_sessions.py").write_text(the_file("their_sessions.py"))
    config = the_file(f"{profile}.conf").replace("/tmp", str(scratch))  # noqa: S108 -- as the page shows it
    (scratch / "extra.conf").write_text(f"[global]\nengine.autoreload.on = False\n{config}")
    more = ["--config", str(scratch / "extra.conf")]
    storage = folder()  # CherryPy's FileSession wants its folder to exist
    try:
        with Site(profile, args=more, storage=storage, env={"PYTHONPATH": f"{scratch}:{ROOT / 'examples'}"}) as site:
            visitor = Client(site.url, headers=JSON)
            answers = [visitor.get("/counter") for _ in range(3)]
    finally:
        shutil.rmtree(storage)
    assert [answer.json for answer in answers] == [{"count": 1}, {"count": 2}, {"count": 3}]
    cookie = answers[0].cookies["session_id"]
    assert cookie["httponly"] and cookie["samesite"] == "Lax"


def test_production_starts_with_the_file_that_is_shown_and_not_without(scratch: Path) -> None:
    (scratch / "my.conf").write_text(the_file("public.conf"))
    with Site("file", args=["--production", "--config", str(scratch / "my.conf")]) as site:
        assert Client(site.url).get("/login").status == 200
    refused = run("--production", "--port", "0")
    assert refused.returncode == 2 and "production needs https" in refused.stderr


def test_the_commands_of_an_operator_run_as_they_are_shown(scratch: Path) -> None:
    (scratch / "my.conf").write_text(the_file("public.conf"))
    env = environment({"STORAGE_PATH": str(scratch / "sessions"), "PROFILE": "file", "PYTHONPATH": str(ROOT)})
    commands = "".join(blocks("docs/operations.md", "sh")).splitlines()
    assert len(commands) == 6
    for command in commands:
        typed = [sys.executable, *command.split()[1:]]
        ended = subprocess.run(typed, cwd=scratch, env=env, capture_output=True, text=True, timeout=60, **account())
        nothing_to_revoke = " revoke " in command
        assert ended.returncode == int(nothing_to_revoke), f"{command}:\n{ended.stderr}"


# What runs a command that is not run above. The programs of examples/ are there because their folder is listed.
RUN_BY = {
    "make run": "test_make.py::test_make_runs_a_command_of_the_environment_and_sets_that_up_before",
    "make test": "test_make.py::test_make_runs_a_command_of_the_environment_and_sets_that_up_before",
    "DEMO_PASSWORD=cloakroom make run": "test_docs.py::test_every_command_of_the_tutorial_prints_what_it_shows",
    '.venv/bin/python app.py new ../shop --name "The shop"':
        "test_new.py::test_a_new_site_takes_a_page_as_its_readme_says_and_passes_its_checks_and_tests",
    **dict.fromkeys(
        ("python3 -m venv .venv", ".venv/bin/python -m pip install -r requirements.txt", ".venv/bin/python app.py"),
        "test_install.py::test_three_lines_of_pip_start_the_site",
    ),
    "uv run app.py": "test_install.py::test_one_line_of_uv_starts_the_site",
    "pip install .": "test_package.py::test_a_program_runs_from_an_empty_folder_with_nothing_but_the_wheel_installed",
    "python examples/cookie.py": "test_examples.py::test_the_cookie_is_set_read_and_deleted",
    "python examples/counter.py": "test_examples.py::test_the_counter_counts_for_each_visitor",
    "python examples/name.py": "test_examples.py::test_the_name_is_kept_shown_as_text_and_forgotten",
    "python examples/login.py": "test_examples.py::test_signing_in_gives_a_new_id_and_signing_out_another",
    "python app.py user add ada":
        "test_user_commands.py::test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown",
    "python app.py user reset-factor ada":
        "test_user_commands.py::test_a_lost_second_factor_is_taken_off_and_the_account_signed_out_everywhere",
    "python app.py user invite grace@example.org":
        "test_signup.py::test_an_operator_prints_an_invitation_that_works_once",
    "python app.py user import my.conf":
        "test_user_commands.py::test_the_lines_of_a_configuration_are_taken_over_with_what_was_changed_since",
    "python app.py --production --config my.conf":
        "test_docs.py::test_production_starts_with_the_file_that_is_shown_and_not_without",
    "PYTHONPATH=examples:. python -m pytest test_own_backend.py":
        "test_docs.py::test_the_contract_is_run_as_the_page_shows",
    "PYTHONPATH=examples python app.py --profile own --config own.conf":
        "test_docs.py::test_a_backend_is_chosen_by_its_class",
    "mkdir -p var/theirs": "test_docs.py::test_a_backend_is_chosen_by_its_class",
    "python app.py --profile theirs --config theirs.conf": "test_docs.py::test_a_backend_is_chosen_by_its_class",
    "python -m sessions convert old.conf > new.conf": "test_convert.py::test_what_it_prints_starts_a_site",
    "HOST=127.0.0.1 honcho start -c web=2":
        "test_cluster.py::test_honcho_runs_two_processes_of_the_procfile_on_ports_of_their_own",
    "gunicorn --config deploy/gunicorn.conf.py":
        "test_gunicorn.py::test_the_configuration_in_deploy_is_for_production_behind_a_proxy",
    "DEMO_PASSWORD=cloakroom gunicorn --config deploy/gunicorn.conf.py 'app:create_app()'":
        "test_gunicorn.py::test_two_workers_of_gunicorn_share_the_sessions_and_stop_gracefully",
}  # fmt: skip


def test_every_command_is_run_by_a_test_or_says_that_it_is_not() -> None:
    commands = [(name, line) for name in DOCUMENTS for block in blocks(name, "sh") for line in block.splitlines()]
    shown = {line.partition(" #")[0].strip(): (name, line) for name, line in commands if not line.endswith(NOT_RUN)}
    here = set("".join(blocks("docs/operations.md", "sh")).splitlines())
    assert [place for command, place in shown.items() if command not in RUN_BY.keys() | here] == []
    assert sorted(RUN_BY.keys() - shown.keys()) == [], "no document shows this any more"
    for test in RUN_BY.values():
        file, _, name = test.partition("::")
        (path,) = ROOT.glob(f"tests/*/{file}")
        assert name in named_in(str(path)), test


def test_every_target_of_make_exists() -> None:
    makefiles = [ROOT / "Makefile", *ROOT.glob("*/targets.mk")]
    targets = {target for path in makefiles for target in re.findall(r"^([\w-]+):", path.read_text(), re.MULTILINE)}
    named = {target for text in DOCUMENTS.values() for target in re.findall(r"`(?:\w+=\S+ )*make ([\w-]+)", text)}
    assert len(named) > 5 and named - targets == set()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "python")])
def test_the_code_that_is_shown_calls_what_is_there(document: str) -> None:
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("sessions", "cherrypy.session"):
                where = sessions if ast.unparse(node.value) == "sessions" else sessions.Session
                assert hasattr(where, node.attr), ast.unparse(node)


# --- what a reader finds ----------------------------------------------------------------------------------------------


def test_the_readme_has_at_most_180_lines() -> None:
    assert len(README.splitlines()) <= 180


def test_every_document_is_behind_one_of_the_doors() -> None:
    assert {name for name in DOCUMENTS if name != "README.md"} - set(re.findall(r"\]\(([^)#]+)", README)) == set()


def anchors(text: str) -> set[str]:
    """The anchors of a document, as GitHub makes them of its titles."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_title_of_it(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCUMENTS[name]):
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent.joinpath(file).resolve() if file else ROOT / name
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_and_test_that_is_named_exists(name: str) -> None:
    folders = "auth|bench|deploy|docs|examples|lab|lessons|pages|services|sessions|static|templates|tests|web"
    for path, pattern in re.findall(rf"`((?:{folders})/[\w./]*)(?:::([\w*]+))?`", DOCUMENTS[name]):
        assert (ROOT / path).exists(), path
        assert not pattern or fnmatch.filter(named_in(path), pattern), f"{path}::{pattern}"


def named_in(file: str) -> list[str]:
    return re.findall(r"^ *def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_nothing_is_said_twice() -> None:
    said = defaultdict(set)
    for name, text in DOCUMENTS.items():
        prose = re.sub(r"^```.*?^```$", "", written(text), flags=re.MULTILINE | re.DOTALL)
        for sentence in re.split(r"(?<=[.:?]) |\n\n|\n[*|] ", prose):
            said[" ".join(sentence.split())].add(name)
    assert {sentence: names for sentence, names in said.items() if len(sentence) > 50 and len(names) > 1} == {}


def test_every_rule_names_its_tests_and_every_test_of_a_rule_is_named() -> None:
    page = DOCUMENTS["docs/rules.md"]
    rules = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", page, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _ in rules] == list(range(1, 21))
    assert [number for number, text in rules if not re.search(r"`\S+\.py::test_\S+`", text)] == []
    numbered = {name[:8] for name in named_in("tests/sessions/test_rules.py") if re.match(r"test_\d\d_", name)}
    assert all(f"tests/sessions/test_rules.py::{name}" in page for name in numbered)


def test_the_guide_to_the_package_lists_every_module() -> None:
    modules = {path.name for path in (ROOT / "sessions").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert modules == set(re.findall(r"^    (\w+\.py) ", str(sessions.__doc__), re.MULTILINE))


def test_the_differences_are_those_of_the_installed_cherrypy() -> None:
    assert f"| | CherryPy {cherrypy.__version__} | here |" in DOCUMENTS["docs/migrating.md"]
