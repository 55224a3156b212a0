"""Wall time that nobody can take back by setting a clock, and that is right again after a clock was wrong for a while.

Tokens and rules end by it. What the store keeps ends by the store's own time, and never by this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ..plugin.ticks import ticks

STEP: Final = 1.0
"""Seconds that a wall clock may drift between two readings; what is more was set."""
LEAST: Final = 3600.0
MOST: Final = 86_400.0


class SystemClock:
    """The operating system's clock, weighed against the seconds that pass (THREATS FI10, D07).

    A clock that is set forward is believed at once: at worst something ends early, and once the clock is put right that
    is over at once as well. One that is set back is believed only when it has told that time for as long as the time
    before it had been told, an hour at least and a day at most. Until then time goes on from where it was, and then
    stands still until the clock has caught up; but where it was set back by more than a day, it is followed at once.

    So nothing that has ended begins again where a clock is set back by up to a day. Whoever can set it back further can
    also start the server anew, which forgets all of this. A clock that was ahead for a minute costs that minute, or an
    hour where it was the server's first minute.
    """

    __slots__ = ("_at", "_floor", "_kept", "_last", "_lock", "_passed", "_read", "_shown", "_told", "_trust")

    def __init__(self, read: Callable[[], float] = time.time, passed: Callable[[], float] = ticks) -> None:
        self._read = read
        self._passed = passed
        self._lock = threading.Lock()
        self._at = passed()
        self._last = self._kept = read() - self._at
        self._told = self._trust = self._shown = self._floor = 0.0

    def now(self) -> datetime:
        """An aware UTC datetime."""
        with self._lock:
            passed = max(self._passed(), self._at)
            self._weigh(self._read() - passed, passed)
            instant = max(passed + max(self._last, self._kept), self._floor)
            if not self._shown - STEP < instant < self._shown:  # a clock that drifts never goes back
                self._shown = instant
            return datetime.fromtimestamp(self._shown, UTC)

    def _weigh(self, offset: float, passed: float) -> None:
        """Counts how long each time has been told: `offset` is what the wall clock says beyond the seconds passed."""
        since = passed - self._at
        if abs(self._last - self._kept) <= STEP:
            self._trust = min(self._trust + since, MOST)
        else:
            self._told += since
        if abs(offset - self._kept) <= STEP:
            self._kept = offset
        elif abs(offset - self._last) > STEP:
            self._told = 0.0
        elif self._told >= max(self._trust, LEAST):
            if self._kept - offset <= MOST:
                self._floor = max(self._floor, passed + self._kept)
            self._kept, self._trust = offset, min(self._told, MOST)
        self._last, self._at = offset, passed
