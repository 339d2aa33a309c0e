"""The package by itself: the wheel that `pip install .` makes, in an environment that has nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.process import ROOT, environment
from tests.support.program import running

PROGRAM = """
import cherrypy, sessions

sessions.install()


class Counter:
    @cherrypy.expose
    def index(self):
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        return str(count)


cherrypy.quickstart(Counter(), "/", {"/": {"tools.sessions.on": True}})
"""


def pip(python: Path | str, *args: object) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *map(str, args)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # building leaves things beside it
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "var", "__pycache__", "build", "*.egg-info"))
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, source)
    (path,) = place.glob("*.whl")
    return path


def test_the_wheel_has_the_package_and_nothing_of_the_site(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"sessions", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sessions").rglob("*.py")}
    assert modules <= set(names)


def test_a_program_runs_from_an_empty_folder_with_nothing_but_the_wheel_installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    pip(python, "install", wheel)
    example = ROOT / "examples" / "counter.py"
    (place / "program.py").write_text(example.read_text() if example.exists() else PROGRAM)
    with running(place / "program.py", python=python) as visitor:
        assert [re.findall(r"\d+", visitor.get("/").text)[0] for _ in range(2)] == ["1", "2"]
