"""Tells large values from small ones, without looking at all of a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LARGE: Final = 256_000
"""The most characters of a result that are worked on before another request has its turn."""


def is_large(value: Any, most: int = LARGE) -> bool:
    """Whether plain data is longer than `most` characters, about. What is no plain data counts little."""
    left = most
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str | bytes | bytearray):
            left -= len(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        left -= 4
        if left < 0:
            return True
    return False
