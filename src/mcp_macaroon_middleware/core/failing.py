"""Notices a plugin whose enforcer fails time after time, and tells the audit: once when it is clear, once when it is
over. It changes no decision: each failure has refused already (law L2), and no enforcer is left out for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import AuditUnavailable
from .binding import BoundCheck

logger: Final = logging.getLogger("mcp_macaroon_middleware")

IN_A_ROW: Final = 5
"""How many failures without an answer between them make an event."""

Event = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class _Row:
    """Failures since the last answer, and whether they were told."""

    count: int = 0
    told: bool = False


class Failing:
    """Counts the failures of each enforcer. Safe for threads; what cannot be recorded is tried again at the next."""

    def __init__(self, event: Event | None) -> None:
        self._event = event
        self._rows: dict[tuple[str, str], _Row] = {}
        self._lock = threading.Lock()

    def failed(self, bound: BoundCheck) -> None:
        """One more failure in a row."""
        with self._lock:
            row = self._rows.setdefault(_key(bound), _Row())
            row.count += 1
            due = row.count >= IN_A_ROW and not row.told
            row.told = row.told or due
            count = row.count
        if due and not self._tell("plugin_failing", bound, count):
            row.told = False

    def answered(self, bound: BoundCheck) -> None:
        """An answer, whatever it is: the row ends."""
        if not self._rows:
            return
        with self._lock:
            row = self._rows.pop(_key(bound), None)
        if row is not None and row.told:
            self._tell("plugin_recovered", bound, row.count)

    def _tell(self, event: str, bound: BoundCheck, count: int) -> bool:
        """Writes the event: which plugin of which distribution, and how often. Never what it said (law L7)."""
        logger.warning("%s: %s of plugin %s, %d in a row", event, bound.enforcer.name, bound.plugin, count)
        facts = {"plugin": bound.plugin, "distribution": bound.distribution, "version": bound.version}
        try:
            if self._event is not None:
                self._event(event, {**facts, "policy": bound.enforcer.name, "count": count})
        except AuditUnavailable:
            return False
        return True


def _key(bound: BoundCheck) -> tuple[str, str]:
    return bound.plugin, bound.enforcer.name
