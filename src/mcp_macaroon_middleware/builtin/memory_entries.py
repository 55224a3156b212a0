"""Entries in memory that end: many small tables, so that no operation on them ever takes long. It knows no clock.

One large table would be moved whole whenever it grows, and a list of ends would hold a second trail of what has gone.
Here a table is looked through once its first entry may have ended, and nothing is written down about single entries.
Entries are plain bytes, which the garbage collector never walks.
"""

from __future__ import annotations

import heapq
import math
import struct
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, TypeVar

TABLES: Final = 4096
"""At a million entries a table holds about 250."""
_SHIFT: Final = sys.hash_info.width - 20  # the low bits place an entry within its table
CHUNK: Final = 512
END: Final = struct.Struct("<d")
"""What every entry begins with: the instant at which it is gone."""

K = TypeVar("K")


class Entries(MutableMapping[K, bytes]):
    """A mapping to bytes that begin with their end; `ended` drops what has ended, a little at a time."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[K, bytes]] = {}
        self._firsts: dict[int, float] = {}  # for each table an instant before which nothing in it ends
        self._due: list[tuple[float, int]] = []  # the same, the earliest on top, with some that have been replaced
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        for table in list(self._tables.values()):
            yield from list(table)

    def __getitem__(self, key: K) -> bytes:
        return self._tables.get(_number(key), {})[key]

    def get(self, key: K, default: Any = None) -> Any:
        """The entry of a key, or `default`: what is asked most often, without an exception for what is not there."""
        table = self._tables.get(_number(key))
        return default if table is None else table.get(key, default)

    def __setitem__(self, key: K, entry: bytes) -> None:
        number = _number(key)
        table = self._tables.setdefault(number, {})
        self._count += key not in table
        table[key] = entry
        end = end_of(entry)
        if end < self._firsts.get(number, math.inf):
            self._note(number, end)

    def __delitem__(self, key: K) -> None:
        number = _number(key)
        table = self._tables.get(number, {})
        del table[key]
        self._count -= 1
        if not table:
            del self._tables[number], self._firsts[number]

    def clear(self) -> None:
        """Drops everything."""
        for whole in (self._tables, self._firsts, self._due):
            whole.clear()
        self._count = 0

    def ended(self, now: float, looks: int) -> Iterator[tuple[K, bytes]]:
        """Drops and yields entries that have ended, after about `looks` looks at entries no more of them."""
        while looks > 0 and self._due and self._due[0][0] <= now:
            first, number = heapq.heappop(self._due)
            if self._firsts.get(number) == first:
                looks -= len(self._tables[number]) + 1
                yield from self._cleared(number, now)

    def _cleared(self, number: int, now: float) -> Iterator[tuple[K, bytes]]:
        ends = {key: end_of(entry) for key, entry in self._tables[number].items()}
        left = [end for end in ends.values() if end > now]
        if left:
            self._note(number, min(left))
        for key, end in ends.items():
            if end <= now:
                entry = self[key]
                del self[key]
                yield key, entry

    def _note(self, number: int, first: float) -> None:
        self._firsts[number] = first
        heapq.heappush(self._due, (first, number))
        if len(self._due) > 2 * len(self._firsts) + 64:
            self._due = [(first, number) for number, first in self._firsts.items()]
            heapq.heapify(self._due)


class OrderedEntries(Entries[str]):
    """The same with keys in order: `after` finds the next one without looking at the others."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[list[str]] = []
        self._heads: list[str] = []

    def __setitem__(self, key: str, entry: bytes) -> None:
        if key not in self:
            self._insert(key)
        super().__setitem__(key, entry)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        number = bisect_right(self._heads, key) - 1
        chunk = self._chunks[number]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._heads[number] = chunk[0]
        else:
            del self._chunks[number], self._heads[number]

    def clear(self) -> None:
        """Drops everything."""
        super().clear()
        self._chunks.clear()
        self._heads.clear()

    def after(self, key: str, *, itself: bool) -> Iterator[str]:
        """The keys behind `key`, in their order; `itself`: it too, if it is there. Not while entries come and go."""
        number = max(bisect_right(self._heads, key) - 1, 0)
        for chunk in self._chunks[number : number + 1]:
            yield from chunk[bisect_left(chunk, key) if itself else bisect_right(chunk, key) :]
        for at in range(number + 1, len(self._chunks)):
            yield from self._chunks[at]

    def _insert(self, key: str) -> None:
        if not self._chunks:
            self._chunks.append([])
            self._heads.append(key)
        number = max(bisect_right(self._heads, key) - 1, 0)
        chunk = self._chunks[number]
        insort(chunk, key)
        self._heads[number] = chunk[0]
        if len(chunk) > 2 * CHUNK:
            self._chunks[number : number + 1] = [chunk[:CHUNK], chunk[CHUNK:]]
            self._heads[number : number + 1] = [chunk[0], chunk[CHUNK]]


def end_of(entry: bytes) -> float:
    """The instant at which an entry is gone."""
    end: float = END.unpack_from(entry)[0]
    return end


def _number(key: Any) -> int:
    """The table of a key."""
    return (hash(key) >> _SHIFT) & (TABLES - 1)
