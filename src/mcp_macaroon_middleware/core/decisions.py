"""What the engine answers: a `Decision` before a call, an `Outcome` after it. Plain data, judged elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..model import EMPTY, Challenge, Charge, Edit, Effect, Grant, Redaction, Refusal, RequestContext, Verdict
from ..tokens import VerifiedToken
from .asks import Asking, Call
from .binding import BoundCheck
from .legs import Leg
from .plan import Match, Plan

REASONS: Final[dict[str, str]] = {
    "denied": "Access is not allowed.",
    "not_allowed": "Access is not allowed.",
    "caveat_invalid": "The token does not allow this.",
    "token_expired": "The token does not allow this.",
    "store_unavailable": "The policy could not be evaluated; try again later.",
    "store_changed": "A file of the policy's store was changed from outside; try again.",
    "record_broken": "What is kept about this call cannot be read, so it is refused; try again later.",
    "limits_apart": "The limits of this call cannot be counted together, so it is refused; tell the operator.",
    "audit_unavailable": "The call cannot be recorded, so it is refused; try again later.",
    "approval_unavailable": "This needs a person's approval, and nobody can be asked here.",
    "approval_required": "This needs a person's approval first.",
    "approval_too_long": "This needs a person's approval, and it is too long to be shown whole.",
    "approval_cancelled": "The question was closed without an answer.",
    "approval_timeout": "Nobody answered the question in time.",
    "approval_invalid": "The question was answered with none of its choices.",
    "approval_failed": "The question could not be asked.",
    "approval_stale": "The question is no longer open, or was never asked.",
    "approver_is_requester": "Another person must agree to this.",
    "grant_used": "This approval has been used.",
    "request_changed": "The call is not the one that was asked about.",
    "declined": "The user has declined this.",
    "too_many_pending": "Too many questions have been asked already.",
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
    record is written already, but for ASK with `challenges`: those can be asked, and what comes of it ends the request.
    `narrowed` are rules that enforcers added for the rest of this request. `legs` are those that this request goes on
    with, `hand` the approvals that came with them, `held` the finished result that one of them held. `lacking` says
    that nothing but the token is in the way.
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
    token: VerifiedToken | None = field(default=None, repr=False)
    lacking: bool = False
    started: float = 0.0
    coerced: bool = False
    closed: bool = False
    base: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    deferred: bool = False
    asking: Asking | None = None
    legs: list[Leg] = field(default_factory=list)
    hand: list[Grant] = field(default_factory=list)
    charged: bool = False
    beyond: frozenset[tuple[BoundCheck, Charge]] = frozenset()
    held: bytes | None = field(default=None, repr=False)
    call: Call | None = None
    settled: set[str] = field(default_factory=set)
    prepared: dict[str, Leg] = field(default_factory=dict)
    weighed: dict[str, Tally] = field(default_factory=dict)

    def note(self, key: str, fact: dict[str, Any]) -> None:
        """Adds a fact to a list in the records to come."""
        self.facts.setdefault(key, []).append(fact)

    @property
    def ruled(self) -> bool:
        """Whether anything is to be judged, or noted, once there is a result."""
        settled = self.own_after is NOTHING_AFTER and self.lent_after is NOTHING_AFTER
        return not settled or bool(self.narrowed or self.legs)

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

    `applied` is what the adapter's `apply` made of the result. With `effect` DENY nothing of it leaves. With ASK the
    call is not finished: `challenges` can be asked, and `finish` follows again, with the answers or without.
    """

    effect: Effect
    redaction: Redaction = NOTHING
    refusal: Refusal | None = None
    applied: Any = None
    challenges: tuple[Challenge, ...] = ()


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
        return Redaction.united([*self.edits, *asked])

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
