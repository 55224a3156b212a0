"""How the `redis` store writes keys, values and amounts down, and reads them back. It asks nobody."""

from __future__ import annotations

import math
import secrets
from typing import Any, Final

from ..plugin import Amount, Entry, StoreUnavailable
from .broken import BROKEN
from .redis_scripts import VERSION

_LONGEST: Final = 100 * 365 * 86_400  # seconds; whatever is to last longer lasts this long
_MOST: Final = 2**53 - 1  # what the server counts exactly


def foreign() -> StoreUnavailable:
    """What is raised for a key that holds something else than this store wrote there."""
    return StoreUnavailable("the redis server holds what this store did not write", code=BROKEN)


def to_bytes(text: str) -> bytes:
    """A key or a version as the server is told it."""
    return text.encode("utf-8", "surrogatepass")


def to_text(key: Any) -> str:
    """A key or a version as the server tells it. Raises `StoreUnavailable` for one that is not ours."""
    try:
        return bytes(key).decode("utf-8", "surrogatepass")
    except ValueError:
        raise foreign() from None


def stamped(value: bytes) -> bytes:
    """`value` after a version that was never there before."""
    return secrets.token_hex(VERSION // 2).encode() + value


def to_entry(found: bytes) -> Entry:
    """A value and its version. Raises `StoreUnavailable` for a value that is not ours."""
    if len(found) < VERSION:
        raise foreign()
    return Entry(value=found[VERSION:], version=to_text(found[:VERSION]))


def milliseconds(ttl: float) -> int:
    """A ttl as the server counts it. Raises `ValueError` for one that is not above 0."""
    if not ttl > 0 or not math.isfinite(ttl):
        raise ValueError("a ttl is a number of seconds above 0")
    return math.ceil(min(ttl, _LONGEST) * 1000)


def line_of(amount: Amount) -> tuple[int, int, int, int, int]:
    """A line as the script counts: what is above its largest number is refused, whatever the limit."""
    window = math.ceil(min(amount.window, _LONGEST) * 1_000_000)
    lasts = math.ceil(min(_LONGEST if amount.lasts is None else amount.lasts, _LONGEST) * 1_000_000)
    return min(amount.amount, _MOST + 1), min(amount.limit, _MOST), window, int(amount.refills), lasts
