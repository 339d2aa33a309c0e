"""Every test, in four parts at once: `python -m tests`, which is what make test does. Arguments go to pytest.

Most tests wait, for servers, locks and browsers, so one after the other they leave two cores idle and take twice as
long. The parts share nothing: each starts its own servers, on ports that are free, and searches what it wrote for
leaks. What is printed of the others comes when the first has ended.
"""

from __future__ import annotations

import compileall
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
IN_EACH = {"test_leaks.py"}
# About a quarter of the time each; a new file is in the first until somebody measures: make test ARGS=--durations=0
SECOND = {
    "test_attacks.py", "test_browser.py", "test_browser_attacks.py", "test_browser_pages.py", "test_profiles.py",
    "test_rules.py",
}  # fmt: skip
THIRD = {
    "test_browser_access.py", "test_browser_attributes.py", "test_docs.py", "test_lessons.py", "test_starter.py",
    "test_xray.py", *(path.name for path in FOLDER.glob("test_lab_*.py")),
}  # fmt: skip
FOURTH = {
    "test_cluster.py", "test_commands.py", "test_contract.py", "test_gunicorn.py", "test_lifecycle.py",
    "test_memcached.py", "test_postgresql.py",
}


def main() -> int:
    """Run all parts and return the exit status: that of the first which failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what it started would go on
    files = {path.name for path in FOLDER.glob("test_*.py")}
    # The sites of the tests may not write here, so each of them would compile it all anew.
    compileall.compile_dir(FOLDER.parent, quiet=1, rx=re.compile(re.escape(f"{FOLDER.parent}/.")))
    names = [files - SECOND - THIRD - FOURTH, *(files & (part | IN_EACH) for part in (SECOND, THIRD, FOURTH))]
    with ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in names[1:])]
        parts = []
        for some, output in zip(names, outputs, strict=True):
            parts.append(stack.enter_context(part(some, output)))
            stack.callback(parts[-1].terminate)  # as Ctrl-C does; one that has ended does not mind
        statuses = [one.wait() for one in parts]
        for output in outputs[1:]:
            output.seek(0)
            sys.stdout.buffer.write(output.read())
    return next((status for status in statuses if status), 0)


def part(names: set[str], output: object) -> subprocess.Popen[bytes]:
    """Start pytest on these files."""
    paths = [str(FOLDER / name) for name in sorted(names)]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:], *paths]
    return subprocess.Popen(command, cwd=FOLDER.parent, stdout=output)  # type: ignore[call-overload]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
