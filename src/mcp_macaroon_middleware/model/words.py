"""The words of the system: phases, actions, kinds, effects, and plain data made immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final

JSON = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]


EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Phase(StrEnum):
    """When a rule is judged: before the component runs, or after it."""

    BEFORE = "bf"
    AFTER = "af"


class Action(StrEnum):
    """What a rule says to do; each enforcer declares which of these it takes."""

    ALLOW = "allow"
    DENY = "deny"
    ELICIT = "elicit"
    ONLY = "only"


class Kind(StrEnum):
    """What a component is."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    METHOD = "method"


class Effect(IntEnum):
    """What a verdict does; verdicts combine by `min`: a deny beats an ask, an ask beats an allow."""

    DENY = 0
    ASK = 1
    ALLOW = 2


def frozen(value: Any) -> Any:
    """The same plain data, immutable: mappings read-only, lists as tuples. Work is linear in the size."""
    if isinstance(value, dict | MappingProxyType):
        return MappingProxyType({k: frozen(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(v) for v in value)
    return value


def thawed(value: Any) -> Any:
    """The same plain data as ordinary dicts and lists, for code that serialises or changes a copy."""
    if isinstance(value, Mapping):
        return {k: thawed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(v) for v in value]
    return value


class ExecutionPhase(StrEnum):
    """`Phase` under the name that the original's `Caveat` uses."""

    BEFORE = "bf"
    AFTER = "af"


ActionType = Action
