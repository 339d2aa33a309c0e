"""Typed JSON: turns the values of a session into text, and back as they went in.

Pickle was the simpler way, and is CherryPy's. It runs whatever code the stored bytes ask for, so that who can write to
the store owns the site, and it ties the data to the classes of the day. Plain JSON silently turns a tuple into a list
and a key 1 into "1".

What JSON has of its own stays as it is. Everything else is an object with one key that begins with '$':

    (1, 2)                  {"$tuple": [1, 2]}
    {"a"}                   {"$set": ["a"]}
    b"x"                    {"$bytes": "eA=="}
    {1: 2} or {"$a": 2}     {"$dict": [[1, 2]]}
    Point(x=1, y=2)         {"$namedtuple": ["Point", {"x": 1, "y": 2}]}

Only the exact types are taken: a subclass would come back as its base, which is not as it went in. A namedtuple comes
back as one of the same name and fields, made here: to import its class would be to trust the store, as pickle does.
"""

from __future__ import annotations

import base64
import datetime as dt
import errno
import json
import re
import uuid
import zoneinfo
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from .errors import CorruptRecord, UnreadableValue, UnstorableValue

MAX_DEPTH = 100  # levels; a list that contains itself ends here too, with an error instead of a crash

_PLAIN = frozenset({type(None), bool, float})
_PLAIN_OR_TEXT = _PLAIN | {str}
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", re.ASCII)  # what names of zones look like
_MAX_INT = 1 << 63  # Python refuses to read decimal numbers of more than 4300 digits; hexadecimal has no such limit
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # JSON would read the two as one character

# What the decoder and the types raise at a text that is not ours:
_DAMAGED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, StopIteration)

