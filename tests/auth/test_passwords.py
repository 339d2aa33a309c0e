"""What is asked of a new password (OWASP ASVS 5.0, 6.2)."""

from __future__ import annotations

import pytest
import zxcvbn

from auth.passwords import weakness


@pytest.mark.parametrize(
    "password",
    ["three blind mice run", "correct horse battery staple",
     "kX9#mQ2$vL7@pR4", "x" * 7 + " zebra lamp fjord", "Ärger über Öl und Käse",
     "日本語のとても長い合言葉を考えました", "three blind mice run " * 48, "ada likes big green turtles"],
)  # fmt: skip
def test_any_kinds_of_characters_make_a_good_password(password: str) -> None:
    assert weakness(password, "ada") is None


@pytest.mark.parametrize(("password", "told"), [("", 0), ("kX9#mQ2$vL7@pR", 14), ("a\u0308o\u0308u\u0308" * 4, 12)])
def test_a_password_has_fifteen_characters(password: str, told: int) -> None:
    assert weakness(password, "ada") == (
        f"Please use at least 15 characters: this has {told}. Several words make that easy."
    )


@pytest.mark.parametrize("password", ["x" * 1025, "a good long one \ud800"])
def test_what_cannot_be_hashed_is_no_new_password(password: str) -> None:
    assert weakness(password, "ada") == "Please use at most 1024 characters, and only such as can be typed."


@pytest.mark.parametrize(
    "password",
    ["passwordpassword", "aaaaaaaaaaaaaaaaaaaa", "123456789012345", "Password123456789!", "qwertyuiopasdfgh",
     "P@ssw0rdP@ssw0rd", "trustno1trustno1", "1q2w3e4r5t6y7u8i", "iloveyouiloveyou2024", "password" * 20],
)  # fmt: skip
def test_a_password_that_is_tried_first_is_refused(password: str) -> None:
    assert weakness(password, "ada") == (
        "This is among the passwords that are tried first. Please choose one that nobody would guess."
    )


@pytest.mark.parametrize(
    "password",
    ["ada.lovelace2024!", "Lovelace Cherrypy Ada", "ecalevolecalevol", "CherryPy-Sessions-1",
     "lovelace lovelace 1815", "cloakroom ticket 7"],
)  # fmt: skip
def test_a_password_built_from_the_name_or_the_site_is_refused(password: str) -> None:
    assert weakness(password, "ada.lovelace") == (
        "This is built from your name or from words of this site. Please choose something else."
    )


def test_the_words_of_one_account_do_not_count_for_the_next() -> None:
    assert weakness("turing 1912 turing", "turing") and weakness("quite.an.odd.name.7", "quite.an.odd.name")
    assert weakness("quite.an.odd.name.7", "ada") is None


def test_no_password_takes_long_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits and signs may stand for letters. zxcvbn tries all combinations: up to 14 seconds for 72 characters."""
    read: list[int] = []

    def judge(text: str, **more: object) -> dict[str, object]:
        read.append(len(text))
        return {"score": 4, "sequence": []}

    monkeypatch.setattr(zxcvbn, "zxcvbn", judge)
    weakness("4@8({[<3690!1|$57+%2" * 50, "ada")
    weakness("4 bl1nd m1c3 run " * 50, "ada")
    assert read == [24, 72]
