"""Takes fields out of a JSON text by cutting the text itself: what stays is, letter for letter, what came.

Numbers keep their digits, texts their escapes, keys their order, and what stands between them its blanks. It is given
texts that read as JSON to their end; which of their values leave is said by the nodes and by the walk that it is given.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Protocol

from .nodes import GONE, Node
from .texts import BLANK

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SCALAR: Final = re.compile(r"[^\s,:\]\}\x00\ufeff]+")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

LEFT: Final = object()
"""Stands for a value that leaves."""

Part = tuple[str, str]
"""A member or an item that stays: the blanks before it, and its text."""


class Walk(Protocol):
    """What the cutter asks of the walk through the whole document."""

    changed: bool

    def leaf(self, value: Any, node: Node, depth: int) -> Any:
        """A leaf as it stays: itself, another text, or `LEFT`."""

    def enter(self, values: int, depth: int) -> None:
        """Counts values of a mapping or a list at a depth. Raises `ResultWithheld` past the bounds."""


def cut_text(text: str, node: Node, depth: int, walk: Walk) -> Any:
    """The text without what leaves; the very text where nothing does; `LEFT` where nothing is left.

    `text` consists of JSON values (`texts.embedded` has read it); each is a document of its own under `node`.
    """
    cutter = _Cutter(text, walk)
    parts: list[str] = []
    begin = 0
    while (at := _end(BLANK, text, begin)) < len(text):
        kept, end = cutter.value(at, node, depth)
        if kept is not LEFT:
            parts.append((text[begin:at] if parts or begin == 0 else "") + kept)
        begin = end
    if not parts:
        return LEFT
    left = "".join(parts) + text[begin:]
    return text if left == text else left


class _Cutter:
    """One pass over one text. Each method gives what stays of the value that begins at `at`, and where that one ends.

    `through`: somewhere in the value an object repeats a key, so that it is gone through even where no path leads.
    """

    __slots__ = ("_repeats", "_skip", "_text", "_walk")

    def __init__(self, text: str, walk: Walk) -> None:
        self._text = text
        self._walk = walk
        self._repeats = False
        decoder = json.JSONDecoder(object_pairs_hook=self._note, parse_int=str, parse_float=str, strict=False)
        self._skip = decoder.raw_decode

    def _note(self, pairs: list[tuple[str, Any]]) -> None:
        self._repeats = self._repeats or len({key for key, _ in pairs}) < len(pairs)

    def value(self, at: int, node: Node | None, depth: int, *, through: bool = False) -> tuple[Any, int]:
        """Any value; `LEFT` for one that leaves."""
        text = self._text
        if node is GONE:
            self._walk.changed = True
            return LEFT, self._skip(text, at)[1]
        if node is None and not through:
            self._repeats = False
            end = self._skip(text, at)[1]
            if not self._repeats:
                return text[at:end], end
            through = True
        if text[at] == "{":
            return self._object(at, node, depth, through)
        if text[at] == "[":
            return self._array(at, node, depth, through)
        return self._leaf(at, node, depth)

    def _object(self, at: int, node: Node | None, depth: int, through: bool) -> tuple[str, int]:
        text, begin = self._text, at + 1
        kept: dict[str, Part] = {}
        number = 0
        while text[start := _end(_SPACE, text, begin)] != "}":
            self._walk.enter(1, depth)
            end = _end(_STRING, text, start)
            key: str = json.loads(text[start:end], strict=False)
            value = _end(_SPACE, text, _end(_SPACE, text, end) + 1)  # behind the colon
            below = None if node is None else node.key(key)
            if kept.pop(key, None) is not None:
                self._walk.changed = True  # readers disagree about which of two counts: the last one is left
            left, end = self.value(value, below, depth + 1, through=through)
            if left is not LEFT:
                kept[key] = (text[begin:start], text[start:value] + left)
            number, begin = number + 1, self._next(end)
        return self._joined(at, start, begin, list(kept.values()), number), start + 1

    def _array(self, at: int, node: Node | None, depth: int, through: bool) -> tuple[str, int]:
        text, begin, index = self._text, at + 1, 0
        each = None if node is None else node.item(None)
        kept: list[Part] = []
        while text[start := _end(_SPACE, text, begin)] != "]":
            self._walk.enter(1, depth)
            below = node.item(index) if node is not None and node.numbered else each
            left, end = self.value(start, below, depth + 1, through=through)
            if left is not LEFT:
                kept.append((text[begin:start], left))
            index, begin = index + 1, self._next(end)
        return self._joined(at, start, begin, kept, index), start + 1

    def _next(self, end: int) -> int:
        """Where the next member or item begins, with its blanks: behind the comma, if there is one."""
        comma = _end(_SPACE, self._text, end)
        return comma + 1 if self._text[comma] == "," else end

    def _joined(self, at: int, close: int, begin: int, kept: list[Part], number: int) -> str:
        """A mapping or a list of the parts that stay, each with the blanks before it, the first one with the first's.

        Where nothing stays, nothing stands between the brackets.
        """
        text = self._text
        if not kept:
            return text[at] + ("" if number else text[at + 1 : close]) + text[close]
        first = text[at + 1 : _end(_SPACE, text, at + 1)]
        parts = [first + kept[0][1], *(blanks + part for blanks, part in kept[1:])]
        return text[at] + ",".join(parts) + text[begin:close] + text[close]

    def _leaf(self, at: int, node: Node | None, depth: int) -> tuple[Any, int]:
        text = self._text
        is_text = text[at] == '"'
        end = _end(_STRING if is_text else _SCALAR, text, at)
        if node is None:
            return text[at:end], end
        value = json.loads(text[at:end], strict=False) if is_text else None
        left = self._walk.leaf(value, node, depth)
        if left is LEFT:
            return LEFT, end
        return (text[at:end] if left == value else _quoted(left)), end


def _quoted(value: str) -> str:
    """A text as JSON; half a surrogate pair, which only an escape can carry, as that."""
    shown = json.dumps(value, ensure_ascii=False)
    try:
        shown.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return shown


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found is not None else at