_encoder = json.JSONEncoder(separators=(",", ":"), check_circular=False)  # in ASCII, which any text column holds
_dumps = _encoder.encode
# It makes an encoder for each call, which takes longer than to encode a session. This one is made once, in CPython.
_make = getattr(json.encoder, "c_make_encoder", None) or (lambda *options: lambda value, level: _dumps(value))
_chunks: Callable[[Any, int], Iterable[str]] = _make(
    None, _encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def encode(data: Mapping[Any, Any]) -> str:
    """Turn the values of a session into one line of ASCII text.

    Raises:
        UnstorableValue: a value of another type, nested too deep, or in itself; the message names its key.
    """
    for key, value in data.items():
        kind = type(value)
        if type(key) is not str or not (kind in _PLAIN_OR_TEXT or kind is int and -_MAX_INT <= value < _MAX_INT):
            return _encode_typed(data)
    text = "".join(_chunks(data, 0))
    return _encode_typed(data) if "\\ud" in text or '"$' in text else text  # surrogates, or a key like a tag


def _encode_typed(data: Mapping[Any, Any]) -> str:
    packed = []
    for key, value in data.items():
        try:
            packed.append((_pack(key, 1), _pack(value, 1)))
        except (TypeError, ValueError) as error:
            raise UnstorableValue(f"session[{key!r:.100}] cannot be stored: {error}") from None
    return "".join(_chunks(dict(packed) if _is_json_object(data) else {"$dict": packed}, 0))


def decode(text: str) -> dict[Any, Any]:
    """Turn what `encode` gave back into the values of a session.

    Raises:
        CorruptRecord: the text is not what `encode` makes.
        UnreadableValue: it is, but a value cannot be made on this machine; the message names its key.
    """
    try:
        data, end = (_decode_typed if '"$' in text else _decode_plain)(text, 0)
        if text[end:] or type(data) is not dict:
            raise ValueError("more than one value, or no dict")
    except UnreadableValue as error:
        error.args = (f"session[{_unreadable_key(text)!r:.100}] cannot be read on this machine: {error}",)
        raise
    except _DAMAGED as error:
        what = "no JSON" if isinstance(error, StopIteration) else type(error).__name__
        raise CorruptRecord(f"not a session's data: {what}") from error
    return data


def sizes(text: str) -> str:
    """Return the three largest values of a session in words, to tell why it does not fit."""
    found = sorted(((len(encode({key: value})), key) for key, value in decode(text).items()), key=lambda pair: -pair[0])
    return ", ".join(f"{key!r:.40} {size} bytes" for size, key in found[:3])


def _is_json_object(value: Mapping[Any, Any]) -> bool:
    return all(type(key) is str and key[:1] != "$" and _is_plain_text(key) for key in value)


def _is_plain_text(value: str) -> bool:
    return value.isascii() or not _SURROGATES.search(value)


def _pack(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is str:
        return value if _is_plain_text(value) else {"$str": _to_base64(value.encode("utf-8", "surrogatepass"))}
    if kind is int:
        return value if -_MAX_INT <= value < _MAX_INT else {"$int": hex(value)}
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
    if kind in _TYPES:
        tag, pack, _ = _TYPES[kind]
        return {tag: pack(value)}
    return _pack_namedtuple(kind, value, depth)


def _pack_namedtuple(kind: Any, value: Any, depth: int) -> Any:
    if _is_namedtuple(kind):
        fields = zip(kind._fields, value, strict=True)
        return {"$namedtuple": [kind.__name__, {field: _pack(item, depth) for field, item in fields}]}
    base = next((f"; a plain {one.__name__} is" for one in kind.__mro__ if one in _KEPT), "")
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is none of the types a session keeps{base}")


def _is_namedtuple(kind: Any) -> bool:
    """Return whether there is nothing to the class but its name and fields: methods of its own could not come back."""
    if kind.__bases__ != (tuple,) or not hasattr(kind, "_fields"):
        return False
    own, plain = vars(kind), vars(_namedtuple(kind.__name__, kind._fields))
    added = {name for name in own.keys() ^ plain.keys() if not name.startswith("__annotat")}
    return all(name.startswith("__") and not callable(own.get(name)) for name in added)


@lru_cache(maxsize=256)
def _namedtuple(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields, rename=True)


def _unpack_namedtuple(value: Any) -> Any:
    name, fields = value
    return _namedtuple(name, tuple(fields))(*fields.values())


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


def _unpack_moment(kind: type[dt.datetime] | type[dt.time], value: Any) -> dt.datetime | dt.time:
    if isinstance(value, str):
        return kind.fromisoformat(value)
    text, zone, fold = value
    moment = kind.fromisoformat(text).replace(fold=fold)
    return moment if zone is None else moment.replace(tzinfo=_zone(zone))


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError as error:
        if _ZONE.fullmatch(name):
            raise UnreadableValue(f"its time zone {name} has no data here: pip install tzdata") from error
        raise
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENAMETOOLONG):
            raise  # no fault of the name's
        raise ValueError("no time zone has such a name") from error


def _unreadable_key(text: str) -> Any:
    """Return the key of the first value that cannot be read here."""
    with suppress(*_DAMAGED):
        outermost, _ = _decode_plain(text, 0)
        for key, value in outermost["$dict"] if outermost.keys() == {"$dict"} else outermost.items():
            try:
                key, _ = _decode_typed(_dumps(key), 0)
                _decode_typed(_dumps(value), 0)
            except UnreadableValue:
                return key
    return None


_TYPES: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: ("$bytes", _to_base64, partial(base64.b64decode, validate=True)),
    dt.datetime: ("$datetime", _pack_moment, partial(_unpack_moment, dt.datetime)),
    dt.time: ("$time", _pack_moment, partial(_unpack_moment, dt.time)),
    dt.date: ("$date", dt.date.isoformat, dt.date.fromisoformat),
    dt.timedelta: ("$timedelta", lambda it: [it.days, it.seconds, it.microseconds], lambda it: dt.timedelta(*it)),
    Decimal: ("$decimal", str, Decimal),
    uuid.UUID: ("$uuid", str, uuid.UUID),
}
IMMUTABLE = frozenset({*_PLAIN_OR_TEXT, int, *_TYPES})  # types whose values nobody can change from within
_KEPT = IMMUTABLE | {list, tuple, dict, set, frozenset}
_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda value: int(value, 16),
    "$str": lambda value: base64.b64decode(value, validate=True).decode("utf-8", "surrogatepass"),
    "$tuple": tuple, "$set": set, "$frozenset": frozenset, "$dict": dict,
    "$namedtuple": _unpack_namedtuple,
    **{tag: unpack for tag, _, unpack in _TYPES.values()},
}  # fmt: skip


def _untag(value: dict[str, Any]) -> Any:
    """Called by the decoder for each object, the innermost first."""
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag[:1] == "$":
            return _UNPACKERS[tag](content)
    return value


# `decode` of it would look for white space, too.
_decode_plain = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_decode_typed = json.JSONDecoder(object_hook=_untag).scan_once  # type: ignore[attr-defined]
