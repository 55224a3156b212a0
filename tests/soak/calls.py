"""What a soak's clients did: every call, each request of it, and how it was answered. It judges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

LOST: Final = "lost"
"""The answer of a request that never got one: the connection broke, or nothing came in time."""
ASKED: Final = "asked"
REFUSED: Final = "refused"
"""An error without a code of ours: a hidden component, which answers as one that does not exist."""


@dataclass(slots=True)
class Leg:
    """One request of a call, at one server. Times are those of the machine's monotonic clock."""

    server: int
    start: int
    began: float
    ended: float = 0.0
    answer: str = LOST
    why: str = ""


@dataclass(slots=True)
class Call:
    """One call of a tool. `approved` says whether a person agreed, `email` whether one came out."""

    id: str
    tool: str
    who: str
    era: str
    legs: list[Leg] = field(default_factory=list)
    approved: bool | None = None
    email: bool = False
    turned: tuple[bool, ...] = ()

    @property
    def answers(self) -> list[str]:
        """How its requests were answered, the lost ones left out."""
        return [leg.answer for leg in self.legs if leg.answer != LOST]

    @property
    def lost(self) -> int:
        """How many of its requests were never answered."""
        return sum(leg.answer == LOST for leg in self.legs)


@dataclass(slots=True)
class Fault:
    """Something that was done to the place. `lifted` is when it was over; `server` where only one was hit."""

    kind: str
    began: float
    lifted: float = 0.0
    server: int | None = None

    def covers(self, leg: Leg, margin: float = 0.0) -> bool:
        """Whether a request was under way in it, or up to `margin` seconds later."""
        hit = self.server is None or self.server == leg.server
        return hit and leg.ended >= self.began and (not self.lifted or leg.began <= self.lifted + margin)


@dataclass(slots=True)
class Story:
    """All that happened."""

    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    def legs(self) -> Iterator[tuple[Call, Leg]]:
        """Every request, with its call."""
        return ((call, leg) for call in self.calls for leg in call.legs)
