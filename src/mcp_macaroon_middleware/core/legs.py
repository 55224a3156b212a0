"""One leg of a call that needs an answer: what was asked, about which call, with what result held. Stored sealed.

A leg is good for one request: it is taken from the store before anything else is looked at (law L4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ..model import Challenge, Choice, Phase, Question
from .asks import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of a leg: the rule's digest, what an answer releases, its words, and who may answer for what."""

    rule: str
    fields: tuple[str, ...]
    text: str
    same_values: bool
    four_eyes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A question that waits for its answer, or a call that goes on in a later request.

    `approver` is empty for a leg that asked nothing of its own. `seconds` says how long an approval for a period would
    last, for each list of choices. `grants` are what earlier legs of the same call were given; `charged` says that its
    limits have been; `rounds` counts the legs in which the component itself asked. `held` is the finished result, if
    the component ran. Times are the store's own, in seconds; `taken_at`, when it was taken from there, is not stored.
    """

    id: str
    call: Call
    phase: Phase
    approver: str = ""
    asked: tuple[Asked, ...] = ()
    choices: tuple[tuple[Choice, ...], ...] = ()
    seconds: tuple[float, ...] = ()
    issued_at: float = 0.0
    expires: float = 0.0
    grants: tuple[str, ...] = field(default=(), repr=False)
    charged: bool = False
    rounds: int = 0
    held: bytes | None = field(default=None, repr=False)
    taken_at: float = 0.0

    @property
    def challenge(self) -> Challenge:
        """The challenge as far as it is needed to read a reply to it."""
        return Challenge(
            id=self.id,
            approver=self.approver,
            phase=self.phase,
            questions=tuple(Question(text=asked.text, fields=asked.fields) for asked in self.asked),
            choices=self.choices,
            expires=datetime.fromtimestamp(self.expires, UTC),
        )

    def to_bytes(self) -> bytes:
        """The leg, to be sealed."""
        facts = {name: value for name, value in asdict(self).items() if name not in UNWRITTEN}
        head = json.dumps({**facts, "phase": self.phase.value, "holds": self.held is not None}).encode()
        return len(head).to_bytes(4, "big") + head + (self.held or b"")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Leg:
        """The leg that `to_bytes` wrote. Raises `ValueError`, `TypeError` or `LookupError` for anything else."""
        end = 4 + int.from_bytes(raw[:4], "big")
        facts: Mapping[str, Any] = json.loads(raw[4:end])
        return cls(
            id=facts["id"],
            call=Call(**facts["call"]),
            phase=Phase(facts["phase"]),
            approver=facts["approver"],
            asked=tuple(_asked(item) for item in facts["asked"]),
            choices=tuple(tuple(Choice(**choice) for choice in choices) for choices in facts["choices"]),
            seconds=tuple(facts["seconds"]),
            issued_at=facts["issued_at"],
            expires=facts["expires"],
            grants=tuple(facts["grants"]),
            charged=facts["charged"],
            rounds=facts["rounds"],
            held=raw[end:] if facts["holds"] else None,
        )


UNWRITTEN: Final = ("held", "taken_at")


def _asked(facts: Mapping[str, Any]) -> Asked:
    return Asked(**{**facts, "fields": tuple(facts["fields"])})
