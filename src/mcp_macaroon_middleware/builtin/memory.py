"""The `memory` store: the six primitives in this process, bounded, gone with it. It never forgets to make room.

When it is full, new keys are refused (`StoreUnavailable`), so that a flood can make the server refuse and can never
make it forget a limit, a decline or a used id (THREATS K08, N05, FI23).
"""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ..plugin import Added, Amount, Entry, Store, StoreContext, StoreType, StoreUnavailable
from ..plugin.ticks import ticks
from .memory_entries import END, Entries, OrderedEntries, end_of
from .windows import Counter, check_amounts, ends_of, fresh, name_of, packed, refusal, unpacked

MAX_ENTRIES: Final = 1_000_000
MAX_BYTES: Final = 256 * 1024 * 1024
LOOKS: Final = 256
"""How many entries an operation looks at, at least, to drop those that have ended."""
LOOKS_WHEN_FULL: Final = 4096
SKIPPED: Final = 1000
"""How many entries that have ended a page of `scan` passes over before it ends early."""
SHARE: Final = 64
"""The bytes that an entry takes in its table, at the most; a test measures what a million of them really take."""
RESERVED: Final = 16
"""One part in so many of the room is kept for the growth of what is there already."""

_HEAD: Final = struct.Struct("<dq")
"""What a value begins with: its end and its version."""


