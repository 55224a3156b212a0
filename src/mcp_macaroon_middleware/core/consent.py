"""Finds who must agree to a decision and whether they have: takes legs, weighs grants, words challenges, keeps answers.

It sits between the engine, which judges rules, and `approvals`, which keeps what people said. It never waits for a
person: a challenge is handed out, and the answer comes with a later request or call.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ..errors import PolicyViolationError
from ..model import (
    DENY,
    Answer,
    Challenge,
    Choice,
    Grant,
    Phase,
    Principal,
    Refusal,
    Reply,
    RequestContext,
    Verdict,
)
from ..tokens import VerifiedToken
from . import challenging
from .approvals import Approvals, Found, Standing
from .approvers import Approvers, OpenApprover
from .asks import Ask, Asking, Call, caller_of
from .audit import principal_facts
from .binding import BoundCheck, PlanSettings
from .decisions import Decision, plain_refusal
from .legs import Leg
from .persons import are_two, is_sound

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Pair = tuple[BoundCheck, Verdict]
Arguments = Callable[[], Awaitable[Mapping[str, Any]]]
ENDINGS: Final[Mapping[str, str]] = {
    "declined": "declined",
    "cancelled": "approval_cancelled",
    "timeout": "approval_timeout",
    "invalid": "approval_invalid",
    "failed": "approval_failed",
}


class Consent:
    """The questions of one engine's decisions. Without `approvals` nobody can be asked."""

    def __init__(self, approvals: Approvals | None, approvers: Approvers) -> None:
        self._approvals = approvals
        self.approvers = approvers

    # --- what this request answers --------------------------------------------------------------------------------

    async def resume(self, decision: Decision, asking: Asking | None) -> Refusal | None:
        """Takes every leg that this request goes on with, before anything else is looked at, and reads its answer.

        The refusal, if a leg is gone or the answer to a question before the call is a no.
        """
        decision.asking = asking
        if asking is None or not (asking.replies or asking.leg):
            return None
        if self._approvals is None:
            return plain_refusal("approval_stale")
        taken: list[tuple[Leg, Reply | Answer | None]] = []
        for leg_id, reply in [*asking.replies.items(), *([(asking.leg, None)] if asking.leg else [])]:
            leg = await self._approvals.take(_caller(decision), leg_id)
            if isinstance(leg, str):
                return plain_refusal(leg)
            taken.append((leg, reply))
        for leg, reply in taken:
            refusal = await self._read(decision, leg, reply)
            if refusal is not None:
                return refusal
        return None

    async def _read(self, decision: Decision, leg: Leg, reply: Reply | Answer | None) -> Refusal | None:
        assert self._approvals is not None
        decision.legs.append(leg)
        decision.hand += self._approvals.read(leg.grants)
        decision.charged = decision.charged or leg.charged
        if leg.held is not None:
            decision.held = leg.held
            decision.facts["releases"] = leg.id
        if not leg.asked:
            return None if reply is None else plain_refusal("approval_stale")
        answer = self._answer(leg, reply, decision.request.principal)
        decision.note("answers", {"leg": leg.id, "answer": _said(answer), **self._facts(leg, answer)})
        host = decision.asking is not None and decision.asking.host
        if _is_own(leg, answer, decision):
            decision.settled |= {asked.rule for asked in leg.asked}
            return None if leg.phase is Phase.AFTER else plain_refusal("approver_is_requester")
        issued = await self.keep(leg, answer, decision.plan.settings, store_once=host)
        if not host:  # a host comes back with the same call and no leg: what it was given lies in the store
            decision.hand += issued
        if leg.phase is Phase.AFTER:
            decision.settled |= {asked.rule for asked in leg.asked}
            return None
        return None if issued else plain_refusal(ENDINGS.get(answer.ending, "declined"))

    def _answer(self, leg: Leg, reply: Reply | Answer | None, caller: Principal) -> Answer:
        """What was chosen, by the approver's own reading of it; a fault and a choice not offered are no answer.

        What the caller's own client says is the caller's answer.
        """
        found = self.approvers.get(leg.approver)
        if found is None or reply is None:
            return Answer(ending="failed")
        if isinstance(reply, Reply):
            if not found.in_band:
                return Answer(ending="invalid")
            answer = _vouched(found, checked(found.read(leg.challenge, reply), leg.choices))
            return answer if answer.by is not None else replace(answer, by=caller)
        return _vouched(found, checked(reply, leg.choices))

    def _facts(self, leg: Leg, answer: Answer) -> dict[str, Any]:
        """Who answered, through whom, and how sure that is, for the record."""
        found = self.approvers.get(leg.approver)
        facts: dict[str, Any] = {"approver": leg.approver}
        if answer.by is not None:
            facts["by"] = principal_facts(answer.by)
        if found is not None:
            facts["assurance"] = found.kind.assurance.name.lower()
        return facts

    async def keep(self, leg: Leg, answer: Answer, settings: PlanSettings, *, store_once: bool = False) -> list[Grant]:
        """Keeps an answer: grants for what was allowed, and for a while that the rest was declined."""
        assert self._approvals is not None
        found = self.approvers.get(leg.approver)
        choices = answer.choices if answer.ending == "answered" else ()
        if answer.ending == "declined":
            choices = (DENY,) * len(leg.choices)
        if not choices or found is None:
            return []
        whose = choices if leg.phase is Phase.AFTER else choices * len(leg.asked)
        declined = [asked.rule for asked, choice in zip(leg.asked, whose, strict=True) if choice == DENY]
        await self._approvals.decline(leg, declined, settings.deny_expiry)
        return await self._approvals.issue(leg, choices, found.kind.assurance, by=answer.by, store_once=store_once)

    def mismatch(self, decision: Decision) -> Refusal | None:
        """A leg of another call: other arguments, or a component that has changed since (THREATS F10, C10)."""
        if not decision.legs or self._approvals is None:
            return None
        call = self._call(decision)
        if all(leg.call == call for leg in decision.legs):
            return None
        return plain_refusal("request_changed")

    # --- before the call ------------------------------------------------------------------------------------------

    @staticmethod
    def asks(decision: Decision, pairs: Sequence[Pair]) -> list[Ask]:
        """The questions of verdicts that ask."""
        return [Ask.of(check, verdict, decision.plan.settings) for check, verdict in pairs]

    async def find(self, decision: Decision, phase: Phase, asks: Sequence[Ask]) -> Found | None:
        """What the store has about questions, in one round trip; None where there are none or nobody can be asked."""
        if self._approvals is None or not asks:
            return None
        return await self._approvals.find(self._call(decision), phase, asks)

    def standing(self, decision: Decision, asks: Sequence[Ask], found: Found | None) -> Standing:
        """How questions stand, by what was found about them, at least; open where nobody could look."""
        if self._approvals is None or found is None:
            return Standing(open=list(asks))
        settings = decision.plan.settings

        def serves(grant: Grant, ask: Ask) -> bool:
            known = not ask.four_eyes or are_two(decision.request.principal, grant.by, settings.same_as)
            return known and self.approvers.may_answer(grant.approver, grant.assurance, ask, settings)

        return self._approvals.stand(found, asks, decision.hand, serves)

    async def before(self, decision: Decision, standing: Standing) -> Refusal | None:
        """Whether everybody has agreed to the call; if not, why not, or `decision.challenges` says what to ask."""
        if standing.declined:
            return plain_refusal("declined")
        if standing.open:
            return self._challenge(decision, Phase.BEFORE, standing.open)
        if not await self._spent(standing):
            return plain_refusal("grant_used")
        decision.hand += [grant for _, grant in standing.once]  # they are good for whatever goes on with this call
        self._remember(decision, standing)
        return None

    # --- after the call -------------------------------------------------------------------------------------------

    async def after(self, decision: Decision, pairs: Sequence[Pair]) -> tuple[frozenset[int], list[Ask]]:
        """Which of the questions about a finished result are released, by their numbers, and which are still open.

        What is neither was declined, or cannot be asked any more; its fields are withheld.
        """
        if self._approvals is None or not pairs:
            return frozenset(), []
        asks = self.asks(decision, pairs)
        standing = self.standing(decision, asks, await self.find(decision, Phase.AFTER, asks))
        if not await self._spent(standing):
            return frozenset(), []
        decision.hand += [grant for _, grant in standing.once]  # the result is looked at again after the next answer
        self._remember(decision, standing)
        released = frozenset(number for number, ask in enumerate(asks) if ask in standing.released)
        return released, [ask for ask in standing.open if ask.rule not in decision.settled]

    def ask_after(self, decision: Decision, asks: Sequence[Ask]) -> bool:
        """Prepares the challenges for open questions about a result; False where they cannot be asked."""
        return self._challenge(decision, Phase.AFTER, asks) is None

    # --- what was agreed to ---------------------------------------------------------------------------------------

    async def _spent(self, standing: Standing) -> bool:
        """Takes the approvals that are good for one call; False unless every one of them was still there."""
        return not standing.once or (self._approvals is not None and await self._approvals.spend(standing.once))

    def _call(self, decision: Decision) -> Call:
        assert self._approvals is not None
        if decision.call is None:
            request = decision.request
            caller = caller_of(request.principal, request.client, decision.lineage)
            arguments = decision.raw if decision.deferred else request.arguments
            decision.call = self._approvals.call_of(caller, request.component, arguments)
        return decision.call

    @staticmethod
    def _remember(decision: Decision, standing: Standing) -> None:
        """For the record: which approvals this decision rests on."""
        for grant in standing.grants:
            facts: dict[str, Any] = {"grant": grant.id, "approver": grant.approver}
            if grant.by is not None:
                facts["by"] = principal_facts(grant.by)
            facts |= {"assurance": grant.assurance.name.lower(), "uses": grant.uses, "issued_at": grant.issued_at}
            decision.note("approvals", facts | ({"field": grant.field} if grant.field else {}))

    def _challenge(self, decision: Decision, phase: Phase, asks: Sequence[Ask]) -> Refusal | None:
        if self._approvals is None:
            return plain_refusal("approval_unavailable")
        return challenging.prepare(decision, phase, asks, self.approvers, self._call(decision))

    # --- asking ---------------------------------------------------------------------------------------------------

    async def pose(
        self, decision: Decision, challenge: Challenge, *, held: bytes | None = None, waits: bool = False
    ) -> Refusal | None:
        """Writes a challenge's leg, so that its answer can be taken once; or why it cannot be asked."""
        if self._approvals is None:
            return plain_refusal("approval_unavailable")
        settings = decision.plan.settings
        if not await self._approvals.room(decision.request.principal.key, settings):
            return plain_refusal("too_many_pending")
        ready = replace(
            decision.prepared[challenge.id],
            grants=self._approvals.write(decision.hand),
            charged=decision.charged,
            rounds=max((leg.rounds for leg in decision.legs), default=0),
            held=held,
        )
        leg = await self._approvals.new_leg(ready, settings.approvals.timeout + (GRACE if waits else 0.0))
        if not await self._approvals.put(leg):
            decision.facts["size"] = len(held or b"")  # too large to be held
            return plain_refusal("approval_unavailable")
        decision.note("asked", {"leg": leg.id, "approver": leg.approver})
        return None

    async def park(self, decision: Decision) -> str | None:
        """A leg that only says that the same call goes on: what was approved and charged stays so. None if nothing was.

        For a component that asks its client itself, and is called again with the answer. Not for ever: after some
        rounds the call is a new one, approved and charged anew.
        """
        rounds = 1 + max((leg.rounds for leg in decision.legs), default=0)
        if self._approvals is None or rounds > ROUNDS or not (decision.hand or decision.charged):
            return None
        empty = Leg(
            id=secrets.token_hex(16),
            call=self._call(decision),
            phase=Phase.BEFORE,
            grants=self._approvals.write(decision.hand),
            charged=decision.charged,
            rounds=rounds,
        )
        lasts = max(float(decision.plan.settings.approvals.timeout), LONG_QUESTION)
        leg = await self._approvals.new_leg(empty, lasts)
        return leg.id if await self._approvals.put(leg) else None

    async def withdraw(self, decision: Decision, challenge: Challenge) -> None:
        """Removes a question that nobody will answer; what cannot be removed ends by itself."""
        if self._approvals is None:
            return
        try:
            await self._approvals.withdraw(_caller(decision), challenge.id)
        except Exception as error:
            logger.warning("a question could not be withdrawn: %s", type(error).__name__)

    def is_in_band(self, challenge: Challenge) -> bool:
        """Whether the caller's own client is to carry the question."""
        found = self.approvers.get(challenge.approver)
        return found is None or found.in_band

    async def elsewhere(self, decision: Decision, challenge: Challenge) -> Answer:
        """The answer of an approver that asks out of band, which waits here for its person; a fault is no answer."""
        found = self.approvers.get(challenge.approver)
        if found is None or found.in_band:
            return Answer(ending="failed")
        answer = await found.ask(challenge, decision.plan.settings.approvals.timeout)
        return answer if isinstance(answer, Answer) else Answer(ending="failed")

    # --- hosts without MCP ----------------------------------------------------------------------------------------

    async def answer(
        self,
        challenge_id: str,
        choices: Sequence[str],
        context: RequestContext,
        settings: PlanSettings,
        token: VerifiedToken | None = None,
        by: Principal | None = None,
    ) -> tuple[bool, dict[str, Any]]:
        """Keeps what a host's own person chose; see `PolicyEngine.answer`. Whether anything was allowed, and who said
        so, for the record."""
        if self._approvals is None:
            raise _violation("approval_unavailable")
        lineage = token.lineage if token is not None else ()
        leg = await self._approvals.take(caller_of(context.principal, context.client, lineage).key, challenge_id)
        if isinstance(leg, str):
            raise _violation(leg)
        found = self.approvers.get(leg.approver)
        if found is None or not found.in_band or not leg.asked or any(asked.four_eyes for asked in leg.asked):
            raise _violation("approval_unavailable")
        given = tuple(choices) * len(leg.choices) if len(choices) == 1 else tuple(choices)
        answer = checked(Answer.chosen(*given, by=by or context.principal), leg.choices)
        if answer.ending != "answered":
            raise _violation("approval_invalid")
        issued = await self.keep(leg, answer, settings, store_once=True)
        return bool(issued), self._facts(leg, answer)


