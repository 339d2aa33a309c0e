"""The names of accounts, and their e-mail addresses: what they may be, and what they are compared by."""

from __future__ import annotations

import re
import unicodedata

from web.settings import StartError

NAME_LENGTH = 100  # characters
EMAIL_LENGTH = 254  # characters; RFC 5321 section 4.5.3.1.3, without the angle brackets
_LONGEST_TYPED = 20 * NAME_LENGTH  # one character can be eighteen, and more of them would take long to be sorted
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what no database keeps
# Default_Ignorable_Code_Point (Unicode, chapter 5.21) beside those of category Cf: a name with them looks as without.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
_ALPHABETS = {"LATIN", "GREEK", "CYRILLIC"}  # with letters that look the same


def check_name(name: object) -> None:
    """Raise StartError for what cannot be the name of an account."""
    if not (isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and name.isprintable() and name == name.strip()):
        raise StartError(
            f"an account cannot be called {str(name)[:NAME_LENGTH]!r}: use 1 to {NAME_LENGTH} printable characters, "
            "with no space at either end"
        )


def check_email(email: str) -> None:
    """Raise StartError for what cannot be an e-mail address. Whether it is anybody's, only a mail finds out."""
    if len(email) > EMAIL_LENGTH or not email.isprintable() or not re.fullmatch(r"[^\s@]+@[^\s@]+", email):
        raise StartError(f"{email[:EMAIL_LENGTH]!r} is no e-mail address: it needs an @, and no spaces")


def folded(name: str) -> str:
    """Return what a name or an e-mail address is compared by: without the space that a phone adds, whatever the
    keyboard's way to write an accent, its capitals, and characters that cannot be seen (Unicode, chapter 3.13).
    Nobody's is empty. Passwords are never folded.

    A Turkish capital is that of the letter with its dot: ILGIN is ilgin, and not the name without dots.
    """
    if len(name) > _LONGEST_TYPED or _NO_TEXT.search(name):
        return ""
    plain = unicodedata.normalize("NFKD", _INVISIBLE.sub("", name)).casefold()
    return unicodedata.normalize("NFKC", "".join(c for c in plain if unicodedata.category(c) != "Cf")).strip()


def mixes_alphabets(name: str) -> bool:
    """Tell whether a name has letters of two alphabets that look alike, as "аda" has with a Cyrillic а. (Names that are
    in one of them as a whole are not told apart: Unicode Technical Standard 39, section 4.)"""
    letters = (unicodedata.name(c, "") for c in unicodedata.normalize("NFKC", name) if c.isalpha())
    return len(_ALPHABETS.intersection(letter.partition(" ")[0] for letter in letters)) > 1
