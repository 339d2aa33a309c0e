"""Rule 12: the values of a session come back as they went in, or are refused by name. Plain Python, no store."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import math
import os
import random
import subprocess
import sys
import time
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sessions import codec
from sessions.errors import CorruptRecord, UnreadableValue, UnstorableValue
from tests.support.process import ROOT

ROME = zoneinfo.ZoneInfo("Europe/Rome")
ODD = dt.timezone(dt.timedelta(hours=-5, minutes=17, seconds=9, microseconds=3))
AUTUMN = dt.datetime(2025, 10, 26, 2, 30, tzinfo=ROME)  # this hour comes twice; fold tells which
BELOW_ITSELF: list[Any] = []
BELOW_ITSELF.append(BELOW_ITSELF)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value all the way down; `==` alone says that 1 is True, -0.0 is 0.0, and no NaN is a NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return same(sorted(map(codec_text, left)), sorted(map(codec_text, right)))
    if isinstance(left, (dt.datetime, dt.time)):
        return [left.isoformat(), left.fold, str(left.tzinfo)] == [right.isoformat(), right.fold, str(right.tzinfo)]
    if isinstance(left, (float, Decimal)):
        return repr(left) == repr(right)
    return bool(left == right)


def codec_text(value: Any) -> str:
    return codec.encode({"": value})


def back(value: Any) -> Any:
    return codec.decode(codec.encode({"value": value}))["value"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 10**5000, -(10**5000),
        0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan,
        "", "é 😀", "\0\n\r\u2028", "\ud800", "\udfff tail", "\ud83d\ude00", "$tuple", '"}',
        b"", bytes(range(256)), [], (), {}, set(), frozenset(), [[], ((),), {}], {frozenset({frozenset()})},
        {1: "int"}, {(1, 2): "tuple"}, {None: 1, True: 2, 2.5: 3, b"x": 4, "y": 5}, {dt.date(2026, 1, 2): Decimal(1)},
        {"$tuple": [1]}, {"$set": 1, "b": 2}, {"$": 0}, {"\ud83d\ude00": 1}, {"$unknown": {}},
        dt.date.min, dt.date.max, dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1),
        dt.datetime.min, dt.datetime.max, dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.datetime(2026, 1, 2, fold=1),
        AUTUMN, AUTUMN.replace(fold=1), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=ODD),
        dt.datetime(2026, 1, 2, tzinfo=ODD, fold=1), dt.time(), dt.time(23, 59, 59, 999999), dt.time(1, fold=1),
        dt.time(1, tzinfo=dt.UTC), dt.time(1, tzinfo=ODD), dt.time(1, tzinfo=ROME, fold=1),
        Decimal("NaN"), Decimal("-NaN123"), Decimal("sNaN"), Decimal("-0"), Decimal("-0E+3"), Decimal("1E+5"),
        Decimal("1.10"), Decimal("Infinity"), Decimal("9" * 60), Decimal("1E-400"),
        uuid.UUID(int=0), uuid.UUID("12345678-1234-5678-1234-567812345678"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_comes_back_as_it_went_in(value: Any) -> None:
    assert same(back(value), value)


@pytest.mark.parametrize("key", ["", "$tuple", 1, (1, "a"), None, True, "\0", "\ud83d\ude00", frozenset({1})])
def test_a_key_of_the_session_comes_back_as_it_went_in(key: Any) -> None:
    assert same(codec.decode(codec.encode({key: "value", "other": 1})), {key: "value", "other": 1})


def anything(chance: random.Random, depth: int = 0) -> Any:
    """A nest of all types, not more than four levels deep; what `hashable` makes can be a key or in a set."""
    makers: list[Callable[[], Any]] = [lambda: hashable(chance, depth)]
    if depth < 4:
        makers += [
            lambda: [anything(chance, depth + 1) for _ in range(chance.randrange(4))],
            lambda: {hashable(chance, depth + 1): anything(chance, depth + 1) for _ in range(chance.randrange(4))},
            lambda: {chance.choice("abc$"): anything(chance, depth + 1) for _ in range(chance.randrange(3))},
            lambda: {hashable(chance, depth + 1) for _ in range(chance.randrange(4))},
        ]
    return chance.choice(makers)()


def hashable(chance: random.Random, depth: int) -> Any:
    zones = (None, dt.UTC, ROME, ODD)
    moment = dt.datetime.fromtimestamp(chance.randrange(1 << 32), chance.choice(zones))
    moment = moment.replace(fold=chance.randrange(2))
    makers: list[Callable[[], Any]] = [
        lambda: chance.choice((None, True, False, "", b"")),
        lambda: chance.getrandbits(chance.choice((3, 62, 65, 300))) - 5,
        lambda: chance.gauss(0, 1e9),
        lambda: "".join(chance.choice('a"\\\0é😀\ud83d\ude00$') for _ in range(chance.randrange(8))),
        lambda: chance.randbytes(chance.randrange(6)),
        lambda: moment,
        lambda: moment.timetz(),
        lambda: moment.date(),
        lambda: dt.timedelta(seconds=chance.gauss(0, 1e6)),
        lambda: Decimal(chance.getrandbits(80)).scaleb(chance.randrange(-40, 40)),
        lambda: uuid.UUID(int=chance.getrandbits(128)),
    ]
    if depth < 4:
        makers += [
            lambda: tuple(hashable(chance, depth + 1) for _ in range(chance.randrange(4))),
            lambda: frozenset(hashable(chance, depth + 1) for _ in range(chance.randrange(4))),
        ]
    return chance.choice(makers)()


def test_nests_of_all_types_come_back_as_they_went_in() -> None:
    chance = random.Random(12)  # noqa: S311 -- a seed, so that a failure comes back
    for n in range(3000):
        value = anything(chance)
        assert same(back(value), value), f"nest {n}: {value!r}"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Mapping(dict[str, int]):
    pass


class Place(collections.namedtuple("Place", "x y")):
    __slots__ = ()


class Plain(NamedTuple):
    """With defaults and a text, as such classes have them."""

    x: int
    y: int = 2


class Counting(NamedTuple):
    x: int

    def twice(self) -> int:
        return 2 * self.x


class Shown(NamedTuple):
    x: int

    def __str__(self) -> str:
        return "x"


class Pretended(tuple[int, ...]):
    _fields = ("x", "y")


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 -- as most programs write it
Renamed = collections.namedtuple("Renamed", "class x", rename=True)  # noqa: PYI024
Empty = collections.namedtuple("Empty", "")  # noqa: PYI024


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Mood(enum.Enum):
    FINE = 1


class Moment(dt.datetime):
    pass


class Day(dt.date):
    pass


class OwnZone(dt.tzinfo):
    def utcoffset(self, moment: Any) -> dt.timedelta:
        return dt.timedelta(hours=1)


def levels(n: int) -> Any:
    nest: Any = "bottom"
    for _ in range(n):
        nest = [nest]
    return nest


@pytest.mark.parametrize(
    "value",
    [
        Text("x"), Number(1), Mapping(x=1), Place(1, 2), Counting(1), Shown(1), Pretended((1, 2)), Colour.RED, Word.YES,
        Mood.FINE, Moment(2026, 1, 1), Day(2026, 1, 1), time.localtime(), collections.Counter("ab"),
        bytearray(b"x"), memoryview(b"x"), object(), len, int, 1j, range(3), iter([]), collections.OrderedDict(),
        collections.defaultdict(int), BELOW_ITSELF, levels(200), dt.datetime(2026, 1, 1, tzinfo=OwnZone()),
        {"inner": [{1: {Text("x")}}]}, {Text("x"): 1}, Path("x"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_other_value_is_refused_and_its_key_named(value: Any) -> None:
    with pytest.raises(UnstorableValue, match=r"^session\['basket'\] cannot be stored: "):
        codec.encode({"fine": 1, "basket": value})


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Text("x"), "str"), (Colour.RED, "int"), (Word.YES, "str"), (Moment(2026, 1, 1), "datetime"),
     (Day(2026, 1, 1), "date"), (Place(1, 2), "tuple"), (collections.OrderedDict(), "dict"),
     (collections.defaultdict(int), "dict")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_error_names_the_type_that_will_do(value: Any, plain: str) -> None:
    with pytest.raises(UnstorableValue, match=f"none of the types a session keeps; a plain {plain} is$"):
        codec.encode({"value": [value]})


@pytest.mark.parametrize(
    "value", [Point(1, (2,)), Plain(1), Renamed(1, 2), Empty(), Point(Point(1, {2}), [Plain(3, 4)])], ids=repr
)
def test_a_namedtuple_comes_back_as_one_of_its_name_and_fields(value: Any) -> None:
    """Equal to it, but not of its class, which would have to be imported by a name from the store."""
    found = back(value)
    assert found == value and repr(found) == repr(value) and found._asdict() == value._asdict()
    assert isinstance(found, tuple) and type(found) is not type(value)
    assert codec.encode({"value": found}) == codec.encode({"value": value}), "else each visit would save it"
    assert type(back(value)) is type(found), "a class is made once"


def test_a_namedtuple_may_be_a_key_or_in_a_set() -> None:
    assert back({Point(1, 2): {Point(3, 4)}}) == {(1, 2): {(3, 4)}}


@pytest.mark.parametrize(
    "content",
    ['["os.system", {}]', '["a b", {}]', '["class", {}]', '["A", {"x": 1}, 2]', '["A", ["x"]]', '[["A"], {"x": 1}]',
     '{"A": {"x": 1}}', '["A"]', '"A"', '["A; import os", {"x": 1}]', '[5, {}]'],
)  # fmt: skip
def test_a_namedtuple_that_was_not_written_here_is_corrupt(content: str) -> None:
    with pytest.raises(CorruptRecord):
        codec.decode(f'{{"value":{{"$namedtuple":{content}}}}}')


def test_a_key_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(UnstorableValue, match="session.*Colour.RED"):
        codec.encode({Colour.RED: 1})


def test_nesting_to_the_documented_depth_is_kept() -> None:
    assert same(back(levels(codec.MAX_DEPTH)), levels(codec.MAX_DEPTH))
    with pytest.raises(UnstorableValue, match="nested deeper than 100 levels"):
        back(levels(codec.MAX_DEPTH + 1))


def test_the_deepest_dict_with_odd_keys_can_be_read_again() -> None:
    nest: Any = {}
    for n in range(codec.MAX_DEPTH - 1):
        nest = {n: nest}
    assert same(back(nest), nest)


def test_the_text_is_one_line_of_ascii() -> None:
    text = codec.encode({"text": "é\n\u2028😀", "bytes": b"\n", 1: "\n"})
    assert text.isascii()
    assert "\n" not in text


def test_the_same_data_is_the_same_text_in_every_process() -> None:
    """A save compares texts; a set comes in another order in each process."""
    code = (
        "import sys; from sessions import codec; words = 'delta alpha charlie bravo echo'.split(); "
        "sys.stdout.write(codec.encode({'s': set(words), 'f': frozenset(map(tuple, words)), 'n': {frozenset(words)}}))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_a_damaged_text_is_corrupt_and_never_another_error() -> None:
    chance = random.Random(13)  # noqa: S311 -- a seed, so that a failure comes back
    whole = codec.encode({"all": [anything(chance) for _ in range(12)], "when": AUTUMN, "id": uuid.UUID(int=5)})
    for _ in range(20_000):
        text = bytearray(whole.encode())
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(text))
            wrong = chance.choice((b"", b"[", b"{", b'"', b"5", b"null", chance.randbytes(1)))
            text[at : at + chance.randrange(3)] = wrong
        try:
            assert type(codec.decode(text.decode("ascii", "replace"))) is dict
        except (CorruptRecord, UnreadableValue):  # the latter for a zone of another name
            pass


TAGS = sorted(codec._UNPACKERS)
CONTENTS = [
    None, True, 5, -1, 1e400, "", "x", "5", "\0", "\ud800", "America", "../../etc/passwd", "a" * 5000, [], [1], [1, 2],
    [[]], [[1, 2, 3]], [{}, {}], {}, {"a": 1}, ["10:00", "America", 0], ["10:00", "n" * 5000, 0], ["10:00", None, 7],
    ["10:00", 5, 0], ["10:00", "\0", 0], [1e400, 0, 0], ["2026-01-01T00:00", "", 0], [10**30, 0, 0], [0, [1, 2], "F"],
]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_with_content_that_is_not_its_own_is_corrupt_and_never_another_error(tag: str) -> None:
    for content in CONTENTS:
        try:
            assert type(codec.decode(json.dumps({"key": {tag: content}}))) is dict
        except CorruptRecord:
            pass


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '"x"', "{", "\xff", '{"a":{"$pickle":"x"}}', "[" * 100_000, '{"a":' * 100_000, "9" * 5000,
     '{"$tuple":[]}', '{"a":1}x', ' {"a":1}', '{"a":1}{}'],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_what_is_no_sessions_data_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptRecord):
        codec.decode(text)


MARS = '{"n":1,"when":{"$datetime":["2026-01-02T03:04:05","Mars/Olympus_Mons",0]}}'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (MARS, "'when'"),
        (MARS.replace("$datetime", "$time").replace("2026-01-02T", ""), "'when'"),
        ('{"deep":{"$tuple":[{"$set":["x"]},' + MARS + "]}}", "'deep'"),
        ('{"$dict":[[1,2],[{"$tuple":[3]},' + MARS + "]]}", "(3,)"),
        ('{"$dict":[[1,2],[' + MARS[14:-1] + ",4]]}", "{'$datetime': ['2026-01-02T03:04:05', 'Mars/Olympus_Mons', 0]}"),
    ],
    ids=["datetime", "time", "within", "odd key", "the key itself"],
)
def test_a_zone_that_this_machine_has_not_is_an_unreadable_value_and_its_key_is_named(text: str, key: str) -> None:
    """The record is whole: it must not be taken for a corrupt one, which would be quarantined."""
    with pytest.raises(UnreadableValue, match=r"tzdata") as caught:
        codec.decode(text)
    assert f"session[{key}]" in str(caught.value)
    assert "Mars/Olympus_Mons" in str(caught.value)


def test_the_largest_values_are_named_with_their_sizes() -> None:
    data = {"small": 1, "large": "x" * 100, "odd": {1: b"x" * 30}, "larger": ["x" * 200], 7: None}
    assert codec.sizes(codec.encode(data)).startswith("'larger' 215 bytes, 'large' 112 bytes, 'odd' ")


def test_a_machine_out_of_files_is_not_a_corrupt_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be quarantined, and be lost, though there is nothing wrong with it."""

    def full(name: str) -> Any:
        raise OSError(24, "Too many open files")

    text = codec.encode({"when": AUTUMN})
    monkeypatch.setattr(zoneinfo, "ZoneInfo", full)
    with pytest.raises(OSError, match="Too many open files"):
        codec.decode(text)
