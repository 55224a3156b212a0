"""Reads field paths and follows them into documents; a path is a small automaton that is advanced key by key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ..errors import ResultWithheld, RuleError


class Wild(Enum):
    """Segments that are no key: one level, any number of levels."""

    ONE = "*"
    ANY = "**"


Segment = str | Wild
State = tuple[tuple[Segment, ...], int]
States = tuple[State, ...]

NOWHERE: Final[States] = ()


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A parsed path: its segments in order."""

    segments: tuple[Segment, ...]


@lru_cache(maxsize=4096)
def parse_path(text: str) -> FieldPath:
    """Reads a dotted path. `\\.`, `\\*` and `\\\\` stand for the plain characters. Raises `RuleError`."""
    segments: list[Segment] = []
    start = 0
    for end in [*_dots(text), len(text)]:
        segments.append(_segment(text[start:end], start))
        start = end + 1
    return FieldPath(tuple(segments))


def _dots(text: str) -> Iterable[int]:
    index = 0
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == ".":
            yield index
        index += 1


def _segment(text: str, offset: int) -> Segment:
    if not text:
        raise RuleError("an empty step in a field path", offset=offset, hint="write \\. for a dot inside a key")
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


def start(paths: Iterable[str]) -> States:
    """The states before the first key."""
    return _closed((parse_path(path).segments, 0) for path in paths)


def advance(states: States, key: str) -> States:
    """The states after one more key."""
    return _closed(_steps(states, key))


def advance_any(states: States) -> States:
    """The states after a key that is not known: every step counts as taken."""
    return _closed((path, at if path[at] is Wild.ANY else at + 1) for path, at in states if at < len(path))


def ended(states: States) -> bool:
    """Whether a path ends here."""
    return any(at == len(path) for path, at in states)


def _steps(states: States, key: str) -> Iterable[State]:
    for path, at in states:
        if at < len(path):
            segment = path[at]
            if segment is Wild.ANY:
                yield path, at
            elif segment is Wild.ONE or segment == key:
                yield path, at + 1


def _closed(states: Iterable[State]) -> States:
    """Adds what `**` reaches by standing for no level at all."""
    closed: dict[State, None] = {}
    for path, at in states:
        closed[path, at] = None
        while at < len(path) and path[at] is Wild.ANY:
            at += 1
            closed[path, at] = None
    return tuple(closed)


def embedded(text: str) -> Any | None:
    """The JSON object or array that a text is, or None. Raises `ResultWithheld` for one nested too deep to read."""
    stripped = text.lstrip()
    if not stripped.startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    except RecursionError:
        raise ResultWithheld("JSON in a text is nested too deep") from None
    return value if isinstance(value, dict | list) else None


def is_present(document: Any, path: str) -> bool:
    """Whether the path names anything in the document; JSON inside texts counts."""
    waiting: list[tuple[Any, States]] = [(document, start([path]))]
    while waiting:
        value, states = waiting.pop()
        if ended(states):
            return True
        if isinstance(value, str):
            value = embedded(value)
        if isinstance(value, Mapping):
            waiting.extend((child, after) for key, child in value.items() if (after := advance(states, str(key))))
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if ended(advance(states, str(index))):
                    return True
                waiting.append((item, states + advance(states, str(index))))
    return False
