"""What makes a new password too weak, and the command that makes the lines of [users]."""

from __future__ import annotations

import getpass
import re
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

from auth import hashes
from web import settings
from web.settings import StartError

MIN_LENGTH = 15  # characters: NIST SP 800-63B-4 section 3.1.1.2 for a password without a second factor
NAME_LENGTH = 100  # characters

_SITE_WORDS = ("cherrypy", "sessions", "session", "cookie", "cloakroom", "ticket", "demonstration", "account")
_OWN_CHARACTERS = 8  # that a password has besides the words of its account and of the site
_SAFE_SCORE = 4  # zxcvbn's highest: more than 10^10 guesses
_READ = 72  # characters; zxcvbn refuses more
_STAND_INS = frozenset("0123456789!$%()+<@[{|")  # that zxcvbn also reads as letters, in every combination
_MANY_STAND_INS, _READ_OF_THOSE = 8, 24  # 72 characters with all of them took it 14 seconds; so 0.3 at most

_guessing = threading.Lock()


def weakness(password: str, name: str) -> str | None:
    """Return what is wrong with a new password of the account `name`, a sentence for the visitor; None if it is good.

    What counts is its length, and how soon it would be guessed; never which kinds of characters it has (OWASP ASVS 5.0,
    6.2.1, 6.2.4, 6.2.5, 6.2.11). Guessing is left to zxcvbn, which has the lists of common passwords and words, and
    reads the first 72 characters.
    """
    data = hashes.prepared(password)
    if data is None:
        return f"Please use at most {hashes.MAX_LENGTH} characters, and only such as can be typed."
    text = data.decode()
    if len(text) < MIN_LENGTH:
        return f"Please use at least {MIN_LENGTH} characters: this has {len(text)}. Several words make that easy."
    words = _words_of(name)
    rest = text.casefold()
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    guess = _guessed(text, words)
    soon = guess["score"] < _SAFE_SCORE
    parts = [each for part in guess["sequence"] for each in (part, *part.get("base_matches", ()))]
    named = any(part.get("dictionary_name") == "user_inputs" for part in parts)
    if len(rest) < _OWN_CHARACTERS or soon and named:
        return "This is built from your name or from words of this site. Please choose something else."
    if soon:
        return "This is among the passwords that are tried first. Please choose one that nobody would guess."
    return None


def _words_of(name: str) -> list[str]:
    """What is easily thought of for this account. Parts of one or two letters would be found in any password."""
    parts = [name, *re.split(r"[\W_]+", name), *_SITE_WORDS]
    return [part.casefold() for part in parts if len(part) >= 3]


def _guessed(text: str, words: list[str]) -> dict[str, Any]:
    from zxcvbn import zxcvbn  # takes 40 ms and some megabytes, for the few who change their password

    read = _READ if len(_STAND_INS.intersection(text)) <= _MANY_STAND_INS else _READ_OF_THOSE
    with _guessing:  # it puts the words where all threads see them
        return dict(zxcvbn(text[:read], user_inputs=words))


def check_name(name: object) -> None:
    """Raise StartError for what cannot be the name of an account."""
    if not (isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and name.isprintable() and name == name.strip()):
        raise StartError(
            f"an account cannot be called {str(name)[:NAME_LENGTH]!r}: use 1 to {NAME_LENGTH} printable characters, "
            "with no space at either end"
        )


def hash_password(name: str | None) -> None:
    """Print the line of an account for the section [users]: its name, and the hash of a password.

    On a terminal the password is asked for twice, and not shown; otherwise it is the first line of standard input.

    Args:
        name: of the account; None asks for it on the terminal.

    Raises:
        StartError: the name or the password will not do, or none was given.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty()
    try:
        if name is None:
            name = _typed_name() if terminal else ""
        if not name:
            raise StartError("name the account: python app.py hash-password NAME")
        check_name(name)
        _check_line(name, f'{name} = "x"\n')
        password = _typed("Password (not shown): ") if terminal else _piped()
        weak = weakness(password, name)
        if weak:
            raise StartError(weak)
        if terminal and _typed("Once more: ") != password:
            raise StartError("the two passwords are not the same; please start again")
    except EOFError as error:
        raise StartError("no password was given; type it, or send it as one line to standard input") from error
    except UnicodeDecodeError as error:
        raise StartError("what was given is not text in UTF-8") from error
    print(f'{name} = "{hashes.Hasher().hash(password)}"')


def _typed_name() -> str:
    print("Name of the account: ", end="", file=sys.stderr, flush=True)  # standard output is for the line
    return sys.stdin.readline().strip()


def _typed(prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except getpass.GetPassWarning as error:
            raise StartError("this terminal would show the password; nothing was read") from error


def _piped() -> str:
    line = sys.stdin.buffer.readline() if sys.stdin is not None else b""
    if not line:
        raise EOFError
    return line.decode().removesuffix("\n").removesuffix("\r")


def _check_line(name: str, line: str) -> None:
    """Raise StartError unless the line means this account when it is read as the site reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "users.conf")
        path.write_text(f"[users]\n{line}", encoding="utf-8")
        try:
            found = settings.read(path)
        except StartError:
            found = {}
    if found != {"users": {name: "x"}}:
        raise StartError(f"the account cannot be called {name!r}: the .conf format would read that as something else")
