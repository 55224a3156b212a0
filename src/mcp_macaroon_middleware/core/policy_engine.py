"""How a request becomes a decision. Read `decide` and `finish` from top to bottom; the rest is their steps.

1. Rules are looked up by phase and component; a token's caveats are rules of their own book.
2. Checks that need no arguments are judged first, then the arguments are coerced once and the rest is judged.
3. Every check is isolated and judged singly; verdicts combine by minimum: deny, else ask, else allow.
4. An ask becomes an allow by approvals alone: those that this request brings, and those that are kept (`consent`).
   Otherwise the decision hands out challenges, and the same flow begins again with their answers.
5. Limits are charged last, all or none; the intent is recorded; only then may the component run.
6. After the run the after-checks yield edits, which can only withhold; they are united and applied once.

The engine never waits for a person, never runs a component and knows no framework.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ..errors import ArgumentsInvalid, AuditUnavailable, KeyRingError, ResultWithheld, RuleError, StoreUnavailable
from ..fields import redact
from ..model import (
    EMPTY,
    Action,
    ArgumentFacts,
    Challenge,
    Effect,
    Phase,
    Principal,
    Redaction,
    Refusal,
    RequestContext,
    Result,
)
from ..plugin.contract import Clock, Store
from ..plugin.namespace import Namespaced
from ..rules import parse_rule
from ..tokens import KeyRing, VerifiedToken
from . import agnostic, charging, visibility
from .apart import apart
from .approvals import Approvals
from .approvers import Approvers
from .asks import Ask, Asking
from .audit import AuditLog, principal_facts
from .binding import BoundCheck, RuleProblem
from .caveats import CaveatBooks
from .checks import Runner
from .clock import SystemClock
from .consent import Consent
from .decisions import After, Decision, Outcome, plain_refusal, refusal_for
from .judging import Judge
from .plan import NO_MATCHES, Match, Matches, Plan, Rulebook
from .quotas import LentStore, Quotas
from .records import Recorder
from .revocation import Revocations
from .tally import Tally

__all__ = ["Decision", "Outcome", "PolicyEngine", "RequestContext"]

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Arguments = Callable[[], Awaitable[Mapping[str, Any] | ArgumentFacts]]
Apply = Callable[[Redaction], Any]


class PolicyEngine:
    """Decides under one plan at a time; `adopt` swaps it, and a request keeps the plan it began with."""

    def __init__(
        self,
        plan: Plan,
        *,
        store: Store,
        audit: AuditLog,
        clock: Clock | None = None,
        keys: KeyRing | None = None,
        approvers: Approvers | None = None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._clock = clock or SystemClock()
        self._audit = audit
        self._pen = Recorder(audit)
        self._handles: dict[str, Store] = {}
        self._quotas = Quotas(store, self._clock)
        self._runner = Runner(self._clock, self._handle, audit.event)
        self.judge = Judge(self._runner, self._clock)
        self.caveats = CaveatBooks()
        self._limits = charging.Limits(store, self._quotas)
        self._calls = agnostic.OpenCalls()
        approvals = None
        if keys is not None:
            approvals = Approvals(keys=keys, store=store, audience=plan.settings.audience, event=audit.event)
        self._approvals = approvals
        self.consent = Consent(approvals, approvers or Approvers())

    def __repr__(self) -> str:
        return f"PolicyEngine({self._plan!r})"

    @property
    def plan(self) -> Plan:
        """The plan that new requests are decided under."""
        return self._plan

    @property
    def clock(self) -> Clock:
        """The clock that expiries are judged by."""
        return self._clock

    @property
    def audit(self) -> AuditLog:
        """Where records go."""
        return self._audit

    @property
    def revocations(self) -> Revocations:
        """What is revoked. Raises `KeyRingError` for an engine without keys."""
        if self._approvals is None:
            raise KeyRingError("revocations need keys")
        return self._approvals.revocations

    def adopt(self, plan: Plan) -> None:
        """Requests that begin from now on are decided under `plan`."""
        self._plan, self.caveats = plan, CaveatBooks()

    def close(self) -> None:
        """Lets go of worker threads."""
        self._runner.close()

    # --- before the call ------------------------------------------------------------------------------------------

    async def decide(
        self,
        request: RequestContext,
        *,
        token: VerifiedToken | None = None,
        arguments: Arguments | None = None,
        raw: Mapping[str, Any] | None = None,
        deferred: bool = False,
        asking: Asking | None = None,
    ) -> Decision:
        """Judges a request before its component runs.

        `arguments` gives the arguments in the component's own values; it is called at most once, and only if a rule
        looks at them. Without it `request.arguments` are judged. `raw` are the arguments as sent, for the audit alone.
        `deferred`: they are not known yet, and `rejudge` follows, before the component itself runs. `asking` says how
        people can be asked; without it nobody is, and what needs an approval that is not there is refused. With it the
        decision may be ASK with `challenges`: `pose` each, get it answered, and decide again with `asking.answered`.
        Never raises for a policy's sake: what goes wrong refuses. `ArgumentsInvalid` from `arguments` is raised again,
        after its record, so that the caller can say what was wrong with them.
        """
        decision = Decision(
            effect=Effect.DENY,
            request=request.replace(token_id=token.lineage[0]) if token is not None and token.lineage else request,
            plan=self._plan,
            lineage=token.lineage if token is not None else (),
            token=token,
            started=time.perf_counter(),
            raw=raw or EMPTY,
            deferred=deferred,
        )
        try:
            return await self._decide(decision, token, arguments, asking)
        except ArgumentsInvalid as error:
            self._refused(decision, plain_refusal(error.code), detail=error.code)
            raise
        except StoreUnavailable as error:
            return self._refused(decision, plain_refusal(error.code))
        except RuleError as error:
            return self._refused(decision, plain_refusal("enforcer_contract", reason=NOT_EVALUATED), detail=str(error))
        except AuditUnavailable as error:
            return self._refused(decision, plain_refusal(error.code))
        except asyncio.CancelledError:
            await self.fail(decision, "cancelled")
            raise
        except Exception as error:
            logger.error("a decision failed: %s", type(error).__name__)
            return self._refused(decision, plain_refusal("internal", reason=NOT_EVALUATED))

    async def _decide(
        self, decision: Decision, token: VerifiedToken | None, arguments: Arguments | None, asking: Asking | None
    ) -> Decision:
        plan, request = decision.plan, decision.request
        if token is not None and token.expires is not None and self._clock.now() >= token.expires:
            return self._refused(decision, plain_refusal("token_expired"))
        refusal = await self.consent.resume(decision, asking) if asking is not None else None
        if refusal is not None:
            return self._refused(decision, refusal)
        book = self.caveats.of(token, plan) if token is not None else NO_CAVEATS
        own = plan.book.lookup(Phase.BEFORE, request.component)
        lent = book.lookup(Phase.BEFORE, request.component) if token is not None else NO_MATCHES
        operator = self._begun(own, request) or await self._begin(plan, own, request)
        holder = self._begun(lent, request) or await self._begin(plan, lent, request)
        if self._verdict(decision, operator, holder) is not Effect.DENY and not decision.deferred:
            for matches, tally in ((own, operator), (lent, holder)):
                if matches.arguments:
                    await self._look(decision, matches.arguments, tally, arguments)
            if operator.caveats:
                await self._narrow(decision, operator, arguments)
        if holder.caveats:  # a rule of a token returned rules: nothing holds those to the token, so nothing may pass
            return self._refused(decision, plain_refusal("enforcer_contract", reason=NOT_EVALUATED))
        effect = self._verdict(decision, operator, holder)
        self._pen.note(decision, operator)
        self._pen.note(decision, holder, "caveats")
        if effect is Effect.DENY:
            return self._refuse(decision, operator, holder)
        limits = operator.charges + holder.charges
        if effect is Effect.ASK or decision.legs or any(line.effect is Effect.ASK for _, line in limits):
            refused = await self._agreed(decision, operator, holder, arguments)
            if refused is not None:
                return refused
        self._after(decision, book)
        if asking is not None and (decision.own_after.open or decision.lent_after.open or decision.narrowed):
            await self._coerce(decision, arguments)  # a question about the result shows them
        if limits and not decision.charged:
            refusal = await self._limits.charge(decision, operator, holder, decision.beyond)
            if refusal is not None:
                return self._refused(decision, refusal)
            decision.charged = True
        self._pen.intent(decision)
        decision.effect = Effect.ALLOW
        return decision

    async def _agreed(
        self, decision: Decision, operator: Tally, holder: Tally, arguments: Arguments | None
    ) -> Decision | None:
        """Whether everybody who must has agreed; else the decision that asks or refuses. Limits are looked at first."""
        await self._coerce(decision, arguments)
        refusal = self.consent.mismatch(decision)
        if refusal is not None:
            return self._refused(decision, refusal)
        tallies = (holder,) if decision.plan.settings.mode == "shadow" else (operator, holder)
        lines = [] if decision.charged else [line for tally in tallies for line in tally.charges]
        asks = self.consent.asks(decision, [pair for tally in tallies for pair in tally.asks])
        more = charging.questions(decision, lines)
        find = self.consent.find(decision, Phase.BEFORE, [*asks, *more.values()])
        if more:  # what they ask depends on both: one round trip
            found, passed = await asyncio.gather(find, self._limits.look(decision, lines))
        else:
            found, passed = await find, []
        asks += [more[line] for line in passed if line in more]
        standing = self.consent.standing(decision, asks, found)
        if not (more or standing.settled):
            passed = await self._limits.look(decision, lines)
        closed = [line for line in passed if line not in more]
        refusal = await self._limits.refused(decision, closed) if closed else None
        if refusal is not None:
            return self._refused(decision, refusal)
        refusal = await self.consent.before(decision, standing)
        if refusal is not None:
            return self._refused(decision, refusal)
        decision.beyond = frozenset(passed)
        if not decision.challenges:
            return None
        decision.effect, decision.refusal = Effect.ASK, plain_refusal("approval_required")
        return decision

    def _begun(self, matches: Matches, request: RequestContext) -> Tally | None:
        """What the checks come to, where all of them are constant: nothing will be added to it."""
        if matches.free or matches.arguments:
            return None
        summary = self.judge.summary(matches, request)
        return None if summary.caveats else summary

    async def _begin(self, plan: Plan, matches: Matches, request: RequestContext) -> Tally:
        """What the checks that need no arguments come to."""
        tally = self.judge.summary(matches, request).copy()
        if matches.free:
            await self.judge.judge(self.judge.applying(plan, matches.free, request), request, tally)
        return tally

    async def _look(
        self, decision: Decision, matches: Sequence[Match], tally: Tally, arguments: Arguments | None
    ) -> None:
        """Judges checks that look at arguments; these are asked for once, and only if such a check applies."""
        applying = self.judge.applying(decision.plan, matches, decision.request)
        if not applying:
            return
        await self._coerce(decision, arguments)
        await self.judge.judge(applying, decision.request, tally)

    @staticmethod
    async def _coerce(decision: Decision, arguments: Arguments | None) -> None:
        """The arguments in the component's own values, once, where they can be known."""
        if arguments is not None and not decision.coerced and not decision.deferred:
            decision.request = decision.request.told(await arguments())
            decision.coerced = True

    async def _narrow(self, decision: Decision, tally: Tally, arguments: Arguments | None) -> None:
        """Binds the rules that enforcers returned and judges those that speak of this call; they can only narrow."""
        read = 0
        while read < len(tally.caveats):
            if len(tally.caveats) > MAX_RETURNED:
                raise RuleError("enforcers returned too many caveats")
            fresh = [_bind_returned(text, decision.plan) for text in tally.caveats[read:]]
            read = len(tally.caveats)
            decision.narrowed += tuple(fresh)
            matches = Rulebook(fresh).lookup(Phase.BEFORE, decision.request.component)
            await self._look(decision, matches.folded + matches.open, tally, arguments)

    def _verdict(self, decision: Decision, operator: Tally, holder: Tally) -> Effect:
        """The minimum of everything judged so far; in shadow mode the operator's rules are noted, not enforced."""
        effect = operator.effect if self._granted(decision.plan, operator) else Effect.DENY
        if decision.plan.settings.mode == "shadow":
            if effect is not Effect.ALLOW:
                decision.facts["shadow"] = _shadow(effect, operator)
            effect = Effect.ALLOW
        return min(effect, holder.effect)

    @staticmethod
    def _granted(plan: Plan, operator: Tally) -> bool:
        return operator.granted or plan.settings.default is Action.ALLOW

    def _after(self, decision: Decision, book: Rulebook) -> None:
        """Finds the after-checks now, so that the adapter knows whether to hold the doors."""
        plan, request = decision.plan, decision.request
        decision.own_after = self.judge.after(plan, plan.book.lookup(Phase.AFTER, request.component), request)
        if book is not NO_CAVEATS:
            decision.lent_after = self.judge.after(plan, book.lookup(Phase.AFTER, request.component), request)
        shadow = plan.settings.mode == "shadow"
        decision.after = bool(decision.lent_after) or (not shadow and bool(decision.own_after or decision.narrowed))

    # --- refusals -------------------------------------------------------------------------------------------------

    def _refuse(self, decision: Decision, operator: Tally, holder: Tally) -> Decision:
        """Says why: a component that nothing grants first, then a hiding refusal, the operator's, the token's."""
        settings = decision.plan.settings
        tallies = (holder,) if settings.mode == "shadow" else (operator, holder)
        denials = [tally.denied for tally in tallies if tally.denied is not None]
        shadow, granted = settings.mode == "shadow", self._granted(decision.plan, operator)
        decision.lacking = holder.denied is not None and (shadow or (granted and operator.denied is None))
        if not shadow and not granted:
            return self._refused(decision, plain_refusal("not_allowed", hidden=settings.hide_denied))
        if denials:
            check, verdict = next((d for d in denials if d[0].enforcer.hides), denials[0])
            hidden = check.enforcer.hides and settings.hide_denied
            return self._refused(decision, refusal_for(check, verdict, hidden=hidden), detail=verdict.code)
        raise RuntimeError("a refusal without a reason")

    def _refused(self, decision: Decision, refusal: Refusal, *, detail: str = "") -> Decision:
        decision.effect, decision.refusal = Effect.DENY, refusal
        facts: dict[str, Any] = {"code": detail or refusal.code}
        if refusal.policy is not None:
            facts["policy"] = refusal.policy
        try:
            self._pen.final(decision, "denied", **facts)
        except AuditUnavailable:
            logger.error("a refusal could not be recorded")
        return decision

    async def refuse(
        self, request: RequestContext, code: str, reason: str, *, detail: str = "", hidden: bool = False
    ) -> Decision:
        """Refuses what an adapter itself refuses, with its final record."""
        decision = Decision(effect=Effect.DENY, request=request, plan=self._plan, started=time.perf_counter())
        if detail:
            decision.facts["detail"] = detail
        return self._refused(decision, Refusal(code=code, reason=reason, hidden=hidden))

    async def observe(
        self, request: RequestContext, *, code: str = "ok", detail: str = "", outcome: str = "ok", must: bool = False
    ) -> None:
        """Writes the one final record of a request that runs no component.

        `must`: the caller refuses the request if it cannot be written.
        """
        facts = {"outcome": outcome, "code": code} | ({"detail": detail} if detail else {})
        self._pen.observed(request, self._plan.revision, facts, must=must)

    # --- asking ---------------------------------------------------------------------------------------------------

    async def pose(
        self, decision: Decision, challenge: Challenge, *, held: bytes | None = None, waits: bool = False
    ) -> Refusal | None:
        """Opens one of a decision's challenges, so that its answer can be taken, once; the refusal, if it cannot be.

        `held` is the finished result, to be kept until the answer comes with a later request. `waits`: this very
        request waits for the answer. A store that cannot answer is a refusal.
        """
        try:
            return await self.consent.pose(decision, challenge, held=held, waits=waits)
        except StoreUnavailable as error:
            return plain_refusal(error.code)

    def deny(self, decision: Decision, refusal: Refusal) -> Decision:
        """Ends a decision whose challenges could not be asked, with its final record."""
        return self._refused(decision, refusal)

    async def asked(self, decision: Decision, *, held: bool = False) -> None:
        """Ends a request whose challenges its client carries away: the answer comes with another request.

        `held`: the component has run, and its result waits.
        """
        try:
            self._pen.final(decision, "held" if held else "asked", code="approval_required")
        except AuditUnavailable:
            logger.error("a question could not be recorded")

    async def answer(
        self,
        challenge_id: str,
        *choices: str,
        context: RequestContext,
        token: VerifiedToken | None = None,
        by: Principal | None = None,
    ) -> bool:
        """Answers a challenge that `ApprovalRequired` named: `deny`, `once` or `period`; True if anything was allowed.

        For hosts that ask their people themselves. `context` and `token` say whose challenge it is: the same principal,
        client and token that were refused. `by` is who answered, for the grant and the record; the principal itself
        unless given. After the call there is one choice for each question; a single one answers all of them. Each
        challenge can be answered once. Raises `PolicyViolationError` for one that is gone (`approval_stale`,
        `grant_used`), for a choice that was not offered, and for one of an approver out of band.
        """
        allowed, who = await self.consent.answer(challenge_id, choices, context, self._plan.settings, token, by)
        facts = {"leg": challenge_id, "answer": ", ".join(choices), **who, "allowed": allowed}
        self._audit.event("answer", {"principal": principal_facts(context.principal), **facts})
        return allowed

    # --- after the call -------------------------------------------------------------------------------------------

    async def finish(
        self, decision: Decision, result: Result, apply: Apply | None = None, *, asking: Asking | None = None
    ) -> Outcome:
        """Judges a finished result and says what of it may leave, then writes the final record.

        `apply` makes the redacted result; what it returns is `Outcome.applied`. If it raises `ResultWithheld`, or
        anything else goes wrong, nothing of the result leaves. With `asking` the outcome may be ASK, with challenges:
        nothing is recorded then, and `finish` is called again, with the answers, or without `asking`.
        """
        if decision.closed or not decision.allowed:
            raise RuntimeError("finish follows an allowed decision, once")
        try:
            outcome = await self._finish(decision, result, apply, asking)
            if outcome.effect is not Effect.ASK:
                self._finished(decision, outcome)
        except AuditUnavailable as error:
            return Outcome(effect=Effect.DENY, refusal=plain_refusal(error.code))
        return outcome

    async def _finish(self, decision: Decision, result: Result, apply: Apply | None, asking: Asking | None) -> Outcome:
        try:
            if not decision.ruled:
                return Outcome(effect=Effect.ALLOW, applied=apply(Redaction()) if apply is not None else None)
            decision.challenges, decision.asking = (), asking
            refusal = await self.consent.resume(decision, asking) if asking is not None else None
            if refusal is not None:
                return Outcome(effect=Effect.DENY, refusal=refusal)
            outcome = await self._judge_result(decision, result)
            if outcome.effect is Effect.ALLOW and apply is not None:
                large = not outcome.redaction.is_empty and result.is_large
                applied = await apart(large, partial(apply, outcome.redaction))
                return Outcome(effect=Effect.ALLOW, redaction=outcome.redaction, applied=applied)
        except (ResultWithheld, StoreUnavailable) as error:
            size = getattr(error, "size", None)
            if size is not None:
                decision.facts["size"] = size
            return Outcome(effect=Effect.DENY, refusal=plain_refusal(error.code, reason=WITHHELD))
        except Exception as error:
            logger.error("a result could not be redacted: %s", type(error).__name__)
            return Outcome(effect=Effect.DENY, refusal=plain_refusal("redaction_failed", reason=WITHHELD))
        return outcome

    async def _judge_result(self, decision: Decision, result: Result) -> Outcome:
        own = decision.own_after
        if decision.narrowed:
            more = Rulebook(decision.narrowed).lookup(Phase.AFTER, decision.request.component)
            applying = self.judge.applying(decision.plan, more.folded + more.open, decision.request)
            own = After(own.settled, own.open + tuple(applying))
        redaction, refusal, asks = await self._edits(decision, own, result, "after")
        if decision.plan.settings.mode == "shadow":
            if refusal is not None or not redaction.is_empty:
                decision.facts["shadow_after"] = {"withhold": list(redaction.withhold), "refused": refusal is not None}
            redaction, refusal, asks = Redaction(), None, []
        if refusal is None and decision.lent_after:
            left = _left_of(result, redaction)
            more_withheld, refusal, lent = await self._edits(decision, decision.lent_after, left, "caveats_after")
            redaction, asks = redaction | more_withheld, asks + lent
        if asks and decision.asking is not None and self.consent.ask_after(decision, asks):
            return Outcome(effect=Effect.ASK, challenges=decision.challenges)
        if refusal is not None:
            return Outcome(effect=Effect.DENY, refusal=refusal)
        return Outcome(effect=Effect.ALLOW, redaction=redaction)

    async def _edits(
        self, decision: Decision, after: After, result: Result, key: str
    ) -> tuple[Redaction, Refusal | None, list[Ask]]:
        """The union of what these checks withhold, a refusal, and the questions that are still open.

        What an open question is about is withheld, or, where that is not a part of the result, all of it is refused.
        """
        if not after:
            return Redaction(), None, []
        tally = decision.weighed.get(key)
        if tally is None:
            tally = after.settled or Tally()
            if after.open:
                tally = tally.copy()
                await _looked_at(result, after)
                await self.judge.judge(after.open, decision.request, tally, result)
            decision.weighed[key] = tally  # a check's own effects happen once a finished result
            self._pen.note(decision, tally, key)
        if tally.denied is not None:
            return Redaction(), refusal_for(*tally.denied, hidden=False), []
        shadow = key == "after" and decision.plan.settings.mode == "shadow"
        released, asks = await self.consent.after(decision, () if shadow else tally.asks)
        asks = [ask for ask in asks if not ask.is_idle(tally.edits)]
        whole = any(not v.edits for number, (_, v) in enumerate(tally.asks) if number not in released)
        return tally.redaction(released), plain_refusal("approval_unavailable") if whole else None, asks

    def _finished(self, decision: Decision, outcome: Outcome) -> None:
        facts: dict[str, Any] = {"code": "ok"}
        if outcome.refusal is not None:
            facts = {"code": outcome.refusal.code}
        if outcome.redaction.withhold or outcome.redaction.keep:
            facts["withheld"] = list(outcome.redaction.withhold)
            facts["kept"] = [list(keep) for keep in outcome.redaction.keep]
        self._pen.final(decision, "ok" if outcome.effect is Effect.ALLOW else "withheld", **facts)

    async def fail(self, decision: Decision, status: str, detail: str = "") -> None:
        """Writes the final record of a call that ended without a result: `error`, `cancelled`, `input_required`.

        After a final record it does nothing. A record that cannot be written stays an open intent, which the next
        start closes as `unknown`.
        """
        try:
            self._pen.final(decision, status, **({"detail": detail} if detail else {}))
        except AuditUnavailable:
            logger.error("the end of a call could not be recorded")

    # --- what lists show ------------------------------------------------------------------------------------------

    async def reachable(self, request: RequestContext, *, token: VerifiedToken | None = None) -> bool:
        """Whether lists show the component to this principal: some call could reach it, or nothing is to be hidden.

        The predicate of a call, for the enforcers that hide; nothing is charged or recorded.
        """
        return not self._plan.settings.hide_denied or await visibility.open_to(self, request, token=token)

    def possible_redaction(self, request: RequestContext, *, token: VerifiedToken | None = None) -> Redaction | None:
        """What rules and caveats can withhold from this component's results; None where that cannot be told."""
        return visibility.possible_redaction(self, request, token=token)

    def certain_redaction(self, request: RequestContext, *, token: VerifiedToken | None = None) -> Redaction:
        """What rules and caveats withhold from every result of this component, for this caller."""
        return visibility.certain_redaction(self, request, token=token)

    # --- without a framework --------------------------------------------------------------------------------------

    async def enforce_policies(
        self, macaroon: Any, phase: str, *, tool_name: str, context: RequestContext, result: Any = None
    ) -> Any:
        """Judges one phase of a call in any async program, as the original documents it.

        Before (`bf`): returns `macaroon`. After (`af`): returns the result with what may leave, and `macaroon`. The
        context instance is the request: pass the same one to both. Raises `PolicyViolationError`, or its subclass
        `ApprovalRequired` with the challenges.
        """
        return await agnostic.enforce(self, self._calls, macaroon, Phase(phase), tool_name, context, result)

    async def call_failed(
        self, *, tool_name: str, context: RequestContext, detail: str = "", cancelled: bool = False
    ) -> None:
        """Ends a call that `enforce_policies` allowed and that raised, with its final record. Else it stays open.

        `cancelled`: the program itself ended it.
        """
        decision = self._calls.take(context, tool_name)
        if decision is not None:
            await self.fail(decision, "cancelled" if cancelled else "error", detail)

    def _handle(self, check: BoundCheck, principal: Principal) -> Store:
        """The part of the store that a check sees: its plugin's, or, of a token's rule, that rule's alone (law L1)."""
        if check.from_token:
            return LentStore(self._store, self._quotas, check, principal)
        handle = self._handles.get(check.space)
        if handle is None:
            handle = self._handles[check.space] = Namespaced(self._store, check.space)
        return handle


