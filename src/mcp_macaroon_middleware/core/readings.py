"""Judges checks by every reading of a call's arguments that a component of another process may take; deny wins.

Whatever reads an argument is protected here, a plugin's own enforcers too: no second spelling of a judged name goes on,
and none whose type nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..model import ArgumentFacts, Effect, Published, RequestContext, Result, Verdict, respelled
from .binding import BoundCheck
from .checks import Runner
from .plan import Match

NOTHING: Final = Published()
RESPELLED: Final = Verdict.deny("argument_ambiguous", "An argument has a name that could be taken for another one's.")
UNTYPED: Final = Verdict.deny("argument_unreadable", "An argument cannot be judged by policy.")


async def read_twice(
    runner: Runner, matches: Sequence[Match], request: RequestContext, result: Result | None
) -> list[Verdict]:
    """One verdict a match, over all readings: the strictest, and of two that allow the one that costs more.

    Every reading is a call of the same check; what it charges is charged once.
    """
    facts = request.facts
    assert facts is not None
    readings = [request.replace(arguments=reading) for reading in facts.readings]
    verdicts = await runner.judge(matches, readings[0], result)
    if result is not None:
        return verdicts
    reading = [n for n, match in enumerate(matches) if match.check.reads_arguments]
    for other in readings[1:]:
        again = await runner.judge([matches[number] for number in reading], other, result)
        for number, verdict in zip(reading, again, strict=True):
            verdicts[number] = stricter(verdicts[number], verdict)
    for number in reading if facts.foreign else ():
        verdicts[number] = stricter(verdicts[number], _objection(matches[number].check, facts))
    return verdicts


def stricter(one: Verdict, other: Verdict | None) -> Verdict:
    """Of two verdicts the one that refuses more; of two that allow the one that charges more."""
    if other is None:
        return one
    if one.effect is not other.effect:
        return min(one, other, key=lambda verdict: verdict.effect)
    return max(one, other, key=_cost) if one.effect is Effect.ALLOW else one


def _cost(verdict: Verdict) -> int:
    return sum(charge.amount for charge in verdict.charges)


def _objection(check: BoundCheck, facts: ArgumentFacts) -> Verdict | None:
    names = tuple(names_of(check, facts.published or NOTHING))
    if respelled(facts, names):
        return RESPELLED
    return UNTYPED if any(path[0] in facts.untyped for path in names) else None


def names_of(check: BoundCheck, published: Published) -> Iterable[tuple[str, ...]]:
    """The arguments that a check reads; all that there are where its enforcer does not say."""
    said = check.enforcer.names
    return published.names if said is None else said(check.params, check.settings, published)
