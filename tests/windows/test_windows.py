"""The package and the site on Windows: its files cannot be replaced while they are open, and it has few signals.

`make test-windows` runs this by a Windows Python under Wine. On Windows: `py -m pytest --noconftest tests/windows`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from pages import sqlite_sessions
from sessions.backends.file import COMPACT_AT, FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.ram import RamStore
from sessions.testing import LONG, Clock, Factory, _spawn, a_record, count_of, opened, process, stored
from tests.sessions.test_contract import (  # noqa: F401 -- collected here
    TestDurableFile,
    TestFile,
    TestFunctions,
    TestRam,
    TestRamWithSnapshot,
)
from tests.windows.pages import LESSONS, ROOT

PASSWORD = "correct horse battery staple"  # noqa: S105 -- made up here, and given to the site as its demo account's
WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
KILLS = 3
SERVERS = {"memcached": "MEMCACHED_SERVERS", "postgresql": "DATABASE_URL"}
SERVED = [profile for profile, variable in SERVERS.items() if variable in os.environ]
with_lab = pytest.mark.skipif(not (ROOT / "lab").is_dir(), reason="it was deleted")

if not WINE:  # Wine 8 cannot load the DLL of cryptography
    from tests.sessions.test_contract import TestCookie  # noqa: F401 -- collected here


# -------------------------------------------------------------------- processes that are killed


def save_until_killed(factory: Factory, key: str, saved: Any) -> None:
    """Count, and tell the test what has been saved."""
    store = opened(factory, Clock())
    while True:
        hold = store.acquire(key, LONG)
        n = count_of(hold.record) + 1
        assert hold.commit(a_record({"n": n, "fill": "x" * (COMPACT_AT // 10)}))  # so the journal is rewritten often
        store.checkpoint()
        saved.value = n


def factories(folder: Path) -> dict[str, Factory]:
    load, save, delete = sqlite_sessions.load, sqlite_sessions.save, sqlite_sessions.delete
    return {
        "file": partial(FileStore, storage_path=str(folder / "sessions")),
        "functions": partial(FunctionStore, load=load, save=save, delete=delete),
        "ram": partial(RamStore, snapshot_path=str(folder / "snapshot")),
    }


@pytest.mark.parametrize("backend", ["file", "functions", "ram"])
def test_a_process_that_is_killed_while_it_saves_leaves_what_it_saved_last(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
    factory, saved = factories(tmp_path)[backend], _spawn.Value("i", 0, lock=False)
    with closing(opened(factory, Clock())) as store:
        key = stored(store, a_record({"n": 0}))
    for kill in range(1, KILLS + 1):
        with process(save_until_killed, factory, key, saved) as child:
            wanted = saved.value + 10 * kill + kill  # at another place of the journal each time
            while saved.value < wanted:
                assert child.is_alive()
                time.sleep(0.001)
        with closing(opened(factory, Clock())) as store:
            assert saved.value <= count_of(store.load(key)) <= saved.value + 1


def test_who_reads_without_a_lock_meets_only_whole_records_while_a_journal_is_rewritten(tmp_path: Path) -> None:
    factory, saved = factories(tmp_path)["file"], _spawn.Value("i", 0, lock=False)
    with closing(opened(factory, Clock())) as store:
        key = stored(store, a_record({"n": 0}))
        with process(save_until_killed, factory, key, saved) as child:
            seen = 0
            while seen < 200:
                assert child.is_alive()
                before, seen = seen, count_of(store.load(key))
                assert before <= seen <= saved.value + 1


# -------------------------------------------------------------------- the site


class Site:
    """`python app.py` on a port of its own, with a folder of its own."""

    def __init__(self, profile: str, folder: Path) -> None:
        extra = folder / "extra.conf"
        extra.write_text("[global]\nengine.autoreload.on = False\nserver.socket_port = 0\n", encoding="utf-8")
        self.command = [sys.executable, "app.py", "--profile", profile, "--config", str(extra)]
        self.env = {
            **os.environ, "DEMO_PASSWORD": PASSWORD, "STORAGE_PATH": str(folder / "sessions"),
            "MOUNT": "tests.windows.pages",
        }  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
        )  # fmt: skip
        self.find()

    def find(self) -> None:
        """Read what is printed until it says the address."""
        assert self.process.stdout
        printed = []
        for line in self.process.stdout:
            printed.append(line)
            if found := re.search(rb"Serving (\S+) with", line):
                self.url = found[1].decode()
                return
        raise AssertionError(b"".join(printed).decode())

    def stop(self) -> bytes:
        """Stop it and return what it has printed since `find`."""
        Visitor(self).post("/stop")
        printed, _ = self.process.communicate(timeout=LONG)
        assert self.process.returncode == 0
        return printed

    def end(self) -> None:
        """End it at once, if it runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def serving(profile: str, folder: Path) -> Iterator[Site]:
    site = Site(profile, folder)
    try:
        yield site
    finally:
        site.end()


