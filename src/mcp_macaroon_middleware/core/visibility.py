"""Tells, before any call, what a principal could reach and what results could lose. It charges and records nothing."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from ..model import Action, Phase, Redaction, RequestContext
from ..tokens import VerifiedToken
from .caveats import CaveatBooks
from .judging import Judge
from .plan import Match, Plan, Rulebook, certain, possible
from .tally import Tally

logger: Final = logging.getLogger("mcp_macaroon_middleware")


class Sight(Protocol):
    """What of the engine is needed to look ahead."""

    @property
    def plan(self) -> Plan:
        """The plan in force."""

    @property
    def judge(self) -> Judge:
        """What judges rules."""

    @property
    def caveats(self) -> CaveatBooks:
        """The rules of tokens."""


async def open_to(engine: Sight, request: RequestContext, *, token: VerifiedToken | None = None) -> bool:
    """Whether some call by this principal could reach the component; in doubt it could not (THREATS M12).

    The predicate of a call, for the enforcers that hide.
    """
    plan = engine.plan
    try:
        holder = await _hiding(engine, plan, engine.caveats.of(token, plan), request) if token is not None else Tally()
        if plan.settings.mode == "shadow":
            return holder.denied is None
        operator = await _hiding(engine, plan, plan.book, request)
    except Exception as error:
        logger.error("a component is left out of a list: %s", type(error).__name__)
        return False
    granted = operator.granted or plan.settings.default is Action.ALLOW
    return holder.denied is None and operator.denied is None and granted


async def _hiding(engine: Sight, plan: Plan, book: Rulebook, request: RequestContext) -> Tally:
    """What the enforcers that hide come to; a constant refusal by any other does not hide."""
    matches = book.lookup(Phase.BEFORE, request.component)
    tally = engine.judge.summary(matches, request).copy()
    if tally.denied is not None and not tally.denied[0].enforcer.hides:
        tally.denied = None
    await engine.judge.judge(engine.judge.applying(plan, matches.hiding, request), request, tally)
    return tally


def possible_redaction(
    engine: Sight, request: RequestContext, *, token: VerifiedToken | None = None
) -> Redaction | None:
    """What rules and caveats can withhold from this component's results; None where that cannot be told."""
    return possible([match for match, _ in _withholding(engine, request, token)])


def certain_redaction(engine: Sight, request: RequestContext, *, token: VerifiedToken | None = None) -> Redaction:
    """What rules and caveats withhold from every result of this component, for this caller."""
    return certain([match for match, sure in _withholding(engine, request, token) if sure])


def _withholding(engine: Sight, request: RequestContext, token: VerifiedToken | None) -> list[tuple[Match, bool]]:
    plan = engine.plan
    own = () if plan.settings.mode == "shadow" else plan.book.lookup(Phase.AFTER, request.component).all
    lent = engine.caveats.of(token, plan).lookup(Phase.AFTER, request.component).all if token is not None else ()
    return engine.judge.applying(plan, own + lent, request)
