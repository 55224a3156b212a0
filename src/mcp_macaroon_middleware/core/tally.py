"""Collects the verdicts of a request as they come, and says what they come to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from ..model import Charge, Edit, Effect, Redaction, Verdict
from .binding import BoundCheck


@dataclass(slots=True)
class Tally:
    """Collects verdicts as they come and says what they come to: deny beats ask beats allow (law L1).

    `facts` are what the records say of the verdicts; `granted` counts under `default: deny`.
    """

    denied: tuple[BoundCheck, Verdict] | None = None
    asks: list[tuple[BoundCheck, Verdict]] = field(default_factory=list)
    charges: list[tuple[BoundCheck, Charge]] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
    facts: list[dict[str, Any] | str] = field(default_factory=list)
    granted: bool = False
    united: Redaction | None = None

    def add(self, check: BoundCheck, verdict: Verdict, *, grants: bool) -> None:
        """Counts one verdict. A rule that only grants never refuses; `grants` says whether it surely applies, by the
        public name."""
        effect = verdict.effect
        self.facts.append(_fact(check, verdict))
        if check.may_grant and grants and effect is not Effect.DENY:
            self.granted = True
        if check.grants_only:
            return
        if effect is Effect.DENY:
            if self.denied is None or (check.enforcer.hides and not self.denied[0].enforcer.hides):
                self.denied = (check, verdict)
        elif effect is Effect.ASK:
            self.asks.append((check, verdict))
        if effect is not Effect.ASK:
            self.edits.extend(verdict.edits)
        self.caveats.extend(verdict.caveats)
        self.charges.extend((check, charge) for charge in verdict.charges)

    def copy(self) -> Tally:
        """A tally that may be added to without changing this one."""
        return Tally(
            self.denied,
            self.asks.copy(),
            self.charges.copy(),
            self.edits.copy(),
            self.caveats.copy(),
            self.facts.copy(),
            self.granted,
        )

    def redaction(self, released: Collection[int] = ()) -> Redaction:
        """Everything that the verdicts withhold, united; of the questions, by their numbers, all but the released."""
        if not self.asks:
            if self.united is None:
                self.united = Redaction.united(self.edits)
            return self.united
        asked = [edit for number, (_, v) in enumerate(self.asks) if number not in released for edit in v.edits]
        return Redaction.united([*self.edits, *asked, *self._unasked(released)])

    def _unasked(self, released: Collection[int]) -> list[Edit]:
        """What a released question did not speak of: a field that no document had may stand in another rendering."""
        verdicts = [v for number, (_, v) in enumerate(self.asks) if number in released]
        asked = [(v.question.fields, e) for v in verdicts if v.question is not None for e in v.edits]
        rest = [tuple(path for path in e.withhold if path not in fields) for fields, e in asked if fields]
        return [Edit(withhold=paths) for paths in rest if paths]

    @property
    def effect(self) -> Effect:
        """The minimum of all verdicts."""
        if self.denied is not None:
            return Effect.DENY
        return Effect.ASK if self.asks else Effect.ALLOW


def _fact(check: BoundCheck, verdict: Verdict) -> dict[str, Any] | str:
    """One verdict as a record writes it: a plain pass is the rule's text alone."""
    if verdict.effect is Effect.ALLOW and not verdict.code and not verdict.detail and not check.from_token:
        return check.view.text
    fact: dict[str, Any] = {"rule": check.view.text, "effect": EFFECTS[verdict.effect]}
    if verdict.code:
        fact["code"] = verdict.code
    if verdict.detail:
        fact["detail"] = verdict.detail
    if check.from_token:
        fact["token"] = True
    return fact


EFFECTS: Final = {effect: effect.name.lower() for effect in Effect}