class Visitor:
    """Somebody with a cookie jar, who asks for JSON and follows redirects."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.opener.addheaders = [("Accept", "application/json")]

    def get(self, path: str) -> Any:
        return self._ask(path, None)

    def post(self, path: str, **form: str) -> Any:
        return self._ask(path, urlencode(form).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        with self.opener.open(self.site.url + path, body, LONG) as answer:
            text = answer.read()
            return json.loads(text) if answer.headers["Content-Type"] == "application/json" else text

    def use(self, count: int) -> None:
        """Do what a visitor does who has been there before."""
        assert self.get("/counter") == {"count": count}
        hello = self.get("/hello")
        assert (hello["first"], hello["last"]) == ("Ada", "Lovelace")
        assert self.get("/account")["user"] == "ada"


@pytest.mark.parametrize("profile", ["ram", "file", "functions", *SERVED])
def test_the_site_counts_keeps_a_name_signs_in_and_starts_again(profile: str, tmp_path: Path) -> None:
    with serving(profile, tmp_path) as site:
        visitor = Visitor(site)
        assert visitor.get("/healthz") == {"status": "ok", "profile": profile}
        assert [visitor.get("/counter")["count"] for _ in range(2)] == [1, 2]
        visitor.post("/name", first="Ada", last="Lovelace")
        visitor.post("/login", username="ada", password=PASSWORD)
        visitor.use(3)
        assert b"Traceback" not in site.stop()
        site.start()
        if profile == "ram":
            assert visitor.get("/counter") == {"count": 1}
        else:
            visitor.use(4)
            site.end()
            site.start()
            visitor.use(5)
        assert b"Traceback" not in site.stop()


def test_a_site_that_starts_again_is_waited_for_by_its_first_process(tmp_path: Path) -> None:
    with serving("file", tmp_path) as site:
        visitor = Visitor(site)
        for count in (1, 2, 3):
            assert visitor.get("/counter") == {"count": count}
            if count < 3:
                visitor.post("/again")
                site.find()
                assert site.process.poll() is None
        site.stop()


@with_lab
def test_the_restart_experiment_of_the_laboratory_starts_and_stops_other_sites(tmp_path: Path) -> None:
    with serving("file", tmp_path) as site:
        yes = dict.fromkeys(("restart", "secret", "turns", "at_once"), "yes")
        result = Visitor(site).post("/lab/restart", profile="file", **yes)
        assert [finding["right"] for finding in result["findings"]] == [True] * 4
        site.stop()


@with_lab
def test_the_outage_says_that_there_is_no_server_to_stop(tmp_path: Path) -> None:
    with serving("file", tmp_path) as site:
        visitor = Visitor(site)
        visitor.opener.addheaders = []
        assert b"keeps its sessions in no server that could be stopped" in visitor.get("/lab/outage")
        site.stop()


def test_the_servers_for_development_say_that_they_need_linux() -> None:
    services = subprocess.run([sys.executable, "-m", "services", "start"], cwd=ROOT, capture_output=True, text=True)
    assert services.returncode == 1 and "only Linux" in services.stderr


@pytest.mark.skipif(WINE or not LESSONS, reason="Wine 8 has no CopyFile2, and a site of one's own makes no other")
def test_a_site_of_ones_own_takes_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    subprocess.run([sys.executable, "app.py", "new", str(tmp_path / "shop")], cwd=ROOT, check=True)
    assert (tmp_path / "shop" / "app.py").exists()


@pytest.mark.skipif(WINE, reason="Wine 8 has no console whose programs could get it")
def test_ctrl_break_stops_the_site(tmp_path: Path) -> None:
    with serving("file", tmp_path) as site:
        site.process.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined]
        assert site.process.wait(LONG) == 0


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with serving("ram", tmp_path) as site:
        command = [*site.command, "--port", site.url.rpartition(":")[2]]
        second = subprocess.run(command, cwd=ROOT, env=site.env, capture_output=True, text=True)
        assert second.returncode == 2 and re.fullmatch(r"app.py: port \d+ of 127.0.0.1 is in use; .*\n", second.stderr)
        site.stop()
