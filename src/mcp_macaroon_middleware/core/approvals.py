"""What people have approved and declined, and what they are being asked: the only module that keeps any of it.

Grants, declines and legs are sealed records under names that say whose and what they are. What allows must be there and
is taken; what forbids (a decline, a used id) is also kept in memory, so that emptying the store forgets nothing that
matters (laws L4, L5). All of it begins and ends by the store's own clock, whatever the wall clocks of the servers say:
the store ends a record by itself, and what the record says of its end holds for whoever puts an old one back. It never
waits for a person and judges no rule.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic_core import to_jsonable_python

from ..errors import TokenInvalid
from ..model import ONCE, PERIOD, Assurance, Caller, Component, Grant, Phase, Principal, thawed
from ..model.subjects import place_of
from ..plugin.contract import Amount, Entry, Store
from ..plugin.namespace import Namespaced
from ..tokens import KeyRing
from ..tokens.grants import read_grant, sign_grant
from . import epoch
from .asks import Ask, Call, component_key
from .binding import PlanSettings
from .forbidden import Forbidden
from .legs import Leg
from .revocation import Revocations
from .sealing import Broken, Sealer

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Serves = Callable[[Grant, Ask], bool]

LONGEST: Final = 86_400.0
"""Seconds for which a used id is remembered here, at least."""
NAMESPACE: Final = "approvals"
HELD: Final = 1_000_000
"""Bytes of a finished result that are held while a person thinks."""


@dataclass(slots=True)
class Standing:
    """How questions stand: answered by `grants`, declined, or open. `once` are stored grants to be taken for this call.

    A question is answered only if every one of its fields is.
    """

    released: list[Ask] = field(default_factory=list)
    declined: list[Ask] = field(default_factory=list)
    open: list[Ask] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    once: list[tuple[str, Grant]] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Whether everybody has agreed, and nothing is used up by it."""
        return not (self.declined or self.open or self.once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the store has about some questions of one call: its entries by their names, since when they count, and
    what time it is there."""

    call: Call
    phase: Phase
    entries: Mapping[str, Entry | None]
    since: float
    now: float


class Approvals:
    """Approvals in one store, for one server. Raises `StoreUnavailable` where the store cannot answer."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        store: Store,
        audience: str,
        event: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._keys = keys
        self._store: Store = Namespaced(store, NAMESPACE)
        self._audience = audience
        self._event = event
        self._sealer = Sealer(keys, audience)
        self._epoch = epoch.Epoch(self._store, self._sealer, renewed=self._renewed, names=self._digest("names"))
        self.revocations: Final = Revocations(
            store=self._store, sealer=self._sealer, epoch=self._epoch, digest=self._digest, event=event
        )
        self._used = Forbidden()
        self._declined = Forbidden()

    def __repr__(self) -> str:
        return "Approvals(…)"

    # --- names and digests ----------------------------------------------------------------------------------------

    def call_of(self, caller: Caller, component: Component, arguments: Mapping[str, Any]) -> Call:
        """The very call; digests are keyed, so that nobody can guess arguments from them."""
        return Call(
            caller=caller.key,
            component=component_key(component),
            definition=component.digest,
            arguments=self._digest("arguments", to_jsonable_python(thawed(arguments), fallback=_unequal)),
        )

    def _digest(self, what: str, *parts: Any) -> str:
        text = json.dumps([what, *parts], sort_keys=True, ensure_ascii=True).encode()
        return hmac.digest(self._keys.derive("digest", self._audience), text, hashlib.sha256).hex()[:40]

    def _grant_name(self, call: Call, phase: Phase, rule: str, part: str, scope: str) -> str:
        return f"grant/{_place(call.caller)}/" + self._digest(
            "grant", call.caller, phase.value, call.component, rule, part, scope
        )

    def _decline_name(self, call: Call, phase: Phase, rule: str) -> str:
        digest = self._digest("declined", call.caller, phase.value, call.component, rule, call.arguments)
        return f"declined/{_place(call.caller)}/{digest}"

    def _leg_name(self, caller: str, leg_id: str) -> str:
        return f"leg/{_place(caller)}/{self._digest('caller', caller)}/{leg_id}"

    # --- how questions stand --------------------------------------------------------------------------------------

    async def find(self, call: Call, phase: Phase, asks: Sequence[Ask]) -> Found:
        """What the store has about questions on a call, in one round trip."""
        names = [epoch.NAME]
        for ask in asks:
            names.append(self._decline_name(call, phase, ask.rule))
            for part in ask.fields:
                names += [self._grant_name(call, phase, ask.rule, part, scope) for scope in _scopes(call, ask)]
        entries = dict(zip(names, await self._store.get(names), strict=True))
        since = await self._epoch.since(entries[epoch.NAME])
        return Found(call=call, phase=phase, entries=entries, since=since, now=await self._epoch.now())

    def stand(self, found: Found, asks: Sequence[Ask], hand: Sequence[Grant], serves: Serves) -> Standing:
        """How questions that `found` is about stand, by the grants in hand and those in the store.

        `serves` says whether the approver of a grant still may answer a question.
        """
        look = _Look(found=found, hand=hand, serves=serves)
        standing = Standing()
        for ask in asks:
            self._place(standing, look, ask)
        return standing

    def _place(self, standing: Standing, look: _Look, ask: Ask) -> None:
        """Puts one question where it belongs. A decline that cannot be read is one."""
        decline = self._decline_name(look.found.call, look.found.phase, ask.rule)
        if decline in self._declined or look.found.entries[decline] is not None:
            standing.declined.append(ask)
            return
        covering = [self._covering(look, ask, part) for part in ask.fields]
        found = [each for each in covering if each is not None]
        if len(found) < len(covering):
            standing.open.append(ask)
            return
        standing.released.append(ask)
        standing.grants += [grant for _, grant in found]
        standing.once += [(name, grant) for name, grant in found if name and grant.uses == ONCE]

    def _covering(self, look: _Look, ask: Ask, part: str) -> tuple[str, Grant] | None:
        """A grant that releases this part, with its name if it lies in the store."""

        def good(grant: Grant) -> bool:
            return _holds(grant, look.found) and _is_for(grant, ask, part) and look.serves(grant, ask)

        for grant in look.hand:
            if good(grant):
                return "", grant
        for scope in _scopes(look.found.call, ask):
            name = self._grant_name(look.found.call, look.found.phase, ask.rule, part, scope)
            stored = self._read_grant(name, look.found.entries[name])
            if stored is not None and stored.id not in self._used and good(stored):
                return name, stored
        return None

    def _read_grant(self, name: str, entry: Entry | None) -> Grant | None:
        if entry is None:
            return None
        try:
            text = self._sealer.open("record", name, entry.value).decode()
            return read_grant(self._keys, text, audience=self._audience)
        except (Broken, TokenInvalid, UnicodeDecodeError):
            self._broken("grant")
            return None

    def read(self, texts: Iterable[str]) -> list[Grant]:
        """The grants of a leg; one whose key is gone is left out."""
        grants = []
        for text in texts:
            try:
                grants.append(read_grant(self._keys, text, audience=self._audience))
            except TokenInvalid:
                self._broken("grant of a leg")
        return grants

    def write(self, grants: Iterable[Grant]) -> tuple[str, ...]:
        """Grants as texts, for a leg to carry."""
        return tuple(sign_grant(self._keys, grant) for grant in grants)

    # --- grants ---------------------------------------------------------------------------------------------------

    async def issue(
        self,
        leg: Leg,
        choices: Sequence[str],
        assurance: Assurance,
        *,
        by: Principal | None = None,
        store_once: bool = False,
    ) -> list[Grant]:
        """The grants of the answer to a leg that was taken, from then on; `by` is who gave it. Those for a period are
        stored; `store_once`: those for this call too."""
        given = list(self._given(leg, choices, assurance, by))
        kept = [each for each in given if each[0].uses == PERIOD or store_once]
        await asyncio.gather(*(self._keep(leg, grant, own_values=own, lasts=lasts) for grant, own, lasts in kept))
        return [grant for grant, _, _ in given]

    def _given(
        self, leg: Leg, choices: Sequence[str], assurance: Assurance, by: Principal | None
    ) -> Iterator[tuple[Grant, bool, float]]:
        """Each grant of an answer, whether its own question looks at arguments, and how many seconds it lasts."""
        per_question = leg.phase is Phase.AFTER
        for number, asked in enumerate(leg.asked):
            group = number if per_question else 0
            choice, lasts = choices[group], leg.seconds[group]
            if choice not in (ONCE, PERIOD):
                continue
            same = asked.same_values if per_question else any(each.same_values for each in leg.asked)
            for part in asked.fields:
                grant = Grant(
                    id=secrets.token_urlsafe(16),
                    key_id=self._keys.current,
                    audience=self._audience,
                    caller=leg.call.caller,
                    phase=leg.phase,
                    component=leg.call.component,
                    definition=leg.call.definition,
                    rule=asked.rule,
                    arguments=leg.call.arguments if same or choice == ONCE else None,
                    field=part,
                    approver=leg.approver,
                    assurance=assurance,
                    uses=choice,
                    issued_at=self._epoch.after(leg.taken_at),
                    expires=leg.taken_at + lasts,
                    by=by,
                )
                yield grant, asked.same_values, lasts

    async def _keep(self, leg: Leg, grant: Grant, *, own_values: bool, lasts: float) -> None:
        """Stores a grant where a later call of the same kind will look for it."""
        arguments = leg.call.arguments
        period = arguments if own_values else "any"
        scope = f"once {arguments}" if grant.uses == ONCE else period
        name = self._grant_name(leg.call, leg.phase, grant.rule, grant.field, scope)
        text = sign_grant(self._keys, grant)
        await self._store.put(name, self._sealer.seal("record", name, text.encode()), lasts)

    async def spend(self, once: Sequence[tuple[str, Grant]]) -> bool:
        """Takes grants that are good for one call; False unless every one of them was there and unused.

        A reply that is lost counts as taken: `StoreUnavailable` is raised and the call does not run.
        """
        fresh = all(grant.id not in self._used for _, grant in once)
        for _, grant in once:
            self._used.add(grant.id, max(grant.expires - grant.issued_at, LONGEST))
        values = await asyncio.gather(*(self._store.take(name) for name, _ in once))
        taken = [self._read_grant(name, _entry(value)) for (name, _), value in zip(once, values, strict=True)]
        same = [there is not None and there.id == grant.id for there, (_, grant) in zip(taken, once, strict=True)]
        return fresh and all(same)

    async def decline(self, leg: Leg, asked: Iterable[str], seconds: float) -> None:
        """Remembers a decline, for this caller and this very call."""
        for rule in asked:
            name = self._decline_name(leg.call, leg.phase, rule)
            self._declined.add(name, seconds)
            await self._store.put(name, self._sealer.seal("record", name, b"declined"), seconds)

    # --- legs -----------------------------------------------------------------------------------------------------

    async def new_leg(self, leg: Leg, lasts: float) -> Leg:
        """The leg with its times, in the store's own."""
        if not self._epoch.begun:  # a leg from before the epoch would count for nothing
            await self._epoch.since((await self._store.get([epoch.NAME]))[0])
        now = await self._store.now()
        return replace(leg, issued_at=self._epoch.after(now), expires=now + lasts)

    async def room(self, principal: str, settings: PlanSettings) -> bool:
        """Counts one more question of a principal's; False where too many were asked within the time that each is open.

        So at most `max_pending` are open at any time, and a loop cannot ask without end (THREATS F14).
        """
        terms = settings.approvals
        line = Amount(
            key=f"asked/{place_of(principal)}/" + self._digest("asked", principal),
            amount=1,
            limit=terms.max_pending,
            window=float(terms.timeout),
        )
        return (await self._store.add([line])).ok

    async def put(self, leg: Leg) -> bool:
        """Stores a leg until it ends; False if what it holds is too large."""
        if leg.held is not None and len(leg.held) > HELD:
            return False
        name = self._leg_name(leg.call.caller, leg.id)
        purpose = "held" if leg.held is not None else "record"
        lasts = max(leg.expires - leg.issued_at, 1.0)
        await self._store.put(name, purpose.encode() + b":" + self._sealer.seal(purpose, name, leg.to_bytes()), lasts)
        return True

    async def take(self, caller: str, leg_id: str) -> Leg | str:
        """The leg, once and never again; or the code of why there is none: `grant_used` or `approval_stale`.

        A reply that is lost counts as taken: `StoreUnavailable` is raised, and the leg is used.
        """
        name = self._leg_name(caller, leg_id)
        since = await self._epoch.since((await self._store.get([epoch.NAME]))[0])
        if name in self._used:
            return "grant_used"
        self._used.add(name, LONGEST)
        taken = await self._store.take(name)
        if taken is None:
            self._used.discard(name)
            return "approval_stale"
        leg, now = self._read_leg(name, taken), await self._store.now()
        late = leg is None or leg.issued_at < since or now >= leg.expires
        return "approval_stale" if leg is None or leg.id != leg_id or late else replace(leg, taken_at=now)

    async def withdraw(self, caller: str, leg_id: str) -> None:
        """Removes a question that nobody will answer any more."""
        name = self._leg_name(caller, leg_id)
        self._used.add(name, LONGEST)
        await self._store.take(name)

    def _read_leg(self, name: str, raw: bytes) -> Leg | None:
        purpose, _, sealed = raw.partition(b":")
        try:
            if purpose not in (b"held", b"record"):
                raise Broken("an unknown kind of record")
            return Leg.from_bytes(self._sealer.open(purpose.decode(), name, sealed))
        except (Broken, ValueError, TypeError, LookupError):
            self._broken("leg")
            return None

    # --- events ---------------------------------------------------------------------------------------------------

    def _renewed(self, why: str) -> None:
        if why != "missing":
            logger.warning("the store of approvals is %s: what was approved before counts no more", why)
        self._event("epoch", {"why": why})

    def _broken(self, what: str) -> None:
        logger.warning("a stored %s was not written by this server, and counts for nothing", what)
        self._event("record_broken", {"what": what})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at how questions stand: what was found, and by what it is judged."""

    found: Found
    hand: Sequence[Grant]
    serves: Serves


def _place(caller: str) -> str:
    """Where a store that is spread over machines keeps what is this caller's: beside all else of the principal's."""
    principal: str = json.loads(caller)[0]
    return place_of(principal)


def _scopes(call: Call, ask: Ask) -> tuple[str, str]:
    """Where grants for a question may lie: for this very call, and for a period."""
    return f"once {call.arguments}", call.arguments if ask.same_values else "any"


def _holds(grant: Grant, found: Found) -> bool:
    """Whether a signed grant is for this very caller, component and phase, and has not ended or been undone."""
    call = found.call
    same = (grant.caller, grant.component, grant.definition) == (call.caller, call.component, call.definition)
    values = grant.arguments is None or hmac.compare_digest(grant.arguments, call.arguments)
    alive = grant.issued_at >= found.since and found.now < grant.expires
    return same and values and alive and grant.phase is found.phase


def _is_for(grant: Grant, ask: Ask, part: str) -> bool:
    return hmac.compare_digest(grant.rule, ask.rule) and grant.field == part


def _entry(value: bytes | None) -> Entry | None:
    return Entry(value=value, version="") if value is not None else None


def _unequal(value: Any) -> str:
    """For what is no data: never equal to anything, so that no approval fits it again."""
    return secrets.token_hex(16)
