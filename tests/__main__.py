"""Every test, in two halves at once: `python -m tests`, which is what make test does. Arguments go to pytest.

Most tests wait, for servers, locks and browsers, so one after the other they leave two cores idle and take twice as
long. The halves share nothing: each starts its own servers, on ports that are free, and searches what it wrote for
leaks. What is printed of the second half comes when the first has ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
IN_BOTH = {"test_leaks.py"}
# About half of the time; a new file is in the other half until somebody measures: make test ARGS=--durations=0
SECOND = {
    "test_attacks.py", "test_browser.py", "test_browser_attacks.py", "test_browser_pages.py", "test_cluster.py",
    "test_gunicorn.py", "test_profiles.py", "test_rules.py", "test_site.py", "test_site_account.py",
    "test_site_crash.py", "test_site_hostile.py", "test_site_login.py",
}  # fmt: skip


def main() -> int:
    """Run both halves and return the exit status: that of the first which failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what it started would go on
    files = {path.name for path in FOLDER.glob("test_*.py")}
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        first = stack.enter_context(half(files - SECOND, None))
        stack.callback(first.terminate)  # as Ctrl-C does: each stops its servers; one that has ended does not mind
        second = stack.enter_context(half(files & (SECOND | IN_BOTH), output))
        stack.callback(second.terminate)
        statuses = [first.wait(), second.wait()]
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    return statuses[0] or statuses[1]


def half(names: set[str], output: object) -> subprocess.Popen[bytes]:
    """Start pytest on these files."""
    paths = [str(FOLDER / name) for name in sorted(names)]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:], *paths]
    return subprocess.Popen(command, cwd=FOLDER.parent, stdout=output)  # type: ignore[call-overload]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
