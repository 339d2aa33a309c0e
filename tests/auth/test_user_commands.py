"""`python app.py user ...`: accounts for whoever runs the site."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pty
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyotp
import pytest

import app
from auth import hashes
from auth.accounts import Accounts
from auth.database import Database
from auth.second_factor import SecondFactor
from tests.support import leaks
from tests.support.hashing import CHEAP, line
from tests.support.process import environment
from tests.support.users import url_of
from web.settings import ROOT, StartError

PASSWORD = "three blind mice run"  # noqa: S105 - made up here
OTHER = "a staple and a battery"
HASH = line(PASSWORD)
COMMAND = [sys.executable, str(ROOT / "app.py"), "user"]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The users of this test, as the environment names them."""
    url = url_of("sqlite", tmp_path)
    monkeypatch.setenv("USERS_URL", url)
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path))
    return url


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)


def opened(url: str) -> Accounts:
    return Accounts(Database(url))


class Terminal:
    """A terminal on which the command runs; its standard output goes elsewhere."""

    def __init__(self, url: str, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._command = subprocess.Popen(
            [*COMMAND, *args], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
            env=environment({"USERS_URL": url}), cwd=ROOT,
            text=True, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    def answer(self, question: str, text: str) -> None:
        """Wait for the question, and type the text and Enter."""
        while not self.shown.endswith(question):
            self._read()
        os.write(self._ours, text.encode() + b"\n")

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and what was printed."""
        printed, _ = self._command.communicate(timeout=30)
        while self._read():
            pass
        leaks.recorder.password(PASSWORD)
        leaks.recorder.wrote("console", printed + self.shown)
        return self._command.returncode, printed

    def _read(self) -> bool:
        try:
            read = os.read(self._ours, 4096)
        except OSError:  # the other side has closed
            read = b""
        if not read and self._command.poll() is None:
            self._command.wait(30)
        self.shown += read.decode()
        assert read or self._command.returncode is not None
        return bool(read)

    def close(self) -> None:
        if self._command.poll() is None:
            self._command.kill()
            self._command.wait(30)
        assert self._command.stdout
        self._command.stdout.close()
        os.close(self._ours)


@contextmanager
def terminal(url: str, *args: str) -> Iterator[Terminal]:
    typed = Terminal(url, *args)
    try:
        yield typed
    finally:
        typed.close()


def test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown(url: str) -> None:
    with terminal(url, "add", "ada lovelace") as typed:
        typed.answer("Password (not shown): ", PASSWORD)
        typed.answer("Once more: ", PASSWORD)
        status, printed = typed.end()
    assert (status, printed) == (0, "ada lovelace is added.\n")
    assert typed.shown.split() == "Password (not shown): Once more:".split()
    accounts = opened(url)
    assert accounts.verify("ada lovelace", PASSWORD) and not accounts.verify("ada lovelace", PASSWORD + "\n")
    [row] = accounts.everybody()
    assert row.hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_slip_of_the_fingers_is_noticed(url: str) -> None:
    with terminal(url, "add", "ada") as typed:
        typed.answer("Password (not shown): ", PASSWORD)
        typed.answer("Once more: ", PASSWORD + "x")
        assert typed.end() == (2, "")
    assert typed.shown.endswith("app.py: the two passwords are not the same; please start again\r\n")
    assert opened(url).is_empty()


def test_a_weak_password_is_refused_before_it_is_asked_for_again(url: str) -> None:
    with terminal(url, "add", "ada") as typed:
        typed.answer("Password (not shown): ", "passwordpassword")
        assert typed.end() == (2, "")
    assert "app.py: This is among the passwords that are tried first." in typed.shown
    assert "passwordpassword" not in typed.shown and "Once more" not in typed.shown


# --- in this process --------------------------------------------------------------------------------------------------


class Operator:
    """Whoever runs the site."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: str, given: bytes | None = PASSWORD.encode(), status: int = 0) -> str:
        """Run the command with something on standard input; return the lines that it prints."""
        stdin = None if given is None else io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
        self._patch.setattr(sys, "stdin", stdin)
        assert app.main(args) == status
        out, err = self._capsys.readouterr()
        assert (out, err)[not status] == ""
        return str((out, err)[status > 0])

    def refused(self, *args: str, given: bytes | None = PASSWORD.encode()) -> str:
        """Return the one line with which the command refuses."""
        said = self(*args, given=given, status=2)
        assert said.startswith("app.py: ") and said.count("\n") == 1
        return said.removeprefix("app.py: ").rstrip()


@pytest.fixture
def operator(url: str, cheap: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(monkeypatch, capsys)


def test_from_a_pipe_the_password_is_one_line(operator: Operator, url: str) -> None:
    operator("user", "add", "ada", given=f"{PASSWORD}\r\nand what else there is\n".encode())
    assert opened(url).verify("ada", PASSWORD)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "Please use at least 15 characters: this has 0. Several words make that easy."),
        (b"short\n", "Please use at least 15 characters: this has 5. Several words make that easy."),
        (b"three blind m\xfcce run\n", "no password was read from the terminal or standard input: 'utf-8' codec"),
        (None, "no password was read from the terminal or standard input: "),
    ],
    ids=["nothing", "short", "latin-1", "closed"],
)
def test_what_cannot_be_a_password_is_said_in_one_line_and_adds_nobody(
    operator: Operator, url: str, given: bytes | None, said: str
) -> None:
    assert operator.refused("user", "add", "ada", given=given).startswith(said)
    assert opened(url).is_empty()