GRACE: Final = 10.0
"""Seconds that a leg outlives the time for its answer, where the same request waits for it and is cut off in time."""
ROUNDS: Final = 10
LONG_QUESTION: Final = 600.0
"""Seconds that a component's own question may take; FastMCP seals its state for as long."""


def checked(answer: Any, choices: Sequence[Sequence[Choice]]) -> Answer:
    """The answer, if it chooses one of the offers of every list; what is not offered is no answer."""
    if not isinstance(answer, Answer):
        return Answer(ending="failed")
    if not is_sound(answer):
        return Answer(ending="invalid")
    if answer.ending != "answered":
        return answer
    names = [[choice.name for choice in offers] for offers in choices]
    fits = len(answer.choices) == len(names)
    if fits and all(isinstance(c, str) and c in some for c, some in zip(answer.choices, names, strict=True)):
        return answer
    return Answer(ending="invalid", by=answer.by)


def _vouched(found: OpenApprover, answer: Answer) -> Answer:
    """The answer, unless it names somebody whom its approver says that it cannot name."""
    authority = found.kind.authority
    if authority is None or answer.by is None or answer.by.namespace == authority:
        return answer
    return Answer(ending="invalid", by=answer.by)


def _is_own(leg: Leg, answer: Answer, decision: Decision) -> bool:
    """Whether another person than the caller must answer, and it cannot be told for sure that another one did."""
    if answer.ending != "answered" or not any(asked.four_eyes for asked in leg.asked):
        return False
    return not are_two(decision.request.principal, answer.by, decision.plan.settings.same_as)


def _caller(decision: Decision) -> str:
    request = decision.request
    return caller_of(request.principal, request.client, decision.lineage).key


def _said(answer: Answer) -> str:
    return ", ".join(answer.choices) if answer.ending == "answered" else answer.ending


def _violation(code: str) -> PolicyViolationError:
    refusal = plain_refusal(code)
    return PolicyViolationError(refusal.reason, code=refusal.code)
