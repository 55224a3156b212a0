"""What the engine answers: a `Decision` before a call, an `Outcome` after it. Plain data, judged elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..model import Challenge, Effect, Redaction, Refusal, RequestContext, Verdict
from .plan import BoundCheck, Match, Plan

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
    token_checks: tuple[Match, ...] = ()
    narrowed: tuple[BoundCheck, ...] = ()
    lineage: tuple[str, ...] = ()
    started: float = 0.0
    coerced: bool = False
    closed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        """Whether the component may run."""
        return self.effect is Effect.ALLOW

    @property
    def revision(self) -> str:
        """The revision of the policy that decided."""
        return self.plan.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The engine's answer after a call: what of the result may leave.

    `applied` is what the adapter's `apply` made of the result. With `effect` DENY nothing of it leaves.
    """

    effect: Effect
    redaction: Redaction = Redaction()
    refusal: Refusal | None = None
    applied: Any = None


@dataclass(slots=True)
class Tally:
    """Collects verdicts as they come and says what they come to: deny beats ask beats allow (law L1)."""

    denied: tuple[BoundCheck, Verdict] | None = None
    asks: list[tuple[BoundCheck, Verdict]] = field(default_factory=list)
    hits: list[tuple[BoundCheck, Verdict]] = field(default_factory=list)
    granted: bool = False

    def add(self, check: BoundCheck, verdict: Verdict, *, restricts: bool = True) -> None:
        """Counts one verdict; a rule that only grants never refuses."""
        self.hits.append((check, verdict))
        if not restricts:
            return
        if verdict.effect is Effect.DENY:
            if self.denied is None or (check.enforcer.hides and not self.denied[0].enforcer.hides):
                self.denied = (check, verdict)
        elif verdict.effect is Effect.ASK:
            self.asks.append((check, verdict))

    @property
    def effect(self) -> Effect:
        """The minimum of all verdicts."""
        if self.denied is not None:
            return Effect.DENY
        return Effect.ASK if self.asks else Effect.ALLOW


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


def hit_facts(hits: Sequence[tuple[BoundCheck, Verdict]]) -> list[dict[str, Any]]:
    """The rules that spoke, as a record writes them; a plain pass is its digest alone."""
    facts: list[dict[str, Any]] = []
    for check, verdict in hits:
        fact: dict[str, Any] = {"rule": check.view.text, "effect": verdict.effect.name.lower()}
        if verdict.code:
            fact["code"] = verdict.code
        if verdict.detail:
            fact["detail"] = verdict.detail
        if check.from_token:
            fact["token"] = True
        facts.append(fact)
    return facts
