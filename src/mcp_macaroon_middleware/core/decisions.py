"""What the engine answers: a `Decision` before a call, an `Outcome` after it. Plain data, judged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from ..model import Challenge, Charge, Edit, Effect, Redaction, Refusal, RequestContext, Verdict
from .binding import BoundCheck
from .plan import Match, Plan

REASONS: Final[dict[str, str]] = {
    "denied": "Access is not allowed.",
    "not_allowed": "Access is not allowed.",
    "caveat_invalid": "The token does not allow this.",
    "token_expired": "The token does not allow this.",
    "store_unavailable": "The policy could not be evaluated; try again later.",
    "audit_unavailable": "The call cannot be recorded, so it is refused; try again later.",
    "approval_unavailable": "This needs a person's approval, and nobody can be asked here.",
    "enforcer_contract": "The policy could not be evaluated.",
}


@dataclass(frozen=True, slots=True)
class After:
    """The after-checks on one call: those that are settled already, and those that must see the result."""

    settled: Tally | None = None
    open: tuple[tuple[Match, bool], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.open) or self.settled is not None


NOTHING_AFTER: Final = After()


@dataclass(slots=True, kw_only=True)
class Decision:
    """The engine's answer before a call.

    `after` says that an output rule applies: every door (errors, logs, progress, links) is to be held until `finish`.
    With `effect` ALLOW the intent is recorded, and exactly one of `finish` and `fail` must follow; otherwise the final
    record is written already. `narrowed` are rules that enforcers added for the rest of this request.
    """

    effect: Effect
    request: RequestContext
    plan: Plan
    refusal: Refusal | None = None
    challenges: tuple[Challenge, ...] = ()
    after: bool = False
    own_after: After = NOTHING_AFTER
    lent_after: After = NOTHING_AFTER
    narrowed: tuple[BoundCheck, ...] = ()
    lineage: tuple[str, ...] = ()
    started: float = 0.0
    coerced: bool = False
    closed: bool = False
    base: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        """Whether the component may run."""
        return self.effect is Effect.ALLOW

    @property
    def revision(self) -> str:
        """The revision of the policy that decided."""
        return self.plan.revision


NOTHING: Final = Redaction()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The engine's answer after a call: what of the result may leave.

    `applied` is what the adapter's `apply` made of the result. With `effect` DENY nothing of it leaves.
    """

    effect: Effect
    redaction: Redaction = NOTHING
    refusal: Refusal | None = None
    applied: Any = None


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

    def add(self, match: Match, verdict: Verdict, *, sure: bool) -> None:
        """Counts one verdict. A rule that only grants never refuses; one grants only if it surely applies."""
        check = match.check
        effect = verdict.effect
        self.facts.append(_fact(check, verdict))
        if check.may_grant and match.exposed and sure and effect is not Effect.DENY:
            self.granted = True
        if check.grants_only:
            return
        if effect is Effect.DENY:
            if self.denied is None or (check.enforcer.hides and not self.denied[0].enforcer.hides):
                self.denied = (check, verdict)
        elif effect is Effect.ASK:
            self.asks.append((check, verdict))
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

    @property
    def redaction(self) -> Redaction:
        """Everything that the verdicts withhold, united once all are in."""
        if self.united is None:
            self.united = Redaction.united(self.edits)
        return self.united

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


def refusal_for(check: BoundCheck, verdict: Verdict, *, hidden: bool) -> Refusal:
    """What the caller may know of a refusal: never rule text, never which caveat of a token failed (THREATS Q03)."""
    if check.from_token:
        return Refusal(code="token_insufficient", reason="The token does not allow this.", hidden=hidden)
    return Refusal(
        code=verdict.code or "denied",
        reason=verdict.reason or REASONS["denied"],
        policy=check.enforcer.name,
        retry_after=verdict.retry_after,
        hidden=hidden,
    )


def plain_refusal(code: str, *, hidden: bool = False, reason: str = "") -> Refusal:
    """A refusal by the engine itself."""
    return Refusal(code=code, reason=reason or REASONS.get(code, "Access is not allowed."), hidden=hidden)
