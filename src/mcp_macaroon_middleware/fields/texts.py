"""Reads the JSON that a text may be, so that a field inside it is found. It has three answers: data, no data, unclear.

A text is data where it reads as JSON to its very end. It is unclear where it begins like data and does not, or where it
names a field as data does (`notations`): its next reader may be less strict. The rest is prose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from ..errors import ResultWithheld
from .notations import begins_like_data, has_any_key, is_simple, names_key
from .paths import Folded

BLANK: Final = re.compile(r"[\s\ufeff\x00]*")
"""What may stand around and between the values of a text."""
_MAX_QUOTES: Final = 8


class Repeated(dict[str, Any]):
    """An object whose text names a key more than once; only the last one is left, as most readers have it."""


def embedded(text: str, quotes: int = 0) -> Sequence[Any] | None:
    """The JSON values that a text consists of, if one of them has fields; None for any other text.

    Reads what lenient readers would: several values in a row, a byte order mark, raw control characters, JSON in a
    quoted JSON text. Raises `ResultWithheld` for what is nested too deep, and for numbers too long to read.
    """
    at = BLANK.match(text).end()  # type: ignore[union-attr]  # it matches nothing at the least
    if text[at : at + 1] not in ("{", "[", '"'):
        return None
    values: list[Any] = []
    try:
        while at < len(text):
            value, at = _DECODER.raw_decode(text, at)
            values.append(value)
            at = BLANK.match(text, at).end()  # type: ignore[union-attr]
    except json.JSONDecodeError:
        return None
    except RecursionError:
        raise ResultWithheld("JSON in a text is nested too deep") from None
    return values if any(_has_fields(value, quotes) for value in values) else None


def _has_fields(value: Any, quotes: int) -> bool:
    if isinstance(value, str):
        if quotes >= _MAX_QUOTES:
            raise ResultWithheld("JSON in a text is quoted too often")
        return embedded(value, quotes + 1) is not None
    return isinstance(value, dict | list)


def is_unclear(text: str, names: Collection[str | Folded] | None) -> bool:
    """Whether a text that is no data may be data to its next reader, and hold one of these fields (None: any field)."""
    if is_simple(text):
        return False
    if begins_like_data(text):
        return True
    if names is None:
        return has_any_key(text)
    return any(names_key(text, name) for name in names)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(found)


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ResultWithheld("a text holds a number that is too long to read") from None


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, strict=False)
