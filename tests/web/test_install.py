"""How the site is installed and started without make and apt, and what it says when a package is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.process import ROOT, Process, environment, folder


@pytest.fixture
def copy() -> Iterator[Path]:
    """A copy of the project without what has been installed and made in it."""
    place = folder()
    ignored = shutil.ignore_patterns(".*", "var", "__pycache__", "build", "*.egg-info", "tests")
    yield shutil.copytree(ROOT, place / "site", ignore=ignored)
    shutil.rmtree(place)


def serves(command: list[str], copy: Path) -> None:
    with Process(command, cwd=copy, env={"PORT": "0"}) as site:
        assert Client(site.url).get("/healthz").json["status"] == "ok"


def test_three_lines_of_pip_start_the_site(copy: Path) -> None:
    python = str(copy / ".venv" / "bin" / "python")
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1", "PIP_NO_COMPILE": "1"}
    for command in (
        [sys.executable, "-m", "venv", ".venv"],
        [python, "-m", "pip", "install", "-r", "requirements.txt"],
    ):
        subprocess.run(command, cwd=copy, env=environment(quiet), check=True)
    serves([python, "app.py"], copy)


def test_one_line_of_uv_starts_the_site(copy: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    serves([str(uv), "run", "--quiet", "--python", os.path.realpath(sys.executable), "app.py"], copy)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(copy: Path) -> None:
    bare = [sys.executable, "-S", "app.py"]  # without what is installed
    ended = subprocess.run(bare, cwd=copy, env=environment(), capture_output=True, text=True)
    command = f'"{sys.executable}" -m pip install -r "{copy / "requirements.txt"}"'
    said = f"app.py: the package cherrypy is missing. Install what the site needs: {command}\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_a_module_of_the_sites_own_that_is_missing_is_a_traceback_which_says_where(copy: Path) -> None:
    with (copy / "pages" / "tour.py").open("a", encoding="utf-8") as page:
        page.write("import pages.stok\n")
    ended = subprocess.run([sys.executable, "app.py"], cwd=copy, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 1 and "pages/tour.py" in ended.stderr and "pip install" not in ended.stderr
