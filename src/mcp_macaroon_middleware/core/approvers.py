"""The approvers that a file names, opened once; and which of them may be asked a question. Whatever one of them does
wrong is no approval (law L2).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ..model import Answer, Assurance, Challenge, Reply
from ..plugin.contract import Approver, ApproverType, Pending
from .asks import Ask, Asking
from .binding import PlanSettings
from .deadline import now, within

logger: Final = logging.getLogger("mcp_macaroon_middleware")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApprover:
    """An approver, ready to be asked, with its description."""

    kind: ApproverType
    approver: Approver

    @property
    def name(self) -> str:
        """The name that rules use."""
        return self.kind.name

    @property
    def in_band(self) -> bool:
        """Whether the caller's own client carries its question."""
        return self.kind.in_band

    def is_available(self, asking: Asking) -> bool:
        """Whether somebody can be asked for this request just now; a fault is a no."""
        if self.in_band and not asking.forms:
            return False
        try:
            return now(self.approver.available) is True
        except Exception as error:
            self._failed(error)
            return False

    async def ask(self, challenge: Challenge, seconds: float) -> Answer | Pending:
        """What the approver says to a question within this time; a fault is an answer that allows nothing."""
        began = time.perf_counter()
        try:
            said = await within(seconds, lambda: self.approver.ask(challenge))
        except TimeoutError:
            return Answer(ending="timeout")
        except Exception as error:
            return self._failed(error)
        if time.perf_counter() - began > seconds:  # it held the event loop, so nothing could end it in time
            return Answer(ending="timeout")
        return said if isinstance(said, Answer | Pending) else self._failed(TypeError())

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """What a client's reply says, by the approver's own reading of it; a fault is an answer that allows nothing."""
        try:
            said = now(lambda: self.approver.read(challenge, reply))
        except Exception as error:
            return self._failed(error)
        return said if isinstance(said, Answer) else self._failed(TypeError())

    async def close(self) -> None:
        """Closes it; one that fails at that is left as it is."""
        try:
            await within(CLOSING, self.approver.close)
        except Exception as error:
            logger.error("approver %s could not be closed: %s", self.name, type(error).__name__)

    def _failed(self, error: Exception) -> Answer:
        logger.error("approver %s failed: %s", self.name, type(error).__name__)
        return Answer(ending="failed")


class Approvers:
    """Every open approver by its name. `adopt` adds those that a new revision names."""

    def __init__(self, opened: Mapping[str, OpenApprover] | None = None) -> None:
        self._opened = dict(opened or {})

    def __repr__(self) -> str:
        return f"Approvers({sorted(self._opened)!r})"

    def adopt(self, opened: Mapping[str, OpenApprover]) -> None:
        """Adds approvers."""
        self._opened = {**self._opened, **opened}

    def get(self, name: str) -> OpenApprover | None:
        """The open approver of that name."""
        return self._opened.get(name)

    def names(self) -> frozenset[str]:
        """The names of all that are open."""
        return frozenset(self._opened)

    def chosen(self, ask: Ask, settings: PlanSettings, asking: Asking) -> OpenApprover | None:
        """Who is asked: the rule's approver, else the first fallback that proves as much and is there."""
        return next((found for found in self._candidates(ask, settings) if found.is_available(asking)), None)

    def may_answer(self, name: str, assurance: Assurance, ask: Ask, settings: PlanSettings) -> bool:
        """Whether an answer that this approver gave then still serves the rule."""
        return any(
            found.name == name and found.kind.assurance <= assurance for found in self._candidates(ask, settings)
        )

    def _candidates(self, ask: Ask, settings: PlanSettings) -> Iterator[OpenApprover]:
        """In their order. A token's question never goes to the client of its holder, who could answer it himself."""
        names = settings.approvals.default if ask.approver is None else ask.approver
        first = self._opened.get(names)
        if ask.approver is not None and first is None:
            return
        least = first.kind.assurance if ask.approver is not None and first is not None else Assurance.NONE
        for name in dict.fromkeys((names, *settings.approvals.fallback)):
            found = self._opened.get(name)
            if found is None or found.kind.assurance < least or (ask.approver is None and found.in_band):
                continue
            yield found

    async def close(self) -> None:
        """Closes all of them; one that fails does not keep the others open."""
        for found in self._opened.values():
            await found.close()


CLOSING: Final = 5.0
"""Seconds that an approver has to withdraw its questions when the server ends."""
