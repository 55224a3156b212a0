"""Reads field paths and follows them key by key. A path under way is the tuple of its steps still to take."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from ..errors import RuleError

MAX_STEPS: Final = 64
FOLDED: Final = "(?i)"


class Wild(Enum):
    """Steps that are no key: one level, any number of levels."""

    ONE = "*"
    ANY = "**"


@dataclass(frozen=True, slots=True)
class Folded:
    """A key whose case and width do not matter; `key` is in its folded form."""

    key: str


Step = str | Folded | Wild
State = tuple[Step, ...]
States = frozenset[State]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A parsed path: its steps in order."""

    steps: State


@lru_cache(maxsize=1024)
def parse_path(text: str) -> FieldPath:
    """Reads a dotted path. `\\.`, `\\*` and `\\\\` stand for the plain characters; after a leading `(?i)` the case of
    keys does not matter. Raises `RuleError`.
    """
    begin = len(FOLDED) if text.startswith(FOLDED) else 0
    steps: list[Step] = []
    for end in [*_dots(text, begin), len(text)]:
        step = _step(text[begin:end], begin)
        steps.append(Folded(fold(step)) if isinstance(step, str) and text.startswith(FOLDED) else step)
        begin = end + 1
    if len(steps) > MAX_STEPS:
        raise RuleError(f"a field path has at most {MAX_STEPS} steps")
    return FieldPath(tuple(steps))


def fold(key: str) -> str:
    """The form in which keys are equal whatever their case and width (Unicode NFKC and case folding)."""
    if key.isascii():
        return key.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", key).casefold())


def _dots(text: str, index: int) -> Iterable[int]:
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == ".":
            yield index
        index += 1


def _step(text: str, offset: int) -> str | Wild:
    if not text:
        raise RuleError("an empty step in a field path", offset=offset, hint="write \\. for a dot inside a key")
    if "\0" in text:
        raise RuleError("a NUL in a field path", offset=offset + text.index("\0"))
    if text in ("*", "**"):
        return Wild(text)
    key: list[str] = []
    index = 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
            if text[index : index + 1] not in (".", "*", "\\"):
                raise RuleError("\\ in a field path stands before . * or \\", offset=offset + index - 1)
            char = text[index]
        elif char == "*":
            raise RuleError("* and ** stand alone between dots", offset=offset, hint="write \\* for a star in a key")
        key.append(char)
        index += 1
    return "".join(key)


# --- following paths ------------------------------------------------------------------------------------------------


def start(paths: Iterable[str]) -> States:
    """The states before the first key."""
    return _closed(parse_path(path).steps for path in paths)


def advance(states: States, key: str) -> States:
    """The states after one more key."""
    return _closed(_taken(states, key))


def advance_any(states: States) -> States:
    """The states after a key that is not known: every step counts as taken."""
    return _closed(state if state[0] is Wild.ANY else state[1:] for state in states if state)


def ended(states: States) -> bool:
    """Whether a path ends here."""
    return () in states


def _taken(states: States, key: str) -> Iterable[State]:
    folded: str | None = None
    for state in states:
        if not state:
            continue
        step = state[0]
        if step is Wild.ANY:
            yield state
        elif step is Wild.ONE or step == key:
            yield state[1:]
        elif isinstance(step, Folded):
            folded = fold(key) if folded is None else folded
            if step.key == folded:
                yield state[1:]


def _closed(states: Iterable[State]) -> States:
    """Adds what `**` reaches by standing for no level at all."""
    closed: set[State] = set()
    for state in states:
        closed.add(state)
        while state and state[0] is Wild.ANY:
            state = state[1:]
            closed.add(state)
    return frozenset(closed)
