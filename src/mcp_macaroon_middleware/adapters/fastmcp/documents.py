"""Reads the JSON that a text is, and writes plain data as JSON, within bounds. It knows no rule and no result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

from ...errors import ResultWithheld

MAX_TEXT: Final = 5_000_000
"""The most characters of text, of all blocks of one result together, that are walked for fields."""

BLANK: Final = "\ufeff \t\r\n"


def read(text: str) -> Sequence[Any] | None:
    """The JSON objects and arrays that a text consists of: one, or one a line. None for any other text.

    Raises `ResultWithheld` for JSON that cannot be read with certainty.
    """
    if len(text) > MAX_TEXT:
        raise too_large()
    stripped = text.strip(BLANK)
    if not stripped.startswith(("{", "[")):
        return None
    try:
        return _containers([json.loads(stripped, parse_int=_integer)])
    except json.JSONDecodeError:
        return _lines(stripped)
    except RecursionError:
        raise ResultWithheld("the result is nested too deep") from None


def _lines(text: str) -> Sequence[Any] | None:
    """JSON Lines: every line that is not blank is a document."""
    lines = [line for line in text.splitlines() if line.strip(BLANK)]
    if len(lines) < 2:
        return None
    try:
        return _containers([json.loads(line, parse_int=_integer) for line in lines])
    except json.JSONDecodeError:
        return None
    except RecursionError:
        raise ResultWithheld("the result is nested too deep") from None


def _containers(values: Sequence[Any]) -> Sequence[Any] | None:
    return values if any(isinstance(value, dict | list) for value in values) else None


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # more digits than Python reads
        raise ResultWithheld("the result holds a number that is too long to read") from None


def plain(value: Any) -> tuple[Any, int]:
    """The value as plain JSON data in its wire form, and its size. Raises `ResultWithheld` where it has none."""
    text = write(value)
    return json.loads(text), len(text)


def write(value: Any) -> str:
    """The value as compact JSON. Raises `ResultWithheld` where it has no such form, or one past `MAX_TEXT`."""
    try:
        text = to_json(value, inf_nan_mode="null").decode()
    except (PydanticSerializationError, ValueError, RecursionError, TypeError):
        raise ResultWithheld("the result cannot be serialised", code="result_unserialisable") from None
    if len(text) > MAX_TEXT:
        raise too_large()
    return text


def too_large() -> ResultWithheld:
    """The refusal of a result past the bound."""
    return ResultWithheld("the result is too large to be redacted", code="result_too_large")
