"""Turns a verified token's caveats into checks; what cannot be read prohibits everything, before the call (law L2)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..errors import RuleError
from ..model import Action, Phase, Rule, Target, Verdict
from ..plugin.contract import Check, EnforcerType, NoParams, RuleView
from ..rules import parse_rule
from ..tokens import VerifiedToken
from .binding import BoundCheck, RuleProblem
from .plan import Plan, Rulebook

CACHED: Final = 1024


class CaveatBooks:
    """A bounded memo of rulebooks by token lineage and caveats; it goes with the plan it was made for."""

    def __init__(self) -> None:
        self._books: OrderedDict[tuple[str, tuple[str, ...], tuple[str, ...]], Rulebook] = OrderedDict()

    def of(self, token: VerifiedToken, plan: Plan) -> Rulebook:
        """The token's caveats as a rulebook."""
        key = (plan.revision, token.lineage, token.caveats)
        book = self._books.get(key)
        if book is None:
            book = Rulebook([bind_caveat(text, plan, scope) for text, scope in token.scoped_caveats])
            self._books[key] = book
            if len(self._books) > CACHED:
                self._books.popitem(last=False)
        else:
            self._books.move_to_end(key)
        return book


def bind_caveat(text: str, plan: Plan, scope: tuple[str, ...]) -> BoundCheck:
    """One caveat as a check: what it says, or a check that refuses everything."""
    try:
        bound = plan.bind(parse_rule(text, in_token=True), from_token=True, scope=scope)
    except RuleError as error:
        return _prohibition(text, str(error))
    return _prohibition(text, bound.message) if isinstance(bound, RuleProblem) else bound


def caveat_problem(rule: Rule, plan: Plan) -> RuleProblem | None:
    """Why a rule may not stand in a token, or None."""
    bound = plan.bind(rule, from_token=True)
    return bound if isinstance(bound, RuleProblem) else None


def _prohibition(text: str, why: str) -> BoundCheck:
    verdict = Verdict.deny("caveat_invalid", "The token does not allow this.", detail=why)

    def prohibit(check: Check[NoParams]) -> Verdict:
        return verdict

    target = Target(kind=None, pattern="*")
    return BoundCheck(
        rule=Rule(phase=Phase.BEFORE, target=target, policy="caveat", action=Action.DENY, text=text),
        enforcer=EnforcerType(
            name="caveat",
            check=prohibit,
            actions=frozenset({Action.DENY}),
            attenuates=True,
            hides=True,
            constant=True,
            reads_arguments=False,
        ),
        params=NoParams(),
        view=RuleView(policy="caveat", action=Action.DENY, phase=Phase.BEFORE, target=target, text=text),
        judged=Action.DENY,
        from_token=True,
        reads_arguments=False,
    )
