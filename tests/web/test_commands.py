"""python app.py: its options, where its settings come from, and how it refuses to start."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from auth.database import Database
from auth.demo import demo_account
from services import free_port
from tests.support import hashing
from tests.support.process import CLEANED, folder
from tests.support.site import Site, run
from web.settings import ENVIRONMENT, ROOT, SITE_CONF, Sections, StartError, load_settings, read


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the site's account may use as well."""
    path = folder()
    yield path
    shutil.rmtree(path)


def profile_of(site: Site) -> str:
    return str(site.client().get("/healthz").json["profile"])


# --- a start that is refused ------------------------------------------------------------------------------------------


def refused(*args: str, **env: str) -> str:
    """Return the one line with which the site refuses to start."""
    result = run(*args, env={"PORT": "0", **env})
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"app\.py: [^\n]+\n", result.stderr)
    return result.stderr


def test_a_wrong_profile_is_told_the_nearest_one_and_all() -> None:
    line = refused("--profile", "fil")
    assert "Did you mean 'file'?" in line and all(name in line for name in ("ram", "file"))
    assert line == refused(PROFILE="fil")


def test_a_wrong_option_of_the_command_line_is_named() -> None:
    assert "--prot" in refused("--prot", "9000")


@pytest.mark.parametrize("port", ["http", "-1", "65536", "1e3", "٣"])
def test_a_port_is_a_number(port: str) -> None:
    assert "0 to 65535" in refused(f"--port={port}")
    assert "0 to 65535" in refused(PORT=port)


def test_a_busy_port_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        line = refused("--port", port)
    assert port in line and "in use" in line and "--port" in line


def test_a_busy_port_is_found_before_anything_has_started(scratch: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused(PORT=str(listener.getsockname()[1]), STORAGE_PATH=str(scratch / "sessions"))
    assert not (scratch / "sessions").exists()


def test_an_address_of_another_machine_is_refused() -> None:
    assert "192.0.2.1" in refused("--host", "192.0.2.1")  # RFC 5737: nobody's


def test_an_unreadable_extra_config_is_named(scratch: Path) -> None:
    assert str(scratch / "missing.conf") in refused("--config", str(scratch / "missing.conf"))
    assert str(scratch) in refused("--config", str(scratch))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"no = 'section'", "no section headers"),
        (b"[/]\nx = not Python", "valid Python"),
        (b"[/]\nx = 1\n[/]\n", "already exists"),
        (b"[/]\nx = '\xff'", "decode"),
        (b"[global]\nserver.socket_host = ''", "[global]"),
        (b"[global]\nserver.socket_port = 0\nserver.thread_pool = 'ten'", "server."),
        (b"[global]\nserver.socket_port = 'ten'", "port ten"),
        (b"[global]\nserver.socket_port = 0\n[/]\ntools.sessions.timout = 5", "timout"),
        (b"[global]\nserver.socket_port = 0\n[/]\ntools.sessions.storage_type = 'fiel'", "fiel"),
        (
            b"[global]\nserver.socket_port = 0\nsessionFilter.on = True",
            "sessionFilter.on in [global] is a name of CherryPy",
        ),
        (b"[global]\nserver.socket_port = 0\n[session]\ntimeout = 5", "timeout in [session] is a name of CherryPy 0.9"),
        (b"[global]\nserver.socket_port = 0\n[session]\nstorageType=shop", "python -m sessions convert"),
        (b"[/]\ntools.sessions.get_db = shop.connect", "python -m sessions convert"),
        (b"[global]\nserver.socket_port = 0\ntools.sessions.timeout = 5", "timeout in [global] has no effect here"),
    ],
)
def test_a_malformed_extra_config_is_told_what_is_wrong(scratch: Path, text: bytes, expected: str) -> None:
    path = scratch / "extra.conf"
    path.write_bytes(text)
    assert expected in refused("--config", str(path), PORT="")


@pytest.mark.parametrize("path", ["/proc/sessions", str(SITE_CONF)])
def test_a_storage_path_that_cannot_be_written_is_named(path: str) -> None:
    assert path in refused("--profile", "file", STORAGE_PATH=path)


# --- where a setting comes from ---------------------------------------------------------------------------------------


def test_the_profiles_are_listed_with_their_purpose() -> None:
    result = run("--list-profiles")
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    names = {section.removeprefix("profile:") for section in read(SITE_CONF) if section.startswith("profile:")}
    assert set(lines) == names and all(lines.values())


def test_site_conf_chooses_the_profile_when_nobody_else_does() -> None:
    with Site(profile=None) as site:
        assert profile_of(site) == "file"


def test_the_extra_config_wins_over_site_conf() -> None:
    with Site(profile=None, config={"global": {"profile": "ram"}}) as site:
        assert profile_of(site) == "ram"


def test_the_environment_wins_over_the_extra_config() -> None:
    with Site(profile=None, config={"global": {"profile": "file"}}, env={"PROFILE": "ram"}) as site:
        assert profile_of(site) == "ram"


def test_the_command_line_wins_over_the_environment() -> None:
    port = free_port()
    with Site(profile="ram", env={"PROFILE": "file", "PORT": "http", "HOST": "192.0.2.1"},
              args=["--port", str(port), "--host", "127.0.0.1"]) as site:  # fmt: skip
        assert profile_of(site) == "ram"
        assert site.url == f"http://127.0.0.1:{port}"


