"""Rules as data: what was read, and where it stood. The language itself is read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .subjects import Selector
from .words import Action, ActionType, ExecutionPhase, Kind, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which components a rule speaks of. `kind` None is every kind, which only a bare `*` says.

    `pattern` is the unescaped text; `*` in it crosses everything and nothing else is special, unless `literal`.
    """

    kind: Kind | None
    pattern: str

    @property
    def is_glob(self) -> bool:
        """Whether the pattern can match more than one name."""
        return "*" in self.pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rule was written; line and column count from 1, 0 where unknown."""

    file: str = ""
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One parsed rule. `text` is its canonical string form where it has one, else a stable one-line form.

    `params` are the positional texts, or, in the long form, a mapping or a sequence of plain values. Only operator
    rules may carry `for_`, `except_`, `approver`, `scopes`, `expiry`, `secret`, `four_eyes` and `dynamic`. `expires`
    (`time<…`) is an aware UTC datetime: at that instant the rule ends. `raw_params` is the remainder as it was written,
    for params that are declared `rest`.
    """

    phase: Phase
    target: Target
    policy: str
    action: Action
    params: tuple[str, ...] | Mapping[str, Any] | Sequence[Any] = ()
    raw_params: str | None = None
    expires: datetime | None = None
    for_: Selector | None = None
    except_: Selector | None = None
    approver: str | None = None
    scopes: tuple[str, ...] = ()
    expiry: int | None = None
    secret: tuple[str, ...] = ()
    four_eyes: bool = False
    dynamic: bool = False
    text: str = ""
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, slots=True)
class Caveat:
    """A rule as the original's enforcers see it, with its seven documented fields."""

    raw: str
    execution_phase: ExecutionPhase
    tool_name: str
    policy_name: str
    action: ActionType
    params: tuple[str, ...]
    expiry: datetime | None = None