NO_CAVEATS: Final = Rulebook([])
MAX_RETURNED: Final = 64
NOT_EVALUATED: Final = "The policy could not be evaluated."
WITHHELD: Final = "The call ran, and its result cannot be shown."


def _bind_returned(text: str, plan: Plan) -> BoundCheck:
    """A rule that an enforcer returned. Raises `RuleError` for what is no rule, or grants."""
    bound = plan.bind(parse_rule(text))
    if isinstance(bound, RuleProblem):
        raise RuleError(bound.message)
    if bound.grants_only:
        raise RuleError("a returned caveat can only narrow")
    return bound


async def _looked_at(result: Result, after: After) -> None:
    """Builds a large result's view in a thread, where a check will look at it; what it raises, the check will meet."""
    if any(match.check.enforcer.reads_result for match, _ in after.open) and result.is_large:
        with suppress(ResultWithheld):
            await apart(True, lambda: result.documents)


def _left_of(result: Result, redaction: Redaction) -> Result:
    """The result as the operator's rules have left it, for the checks of a token."""
    if redaction.is_empty:
        return result
    return Result(
        lambda: (tuple(redact(document, redaction)[0] for document in result.documents), result.texts),
        is_error=result.is_error,
        large=lambda: result.is_large,
    )


def _shadow(effect: Effect, operator: Tally) -> dict[str, Any]:
    code = operator.denied[1].code if operator.denied is not None else "not_allowed"
    return {"effect": effect.name.lower(), "code": code if effect is Effect.DENY else "approval_required"}
