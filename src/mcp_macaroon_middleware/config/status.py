"""What a runtime says about itself: which revision serves, since when, and whether a newer file was refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The revision that serves. `stale_since` is when the file first could not be used after it; None: it is current.

    `last_error` says why, and never holds a secret. `reloads` and `failures` count since the start.
    """

    revision: str
    since: datetime
    stale_since: datetime | None = None
    last_error: str = ""
    reloads: int = 0
    failures: int = 0

    @classmethod
    def started(cls, revision: str) -> Status:
        """The status of a runtime that has just started."""
        return cls(revision=revision, since=datetime.now(UTC))

    def current(self) -> Status:
        """The file is in force as it is."""
        return replace(self, stale_since=None, last_error="")

    def reloaded(self, revision: str) -> Status:
        """Another revision is in force."""
        return replace(self.current(), revision=revision, since=datetime.now(UTC), reloads=self.reloads + 1)

    def failed(self, why: str) -> Status:
        """The file cannot be used; the old revision stays."""
        return replace(
            self,
            stale_since=self.stale_since or datetime.now(UTC),
            last_error=why,
            failures=self.failures + 1,
        )

    def as_json(self) -> dict[str, Any]:
        """The status as plain JSON values, times as ISO 8601 in UTC."""
        return {
            "revision": self.revision,
            "since": self.since.isoformat(),
            "stale_since": self.stale_since.isoformat() if self.stale_since else None,
            "last_error": self.last_error,
            "reloads": self.reloads,
            "failures": self.failures,
        }
