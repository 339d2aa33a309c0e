"""Where a module of POSIX is missing: `make test-windows` runs the rest on Windows, and nothing was tried on macOS."""

from __future__ import annotations

import subprocess
import sys

import pytest

from web.settings import ROOT

PARTS = [part for part in ("sessions", "web", "auth", "pages", "lessons", "lab", "app") if list(ROOT.glob(f"{part}*"))]
PROGRAM = """
import importlib, pkgutil, sys
sys.modules[sys.argv[1]] = None  # an import of it fails
for part in sys.argv[2:]:
    path = getattr(importlib.import_module(part), "__path__", [])
    for found in pkgutil.walk_packages(path, f"{part}."):
        if not found.name.startswith("lessons.") and not found.name.endswith("__main__"):  # which are programs
            importlib.import_module(found.name)
"""


@pytest.mark.parametrize("module", ["fcntl", "pwd", "grp", "resource", "termios"])
def test_everything_can_be_imported_without_a_module_of_posix(module: str) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, module, *PARTS], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_scripts_are_scripts_whatever_the_registry_of_windows_says() -> None:
    program = """
import mimetypes
mimetypes.add_type("text/plain", ".js")
import app
site = app.create_app("ram")
print(mimetypes.types_map[".js"])
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "text/javascript\n"
