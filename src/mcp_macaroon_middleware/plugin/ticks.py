"""Seconds that pass, for stores and whatever else must notice how long ago something was. It never tells the date."""

from __future__ import annotations

import sys
import time
from typing import Final

_UPTIME: Final[int | None] = getattr(
    time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None) if sys.platform == "darwin" else None
)
"""The clock that goes on while the machine sleeps; `time.monotonic()` stands still then on Linux and macOS."""


def ticks() -> float:
    """Seconds of this machine's uptime, sleep included where the system counts it; they never go back.

    Setting the wall clock changes nothing about them.
    """
    return time.clock_gettime(_UPTIME) if _UPTIME is not None else time.monotonic()
