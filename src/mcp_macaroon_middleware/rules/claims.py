"""A claim as the set of its values: one reading for the engine and for whoever reasons about it. It judges nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ClaimName = str | tuple[str, ...]
"""A claim by name, which may be a dotted path, or by the keys that lead to it."""

WORDS: Final = frozenset({"scope", "scp"})
"""Claims whose texts are words with spaces between them (RFC 8693, section 4.2; RFC 9068)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimValues:
    """The values of one claim, as texts. `whole` is False where a part of it has no comparable value."""

    texts: frozenset[str]
    whole: bool = True

    def holds(self, wanted: Sequence[str]) -> bool | None:
        """Whether any of `wanted` is among the values; None where that cannot be told."""
        if not self.texts.isdisjoint(wanted):
            return True
        return False if self.whole else None


UNREADABLE: Final = ClaimValues(texts=frozenset(), whole=False)


def claim_text(value: Any) -> str | None:
    """A claim's scalar as selectors compare it; None for what is not a scalar.

    Switches are `true` and `false`; a number that is whole is written without a point, whichever way it came.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str | int):
        return str(value)
    return None


def claim_values(value: Any, *, words: bool = False) -> ClaimValues:
    """The set of values that a claim stands for: a scalar is one, a list each of its items; objects have none.

    With `words` each text is cut at its spaces.
    """
    items = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    texts: set[str] = set()
    whole = True
    for item in items:
        text = claim_text(item)
        if text is None:
            whole = False
        elif words:
            parts = [part for part in text.split(" ") if part]
            whole = whole and all(len(part.split()) == 1 for part in parts)
            texts.update(parts)
        else:
            texts.add(text)
    return ClaimValues(texts=frozenset(texts), whole=whole)


def read_claim(claims: Mapping[str, Any], name: ClaimName) -> tuple[ClaimValues, ...]:
    """Every reading of a claim: by its name as it is written, and by its dotted path. None where it is absent.

    Where both are there, a restricting rule takes either and a granting one needs both: see `agreed`.
    """
    paths: tuple[tuple[str, ...], ...] = (name,) if isinstance(name, tuple) else ((name,),)
    if isinstance(name, str) and "." in name:
        paths += (tuple(name.split(".")),)
    return tuple(reading for path in paths if (reading := _at(claims, path)) is not None)


def read_scopes(claims: Mapping[str, Any]) -> tuple[ClaimValues, ...]:
    """Every reading of the caller's scopes: `scope` and `scp`."""
    return tuple(reading for name in sorted(WORDS) if (reading := _at(claims, (name,))) is not None)


def agreed(readings: Sequence[ClaimValues], wanted: Sequence[str]) -> bool | None:
    """What all readings say of `wanted`; None where they differ, where one cannot tell, or where there is none."""
    if not readings:
        return None
    first, *others = [reading.holds(wanted) for reading in readings]
    return first if all(other is first for other in others) else None


def _at(claims: Mapping[str, Any], path: tuple[str, ...]) -> ClaimValues | None:
    value: Any = claims
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return claim_values(value, words=path[-1] in WORDS)