def test_accounts_are_added_listed_disabled_enabled_and_removed(operator: Operator, url: str) -> None:
    assert operator("user", "list") == ""
    operator("user", "add", "Zoë", "zoe@example.org")
    operator("user", "add", "ada")
    accounts = opened(url)
    made = datetime.fromtimestamp(accounts.everybody()[0].created, UTC).date()
    assert operator("user", "disable", "ZOË") == "Zoë is disabled.\n"
    assert operator("user", "list") == f"ada\t-\t{made}\tenabled\nZoë\tzoe@example.org\t{made}\tdisabled\n"
    assert accounts.verify("ada", PASSWORD) and not accounts.verify("zoë", PASSWORD)
    assert operator("user", "enable", "zoë") == "Zoë is enabled.\n"
    assert accounts.verify("zoë", PASSWORD)
    assert operator("user", "remove", "Ada") == "ada is removed.\n"
    assert accounts.registered("ada") is None


def test_a_new_password_of_the_operators_signs_out_everywhere(operator: Operator, url: str) -> None:
    operator("user", "add", "ada")
    accounts = opened(url)
    before = accounts.valid_since("ada")
    said = operator("user", "password", "Ada", given=OTHER.encode())
    assert said == "ada has the new password, and is signed out everywhere.\n"
    since = accounts.valid_since("ada")
    assert accounts.verify("ada", OTHER) and not accounts.verify("ada", PASSWORD)
    assert since and before and since > before


def test_a_lost_second_factor_is_taken_off_and_the_account_signed_out_everywhere(operator: Operator, url: str) -> None:
    operator("user", "add", "ada")
    accounts, secret = opened(url), pyotp.random_base32()
    factor, before = SecondFactor(accounts.database), accounts.valid_since("ada")
    assert factor.turn_on("ada", secret, pyotp.TOTP(secret).now())
    said = operator("user", "reset-factor", "Ada")
    assert said == "ada has no second factor now, and is signed out everywhere.\n"
    proof, since = accounts.verify("ada", PASSWORD), accounts.valid_since("ada")
    assert proof and not proof.second_factor and factor.codes_left("ada") is None
    assert since and before and since > before


def test_what_cannot_be_added_is_refused_before_a_password_is_asked_for(operator: Operator) -> None:
    operator("user", "add", "ada", "ada@example.org")
    assert operator.refused("user", "add", "ADA", given=b"") == "there is an account with this name already"
    assert "cannot be called ' bob'" in operator.refused("user", "add", " bob", given=b"")
    assert "no e-mail address" in operator.refused("user", "add", "bob", "example.org", given=b"")
    taken = operator.refused("user", "add", "bob", "Ada@example.org")
    assert taken == "there is an account with this email already"


@pytest.mark.parametrize("action", ["password", "disable", "enable", "remove"])
def test_an_account_that_does_not_exist_is_named_before_a_password_is_asked_for(
    operator: Operator, action: str
) -> None:
    said = operator.refused("user", action, "eve", given=b"")
    assert said == "there is no account 'eve': python app.py user list shows all"


@pytest.mark.parametrize(
    "words", ["user", "user ada", "user list ada", "user add", "user add a b c", "hash-password ada"]
)
def test_what_is_no_command_is_told_all(operator: Operator, words: str) -> None:
    said = operator.refused(*words.split())
    assert said.startswith(f"there is no command {words!r}") and "user add NAME [EMAIL]" in said


