"""python app.py new: a site of one's own, which runs, passes its own checks and its own tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app
from tests.support.client import Client
from tests.support.process import ROOT, account, environment, folder
from tests.support.site import Site, run
from web.settings import read
from web.starter import ALONG

NAME = "The shop"
WHOLE = os.environ.get("WHOLE_STARTER")  # makes it run its whole `make test`, in an environment of its own: minutes
# Signing in, accounts, production, the package, the pages; and the whole way of an account, in a browser.
SELECTION = [
    "tests/auth/test_site_login.py::test_the_account_is_for_who_is_signed_in", "tests/auth/test_accounts.py",
    "tests/web/test_production.py", "tests/web/test_site.py", "tests/pages/test_browser_journey.py",
    "tests/sessions/test_package.py::test_the_wheel_has_the_package_and_nothing_of_the_site",
]  # fmt: skip
GONE = ("lessons", "lab", "bench", "examples", "docs")


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def set_up(site: Path) -> Path:
    """Give a site the environment of this one, as if `make` had just made it."""
    here, there = Path(sys.prefix), site / ".venv"
    there.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (there / name).symlink_to(here / name)
    for name in ("run.stamp", "test.stamp"):
        (there / name).touch()
    if (ROOT / ".mypy_cache").is_dir():  # of `make check`: the package is the same, and takes long to check
        shutil.copytree(ROOT / ".mypy_cache", site / ".mypy_cache")
    return site


def make(site: Path, *words: str) -> None:
    command = [shutil.which("make") or "make", "--no-print-directory", *words]
    ended = subprocess.run(command, cwd=site, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-5000:]


def add_page(site: Path) -> None:
    """Do what the README of the site says."""
    readme = (site / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (template,) = re.findall(r"`(\{% extends .*)`", readme)
    imported, mounted = re.findall(r"`(from pages\.stock .*?)` and `(root\..*?)`", readme)[0]
    (site / "pages" / "stock.py").write_text(code)
    (site / "templates" / "stock.html").write_text(template)
    program = (site / "app.py").read_text()
    for before, line in (("from pages.tour import", imported), ("    root.healthz = ", f"    {mounted}")):
        assert program.count(f"\n{before}") == 1
        program = program.replace(f"\n{before}", f"\n{line}\n{before}")
    (site / "app.py").write_text(program)


def test_a_new_site_takes_a_page_as_its_readme_says_and_passes_its_checks_and_tests(place: Path) -> None:
    made = run("new", str(place / "shop"), "--name", NAME)
    assert (made.returncode, made.stderr) == (0, "") and str(place / "shop") in made.stdout
    site = place / "shop"
    assert os.listdir(place) == ["shop"]
    assert {path.name for path in site.iterdir()} == {path.partition("/")[0] for path in ALONG} | {
        "README.md", "site.conf", "pyproject.toml", ".git",
    }  # fmt: skip
    assert (site / "README.md").read_text().startswith(f"# {NAME}\n")
    assert tomllib.loads((site / "pyproject.toml").read_text())["project"]["name"] == "the-shop"

    add_page(site)
    with Site("file", root=site, env={"DEMO_PASSWORD": "cloakroom for teapots", "MOUNT": ""}) as running:
        visitor = Client(running.url, headers={"Accept": "text/html"})
        assert "<h1>Teapots: 7</h1>" in visitor.get("/stock/").text
        front = visitor.get("/").text
        assert f"<h1>{NAME}</h1>" in front and f"– {NAME}</title>" in front and "Lesson" not in front
        assert visitor.post("/login", {"username": "ada", "password": "cloakroom for teapots"}).status == 303
        assert [visitor.get(path).status for path in ("/login", "/account", "/healthz")] == [200] * 3
        assert [visitor.get(path).status for path in ("/counter", "/cookie/", "/lab", "/backends")] == [404] * 4
    if not WHOLE:
        set_up(site)
    make(site, "check")
    make(site, "test", *([] if WHOLE else [f"ARGS=-q -n 2 --dist loadfile -p no:cacheprovider {' '.join(SELECTION)}"]))


def test_deleting_folders_and_two_lines_leaves_such_a_site_too(place: Path) -> None:
    ignored = shutil.ignore_patterns(".git", ".venv*", "var", "__pycache__", ".*_cache")
    site = Path(shutil.copytree(ROOT, place / "shop", ignore=ignored))
    for name in GONE:
        shutil.rmtree(site / name, ignore_errors=True)
    lines = (site / "site.conf").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("mount.lessons", "mount.lab"))]
    (site / "site.conf").write_text("".join(kept))
    with Site("ram", root=site, env={"MOUNT": ""}) as running:
        visitor = Client(running.url)
        assert [visitor.get(path).status for path in ("/", "/login", "/counter")] == [200, 200, 404]
    make(set_up(site), "check")
    collected = "ARGS=--collect-only -q -p no:cacheprovider"
    make(site, "test", collected)


# --- what it is called ------------------------------------------------------------------------------------------------

NAMES = {
    '100% wool, "so to speak"': "100-wool-so-to-speak",
    "<b>C:\\new</b> # $x {y}": "b-c-new-b-x-y",
    "Café Ωmega 🚀": "cafe-mega",
    "Лавка": "site",
    "CherryPy": "cherrypy-site",
    "- -": "site",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_kept_as_it_is_and_pip_gets_one_that_it_knows(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert app.main(["new", str(place / "shop"), "--name", name]) == 0
    assert read(place / "shop" / "site.conf")["/"]["site.name"] == name
    project = tomllib.loads((place / "shop" / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["description"]) == (NAMES[name], name)
    assert not (place / "shop" / ".git").exists(), "git was not there"


def test_without_a_name_it_is_called_as_its_folder(place: Path) -> None:
    assert app.main(["new", f"{place}/my-shop/"]) == 0
    assert read(place / "my-shop" / "site.conf")["/"]["site.name"] == "my-shop"


# --- the first commit -------------------------------------------------------------------------------------------------


def git(site: Path, *words: str) -> str:
    command = ["git", "-c", "safe.directory=*", *words]
    return subprocess.run(command, cwd=site, env=environment(), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("known", [True, False])
def test_the_first_commit_has_all_of_it_and_touches_no_other_repository(place: Path, known: bool) -> None:
    hooks = place / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    settings = place / "gitconfig"
    settings.write_text(
        f"[core]\nhooksPath = {hooks}\nexcludesFile = {place}/ignored\n[commit]\ngpgsign = true\n[user]\n"
        + ("name = Grace\nemail = grace@example.org\n" if known else "useConfigOnly = true\n")
    )
    (place / "ignored").write_text("*.conf\n.ci\n")
    git(place, "init", "-q", "other")
    env = {"GIT_CONFIG_GLOBAL": str(settings), "GIT_DIR": str(place / "other" / ".git"), "GIT_INDEX_FILE": "index"}
    made = run("new", str(place / "shop"), env=env)
    assert made.returncode == 0, made.stderr
    assert git(place / "shop", "status", "--porcelain", "--ignored") == ""
    assert git(place / "shop", "log", "--format=%s") == "Make the site\n"
    assert (git(place / "shop", "log", "--format=%an") == "Grace\n") is known
    assert git(place / "other", "count-objects").startswith("0 objects")


# --- what is refused, and what is left then ---------------------------------------------------------------------------


Refused = Callable[..., str]


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """A function that returns why nothing was made, and sees that nothing is left of it."""

    def new(*words: str) -> str:
        before = sorted(place.rglob("*"))
        assert app.main(["new", *words]) == 2
        said = capsys.readouterr()
        assert said.out == "" and re.fullmatch(r"app\.py: [^\n]+\n", said.err), said
        assert sorted(place.rglob("*")) == before
        return said.err

    return new


def test_a_folder_that_is_not_empty_is_refused_and_an_empty_one_is_taken(
    place: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = place / "shop"
    shop.mkdir()
    (shop / ".kept").touch()
    assert "no empty folder" in refused(str(shop))
    (shop / ".kept").unlink()
    assert app.main(["new", str(shop)]) == 0 and capsys.readouterr().out.startswith(f"Made {shop}:")
    assert "no empty folder" in refused(str(shop))
    assert "no empty folder" in refused(str(shop / "app.py"))


SENSELESS = [(), ("a", "b"), *(("a", "--name", name) for name in (" ", "a\nb", "x" * 61))]


@pytest.mark.parametrize("words", SENSELESS)
def test_what_makes_no_sense_is_refused(place: Path, refused: Refused, words: tuple[str, ...]) -> None:
    refused(*(str(place / word) if word in ("a", "b") else word for word in words))


def test_a_folder_is_neither_in_this_project_nor_in_one_that_is_not_there(place: Path, refused: Refused) -> None:
    assert "outside of" in refused(str(ROOT / "pages" / "shop"))
    assert "make it first" in refused(str(place / "no" / "shop"))


@pytest.mark.skipif(not account() and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(place: Path) -> None:
    place.chmod(0o555)
    ended = run("new", str(place / "shop"))
    place.chmod(0o755)
    assert ended.returncode == 2 and "Permission denied" in ended.stderr and os.listdir(place) == []


def test_a_failure_on_the_way_leaves_nothing(place: Path) -> None:
    tools = place / "tools"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\necho the disk is full >&2\nexit 1\n")
    (tools / "git").chmod(0o755)
    ended = run("new", str(place / "shop"), env={"PATH": f"{tools}:{os.environ['PATH']}"})
    assert ended.returncode == 2 and "the disk is full" in ended.stderr
    assert os.listdir(place) == ["tools"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_on_the_way_leaves_nothing(place: Path, signum: int) -> None:
    tools = place / "tools"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\necho > {place}/reached\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    env = environment({"PATH": f"{tools}:{os.environ['PATH']}"})
    command = [sys.executable, str(ROOT / "app.py"), "new", str(place / "shop")]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, **account())
    while not (place / "reached").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    assert "interrupted" in process.communicate(timeout=30)[1] and process.returncode == 2
    assert sorted(os.listdir(place)) == ["reached", "tools"]
