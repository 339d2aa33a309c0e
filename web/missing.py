"""What a start says when a package is missing: its name, and the command that installs it, instead of a traceback.

It is imported before anything that has to be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, ModuleNotFoundError):
        return sys.__excepthook__(kind, error, traceback)
    install = f'"{sys.executable}" -m pip install -r "{_REQUIREMENTS}"'
    print(f"app.py: the package {error.name} is missing. Install what the site needs: {install}", file=sys.stderr)


sys.excepthook = _explain
