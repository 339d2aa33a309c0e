"""make: what its targets run, and what it says when it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import environment, folder
from web.settings import ROOT


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("make") or "make", "--no-print-directory", "-C", str(folder), *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def test_make_alone_names_every_command() -> None:
    files = [ROOT / "Makefile", *ROOT.glob("*/targets.mk")]
    phony = [re.search(r"^\.PHONY: (.*)$", path.read_text(), re.MULTILINE) for path in files]
    targets = [target for found in phony if found for target in found[1].split()]
    shown = make(ROOT, "-s").stdout
    assert [target for target in targets if f"make {target} " not in shown] == ["help", "chromium", "servers"]


COMMANDS = {
    "run": "app.py --port 9000",
    "test": "-m pytest --all -k counter",
    "check": ".venv/bin/mypy",
}
if (ROOT / "docs").is_dir():
    COMMANDS["screenshots"] = "-m tests.docs.screenshots"


@pytest.mark.parametrize("target", COMMANDS)
def test_make_runs_a_command_of_the_environment_and_sets_that_up_before(scratch: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, scratch)
    for path in ROOT.glob("*/targets.mk"):
        (scratch / path.parent.name).mkdir()
        shutil.copy(path, scratch / path.parent.name)
    arguments = {"run": "--port 9000", "test": "-k counter"}
    *before, last = make(scratch, "-n", target, f"ARGS={arguments.get(target, '')}").stdout.splitlines()
    assert last.endswith(COMMANDS[target])
    assert [line for line in before if "-m venv" in line]
    assert [line for line in before if "requirements.txt" in line]


def test_make_without_a_recent_python_says_so(scratch: Path) -> None:
    shutil.copy(ROOT / "Makefile", scratch)
    for name in ("requirements.txt", "pyproject.toml"):
        (scratch / name).touch()
    result = make(scratch, "run", "PYTHON=false")
    assert result.returncode == 2 and result.stderr.startswith("Python 3.11 or newer is needed.")


def test_an_interrupted_set_up_is_taken_up_again(scratch: Path) -> None:
    shutil.copy(ROOT / "Makefile", scratch)
    (scratch / "requirements.txt").write_text("nothing==0\n")
    (scratch / "pyproject.toml").touch()
    python = scratch / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in *install*) echo installing; exit 1;; esac\n')
    python.chmod(0o755)
    for _ in range(2):
        result = make(scratch, "run", f"PYTHON={sys.executable}")
        assert result.returncode == 2 and "installing" in result.stdout
        assert not (scratch / ".venv" / "run.stamp").exists()
