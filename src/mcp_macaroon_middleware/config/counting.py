"""Finds limits that a store could not charge at once, when the file is read and not at the first call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ..core.binding import BoundCheck
from ..core.plan import Plan
from ..errors import Diagnostic
from ..model import Kind, Target
from ..plugin.contract import StoreType
from ..rules import glob_matches
from .places import Source
from .policies import PlacedRule

HINT: Final = "let per name the principal in all limits of a call or in none, or take a store that is not a cluster"
HINT_TOKENS: Final = "let per name the principal, accept no tokens, or take a store that is not a cluster"
_PARAMETER: Final = re.compile(r"\{[^{}]*\}")


def apart(source: Source, placed: Sequence[PlacedRule], plan: Plan, store: StoreType | None) -> Iterator[Diagnostic]:
    """Where the store lies in parts: limits that count several principals together, beside others that do not.

    A call is charged for all of its limits or for none, in one operation, which no cluster does over two of its parts.
    So no call may meet both; and where tokens are accepted, any call may meet a limit that a holder has added, which is
    always of one principal. Literal targets that differ are taken for different components: where one bears both names,
    its calls are refused.
    """
    if store is None or not store.partitioned:
        return
    where = {id(each.rule): each for each in placed}
    together, single = _limits(plan)
    tokens = source.get(("config", "tokens")) is not None
    for check in together:
        if tokens:
            other, hint = "the limits that a token may carry, which are each principal's own", HINT_TOKENS
        elif any(may_meet(check.rule.target, each.rule.target) for each in single):
            other, hint = "a limit of each principal's own on the same call", HINT
        else:
            continue
        message = f"on {store.scheme}:// this cannot be charged at once with {other}"
        yield source.diagnostic("limits_apart", message, where[id(check.rule)].path, hint=hint)


def may_meet(one: Target, other: Target) -> bool:
    """Whether one call may be what both targets speak of, going by their texts."""
    if one.kind is None or other.kind is None:
        return True
    return one.kind is other.kind and _overlap(_pattern(one), _pattern(other))


def _limits(plan: Plan) -> tuple[list[BoundCheck], list[BoundCheck]]:
    """The checks that charge: those that count principals together, and one check for each target of the others."""
    together: list[BoundCheck] = []
    single: dict[Target, BoundCheck] = {}
    for check in plan.book.checks:
        counts = check.enforcer.counts_together
        if counts is not None and counts(check.params):
            together.append(check)
        elif counts is not None:
            single.setdefault(check.rule.target, check)
    return together, list(single.values())


def _pattern(target: Target) -> str:
    """The names that a target speaks of, as a glob: a parameter of a URI template stands for any text."""
    return _PARAMETER.sub("*", target.pattern) if target.kind is Kind.RESOURCE else target.pattern


def _overlap(one: str, other: str) -> bool:
    """Whether some text fits both globs. Between two stars there is room for whatever either asks for."""
    if "*" not in one or "*" not in other:
        return glob_matches(one, other) if "*" in one else glob_matches(other, one)
    return _begin_alike(one.partition("*")[0], other.partition("*")[0]) and _begin_alike(
        one.rpartition("*")[2][::-1], other.rpartition("*")[2][::-1]
    )


def _begin_alike(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
