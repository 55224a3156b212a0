"""The arithmetic of limits, shared by stores in this process: sliding windows and token buckets. It stores nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..plugin import Added, Amount

SLOTS: Final = 64
EXACT: Final = 1e-6
"""What floating point may be off by, in units of a bucket."""


@dataclass(slots=True)
class Window:
    """A sliding window: charges by the instant at which they leave it, and their sum.

    The first `SLOTS` charges are exact. Past that, charges leave at the end of a slot of 1/`SLOTS` of the window, so
    the window is late by that much at most, never more generous than its limit, and bounded whatever the limit is.
    """

    ends: float = 0.0
    noted: float = 0.0
    total: int = 0
    charges: deque[tuple[float, int]] = field(default_factory=deque)

    def used(self, now: float) -> int:
        """The sum of what has not left the window."""
        charges = self.charges
        while charges and charges[0][0] <= now:
            self.total -= charges.popleft()[1]
        return self.total

    def add(self, now: float, amount: int, window: float) -> None:
        """Charges `amount` from now on."""
        leaves = now + window
        if len(self.charges) >= SLOTS:
            slot = window / SLOTS
            leaves = math.ceil(leaves / slot) * slot
        there = 0
        if self.charges and self.charges[-1][0] >= leaves:
            leaves, there = self.charges.pop()
        self.charges.append((leaves, there + amount))
        self.total += amount
        self.ends = max(self.ends, leaves)

    def free_at(self, need: int, now: float) -> float:
        """The instant at which `need` of the sum has left."""
        for leaves, amount in self.charges:
            need -= amount
            if need <= 0:
                return leaves
        return now


@dataclass(slots=True)
class Bucket:
    """A bucket that is refilled evenly: `ends` is when it is full again, `each` the seconds that one unit takes."""

    each: float
    ends: float = 0.0
    noted: float = 0.0

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


def name_of(amount: Amount) -> str:
    """The name of a line's counter; windows and buckets share none."""
    return ("b" if amount.refills else "w") + amount.key


def fresh(amount: Amount) -> Counter:
    """A counter of which nothing is used."""
    return Bucket(amount.window / max(amount.limit, 1)) if amount.refills else Window()


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
