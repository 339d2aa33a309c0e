"""Sessions in two functions of the site's own: CherryPy's oldest way (0.9: loadSessionData and saveSessionData).

    def save(id, data): ...     stores a text under a text
    def load(id): ...           gives it back, or None
    def delete(id): ...         optional; without it, a deleted session is stored empty

`id` is the record's key, never what the browser has; `data` is the whole record in one line of ASCII, ready for a text
column.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, Unavailable
from ..record import Record
from ..session import Session
from ..store import Capabilities, Store


class FunctionStore(Store):
    """Keeps each session wherever two functions put it.

    Args:
        load: `load(id) -> str | None`; a function, or its dotted name as a configuration file has it.
        save: `save(id, data)`.
        delete: `delete(id)`, or None.

    What a function raises counts as "the store does not answer", and is logged.

    Raises:
        ConfigError: what is given is no function.
    """

    capabilities = Capabilities(
        survives_restart=True,
        shared=True,
        locks_processes=False,
        counts=False,
        purges=False,
        keeps="Wherever two functions of the site put it.",
        sharing="All processes whose functions reach the same place.",
        locking="A fair queue among the threads of a process; between processes the last save wins.",
        cleaning="An expired session is removed when its cookie comes again; the rest is for the site to clean.",
        outage="A function that raises an error: 503 until it does not, and no session is lost.",
        needs="Two functions of the site.",
        limitations="FunctionSession cannot lock across processes: two functions give it no means to. Of two sign-ins "
        "of one user in two processes at the same moment, one may be missing in the list of that user's sessions "
        "until it is renewed.",
    )

    def __init__(
        self,
        *,
        load: Callable[[str], Any] | str,
        save: Callable[[str, str], Any] | str,
        delete: Callable[[str], Any] | str | None = None,
    ) -> None:
        super().__init__()
        self._load, self._save = _function("load", load), _function("save", save)
        self._delete = _function("delete", delete) if delete else None

    def load(self, key: str) -> Record | None:
        data = _call(self._load, key)
        if not data:
            return None
        return Record.unpack(key, data.encode("ascii", "replace") if isinstance(data, str) else bytes(data))

    def save(self, key: str, record: Record) -> None:
        _call(self._save, key, record.pack(key).decode())

    def remove(self, key: str) -> None:
        if self._delete:
            _call(self._delete, key)
        elif _call(self._load, key):
            _call(self._save, key, "")

    def quarantine(self, key: str) -> None:
        data = _call(self._load, key)
        if data:
            _call(self._save, f"unreadable:{key}", data)
        self.remove(key)

    def purge(self, limit: int) -> int:
        return 0

    def describe_location(self, key: str) -> str:
        return f"what {_name(self._load)}('{key}') gives"


class FunctionSession(Session):
    """A session wherever two functions of the site put it."""

    __slots__ = ()
    store_class = FunctionStore


def _function(option: str, given: Any) -> Callable[..., Any]:
    found = given
    if isinstance(given, str):
        module, _, name = given.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, ValueError, AttributeError) as error:
            raise ConfigError(f"{option} is {given!r}, which cannot be found: {error}") from error
    if not callable(found):
        raise ConfigError(f"{option} is {given!r}: it must be a function of the site")
    return found  # type: ignore[no-any-return]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _call(function: Callable[..., Any], *args: str) -> Any:
    """Call a function of the site's; any error of it is one of the store."""
    try:
        return function(*args)
    except Exception as error:
        raise Unavailable(f"{_name(function)} failed: {type(error).__name__}: {error}") from error