class MemoryStore:
    """A `Store` in memory. Safe for threads; operations never wait. `clock` gives monotonic seconds.

    It holds at most `max_entries` values and counters, which take at most `max_bytes` of memory, what Python adds to
    them included. What has ended is dropped a little with every operation, so that none of them stalls the event loop.
    """

    durable = False
    shared = False

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = ticks,
    ) -> None:
        self._values = OrderedEntries()
        self._windows: Entries[bytes] = Entries()  # by digest, packed behind its end
        self._salt = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._clock = clock
        self._latest = clock()
        self._epoch = time.time() - self._latest
        self._max = max_entries
        self._free = max_bytes
        self._reserved = max_bytes // RESERVED
        self._version = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryStore(entries={self._entries()})"

    def __len__(self) -> int:
        """How many live values and counters it holds; first it drops all that has ended, however long that takes."""
        with self._lock:
            self._sweep(self._tick(), sys.maxsize)
            return self._entries()

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order."""
        with self._lock:
            now = self._begin()
            return [self._live(key, now) for key in keys]

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, gone after `ttl` seconds."""
        with self._lock:
            self._set(key, value, ttl, self._begin())

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent)."""
        with self._lock:
            now = self._begin()
            there = self._live(key, now)
            if (there.version if there is not None else None) != version:
                return False
            self._set(key, value, ttl, now)
            return True

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value."""
        with self._lock:
            now = self._begin()
            there = self._live(key, now)
            if there is None:
                return None
            self._free += _value_size(key, self._values.pop(key))
            return there.value

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; see `Store.add`. Raises `ValueError` for amounts, limits or windows below 0."""
        check_amounts(amounts)
        with self._lock:
            now = self._begin()
            lines = {name_of(amount): amount for amount in amounts}
            keys = {name: self._digest(name) for name in lines}
            counters = {name: self._counter(keys[name], amount, now) for name, amount in lines.items()}
            refused = refusal(amounts, counters, now)
            if refused is not None:
                return refused
            charged = {name_of(amount): _charged(counters, amount, now) for amount in amounts if amount.amount}
            ends = ends_of(amounts, charged, now)
            self._keep({keys[name]: END.pack(ends[name]) + packed(counter) for name, counter in charged.items()}, now)
            found = (counters[name_of(amount)] for amount in amounts)
            return Added(ok=True, used=tuple(each.used(now) if each is not None else 0 for each in found))

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries in the order of their keys, after `cursor`; among what has ended a page is shorter."""
        with self._lock:
            now = self._begin()
            page: list[tuple[str, Entry]] = []
            start = prefix if cursor is None else max(prefix, cursor)
            last = ""
            for looks, key in enumerate(self._values.after(start, itself=cursor is None or start != cursor)):
                if not key.startswith(prefix):
                    break
                if len(page) == n or looks == n + SKIPPED:
                    return page, last
                last = key
                entry = self._live(key, now)
                if entry is not None:
                    page.append((key, entry))
            return page, None

    async def now(self) -> float:
        """Seconds since the epoch, by a clock that does not follow changes of the wall clock."""
        with self._lock:
            return self._epoch + self._begin()

    async def close(self) -> None:
        """Forgets everything; every later call raises `StoreUnavailable`."""
        with self._lock:
            self._closed = True
            self._values.clear()
            self._windows.clear()

    # --- under the lock -------------------------------------------------------------------------------------------

    def _begin(self) -> float:
        """The time of this operation, after dropping some of what has ended."""
        if self._closed:
            raise StoreUnavailable("the memory store is closed")
        now = self._tick()
        self._sweep(now, LOOKS)
        return now

    def _tick(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest

    def _entries(self) -> int:
        return len(self._values) + len(self._windows)

    def _sweep(self, now: float, looks: int) -> None:
        """Drops what has ended, in about so many looks."""
        for key, kept in self._values.ended(now, looks):
            self._free += _value_size(key, kept)
        for _, kept in self._windows.ended(now, looks):
            self._free += _counter_size(kept)

    def _live(self, key: str, now: float) -> Entry | None:
        kept = self._values.get(key)
        if kept is None or end_of(kept) <= now:
            return None
        return Entry(value=kept[_HEAD.size :], version=str(_HEAD.unpack_from(kept)[1]))

    def _set(self, key: str, value: bytes, ttl: float, now: float) -> None:
        if not ttl > 0 or not math.isfinite(ttl):
            raise ValueError("a ttl is a number of seconds above 0")
        made = _HEAD.pack(now + ttl, self._version + 1) + value
        there = self._values.get(key)
        size = _value_size(key, made) - (_value_size(key, there) if there is not None else 0)
        self._take_room(0 if there is not None else 1, size, now)
        self._version += 1
        self._values[key] = made

    def _digest(self, name: str) -> bytes:
        """A counter's key: short whatever its name is, and nobody outside can find two names that share one."""
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=15, key=self._salt).digest()

    def _counter(self, key: bytes, amount: Amount, now: float) -> Counter | None:
        state = self._windows.get(key)
        return None if state is None or end_of(state) <= now else unpacked(state[END.size :], bucket=amount.refills)

    def _keep(self, states: dict[bytes, bytes], now: float) -> None:
        """Stores counters, packed behind their ends, all of them or none."""
        there = [state for key in states if (state := self._windows.get(key)) is not None]
        size = sum(map(_counter_size, states.values())) - sum(map(_counter_size, there))
        self._take_room(len(states) - len(there), size, now)
        for key, state in states.items():
            self._windows[key] = state

    def _take_room(self, entries: int, size: int, now: float) -> None:
        """Takes room for so many more entries and bytes. Raises `StoreUnavailable` where there is none.

        What is new cannot take the last of it, which stays for the charges of those who are known already.
        """
        if not self._fits(entries, size):
            self._sweep(now, LOOKS_WHEN_FULL)
            if not self._fits(entries, size):
                raise StoreUnavailable("the memory store is full")
        self._free -= size

    def _fits(self, entries: int, size: int) -> bool:
        if not entries:
            return size <= max(self._free, 0)
        return self._entries() + entries <= self._max and size <= self._free - self._reserved


def _charged(counters: dict[str, Counter | None], amount: Amount, now: float) -> Counter:
    name = name_of(amount)
    counter = counters[name]
    if counter is None:
        counter = counters[name] = fresh(amount)
    counter.add(now, amount.amount, amount.window)
    return counter


def _taken(thing: object) -> int:
    """The memory that a thing takes: it is given out in steps of 16 bytes."""
    return (sys.getsizeof(thing) + 15) & ~15


_DIGEST: Final = _taken(bytes(15))
_ORDER: Final = 16
"""The bytes of a key's place in the order of keys."""


def _value_size(key: str, kept: bytes) -> int:
    return SHARE + _ORDER + _taken(key) + _taken(kept)


def _counter_size(kept: bytes) -> int:
    return SHARE + _DIGEST + _taken(kept)


def _open(address: str, context: StoreContext) -> Store:
    if address != "memory":
        raise ValueError("the memory store takes no address: store: memory")
    return MemoryStore()


TYPE: Final = StoreType(scheme="memory", open=_open, summary="In this process; gone when it ends.")
