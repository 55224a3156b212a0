"""Finds limits that a store could not charge at once, when the file is read and not at the first call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.plan import Plan
from ..errors import Diagnostic
from ..plugin.contract import StoreType
from .places import Source
from .policies import PlacedRule

HINT = "let per name the principal in all of them or in none, or take a store that is not a cluster"


def apart(source: Source, placed: Sequence[PlacedRule], plan: Plan, store: StoreType | None) -> Iterator[Diagnostic]:
    """Where the store lies in parts: limits that count several principals together, beside others that do not.

    A call is charged for all of its limits or for none, in one operation, which no cluster does over two of its parts.
    """
    if store is None or not store.partitioned:
        return
    where = {id(each.rule): each for each in placed}
    counted = [(check, check.enforcer.counts_together) for check in plan.book.checks]
    limits = [(check, together(check.params)) for check, together in counted if together is not None]
    if len({together for _, together in limits}) < 2:
        return
    for check, together in limits:
        if together:
            message = f"on {store.scheme}:// this cannot be charged at once with a limit of each principal's own"
            yield source.diagnostic("limits_apart", message, where[id(check.rule)].path, hint=HINT)
