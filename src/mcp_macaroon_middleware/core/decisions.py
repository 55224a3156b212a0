"""What the engine answers: a `Decision` before a call, an `Outcome` after it. Plain data, judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..model import EMPTY, Challenge, Charge, Effect, Grant, Redaction, Refusal, RequestContext, Verdict
from ..tokens import VerifiedToken
from .asks import Asking, Call
from .binding import BoundCheck
from .legs import Leg
from .plan import Match, Plan
from .tally import Tally

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
