"""The parts of a rule's text: colons, escapes, where each part stands. It gives them no meaning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..errors import RuleError

TIME: Final = "time<"


def escape(value: str) -> str:
    """One part of a rule, escaped so that the parser gives `value` back."""
    out: list[str] = []
    for index, char in enumerate(value):
        following = value[index + 1 : index + 2]
        if char == ":" or (char == "\\" and following in ("", "\\", ":")):
            out.append("\\")
        out.append(char)
    text = "".join(out)
    return "\\" + text if value.startswith((TIME, "\\" + TIME)) else text


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a rule between colons: its unescaped value and where it stands in the text."""

    value: str
    start: int
    end: int
    is_time: bool = False


def split_parts(text: str) -> list[Part]:
    """A rule's text, cut at its colons, escapes resolved. Raises `RuleError` for a lone backslash at the end."""
    parts: list[Part] = []
    value: list[str] = []
    start = index = 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            taken, width = _escape_at(text, index, at_start=index == start)
            value.append(taken)
            index += width
            continue
        if char == ":":
            parts.append(_part(text, value, start, index))
            value, start = [], index + 1
        else:
            value.append(char)
        index += 1
    parts.append(_part(text, value, start, index))
    return parts


def _part(text: str, value: list[str], start: int, end: int) -> Part:
    return Part("".join(value), start, end, is_time=text.startswith(TIME, start))


def _escape_at(text: str, index: int, *, at_start: bool) -> tuple[str, int]:
    """What the backslash at `index` stands for, and how many characters it spans."""
    following = text[index + 1 : index + 2]
    if following in (":", "\\"):
        return following, 2
    if at_start and text.startswith(TIME, index + 1):
        return "t", 2
    if not following:
        raise RuleError("a lone backslash at the end; write \\\\ for a backslash", offset=index)
    return "\\" + following, 2


def located(read: Any, part: Part) -> Any:
    """Runs a reader on a part; its error then points into the whole rule."""
    try:
        return read(part.value)
    except RuleError as error:
        raise RuleError(
            str(error), offset=part.start, length=part.end - part.start, hint=error.hint, code=error.code
        ) from None


def suggestion(word: str, known: Iterable[str]) -> str:
    """A "did you mean" for a misspelt word, or an empty text."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def refuse_control_characters(text: str) -> None:
    """Raises `RuleError` at the first character that is not printable text on one line."""
    for index, char in enumerate(text):
        if ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029":
            raise RuleError("a control character; rules are one line of printable text", offset=index)
