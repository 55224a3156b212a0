"""Reads the JSON that a text is, and writes plain data as JSON, within bounds. It knows no rule and no result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

from ...errors import ResultWithheld
from ...fields.texts import embedded

MAX_TEXT: Final = 5_000_000
"""The most characters of text, of all blocks of one result together, that are walked for fields."""


def read(text: str) -> Sequence[Any] | None:
    """The JSON values that a text consists of, if one of them has fields; None for any other text.

    Raises `ResultWithheld` for a text past the bound, and for JSON that cannot be read with certainty.
    """
    if len(text) > MAX_TEXT:
        raise too_large(len(text))
    return embedded(text)


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
        raise too_large(len(text))
    return text


def too_large(size: int) -> ResultWithheld:
    """The refusal of a result past the bound, of at least `size` characters."""
    return ResultWithheld("the result is too large to be redacted", code="result_too_large", size=size)
