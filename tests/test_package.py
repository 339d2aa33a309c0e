"""The package by itself: the wheel that `pip install .` makes, in an environment that has nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.site import ROOT, environment
from tests.test_examples import running


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


def test_an_example_runs_from_an_empty_folder_with_nothing_but_the_wheel_installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    pip(python, "install", wheel)
    with running("counter.py", python=python) as visitor:
        assert [visitor.get("/").text for _ in range(2)] == [f"You have been here {n} times.\n" for n in (1, 2)]
