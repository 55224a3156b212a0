"""Reads the JSON that a text may be, so that a field inside it is found; refuses what it cannot read for certain."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from ..errors import ResultWithheld

_BLANK: Final = re.compile(r"[\s\ufeff\x00]*")
_MAX_QUOTES: Final = 8


class Repeated(dict[str, Any]):
    """An object whose text names a key more than once; only the last one is left, as most readers have it."""


def embedded(text: str, quotes: int = 0) -> Sequence[Any] | None:
    """The JSON values that a text consists of, if one of them has fields; None for any other text.

    Reads what lenient readers would: several values in a row, a byte order mark, raw control characters, JSON in a
    quoted JSON text. Raises `ResultWithheld` for what is nested too deep, and for numbers too long to read.
    """
    at = _BLANK.match(text).end()  # type: ignore[union-attr]  # it matches nothing at the least
    if text[at : at + 1] not in ("{", "[", '"'):
        return None
    values: list[Any] = []
    try:
        while at < len(text):
            value, at = _DECODER.raw_decode(text, at)
            values.append(value)
            at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
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


def written(values: Sequence[Any]) -> str:
    """The values as compact JSON, one a line."""
    text = "\n".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can carry
        return "\n".join(json.dumps(value, separators=(",", ":")) for value in values)
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(found)


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ResultWithheld("a text holds a number that is too long to read") from None


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, strict=False)
