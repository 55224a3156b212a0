"""Charges the limits of a call, all or none, in one trip to the store; last of all, just before the component runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..model import Charge, Effect, Refusal, Verdict
from ..plugin.contract import Amount, Store
from .asks import Ask
from .binding import BoundCheck
from .decisions import Decision, Tally

LIMITED: Final = "Too many calls; try again later."


Line = tuple[BoundCheck, Charge]


async def charge(
    store: Store, decision: Decision, operator: Tally, holder: Tally, beyond: Collection[Line] = ()
) -> Refusal | None:
    """Charges every limit or none, in one trip. In shadow mode the operator's are charged and not enforced.

    `beyond` are the very limits that a person lets this call pass, and those that are charged already; the others of
    the same rule are charged.
    """
    own, lent = operator.charges, holder.charges
    if decision.plan.settings.mode == "shadow" and own:
        refusal = await _add(store, decision, own)
        if refusal is not None:
            decision.facts.setdefault("shadow", {"effect": "deny", "code": refusal.code})
        own = []
    lines = [line for line in (*own, *lent) if line not in beyond]
    return await _add(store, decision, lines) if lines else None


async def look(store: Store, decision: Decision, lines: Sequence[Line]) -> list[Line]:
    """The limits that this call would pass, without charging any."""
    if not lines:
        return []
    amounts = [replace(_amount(decision, check, charge), amount=0) for check, charge in lines]
    there = await store.add(amounts)
    return [
        (check, charge)
        for (check, charge), used in zip(lines, there.used, strict=True)
        if used + charge.amount > charge.limit
    ]


async def refused(store: Store, decision: Decision, lines: Sequence[Line]) -> Refusal | None:
    """The refusal of limits that `look` found passed. It charges them if one has got room meanwhile."""
    return await _add(store, decision, lines)


def questions(decision: Decision, lines: Sequence[Line]) -> Mapping[Line, Ask]:
    """The question of each limit that asks once it is reached. It names the limit, and no answer serves another one."""
    settings = decision.plan.settings
    return {
        (check, charge): Ask.of(check, Verdict.ask(charge.code, charge.reason), settings, ("limit", *charge.key))
        for check, charge in lines
        if charge.effect is Effect.ASK
    }


async def _add(store: Store, decision: Decision, charges: Sequence[Line]) -> Refusal | None:
    added = await store.add([_amount(decision, check, charge) for check, charge in charges])
    if added.ok:
        return None
    over = [
        (check, charge)
        for (check, charge), used in zip(charges, added.used, strict=True)
        if used + charge.amount > charge.limit
    ]
    check, charge = next(((c, x) for c, x in over if x.effect is Effect.DENY), (over or list(charges))[0])
    decision.facts["limit"] = {"rule": check.view.text, "retry_after": added.retry_after}
    if check.from_token:
        return Refusal(code="rate_limited", reason="The token's limit is reached.", retry_after=added.retry_after)
    reason = charge.reason if charge.effect is Effect.DENY else LIMITED
    return Refusal(code=charge.code, reason=reason, policy=check.enforcer.name, retry_after=added.retry_after)


def _amount(decision: Decision, check: BoundCheck, charge: Charge) -> Amount:
    """One line for the store; a token's counters are its own, never the operator's.

    What is counted for each principal apart begins with its place; what is not has none, and so has one for all.
    """
    owner = ["token", *check.scope] if check.from_token else ["operator"]
    if charge.per_principal:
        owner.append(decision.request.principal.key)
    key = json.dumps(["limit", check.enforcer.name, owner, list(charge.key)], ensure_ascii=True)
    place = decision.request.principal.place if charge.per_principal else ""
    return Amount(
        key=place + key, amount=charge.amount, limit=charge.limit, window=charge.window, refills=charge.refills
    )
