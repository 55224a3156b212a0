"""What people are asked and what they answer: challenges, choices, answers, grants. Frozen data; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, Literal

from .answers import Question
from .subjects import NO_COMPONENT, NOBODY, Component, Principal
from .words import EMPTY, Phase

DENY: Final = "deny"
ONCE: Final = "once"
PERIOD: Final = "period"
SCOPES: Final = (ONCE, PERIOD)

Ending = Literal["answered", "declined", "cancelled", "timeout", "invalid", "failed"]


class Assurance(IntEnum):
    """How sure it is that a person gave the answer; a rule never takes an answer below its own approver's.

    `NONE`: nobody was asked (tests). `CLIENT`: a cooperating client program answered. `OPERATOR`: whoever sits at the
    server's terminal. `PERSON`: a person who has logged in.
    """

    NONE = 0
    CLIENT = 1
    OPERATOR = 2
    PERSON = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to answer: `deny`, `once` or `period`, and its title, which says exactly what it does."""

    name: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownArgument:
    """An argument as a person reads it: on one line, with control and invisible characters shown as what they are."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What one approver is to ask. Before the call one choice answers all of it; after the call each question has one.

    `choices` are the offers, one list a question after the call, a single list before it; the first is always `deny`.
    `message` is the whole text, ready to be shown: server, principal, component, every argument, what is granted and
    until when. Texts are escaped already, so that nothing in them can pass for anything else. `expires` is when the
    question is void, an aware UTC datetime.
    """

    id: str
    approver: str
    phase: Phase
    questions: tuple[Question, ...]
    choices: tuple[tuple[Choice, ...], ...] = ()
    server: str = ""
    principal: Principal = NOBODY
    component: Component = NO_COMPONENT
    arguments: tuple[ShownArgument, ...] = field(default=(), repr=False)
    message: str = field(default="", repr=False)
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a challenge. `choices` has one name for each list of `Challenge.choices`, if it was `answered`.

    `by` is the person who answered, where the approver knows one: it stands in the grant and in the audit record.
    """

    ending: Ending
    choices: tuple[str, ...] = ()
    by: Principal | None = None

    @classmethod
    def chosen(cls, *choices: str, by: Principal | None = None) -> Answer:
        """The person chose."""
        return cls(ending="answered", choices=choices, by=by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client sent back for a form; the approver reads it."""

    action: Literal["accept", "decline", "cancel"]
    content: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An approval's facts, all of them signed. It releases one rule's question, for one caller, on one component.

    `field` is what it releases of a result, empty before the call. `arguments` is the digest of the very arguments, or
    None for any. `uses` is `once` or `period`. `issued_at` and `expires` are seconds since the epoch, in the store's
    own time. `by` is who approved, where that is known, and `assurance` how sure it is that a person did.
    Source: the project's DESIGN, law L5.
    """

    id: str
    key_id: str
    audience: str
    caller: str
    phase: Phase
    component: str
    definition: str
    rule: str
    arguments: str | None
    field: str
    approver: str
    assurance: Assurance
    uses: str
    issued_at: float
    expires: float
    by: Principal | None = None