def test_an_extra_config_adds_to_a_profile_and_adds_profiles() -> None:
    extra: Sections = {
        "profile:file": {"tools.sessions.timeout": 5},
        "profile:mine": {"tools.sessions.storage_type": "ram"},
    }
    changed = load_settings("file", extra, {})["/"]
    assert changed["tools.sessions.timeout"] == 5 and changed["tools.sessions.storage_type"] == "file"
    assert load_settings("mine", extra, {})["/"]["tools.sessions.storage_type"] == "ram"


def test_a_relative_storage_path_starts_at_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings("file", None, {"STORAGE_PATH": "var/other"})
    assert settings["/"]["tools.sessions.storage_path"] == str(ROOT / "var/other")


def test_a_variable_for_another_profile_changes_nothing() -> None:
    assert "tools.sessions.storage_path" not in load_settings("ram", None, {"STORAGE_PATH": "var/other"})["/"]


def test_the_tests_hide_every_variable_that_the_site_reads() -> None:
    assert {*ENVIRONMENT, "PROFILE", "DEMO_PASSWORD"} <= set(CLEANED)


def test_create_app_refuses_a_configuration_without_sections() -> None:
    with pytest.raises(StartError, match="sections"):
        app.create_app("ram", {"tools.sessions.timeout": 5})  # type: ignore[dict-item]


def test_create_app_refuses_a_wrong_profile() -> None:
    with pytest.raises(StartError, match="fil"):
        app.create_app("fil")


# --- the demo account -------------------------------------------------------------------------------------------------

GIVEN = "correct horse"
OWN = "a password of her own"
NONE = "There is no account to sign in with: python app.py user add NAME makes one."


def test_the_password_is_shown_unless_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    demo, hint, line = demo_account({"DEMO_PASSWORD": GIVEN})
    assert demo == GIVEN and hint is None and GIVEN not in line
    monkeypatch.setattr(os, "environ", {})
    demo, hint, line = demo_account({})
    assert len(demo) >= 12 and demo in line and hint == line
    assert demo_account({}) == (demo, hint, line)  # after a reload, too


def test_a_real_account_takes_the_place_of_the_demo_account() -> None:
    with Site("ram", env={"DEMO_PASSWORD": GIVEN}, users={"Ada": hashing.line(OWN)}) as site:
        assert "Sign in as" not in site.output() and NONE not in site.output()
        assert site.client().post("/login", {"username": "ada", "password": GIVEN}).status == 403
        assert site.client().post("/login", {"username": "ada", "password": OWN}).status == 303


def hint_for(site: Site, host: str) -> bool:
    """Return whether the sign-in page shows a password to somebody who calls the site by this name."""
    return "with the password" in site.client().get("/login", host=host).text


def test_the_sign_in_page_shows_the_password_to_this_machine_alone() -> None:
    with Site("ram") as site:
        port = site.port
        password = re.findall(r"Sign in as ada with the password (\S+)", site.output())[0]
        assert password in site.client().get("/login").text
        for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
            assert hint_for(site, host), host
        # Their owners can let them lead here, and then read this page from one of their own (DNS rebinding).
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.", "x@localhost"):
            assert not hint_for(site, host), host


def test_a_public_address_has_no_demo_account_and_the_console_says_so() -> None:
    everywhere = ["--host", "0.0.0.0"]  # noqa: S104 - it is the point here
    with Site("ram", args=everywhere, env={"DEMO_PASSWORD": GIVEN}) as site:
        assert NONE in site.output()
        assert site.client().post("/login", {"username": "ada", "password": GIVEN}).status == 403


def test_another_server_has_the_demo_account_only_if_its_password_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    monkeypatch.setattr(app, "build", lambda site: built.append((site.demo, site.profiles, site.production)))
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)
    app.create_app("ram")
    monkeypatch.setenv("DEMO_PASSWORD", GIVEN)
    app.create_app("ram")
    assert built == [("", {}, False), (GIVEN, {}, False)]


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_users_are_in_the_database_or_else_beside_the_sessions_unless_told_otherwise() -> None:
    def url(extra: Sections | None = None, **environ: str) -> str:
        return str(load_settings("ram", extra, environ)["/"]["users.url"])

    mine: Sections = {"/": {"users.url": "sqlite:///var/mine.sqlite"}}
    assert url() == "sqlite:///var/users.sqlite"
    assert url(STORAGE_PATH="/srv/sessions") == "sqlite:////srv/sessions/users.sqlite"
    assert url(STORAGE_PATH="/srv/sessions", DATABASE_URL="postgresql://db/site") == "postgresql://db/site"
    assert url(mine, STORAGE_PATH="/srv/sessions", DATABASE_URL="postgresql://db/site") == "sqlite:///var/mine.sqlite"
    assert url(mine, DATABASE_URL="postgresql://db/site", USERS_URL="sqlite:////srv/a") == "sqlite:////srv/a"


def test_a_relative_file_of_users_starts_at_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("auth.database.ROOT", tmp_path / "project")
    Database("sqlite:///var/users.sqlite")
    assert (tmp_path / "project" / "var" / "users.sqlite").exists()


# --- the console ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("screen", [False, True])
def test_the_console_shows_each_note_once_and_the_engine_only_if_asked(screen: bool) -> None:
    with Site("ram", config={"global": {"log.screen": screen}}) as site:
        site.client().post("/logout", origin="null")
        assert len(re.findall("SESSIONS cross-site request refused", site.output())) == 1
        site.client().get("/account", cookie=f"session_id={'A' * 43}")
        assert len(re.findall("SESSIONS unknown id presented", site.output())) == 1
        assert ("ENGINE" in site.output()) is screen
