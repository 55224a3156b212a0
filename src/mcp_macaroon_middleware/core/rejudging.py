"""Judges a decided call again, with the arguments that its component really gets. It charges and records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model import ArgumentFacts, Effect, Phase, Refusal
from .decisions import Decision, plain_refusal, refusal_for
from .plan import Rulebook
from .tally import Tally

if TYPE_CHECKING:
    from .policy_engine import PolicyEngine


async def rejudge(
    engine: PolicyEngine, decision: Decision, arguments: Mapping[str, Any] | ArgumentFacts
) -> Refusal | None:
    """Judges the rules that look at arguments again, the token's too, with those that the leaf gets; the refusal.

    Under the decision's own plan. In shadow mode the operator's rules are not enforced here either.
    """
    plan, request = decision.plan, decision.request.told(arguments)
    operator, holder = Tally(), Tally()
    books = [(plan.book, operator), (Rulebook(decision.narrowed), operator)]
    if decision.token is not None:
        books.append((engine.caveats.of(decision.token, plan), holder))
    for book, tally in books:
        matches = book.lookup(Phase.BEFORE, request.component).arguments
        if matches:
            await engine.judge.judge(engine.judge.applying(plan, matches, request), request, tally)
    tallies = (holder,) if plan.settings.mode == "shadow" else (operator, holder)
    for tally in tallies:
        if tally.denied is not None:
            return refusal_for(*tally.denied, hidden=tally.denied[0].enforcer.hides and plan.settings.hide_denied)
    known = {check.view.text for check in decision.narrowed}
    if holder.caveats or not known.issuperset(operator.caveats):  # rules that nothing would hold the call to any more
        return plain_refusal("enforcer_contract")
    if any(tally.effect is Effect.ASK for tally in tallies):
        return plain_refusal("approval_unavailable")
    return None
