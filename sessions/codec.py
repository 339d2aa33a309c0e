"""Typed JSON: the values of a session as text, and back as they went in.

Pickle was the simpler way, and is CherryPy's. It runs whatever code the stored bytes ask for, so that who can write to
the store owns the site, and it ties the data to the classes of the day. Plain JSON silently turns a tuple into a list
and a key 1 into "1".

What JSON has of its own stays as it is. Everything else is an object with one key that begins with '$':

    (1, 2)                  {"$tuple": [1, 2]}
    {"a"}                   {"$set": ["a"]}
    b"x"                    {"$bytes": "eA=="}
    {1: 2} or {"$a": 2}     {"$dict": [[1, 2]]}

Only the exact types are taken: a subclass would come back as its base, which is not as it went in.
"""

from __future__ import annotations

import base64
import datetime as dt
import errno
import json
import re
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from .errors import Unreadable, UnstorableValue

MAX_DEPTH = 100
"""Levels of nesting; a list that contains itself ends here too, with an error instead of a crash."""

FIXED = frozenset(
    {type(None), bool, int, float, str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, uuid.UUID}
)
"""Types whose values nobody can change from within."""

_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # ASCII: any text column holds it
_PLAIN = frozenset({type(None), bool, float})
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # JSON would read the two as one character


def encode(data: Mapping[Any, Any]) -> bytes:
    """Turn the data of a session into one line of ASCII text.

    Raises:
        UnstorableValue: a value of another type, nested too deep, or in itself; the message names its key.
    """
    packed = []
    for key, value in data.items():
        try:
            packed.append((_pack(key, 1), _pack(value, 1)))
        except TypeError as error:
            raise UnstorableValue(f"session[{key!r:.100}] cannot be stored: {error}") from None
    return _dumps(dict(packed) if _is_json_object(data) else {"$dict": packed}).encode()


def decode(text: bytes) -> dict[Any, Any]:
    """Turn what `encode` gave back into the data of a session.

    Raises:
        Unreadable: the text is not what `encode` makes.
    """
    try:
        line = text.decode("ascii")
        data, end = _read(line, 0)
        if end != len(line):
            raise ValueError("more than one value")
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise Unreadable(f"not a session's data: {type(error).__name__}") from error
    if type(data) is not dict:
        raise Unreadable("not a session's data: the outermost value is not a dict")
    return data


def sizes(text: bytes, most: int = 3) -> str:
    """The largest values of a session in words, for whoever has to find out why it does not fit."""
    values = decode(text)
    largest = sorted(((len(encode({key: value})), key) for key, value in values.items()), key=lambda pair: -pair[0])
    return ", ".join(f"{key!r:.40} {size} bytes" for size, key in largest[:most])


def _is_json_object(value: Mapping[Any, Any]) -> bool:
    for key in value:
        if type(key) is not str or key[:1] == "$" or not _is_plain_text(key):
            return False
    return True


def _is_plain_text(value: str) -> bool:
    return value.isascii() or not _SURROGATES.search(value)


def _pack(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is str:
        return value if _is_plain_text(value) else {"$str": _to_base64(value.encode("utf-8", "surrogatepass"))}
    if kind is int:
        # Python refuses to read decimal numbers of more than 4300 digits; hexadecimal has no such limit.
        return value if -(1 << 63) <= value < 1 << 63 else {"$int": hex(value)}
    if depth > MAX_DEPTH:
        raise TypeError(f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    depth += 1
    if kind is dict:
        if _is_json_object(value):
            return {key: _pack(item, depth) for key, item in value.items()}
        return {"$dict": [[_pack(key, depth), _pack(item, depth)] for key, item in value.items()]}
    if kind is list or kind is tuple:
        items = [_pack(item, depth) for item in value]
        return items if kind is list else {"$tuple": items}
    if kind is set or kind is frozenset:
        # Sorted, because the order of a set differs from process to process and a save compares the text.
        return {f"${kind.__name__}": sorted((_pack(item, depth) for item in value), key=_dumps)}
    try:
        tag, pack = _PACKERS[kind]
    except KeyError:
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is none of the types a session keeps") from None
    return {tag: pack(value)}


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _pack_moment(value: dt.datetime | dt.time) -> Any:
    """ISO 8601 where that says everything; else [local time, name of the zone or None, fold]."""
    zone = value.tzinfo
    if zone is None or type(zone) is dt.timezone:
        return value.isoformat() if not value.fold else [value.isoformat(), None, 1]
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return [value.replace(tzinfo=None).isoformat(), zone.key, value.fold]
    raise TypeError(f"its time zone, a {type(zone).__qualname__}, has no name to find it by again")


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENAMETOOLONG):
            raise  # no fault of the name's
        raise ValueError("no time zone has such a name") from error


def _unpack_moment(kind: type[dt.datetime] | type[dt.time]) -> Callable[[Any], Any]:
    def unpack(value: Any) -> dt.datetime | dt.time:
        if isinstance(value, str):
            return kind.fromisoformat(value)
        text, zone, fold = value
        moment = kind.fromisoformat(text).replace(fold=fold)
        return moment if zone is None else moment.replace(tzinfo=_zone(zone))

    return unpack


_PACKERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("$bytes", _to_base64),
    dt.datetime: ("$datetime", _pack_moment),
    dt.time: ("$time", _pack_moment),
    dt.date: ("$date", dt.date.isoformat),
    dt.timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$decimal", str),
    uuid.UUID: ("$uuid", str),
}

_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda value: int(value, 16),
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$str": lambda value: base64.b64decode(value, validate=True).decode("utf-8", "surrogatepass"),
    "$bytes": lambda value: base64.b64decode(value, validate=True),
    "$datetime": _unpack_moment(dt.datetime),
    "$time": _unpack_moment(dt.time),
    "$date": dt.date.fromisoformat,
    "$timedelta": lambda value: dt.timedelta(*value),
    "$decimal": Decimal,
    "$uuid": uuid.UUID,
}


def _untag(value: dict[str, Any]) -> Any:
    """Called by the decoder for each object, the innermost first."""
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag[:1] == "$":
            return _UNPACKERS[tag](content)
    return value


_read = json.JSONDecoder(object_hook=_untag).raw_decode  # its `decode` looks for white space, too
