"""Writes a decision's records: the intent, and exactly one final record a request (law L6)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from ..model import RequestContext
from .audit import AuditLog
from .decisions import Decision
from .tally import Tally

WITHHELD: Final = {"outcome": "withheld", "code": "audit_unavailable"}
REFUSED: Final = {"outcome": "denied", "code": "audit_unavailable"}


class Recorder:
    """The engine's pen. Raises `AuditUnavailable` where a record that must be written cannot be."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def note(self, decision: Decision, tally: Tally, key: str = "rules") -> None:
        """Keeps what was judged, and the arguments' digests, for the records to come."""
        if tally.facts:
            decision.facts[key] = tally.facts
        if decision.raw and not decision.request.arguments and "arguments" not in decision.facts:
            decision.facts["arguments"] = self._audit.digests(decision.raw)

    def intent(self, decision: Decision) -> None:
        """The write-ahead record: who is about to run what, with which arguments; the rules follow with the end."""
        decision.base = self._base(decision)
        self._audit.write({"event": "intent", **decision.base})

    def final(self, decision: Decision, outcome: str, **facts: Any) -> None:
        """The final record. A second one for the same request is never written."""
        if decision.closed:
            return
        decision.closed = True
        duration = round((time.perf_counter() - decision.started) * 1000, 3)
        self._audit.write(
            {"event": "final", **self._facts(decision), "outcome": outcome, "duration_ms": duration, **facts},
            otherwise=WITHHELD if outcome == "ok" else None,
        )

    def observed(self, request: RequestContext, revision: str, facts: Mapping[str, Any], *, must: bool) -> None:
        """The final record of a request that runs no component (a list, a notification).

        `must`: the request is refused if the record cannot be written.
        """
        self._audit.write(
            {"event": "final", **self._audit.request_facts(request, ()), "revision": revision, **facts},
            otherwise=REFUSED if must else None,
        )

    def _facts(self, decision: Decision) -> dict[str, Any]:
        return {**(decision.base or self._base(decision)), **decision.facts}

    def _base(self, decision: Decision) -> dict[str, Any]:
        """What every record of this request says: who, what, with which arguments, under which revision."""
        facts = self._audit.request_facts(decision.request, decision.lineage)
        if "arguments" in decision.facts:
            facts["arguments"] = decision.facts["arguments"]
        facts["revision"] = decision.plan.revision
        return facts
