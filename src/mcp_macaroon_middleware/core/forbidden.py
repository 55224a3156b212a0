"""What forbids, kept in memory too, so that deleting a record from the store permits nothing here (law L5)."""

from __future__ import annotations

import time
from typing import Final

REMEMBERED: Final = 100_000


class Forbidden:
    """What forbids, by name, for a while, in memory; bounded: what ends first is forgotten first."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._ends: dict[str, float] = {}
        self._most = most

    def add(self, name: str, seconds: float) -> None:
        """Remembers a name for that long."""
        now = time.monotonic()
        self._ends[name] = max(self._ends.get(name, 0.0), now + seconds)
        if len(self._ends) > self._most:
            kept = sorted(self._ends.items(), key=lambda item: item[1])[self._most // 4 :]
            self._ends = {key: end for key, end in kept if end > now}

    def discard(self, name: str) -> None:
        """Forgets a name that forbids nothing after all."""
        self._ends.pop(name, None)

    def __contains__(self, name: str) -> bool:
        end = self._ends.get(name)
        if end is not None and end <= time.monotonic():
            del self._ends[name]
            return False
        return end is not None
