"""How many hashes of passwords are computed, and hashes that are cheap where that is not the question."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import argon2
import pytest

CHEAP = dataclasses.replace(argon2.profiles.RFC_9106_LOW_MEMORY, time_cost=1, memory_cost=64, parallelism=1)
DEARER = dataclasses.replace(CHEAP, memory_cost=128)
DEAREST = dataclasses.replace(CHEAP, memory_cost=256)


def line(password: str, parameters: argon2.Parameters = CHEAP) -> str:
    """Return a hash as it stands in [users]."""
    return argon2.PasswordHasher.from_parameters(parameters).hash(password)


class Computed:
    """Stands in front of argon2's C library and keeps the memory, in KiB, and passes of each computation."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.costs: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def argon2_hash(self, passes: int, memory: int, *rest: Any) -> Any:
        self.costs.append((memory, passes))
        return self._library.argon2_hash(passes, memory, *rest)

    def argon2_verify(self, encoded: Any, *rest: Any) -> Any:
        parameters = argon2.extract_parameters(argon2.low_level.ffi.string(encoded).decode())
        self.costs.append((parameters.memory_cost, parameters.time_cost))
        return self._library.argon2_verify(encoded, *rest)


@contextmanager
def computed() -> Iterator[list[tuple[int, int]]]:
    """What is computed meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        spy = Computed(argon2.low_level.lib)
        patch.setattr(argon2.low_level, "lib", spy)
        yield spy.costs
