"""Charges the limits of a call, all or none, in one trip to the store; last of all, just before the component runs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..model import Charge, Effect, Refusal
from ..plugin.contract import Amount, Store
from .binding import BoundCheck
from .decisions import Decision, Tally, plain_refusal


async def charge(store: Store, decision: Decision, operator: Tally, holder: Tally) -> Refusal | None:
    """Charges every limit or none, in one trip. In shadow mode the operator's are charged and not enforced."""
    own, lent = operator.charges, holder.charges
    if decision.plan.settings.mode == "shadow" and own:
        refusal = await _add(store, decision, own)
        if refusal is not None:
            decision.facts.setdefault("shadow", {"effect": "deny", "code": refusal.code})
        own = []
    return await _add(store, decision, own + lent) if own or lent else None


async def _add(store: Store, decision: Decision, charges: Sequence[tuple[BoundCheck, Charge]]) -> Refusal | None:
    added = await store.add([_amount(check, charge) for check, charge in charges])
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
    if charge.effect is Effect.ASK:
        return plain_refusal("approval_unavailable")
    return Refusal(code=charge.code, reason=charge.reason, policy=check.enforcer.name, retry_after=added.retry_after)


def _amount(check: BoundCheck, charge: Charge) -> Amount:
    """One line for the store; a token's counters are its own, never the operator's."""
    owner = ["token", *check.scope] if check.from_token else ["operator"]
    key = json.dumps(["limit", check.enforcer.name, owner, list(charge.key)], ensure_ascii=True)
    return Amount(key=key, amount=charge.amount, limit=charge.limit, window=charge.window)
