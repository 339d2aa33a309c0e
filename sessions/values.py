"""The dictionary that a session is to a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

_missing: Any = object()


class Values(ABC):
    """A dict in all but `len`. It is loaded by being used: see `_for_reading` and `_for_writing`.

    `collections.abc.MutableMapping` would write most of this by itself. It also makes `==`, `len` and `bool` those of a
    dict, which in CherryPy they are not.
    """

    @abstractmethod
    def _for_reading(self) -> dict[Any, Any]:
        """The values, loaded."""

    @abstractmethod
    def _for_writing(self) -> dict[Any, Any]:
        """The values, loaded and open to changes."""

    def __getitem__(self, key: Any) -> Any:
        return self._for_reading()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._for_writing()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._for_writing()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._for_reading()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._for_reading())

    def __bool__(self) -> bool:
        """Whether the session holds data."""
        return bool(self._for_reading())

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        return self._for_reading().get(key, default)

    def pop(self, key: Any, default: Any = _missing) -> Any:
        """Remove `key` and return its value, or `default` if given.

        Raises:
            KeyError: no such key and no default.
        """
        data = self._for_writing()
        return data.pop(key) if default is _missing else data.pop(key, default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, which becomes `default` if there is none."""
        return self._for_writing().setdefault(key, default)

    def update(self, other: Mapping[Any, Any] | None = None, /, **values: Any) -> None:
        """Take over all values of `other`, and the named ones."""
        self._for_writing().update(other or {}, **values)

    def clear(self) -> None:
        """Remove all values. The session itself stays; `Session.delete` ends it."""
        self._for_writing().clear()

    def keys(self) -> KeysView[Any]:
        """The keys."""
        return self._for_reading().keys()

    def values(self) -> ValuesView[Any]:
        """The values."""
        return self._for_reading().values()

    def items(self) -> ItemsView[Any, Any]:
        """Pairs of key and value."""
        return self._for_reading().items()
