"""What makes a new password too weak."""

from __future__ import annotations

import re
import threading
from typing import Any

from auth import hashes

MIN_LENGTH = 15  # characters: NIST SP 800-63B-4 section 3.1.1.2 for a password without a second factor

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
