"""Times of day, weekdays and zones as rules write them, and whether a wall clock stands within them. No clock is read.

Everything is compared on the wall clock of one zone, to the minute: `start <= t < end`.

- A window with `start` after `end` runs over midnight and belongs to the day on which it begins: `22:00` to `06:00` on
  `fri` holds on Saturday at 01:00, and not on Friday at 01:00.
- Where clocks go forward, times that the wall clock skips do not happen: a window from 02:30 begins when the clock
  jumps to 03:00. Where they go back, an hour happens twice and counts both times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

DAY: Final = 24 * 60
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME: Final = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?\Z|([0-9]{2})([0-9]{2})\Z")


def parse_time(value: object) -> int:
    """`9`, `09:30`, `0930` or a whole number of hours, as minutes after midnight. Raises `ValueError`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _TIME.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{_short(value)} is no time of day; write 9, 09:30 or 0930")
    hour, minute = int(match[1] or match[3]), int(match[2] or match[4] or 0)
    if minute > 59 or hour * 60 + minute > DAY:
        raise ValueError(f"{_short(value)} is no time of day; they run from 00:00 to 24:00")
    return hour * 60 + minute


def time_text(minutes: int) -> str:
    """Minutes after midnight as `HH:MM`."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def parse_days(value: object) -> tuple[int, ...]:
    """`mon-fri`, `sat,sun` or a list of days, as weekdays from 0, Monday; nothing is every day. Raises `ValueError`."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{_short(value)} names no days; write mon-fri or sat,sun")
    found = {day for part in parts if part.strip() for day in _span(part.strip().lower())}
    return tuple(sorted(found)) or tuple(range(7))


def days_text(days: Sequence[int]) -> str:
    """Weekdays as `parse_days` reads them; every day is the empty text."""
    return "" if len(days) == 7 else ",".join(DAYS[day] for day in days)


def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Berlin`. Raises `ValueError` where this machine knows none."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"no time zone named {_short(name)}; write it like Europe/Berlin") from None


def within(at: datetime, start: int, end: int, days: Sequence[int]) -> bool:
    """Whether the wall clock `at` stands in the window; `start` and `end` are minutes after midnight, never equal."""
    now, today = at.hour * 60 + at.minute, at.weekday()
    if start < end:
        return today in days and start <= now < end
    return (now >= start and today in days) or (now < end and (today - 1) % 7 in days)


def _span(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    begin, end = _day(first), _day(last if dash else first)
    return [(begin + step) % 7 for step in range((end - begin) % 7 + 1)]


def _day(text: str) -> int:
    name = text.strip()
    for known in (DAYS, _LONG):
        if name in known:
            return known.index(name)
    raise ValueError(f"{_short(text)} is no day; write mon-fri or sat,sun, and times with minutes as 09:00:17:30")


def _short(value: Any) -> str:
    return repr(value)[:40]
