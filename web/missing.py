"""What a start says when a package is missing: its name, and the command that installs it, instead of a traceback.

It is imported before anything that has to be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parent.parent


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    package = (isinstance(error, ModuleNotFoundError) and error.name or "").partition(".")[0]
    if not package or (_ROOT / package).is_dir():  # a module of the site's own: its traceback says where
        return sys.__excepthook__(kind, error, traceback)
    install = f'"{sys.executable}" -m pip install -r "{_ROOT / "requirements.txt"}"'
    print(f"app.py: the package {package} is missing. Install what the site needs: {install}", file=sys.stderr)


sys.excepthook = _explain
