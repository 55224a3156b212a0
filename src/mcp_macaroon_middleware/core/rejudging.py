"""Two questions that follow a decision or stand beside it; neither charges anything nor writes a record.

`rejudge`: do the arguments that the component really gets still pass? `open_to`: could this principal reach it at all?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model import Action, Effect, Phase, Refusal, RequestContext
from ..tokens import VerifiedToken
from .decisions import Decision, Tally, plain_refusal, refusal_for
from .plan import Rulebook

if TYPE_CHECKING:
    from .policy_engine import PolicyEngine


async def rejudge(
    engine: PolicyEngine, decision: Decision, arguments: Mapping[str, Any], *, token: VerifiedToken | None = None
) -> Refusal | None:
    """Judges the rules that look at arguments again, with those that the leaf gets; the refusal, or None.

    Under the decision's own plan. In shadow mode the operator's rules are not enforced here either.
    """
    plan, request = decision.plan, decision.request.replace(arguments=arguments)
    operator, holder = Tally(), Tally()
    books = [(plan.book, operator), (Rulebook(decision.narrowed), operator)]
    if token is not None:
        books.append((engine._caveats.of(token, plan), holder))
    for book, tally in books:
        matches = book.lookup(Phase.BEFORE, request.component).arguments
        if matches:
            await engine._judge.judge(engine._judge.applying(plan, matches, request), request, tally)
    tallies = (holder,) if plan.settings.mode == "shadow" else (operator, holder)
    for tally in tallies:
        if tally.denied is not None:
            return refusal_for(*tally.denied, hidden=tally.denied[0].enforcer.hides and plan.settings.hide_denied)
    if any(tally.effect is Effect.ASK for tally in tallies):
        return plain_refusal("approval_unavailable")
    return None


async def open_to(engine: PolicyEngine, request: RequestContext, *, token: VerifiedToken | None = None) -> bool:
    """Whether some call by this principal could reach the component, whether denied components are hidden or not.

    In doubt it could not.
    """
    plan = engine.plan
    try:
        holder = await engine._hiding(plan, engine._caveats.of(token, plan), request) if token is not None else Tally()
        if plan.settings.mode == "shadow":
            return holder.denied is None
        operator = await engine._hiding(plan, plan.book, request)
    except Exception:
        return False
    granted = operator.granted or plan.settings.default is Action.ALLOW
    return holder.denied is None and operator.denied is None and granted
