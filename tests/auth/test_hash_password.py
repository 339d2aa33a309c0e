"""`python app.py hash-password`: a password goes in unseen, a line for [users] comes out."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import app
from auth.accounts import Accounts
from auth.passwords import hash_password
from tests.support import leaks
from tests.support.process import environment
from web import settings
from web.settings import ROOT, StartError

PASSWORD = "three blind mice run"  # noqa: S105 - made up here
LINE = re.compile(r'(.+) = "(\$argon2id\$v=19\$m=65536,t=3,p=4\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43})"\n')
COMMAND = [sys.executable, str(ROOT / "app.py"), "hash-password"]


class Terminal:
    """A terminal on which the command runs; its standard output goes elsewhere, as with `>> my.conf`."""

    def __init__(self, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._command = subprocess.Popen(
            [*COMMAND, *args], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment(), cwd=ROOT,
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
def terminal(*args: str) -> Iterator[Terminal]:
    typed = Terminal(*args)
    try:
        yield typed
    finally:
        typed.close()


def test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    with terminal() as typed:
        typed.answer("Name of the account: ", "ada lovelace")
        typed.answer("Password (not shown): ", PASSWORD)
        typed.answer("Once more: ", PASSWORD)
        status, printed = typed.end()
    assert status == 0
    assert PASSWORD not in typed.shown and "mice" not in typed.shown and "$argon2id$" not in typed.shown
    assert typed.shown.split() == "Name of the account: ada lovelace Password (not shown): Once more:".split()
    line = LINE.fullmatch(printed)
    assert line and line[1] == "ada lovelace"
    config = tmp_path / "my.conf"
    config.write_text(f"[users]\n{printed}", encoding="utf-8")
    accounts = Accounts(settings.read(config)["users"], tmp_path / "accounts.sqlite")
    assert accounts.verify("ada lovelace", PASSWORD) and not accounts.verify("ada lovelace", PASSWORD + "\n")


def test_a_slip_of_the_fingers_is_noticed() -> None:
    with terminal("ada") as typed:
        typed.answer("Password (not shown): ", PASSWORD)
        typed.answer("Once more: ", PASSWORD + "x")
        assert typed.end() == (2, "")
    assert typed.shown.endswith("app.py: the two passwords are not the same; please start again\r\n")


def test_a_weak_password_is_refused_before_it_is_asked_for_again() -> None:
    with terminal("ada") as typed:
        typed.answer("Password (not shown): ", "passwordpassword")
        assert typed.end() == (2, "")
    assert "app.py: This is among the passwords that are tried first." in typed.shown
    assert "passwordpassword" not in typed.shown and "Once more" not in typed.shown


def test_from_a_pipe_it_is_one_line() -> None:
    given = f"{PASSWORD}\r\nand what else there is\n"
    ended = subprocess.run(
        [*COMMAND, "ada"], input=given, capture_output=True, text=True, env=environment(), timeout=30, check=False
    )
    line = LINE.fullmatch(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "") and line
    assert Accounts({"ada": line[2]}, "/proc/none").verify("ada", PASSWORD)


@pytest.mark.parametrize(
    ("given", "args", "said"),
    [
        (b"", ["ada"], "no password was given; type it, or send it as one line to standard input"),
        (b"short\n", ["ada"], "Please use at least 15 characters: this has 5. Several words make that easy."),
        (b"three blind m\xfcce run\n", ["ada"], "what was given is not text in UTF-8"),
        (PASSWORD.encode(), [], "name the account: python app.py hash-password NAME"),
        (PASSWORD.encode(), ["a=b"], "the account cannot be called 'a=b': the .conf format would read that as "
                                     "something else"),
    ],
    ids=["nothing", "short", "latin-1", "no name", "a=b"],
)  # fmt: skip
def test_what_will_not_do_is_said_in_one_line_and_prints_no_hash(
    given: bytes, args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    assert app.main(["hash-password", *args]) == 2
    assert capsys.readouterr() == ("", f"app.py: {said}\n")


@pytest.mark.parametrize("name", ["a:b", "[ada]", "#ada", ";ada", "a = b", "", " ada", "ada\nbob", "a\x00", "a" * 101])
def test_a_name_that_the_configuration_would_read_as_something_else_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(StartError, match="cannot be called|name the account"):
        hash_password(name)


@pytest.mark.parametrize(
    "name", ["ada", "Ada", "ada.lovelace@example.org", "rem Ada Lovelace", "Łukasz", "a-b_c+d", "[ada", "x" * 100]
)
def test_a_name_that_reads_back_is_not_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(StartError, match="no password was given"):
        hash_password(name)
