"""What forbids, kept in memory too, so that deleting a record from the store permits nothing here (law L5)."""

from __future__ import annotations

import math
from typing import Final

from ..plugin.ticks import ticks

REMEMBERED: Final = 100_000


class Forbidden:
    """What forbids, by name, for a while, in memory; bounded: what ends first is forgotten first."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._ends: dict[str, float] = {}
        self._most = most

    def add(self, name: str, seconds: float) -> None:
        """Remembers a name for that long."""
        now = ticks()
        self._ends[name] = max(self._ends.get(name, 0.0), now + seconds)
        if len(self._ends) > self._most:
            kept = sorted(self._ends.items(), key=lambda item: item[1])[self._most // 4 :]
            self._ends = {key: end for key, end in kept if end > now}

    def discard(self, name: str) -> None:
        """Forgets a name that forbids nothing after all."""
        self._ends.pop(name, None)

    def __contains__(self, name: str) -> bool:
        end = self._ends.get(name)
        if end is not None and end <= ticks():
            del self._ends[name]
            return False
        return end is not None


class Latest:
    """Up to which instant each name is forbidden, in memory; bounded: the earliest instants are forgotten first.

    An instant only ever moves on, in whatever order it is told.
    """

    def __init__(self, most: int = REMEMBERED) -> None:
        self._instants: dict[str, float] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._instants)

    def of(self, name: str) -> float:
        """The instant, in seconds; before all time for a name that was never told."""
        return self._instants.get(name, -math.inf)

    def tell(self, name: str, instant: float) -> None:
        """Moves the instant of a name on, if this one is later."""
        self._instants[name] = max(self.of(name), instant)
        if len(self._instants) > self._most:
            kept = sorted(self._instants.items(), key=lambda item: item[1])[self._most // 4 :]
            self._instants = dict(kept)
