"""How much is measured: `--size`."""

from __future__ import annotations

from dataclasses import dataclass

from .stage import BACKENDS


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run.

    Attributes:
        rounds: batches of each candidate.
        batch: requests of a batch.
        seconds: how long a measurement over HTTP takes.
        served: the backends that are measured over HTTP.
        hold: seconds for which a session is held while others wait.
        live: how many live sessions there are, from few to many.
        expired: sessions that a cleaning removes.
        visits: anonymous visits.
        made: sessions that are made and expire.
    """

    rounds: int
    batch: int
    seconds: float
    served: tuple[str, ...]
    hold: float
    live: tuple[int, ...]
    expired: int
    visits: int
    made: int


_ALL = tuple(BACKENDS)
SIZES = {
    "tiny": Sizes(1, 2, 0.1, ("file",), 0.3, (10, 20), 20, 20, 20),
    "usual": Sizes(40, 50, 3, _ALL, 2, (100, 10_000, 200_000), 100_000, 10_000, 4_000),
    "full": Sizes(200, 50, 10, _ALL, 2, (100, 10_000, 200_000), 100_000, 1_000_000, 100_000),
}
