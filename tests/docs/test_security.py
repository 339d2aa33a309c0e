"""docs/security-asvs.md says what is so: its tests exist, and nothing of the standard is missing."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from auth import passwords
from docs.generate import SOURCES
from web.settings import ROOT

PAGE = (ROOT / "docs" / "security-asvs.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| ([123]) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)
ROWS = {number: (int(level), proof) for number, level, _, _, proof in ROW.findall(PAGE)}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
REASON = re.compile(r"(Stated here|Does not apply|Not met|Operator): .{15,}")

# The requirements of levels 1 and 2 in the six chapters, of OWASP ASVS 5.0.0: section, numbers of level 1, of level 2.
WANTED = """
3.2 1-2 -; 3.3 1 2-4; 3.4 1-2 3-6; 3.5 1-3 4-5; 3.7 - 1-2
6.1 1 2-3; 6.2 1-8 9-12; 6.3 1-2 3-4; 6.4 1-2 3-4; 6.5 - 1-5; 6.6 - 1-3; 6.8 - 1-4
7.1 - 1-3; 7.2 1-4 -; 7.3 - 1-2; 7.4 1-2 3-5; 7.5 - 1-2; 7.6 - 1-2
11.1 - 1-2; 11.2 - 1-3; 11.3 1-2 3; 11.4 1 2-4; 11.5 - 1; 11.6 - 1
14.1 - 1-2; 14.2 1 2-4; 14.3 1 2-3
16.1 - 1; 16.2 - 1-5; 16.3 - 1-4; 16.4 - 1-3; 16.5 - 1-3
"""


def wanted() -> Iterator[tuple[str, int]]:
    """Yield the number and the level of each requirement of WANTED."""
    for section, *levels in (part.split() for part in re.split(r"[;\n]", WANTED.strip())):
        for level, numbers in enumerate(levels, start=1):
            first, _, last = numbers.partition("-")
            for number in range(int(first), int(last or first) + 1) if first else ():
                yield f"{section}.{number}", level


@functools.cache
def named_in(path: str) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_requirement_of_levels_1_and_2_is_there_with_its_level() -> None:
    assert {number: level for number, (level, _) in ROWS.items() if number in dict(wanted())} == dict(wanted())


def test_no_requirement_is_there_twice_and_no_row_is_malformed() -> None:
    numbers = re.findall(r"^\| *(\d+\.\d+\.\d+)", PAGE, re.M)
    assert sorted(numbers) == sorted(ROWS)


@pytest.mark.parametrize("number", ROWS)
def test_a_requirement_has_a_test_that_exists_or_a_reason(number: str) -> None:
    proof = ROWS[number][1]
    named = TEST.findall(proof)
    assert named or REASON.fullmatch(proof)
    assert not named or TEST.sub("", proof).replace(", ", "") == ""
    assert not [f"{path}::{name}" for path, name in named if name not in named_in(path)]


def test_every_requirement_that_the_code_cites_is_there() -> None:
    cited = set()
    for path in SOURCES:
        for words in re.findall(r"ASVS[^)\n]*(?:\n[^)\n]*)?", path.read_text(encoding="utf-8")):
            cited |= set(re.findall(r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])", words))
    assert cited and cited <= set(ROWS)


def test_the_words_that_passwords_must_not_be_built_from_are_those_of_the_code() -> None:
    [words] = re.findall(r"the site's own words: ([\w,\s]+)\.", PAGE)
    assert tuple(re.split(r",\s+", words)) == passwords._SITE_WORDS
    assert f"has {passwords.MIN_LENGTH} to " in PAGE
