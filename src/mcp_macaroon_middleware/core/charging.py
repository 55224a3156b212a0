"""Charges the limits of a call, all or none, in one trip to the store; last of all, just before the component runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..model import Charge, Effect, Refusal, Verdict
from ..plugin.contract import Added, Amount, Store
from ..tokens.caveats import MOST_COUNTING
from .asks import Ask
from .binding import BoundCheck
from .decisions import Decision
from .quotas import CODE, Quotas, bounded
from .tally import Tally

LIMITED: Final = "Too many calls; try again later."


Line = tuple[BoundCheck, Charge]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine: its store, and how much a token's rules may have it keep."""

    store: Store
    quotas: Quotas

    async def charge(
        self, decision: Decision, operator: Tally, holder: Tally, beyond: Collection[Line] = ()
    ) -> Refusal | None:
        """Charges every limit or none, in one trip. In shadow mode the operator's are charged and not enforced.

        `beyond` are the very limits that a person lets this call pass, and those that are charged already; the others
        of the same rule are charged.
        """
        own, lent = operator.charges, holder.charges
        if decision.plan.settings.mode == "shadow" and own:
            refusal = await self._add(decision, own)
            if refusal is not None:
                decision.facts.setdefault("shadow", {"effect": "deny", "code": refusal.code})
            own = []
        lines = [line for line in (*own, *lent) if line not in beyond]
        return await self._add(decision, lines) if lines else None

    async def look(self, decision: Decision, lines: Sequence[Line]) -> list[Line]:
        """The limits that this call would pass, without charging any."""
        if not lines:
            return []
        amounts = [replace(self._amount(decision, check, charge), amount=0) for check, charge in lines]
        there = await self.store.add(amounts)
        return [
            (check, charge)
            for (check, charge), used in zip(lines, there.used, strict=True)
            if used + charge.amount > charge.limit
        ]

    async def refused(self, decision: Decision, lines: Sequence[Line]) -> Refusal | None:
        """The refusal of limits that `look` found passed. It charges them if one has got room meanwhile."""
        return await self._add(decision, lines)

    async def _add(self, decision: Decision, charges: Sequence[Line]) -> Refusal | None:
        amounts = [self._amount(decision, check, charge) for check, charge in charges]
        if not await self._claimed(decision, charges, amounts):
            decision.facts["limit"] = {"rule": "", "retry_after": None}
            return Refusal(code=CODE, reason="The token's limits count too many things already.")
        added = await self.store.add(amounts)
        return None if added.ok else _passed(decision, charges, added)

    async def _claimed(self, decision: Decision, charges: Sequence[Line], amounts: Sequence[Amount]) -> bool:
        """Whether there is room for the counters of the token's own limits."""
        lent = {
            amount.key: amount.lasts or 0.0
            for (check, _), amount in zip(charges, amounts, strict=True)
            if check.from_token and amount.amount
        }
        if not lent:
            return True
        if len({check.space for check, _ in charges if check.from_token}) > MOST_COUNTING:
            return False  # of plugins that do not say that they count
        left = max(self.quotas.left(check) for check, _ in charges if check.from_token)
        return await self.quotas.claim(decision.request.principal, decision.lineage[0], lent, left)

    def _amount(self, decision: Decision, check: BoundCheck, charge: Charge) -> Amount:
        """One line for the store; the counters of a token's rule are that rule's own, and end with the token.

        What is counted for each principal apart begins with its place; what is not has none, and so has one for all.
        """
        owner = ["token", check.space] if check.from_token else ["operator"]
        if charge.per_principal:
            owner.append(decision.request.principal.key)
        key = json.dumps(["limit", check.enforcer.name, owner, list(charge.key)], ensure_ascii=True)
        place = decision.request.principal.place if charge.per_principal else ""
        amount = Amount(
            key=place + key, amount=charge.amount, limit=charge.limit, window=charge.window, refills=charge.refills
        )
        return bounded(amount, self.quotas.left(check)) if check.from_token else amount


def questions(decision: Decision, lines: Sequence[Line]) -> Mapping[Line, Ask]:
    """The question of each limit that asks once it is reached. It names the limit, and no answer serves another one."""
    settings = decision.plan.settings
    return {
        (check, charge): Ask.of(check, Verdict.ask(charge.code, charge.reason), settings, ("limit", *charge.key))
        for check, charge in lines
        if charge.effect is Effect.ASK
    }


def _passed(decision: Decision, charges: Sequence[Line], added: Added) -> Refusal:
    """The refusal of limits that did not fit, by the first that refuses."""
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
