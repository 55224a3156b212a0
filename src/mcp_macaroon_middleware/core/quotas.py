"""How much a token's own rules may have the store keep: counters and records, each counted once, and so many a token.

A holder writes rules, and narrows a token into as many others as they like, for nothing. What all of those keep counts
against the one token that was minted; what is over the bound is refused to it, and to nobody else.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..errors import StoreUnavailable
from ..model import Principal
from ..plugin.contract import Added, Amount, Clock, Entry, Store
from ..plugin.namespace import Namespaced
from .binding import BoundCheck

MOST: Final = 256
"""The most counters and records that the rules of one token keep at a time."""
SKEW: Final = 30.0
"""Seconds by which servers may disagree on when a token ends; what it counted stays for as long."""
SHORTEST: Final = 60.0
"""Seconds for which an entry counts at least, so that a short window costs no look at the store each time."""
CODE: Final = "too_many_counters"
_TRIES: Final = 5
_REMEMBERED: Final = 1024
_SAME: Final = 1.0
_LINE: Final = struct.Struct("<12sd")


class Quotas:
    """Counts what the rules of each token keep, in the store, so that all servers that share it see one number."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store: Store = Namespaced(store, "quotas")
        self._clock = clock
        self._known: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def left(self, check: BoundCheck) -> float:
        """The seconds in which a token that bears this rule may still be used."""
        if check.ends is None:
            return SHORTEST
        return max((check.ends - self._clock.now()).total_seconds() + SKEW, _SAME)

    async def claim(self, principal: Principal, token: str, entries: Mapping[str, float], left: float) -> bool:
        """Counts entries, by their names, each for the seconds that it lasts; False where there is no room for one.
        After `left` seconds nothing counts any more.

        What this process has counted already costs nothing. Raises `StoreUnavailable`.
        """
        now = self._clock.now().timestamp()
        known = self._known.get(token, {})
        wanted = {_short(name): now + lasts for name, lasts in entries.items()}
        fresh = {name: end for name, end in wanted.items() if known.get(name, 0.0) < end - _SAME}
        if not fresh:
            return True
        key = f"lent/{principal.place}/{hashlib.sha256(token.encode()).hexdigest()[:32]}"
        for _ in range(_TRIES):
            (entry,) = await self._store.get([key])
            live = {name: end for name, end in _read(entry).items() if end > now}
            if len(live.keys() | fresh.keys()) > MOST:
                return False
            # Twice as long as asked for: every charge prolongs its counter, and is not to be a write here each time.
            ends = {name: min(end + max(end - now, SHORTEST), now + left) for name, end in fresh.items()}
            live |= {name: max(end, live.get(name, 0.0)) for name, end in ends.items()}
            version = entry.version if entry is not None else None
            if await self._store.swap(key, version, _written(live), max(live.values()) - now):
                self._remember(token, live)
                return True
        raise StoreUnavailable("what a token keeps cannot be counted: too many count at once")

    def _remember(self, token: str, live: dict[bytes, float]) -> None:
        self._known[token] = live
        self._known.move_to_end(token)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


class LentStore:
    """The store of one rule of one token: its own namespace, which ends with the token and holds what its quota says.

    What it keeps is what its holder had it keep, so nothing of it is ever another rule's.
    """

    __slots__ = ("__check", "__inner", "__principal", "__quotas", "durable", "shared")

    def __init__(self, inner: Store, quotas: Quotas, check: BoundCheck, principal: Principal) -> None:
        self.__inner = Namespaced(inner, check.space)
        self.__quotas = quotas
        self.__check = check
        self.__principal = principal
        self.durable = inner.durable
        self.shared = inner.shared

    def __repr__(self) -> str:
        return "LentStore(…)"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`."""
        return await self.__inner.get(keys)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, for as long as the token lives at most."""
        await self.__inner.put(key, value, await self.__claimed({"r" + key: ttl}))

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` if its version is still `version`, for as long as the token lives at most."""
        return await self.__inner.swap(key, version, value, await self.__claimed({"r" + key: ttl}))

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value."""
        return await self.__inner.take(key)

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; no counter outlives the token."""
        lines = [bounded(amount, self.__quotas.left(self.__check)) for amount in amounts]
        charged = {"c" + line.key: line.lasts or 0.0 for line in lines if line.amount}
        if charged:
            await self.__claimed(charged)
        return await self.__inner.add(lines)

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """A page of the rule's own entries."""
        return await self.__inner.scan(prefix, cursor, n)

    async def now(self) -> float:
        """The store's own clock."""
        return await self.__inner.now()

    async def close(self) -> None:
        """Does nothing: the store belongs to the server."""

    async def __claimed(self, entries: Mapping[str, float]) -> float:
        """The longest that any of these may last. Raises `StoreUnavailable` where the token keeps too much already."""
        left = self.__quotas.left(self.__check)
        named = {f"{self.__check.space}/{name}": min(lasts, left) for name, lasts in entries.items()}
        if not await self.__quotas.claim(self.__principal, self.__check.scope[0], named, left):
            raise StoreUnavailable("the token's rules keep too much already", code=CODE)
        return max(named.values())


def bounded(amount: Amount, left: float) -> Amount:
    """A line of a token's rule: its counter is gone when its window is over, or when the token is."""
    lasts = min(amount.window, left) if amount.lasts is None else min(amount.lasts, left)
    return replace(amount, lasts=lasts)


def caveat_space(plugin: str, scope: Sequence[str], text: str) -> str:
    """The namespace of one rule of a token: the token's id, the branches before the rule, its text."""
    facts = json.dumps([list(scope), text], ensure_ascii=True).encode()
    return f"caveat/{plugin}/{hashlib.sha256(facts).hexdigest()[:40]}"


def _short(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:12]


def _read(entry: Entry | None) -> dict[bytes, float]:
    """What is counted. Raises `StoreUnavailable` for what nobody here wrote."""
    if entry is None:
        return {}
    try:
        return dict(_LINE.iter_unpack(entry.value))
    except struct.error:
        raise StoreUnavailable("what a token keeps cannot be read", code="record_broken") from None


def _written(live: Mapping[bytes, float]) -> bytes:
    return b"".join(_LINE.pack(name, end) for name, end in live.items())
