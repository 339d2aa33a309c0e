"""deploy/site.service: what systemd says of it, and that the site works where it is confined like that.

systemd itself does not run here. Its own program checks the file, and what could break a program written in Python, or
a library of it, is tried with the system call that systemd would use.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.client import JSON
from tests.support.process import ROOT, environment, installed, wait_until
from tests.support.site import Site
from web.settings import load_settings

UNIT = (ROOT / "deploy" / "site.service").read_text()
MOST_EXPOSED = 15  # of 100, as `systemd-analyze security` counts; a unit without any of the settings has 96
BEHIND_PROXY = "deploy/behind-proxy.conf"


def service() -> configparser.SectionProxy:
    """Return the section of the file that has each setting once."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    return unit["Service"]


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on the unit, whose site is here."""
    path = folder / "site.service"
    path.write_text(UNIT.replace("/srv/site/.venv", sys.prefix).replace("/srv/site", str(ROOT)))
    return subprocess.run(
        [installed("systemd-analyze"), "--no-pager", *words, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
    )


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    verified = analyze(tmp_path, "verify", "--man=no")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_little_is_left_that_it_could_do_to_the_system(tmp_path: Path) -> None:
    rated = analyze(tmp_path, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}")
    assert rated.returncode == 0, rated.stdout


def test_it_starts_what_the_procfile_starts_and_leaves_it_the_time_to_end() -> None:
    started, host, address = re.split(r" (--host) ", service()["ExecStart"])
    assert (host, address) == ("--host", "127.0.0.1")
    assert shlex.split(started)[1:] == shlex.split((ROOT / "Procfile").read_text().partition(" --host")[0])[2:]
    settings = load_settings(None, str(ROOT / BEHIND_PROXY), {}, True)["global"]
    assert int(service()["TimeoutStopSec"]) > settings["server.drain"] + settings["server.shutdown_timeout"]
    name, _, path = service()["Environment"].partition("=")
    assert name == "STORAGE_PATH" and path.startswith(f"/var/lib/{service()['StateDirectory']}/")


# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN): no memory becomes executable, as MemoryDenyWriteExecute= has it.
CONFINED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) and sys.exit('not known'); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("profile", ["file", "cookie"])
def test_the_site_serves_and_hashes_where_no_memory_may_become_executable(profile: str) -> None:
    assert service()["MemoryDenyWriteExecute"] == "yes"
    python = shlex.quote(sys.executable)
    if subprocess.run([sys.executable, "-c", CONFINED, "/bin/true"]).returncode:
        pytest.skip("this kernel is older than Linux 6.3")
    command = f"{python} -c {shlex.quote(CONFINED)} {python} app.py"
    with Site(command=command, env={"PROFILE": profile, "DEMO_PASSWORD": "cloakroom for teapots"}) as site:
        visitor = site.client()
        assert [visitor.get("/counter", **JSON).json["count"] for _ in range(2)] == [1, 2]
        assert visitor.post("/login", {"username": "ada", "password": "cloakroom for teapots"}).status == 303


def test_a_log_that_was_renamed_is_opened_anew_at_the_signal_of_a_reload() -> None:
    kill, signal, pid = service()["ExecReload"].split()
    assert (kill, pid) == ("/bin/kill", "$MAINPID")
    with Site("ram") as site:
        log, renamed = site.scratch / "access.log", site.scratch / "access.log.1"
        visitor = site.client()
        assert visitor.get("/login?next=/before").status == 200
        os.rename(log, renamed)
        subprocess.run([kill, signal, str(site.process.pid)], check=True)
        wait_until(log.exists, "a new file")
        assert visitor.get("/login?next=/after").status == 200
        wait_until(lambda: "/login?next=/after" in log.read_text(), "a line in it")
        assert "before" in renamed.read_text() and "after" not in renamed.read_text()
        assert "before" not in log.read_text() and site.process.poll() is None