def test_the_database_is_that_of_the_site(operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says where it is: the environment, or a file of settings."""
    monkeypatch.delenv("USERS_URL")
    config = tmp_path / "my.conf"
    config.write_text(f"[/]\nusers.url = 'sqlite:///{tmp_path / 'own.sqlite'}'\n")
    operator("user", "add", "ada")
    operator("user", "add", "bob", "--config", str(config), "--production", "--profile", "ram")
    for file, name in (("users.sqlite", "ada"), ("own.sqlite", "bob")):
        assert [row.name for row in opened(f"sqlite:///{tmp_path / file}").everybody()] == [name]


# --- accounts of a section [users] ------------------------------------------------------------------------------------


def old_site(place: Path, users: dict[str, str], changes: dict[str, tuple[str, str, float]] | None = None) -> Path:
    """Write what a site without a table has left: its lines, and what was changed since."""
    config = place / "old.conf"
    config.write_text("[users]\n" + "".join(f"{name} = {hash!r}\n" for name, hash in users.items()))
    if changes is not None:
        with closing(sqlite3.connect(place / "accounts.sqlite")) as old, old:
            old.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, seed TEXT, hash TEXT, valid_since REAL)")
            old.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", [(name, *row) for name, row in changes.items()])
    return config


def digest(hash: str) -> str:
    return hashlib.sha256(hash.encode()).hexdigest()


def test_the_lines_of_a_configuration_are_taken_over_with_what_was_changed_since(
    operator: Operator, url: str, tmp_path: Path
) -> None:
    """Nobody's changed password reverts, no ended session comes to life, and an operator's later line wins."""
    users = {name: line(f"{PASSWORD} of {name}") for name in ("ada", "Bob", "Çelik", "dan")}
    changes = {
        "ada": (digest(users["ada"]), line(OTHER), 1000.5),
        "Bob": (digest("a line before"), line(OTHER), 0.0),
        "dan": ("", "", 2000.5),
        "eve": (digest("a line that is gone"), line(OTHER), 3000.5),
    }
    config = old_site(tmp_path, users, changes)
    said = operator("user", "import", str(config)).splitlines()
    assert said[0] == f"There are 4 accounts in {config}, and 4 changes in {tmp_path / 'accounts.sqlite'}."
    assert said[1:] == [f"{name} is taken over." for name in users]
    accounts = opened(url)
    assert accounts.verify("ada", OTHER) and not accounts.verify("ada", f"{PASSWORD} of ada")
    for name in ("Bob", "Çelik", "dan"):
        assert accounts.verify(name, f"{PASSWORD} of {name}") and not accounts.verify(name, OTHER)
    assert [accounts.valid_since(name) for name in users] == [1000.5, 0.0, 0.0, 2000.5]
    assert accounts.registered("eve") is None

    accounts.set_password("ada", OTHER + OTHER)
    again = operator("user", "import", str(config)).splitlines()
    assert again[1:] == [f"{name} is left out: there is an account with this name already." for name in users]
    assert accounts.verify("ada", OTHER + OTHER)


@pytest.mark.parametrize("where", ["variable", "setting"])
def test_the_changes_are_found_where_the_old_site_had_them(
    operator: Operator, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    users = {"ada": line(PASSWORD)}
    config = old_site(tmp_path, users, {"ada": (digest(users["ada"]), line(OTHER), 0.0)})
    (tmp_path / "accounts.sqlite").rename(tmp_path / "elsewhere")
    if where == "variable":
        monkeypatch.setenv("ACCOUNTS_PATH", str(tmp_path / "elsewhere"))
    else:
        config.write_text(f"[/]\naccounts.path = '{tmp_path / 'elsewhere'}'\n{config.read_text()}")
    operator("user", "import", str(config))
    assert opened(url).verify("ada", OTHER)


def test_an_import_without_a_file_of_changes_says_so(operator: Operator, url: str, tmp_path: Path) -> None:
    config = old_site(tmp_path, {"ada": line(PASSWORD)})
    said = operator("user", "import", str(config))
    assert f"and no changes, for there is no {tmp_path / 'accounts.sqlite'}." in said
    assert opened(url).verify("ada", PASSWORD)


@pytest.mark.parametrize(
    "value",
    [
        "hunter2hunter2", "", None, 5, HASH[:-2], HASH[:-6], HASH + " ", HASH.replace("argon2id", "argon2i"),
        HASH.replace("v=19", "v=16"), HASH.replace("m=64", "m=0"), "$2b$12$0123456789012345678901",
        HASH.rpartition("$")[0],
    ],
    ids=range(12),
)  # fmt: skip
def test_a_line_without_a_whole_argon2id_hash_is_named_and_nothing_taken(
    operator: Operator, url: str, tmp_path: Path, value: object
) -> None:
    config = old_site(tmp_path, {"bob": HASH, "ada": value})  # type: ignore[dict-item]
    said = operator.refused("user", "import", str(config))
    assert said == f"the line of 'ada' in [users] is no argon2id hash: take it out of {config}"
    assert opened(url).is_empty()


def test_changes_that_cannot_be_read_stop_the_import(operator: Operator, url: str, tmp_path: Path) -> None:
    (tmp_path / "accounts.sqlite").write_bytes(b"no database at all" * 1000)
    said = operator.refused("user", "import", str(old_site(tmp_path, {"ada": line(PASSWORD)})))
    assert f"{tmp_path / 'accounts.sqlite'} cannot be read" in said
    assert opened(url).is_empty()


@pytest.mark.parametrize(
    "sections", [{"users": {"ada": HASH}}, {"/": {"accounts.path": "var/accounts.sqlite"}}], ids=["users", "path"]
)
@pytest.mark.parametrize("production", [False, True])
def test_a_start_with_accounts_in_the_configuration_names_the_import(
    url: str, sections: dict[str, dict[str, str]], production: bool
) -> None:
    with pytest.raises(StartError, match="python app.py user import FILE.conf") as refused:
        app.create_app("ram", sections, production=production)
    assert "\n" not in str(refused.value)
