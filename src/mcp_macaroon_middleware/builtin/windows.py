"""The arithmetic of limits, shared by stores in this process: sliding windows and token buckets. It stores nothing."""

from __future__ import annotations

import functools
import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..plugin import Added, Amount

SLOTS: Final = 64
EXACT: Final = 1e-6
"""What floating point may be off by, in units of a bucket."""
LARGEST: Final = 2**62
"""The largest charge that is told from larger ones."""
_BUCKET: Final = struct.Struct("<dd")
_CHARGE: Final = 16


@dataclass(slots=True)
class Window:
    """A sliding window: the instants at which charges leave it, in their order, and how much leaves at each.

    The first `SLOTS` charges are exact. Past that, charges leave at the end of a slot of 1/`SLOTS` of the window, so
    the window is late by that much at most, never more generous than its limit, and bounded whatever the limit is.
    """

    leaves: list[float] = field(default_factory=list)
    amounts: list[int] = field(default_factory=list)

    @property
    def ends(self) -> float:
        """When the last charge leaves."""
        return self.leaves[-1] if self.leaves else 0.0

    def used(self, now: float) -> int:
        """The sum of what has not left the window."""
        gone = bisect_right(self.leaves, now)
        if gone:
            del self.leaves[:gone], self.amounts[:gone]
        return sum(self.amounts)

    def add(self, now: float, amount: int, window: float) -> None:
        """Charges `amount` from now on."""
        leaves = now + window
        if len(self.leaves) >= SLOTS:
            slot = window / SLOTS
            leaves = math.ceil(leaves / slot) * slot
        if self.leaves and self.leaves[-1] >= leaves:
            self.amounts[-1] += amount
        else:
            self.leaves.append(leaves)
            self.amounts.append(amount)

    def free_at(self, need: int, now: float) -> float:
        """The instant at which `need` of the sum has left."""
        for leaves, amount in zip(self.leaves, self.amounts, strict=True):
            need -= amount
            if need <= 0:
                return leaves
        return now


@dataclass(slots=True)
class Bucket:
    """A bucket that is refilled evenly: `ends` is when it is full again, `each` the seconds that one unit takes."""

    each: float
    ends: float = 0.0

    def used(self, now: float) -> int:
        """How many units are not there; a unit that is there in part is not."""
        return max(0, math.ceil((self.ends - now) / self.each - EXACT))

    def add(self, now: float, amount: int, _: float) -> None:
        """Takes `amount` out."""
        self.ends = max(self.ends, now) + amount * self.each

    def free_at(self, need: int, now: float) -> float:
        """The instant at which `need` of what is not there is back."""
        return self.ends - (self.used(now) - need) * self.each


Counter = Window | Bucket


def check_amounts(amounts: Sequence[Amount]) -> None:
    """Raises `ValueError` for amounts, limits or windows below 0."""
    for amount in amounts:
        if amount.amount < 0 or amount.limit < 0 or not 0 < amount.window < math.inf:
            raise ValueError("amounts and limits are 0 or more, windows a number of seconds above 0")
        if amount.lasts is not None and not 0 < amount.lasts < math.inf:
            raise ValueError("a counter lasts a number of seconds above 0")


def name_of(amount: Amount) -> str:
    """The name of a line's counter; windows and buckets share none."""
    return ("b" if amount.refills else "w") + amount.key


def fresh(amount: Amount) -> Counter:
    """A counter of which nothing is used."""
    return Bucket(amount.window / max(amount.limit, 1)) if amount.refills else Window()


def ends_of(amounts: Sequence[Amount], charged: Mapping[str, Counter], now: float) -> dict[str, float]:
    """When each counter that was charged just now is gone: nothing of it is left, or nobody can ask for it any more."""
    lasts: dict[str, float] = {}
    for amount in amounts:
        name = name_of(amount)
        lasts[name] = max(lasts.get(name, 0.0), math.inf if amount.lasts is None else amount.lasts)
    return {name: min(counter.ends, now + lasts[name]) for name, counter in charged.items()}


def packed(counter: Counter) -> bytes:
    """A counter as bytes: 16 for a bucket and for each charge of a window."""
    if isinstance(counter, Bucket):
        return _BUCKET.pack(counter.each, counter.ends)
    flat: list[float] = [0.0] * (2 * len(counter.leaves))
    flat[::2] = counter.leaves
    amounts = counter.amounts
    flat[1::2] = amounts if max(amounts, default=0) <= LARGEST else [min(amount, LARGEST) for amount in amounts]
    return _charges(len(counter.leaves)).pack(*flat)


def unpacked(state: bytes, *, bucket: bool) -> Counter:
    """The counter that was packed. Raises `ValueError` for bytes that are none."""
    try:
        if bucket:
            return Bucket(*_BUCKET.unpack(state))
        flat = _charges(len(state) // _CHARGE).unpack(state)
    except (struct.error, TypeError):
        raise ValueError("no counter") from None
    return Window(list(flat[::2]), list(flat[1::2]))


@functools.lru_cache(maxsize=4 * SLOTS)
def _charges(count: int) -> struct.Struct:
    return struct.Struct("<" + "dq" * count)


def refusal(amounts: Sequence[Amount], counters: Mapping[str, Counter | None], now: float) -> Added | None:
    """The answer where a line does not fit, counting lines of one counter together; None where every one does."""
    found = [(amount, counters[name_of(amount)]) for amount in amounts]
    used = [counter.used(now) if counter is not None else 0 for _, counter in found]
    asked: dict[str, int] = {}
    fits = True
    for amount, there in zip(amounts, used, strict=True):
        name = name_of(amount)
        asked[name] = asked.get(name, 0) + amount.amount
        fits = fits and there + asked[name] <= amount.limit
    return None if fits else Added(ok=False, used=tuple(used), retry_after=_retry_after(amounts, counters, asked, now))


def _retry_after(
    amounts: Sequence[Amount], counters: Mapping[str, Counter | None], asked: Mapping[str, int], now: float
) -> float | None:
    latest = 0.0
    for amount in amounts:
        name = name_of(amount)
        counter, wanted = counters[name], asked[name]
        if wanted > amount.limit:
            return None
        over = (counter.used(now) if counter is not None else 0) + wanted - amount.limit
        if over > 0 and counter is not None:
            latest = max(latest, counter.free_at(over, now) - now)
    return latest
