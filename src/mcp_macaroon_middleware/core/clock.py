"""Wall time that never goes back while the process lives, so that nothing expired comes to life again."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class SystemClock:
    """The operating system's clock, held at its highest reading (THREATS FI10, D07)."""

    __slots__ = ("_highest", "_read")

    def __init__(self, read: Callable[[], float] = time.time) -> None:
        self._read = read
        self._highest = 0.0

    def now(self) -> datetime:
        """An aware UTC datetime, never before an earlier answer."""
        self._highest = max(self._highest, self._read())
        return datetime.fromtimestamp(self._highest, UTC)
