"""Says that a key of a store held what the store did not write: one event each, and none for every call.

It never shows the key, which may name a person, nor what was there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..plugin import MacaroonError

logger: Final = logging.getLogger("mcp_macaroon_middleware")

BROKEN: Final = "record_broken"
"""The code of what is refused since a key holds something else than its store wrote there, and the event's name."""
QUIET: Final = 60.0
"""Seconds between two events about values, which stay where they are and are met again and again."""

Event = Callable[[str, Mapping[str, Any]], None]


class Broken:
    """Tells `event`, and the log, of what was found."""

    __slots__ = ("_event", "_quiet_until")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._quiet_until = 0.0

    def moved(self, what: str, names: Sequence[bytes]) -> None:
        """Keys were moved aside, to `names`; nobody else finds them again. `what` is `counter` or `index`."""
        for name in names:
            there = bytes(name).decode("ascii", "backslashreplace")
            logger.error("a stored %s was not written by this store; it lies aside now, as %s", what, there)
            self._tell({"what": what, "moved_to": there})

    def met(self) -> None:
        """A value cannot be read. It stays: it may be what forbids something."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logger.error("a stored value was not written by this store; what needs it is refused until it is gone")
            self._tell({"what": "value"})

    def _tell(self, facts: Mapping[str, Any]) -> None:
        try:
            self._event(BROKEN, facts)
        except MacaroonError:
            logger.error("a broken record of the store could not be recorded")
