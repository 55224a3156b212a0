"""Reads the end of an audit file, backwards: what a crash left half, and the requests that it left open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Final

BLOCK: Final = 64 * 1024


def half_line(descriptor: int, size: int) -> bytes:
    """What stands behind the last newline."""
    first = next(_blocks(descriptor, size), None)
    if first is None or first.endswith(b"\n"):
        return b""
    return next(_pieces(descriptor, size))


def open_intents(descriptor: int, size: int) -> list[dict[str, Any]]:
    """The intents that no final record closes, in their order.

    Every start closes what the one before it left open, so only the records of the last start are read: those at the
    end that bear the last `boot` id.
    """
    closed: set[Any] = set()
    opened: list[dict[str, Any]] = []
    last: Any = None
    for line in _pieces(descriptor, size):
        record = record_of(line)
        if record is None:
            continue
        boot = record.get("boot")
        if boot is not None and record.get("outcome") != "unknown":
            if last is not None and boot != last:
                break
            last = boot
        if record.get("event") == "final":
            closed.add(_key(record))
        elif record.get("event") == "intent" and _key(record) not in closed:
            opened.append(record)
    return opened[::-1]


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for a line that is none, which is left to whoever verifies the file."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _key(record: dict[str, Any]) -> str:
    return json.dumps(record.get("request"))


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """The pieces between newlines, the last one first."""
    rest: list[bytes] = []
    for block in _blocks(descriptor, size):
        first, *lines = block.split(b"\n")
        if not lines:
            rest.append(first)
            continue
        yield lines.pop() + b"".join(reversed(rest))
        yield from reversed(lines)
        rest = [first]
    yield b"".join(reversed(rest))


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    while size > 0:
        begin = max(0, size - BLOCK)
        yield os.pread(descriptor, size - begin, begin)
        size = begin
