"""Responses that wait in this process for a person's answer, bounded in number, bytes and time; it releases none.

Nobody's responses push out those of a principal who holds less. What ends without an answer is told to `ended`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ..model import Challenge, RequestContext
from .asgi_response import Captured

OWN: Final = 20
OWN_BYTES: Final = 16 << 20
MOST: Final = 1_000
MOST_BYTES: Final = 64 << 20
ROUNDING: Final = 0.05
"""Seconds after its end in which a response is let go."""


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """A response whose request has run, and the questions that are open about it; `until` is on the monotonic clock.

    `leg` is what the request was approved and charged for, so that its release is not charged again.
    """

    request: RequestContext
    answer: Captured = field(repr=False)
    open: set[str]
    until: float
    challenges: tuple[Challenge, ...] = ()
    leg: str | None = None

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.request.principal.key


Ended = Callable[[Held, str], None]


class Waiting:
    """Held responses by the questions about them. `ended` is told of each that is let go: `expired`, `evicted`, …"""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._held: dict[Held, None] = {}
        self._by_question: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, held: Held) -> None:
        """Keeps a response until its questions are answered, or its time is over."""
        self.purge()
        self._held[held] = None
        self._by_question |= dict.fromkeys(held.open, held)
        self._make_room(held.owner)
        asyncio.get_running_loop().call_later(held.until - time.monotonic() + ROUNDING, self.purge)

    def answered(self, question: str) -> Held | None:
        """The response that a question was about, without that question. The last one takes it out."""
        self.purge()
        held = self._by_question.pop(question, None)
        if held is not None:
            held.open.discard(question)
            if not held.open:
                self._held.pop(held, None)
        return held

    def drop(self, question: str, why: str) -> None:
        """Lets go of the response that a question was about: it can never be answered."""
        held = self._by_question.get(question)
        if held is not None:
            self._end(held, why)

    def purge(self) -> None:
        """Lets go of what has waited too long."""
        now = time.monotonic()
        for held in [held for held in self._held if held.until <= now]:
            self._end(held, "expired")

    def close(self) -> None:
        """Lets go of everything."""
        for held in list(self._held):
            self._end(held, "closed")

    def _make_room(self, owner: str) -> None:
        while _exceeds(own := self._of(owner), OWN, OWN_BYTES):
            self._end(own[0], "evicted")
        while _exceeds(self._held, MOST, MOST_BYTES):
            self._end(self._of(self._heaviest())[0], "evicted")

    def _heaviest(self) -> str:
        """Who holds most."""
        shares: dict[str, float] = {}
        for held in self._held:
            share = 1 / MOST + len(held.answer.body) / MOST_BYTES
            shares[held.owner] = shares.get(held.owner, 0.0) + share
        return max(shares, key=lambda owner: shares[owner])

    def _of(self, owner: str) -> list[Held]:
        return [held for held in self._held if held.owner == owner]

    def _end(self, held: Held, why: str) -> None:
        self._held.pop(held, None)
        for question in held.open:
            self._by_question.pop(question, None)
        self._ended(held, why)


def _exceeds(some: Iterable[Held], most: int, size: int) -> bool:
    some = list(some)
    return len(some) > most or _bytes(some) > size


def _bytes(some: Iterable[Held]) -> int:
    return sum(len(held.answer.body) for held in some)
