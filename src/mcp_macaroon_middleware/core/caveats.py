"""Turns a verified token's caveats into checks; what cannot be read prohibits everything, before the call (law L2)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

from ..errors import RuleError
from ..model import Action, Phase, Rule, Target, Verdict
from ..plugin.contract import Check, EnforcerType, NoParams, RuleView
from ..rules import parse_rule
from ..tokens import VerifiedToken
from ..tokens.caveats import MOST_COUNTING
from .binding import BoundCheck, RuleProblem
from .plan import Plan, Rulebook
from .quotas import caveat_space

CACHED: Final = 1024


class CaveatBooks:
    """A bounded memo of rulebooks by token lineage and caveats; it goes with the plan it was made for."""

    def __init__(self) -> None:
        self._books: OrderedDict[Any, Rulebook] = OrderedDict()

    def of(self, token: VerifiedToken, plan: Plan) -> Rulebook:
        """The token's caveats as a rulebook."""
        key = (plan.revision, token.lineage, token.caveats, token.ends)
        book = self._books.get(key)
        if book is None:
            book = Rulebook(_bound(token, plan))
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
    if isinstance(bound, RuleProblem):
        return _prohibition(text, bound.message)
    return replace(bound, space=caveat_space(bound.plugin, scope, text))


def _bound(token: VerifiedToken, plan: Plan) -> list[BoundCheck]:
    """The caveats as checks. The same text under the same branches says nothing new, and would share its state: once is
    enough. More than `MOST_COUNTING` that count refuse everything."""
    checks: dict[tuple[str, tuple[str, ...]], BoundCheck] = {}
    counting = 0
    for number, (text, scope) in enumerate(token.scoped_caveats):
        check = checks.get((text, scope))
        if check is None:
            check = bind_caveat(text, plan, scope)
            ends = token.ends[number] if number < len(token.ends) else token.expires
            checks[text, scope] = replace(check, ends=ends)
        counting += check.counts
    bound = list(checks.values())
    if counting > MOST_COUNTING:
        bound.append(_prohibition("", f"more than {MOST_COUNTING} rules of the token count"))
    return bound


def caveat_problem(rule: Rule, plan: Plan) -> RuleProblem | None:
    """Why a rule may not stand in a token, or None."""
    bound = plan.bind(rule, from_token=True)
    return bound if isinstance(bound, RuleProblem) else None


def caveat_counts(rule: Rule, plan: Plan) -> bool:
    """Whether a rule, in a token, would keep anything in the store."""
    bound = plan.bind(rule, from_token=True)
    return not isinstance(bound, RuleProblem) and bound.counts


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
