"""Fixtures that several tests of the package ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sessions.backends import lease
from tests.support import application


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Collect what the package logs."""
    with application.logged() as lines:
        yield lines


@pytest.fixture
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew leases all the time."""
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """End leases after a second, whatever their holders do."""
    monkeypatch.setattr(lease, "SECONDS", 1)
    monkeypatch.setattr(lease, "RENEWED_FOR", 0.0)
