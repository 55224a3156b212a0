"""The `memory` store: the six primitives in this process, bounded, gone with it. It never forgets to make room.

When it is full, new keys are refused (`StoreUnavailable`), so that a flood can make the server refuse and can never
make it forget a limit, a decline or a used id (THREATS K08, N05).
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..plugin import Added, Amount, Entry, Store, StoreContext, StoreType, StoreUnavailable
from .windows import Counter, check_amounts, fresh, name_of, refusal

MAX_ENTRIES: Final = 1_000_000
MAX_BYTES: Final = 256 * 1024 * 1024
SWEPT: Final = 256


@dataclass(slots=True)
class _Value:
    """A stored value and the instant at which it is gone."""

    data: bytes
    version: str
    ends: float
    noted: float = 0.0  # the end that the heap knows, at which the entry is looked at again


class MemoryStore:
    """A `Store` in memory. Safe for threads; operations never wait. `clock` gives monotonic seconds.

    It holds at most `max_entries` values and counters, with at most `max_bytes` of keys and values. What has ended is
    dropped a little with every operation, so that none of them stalls the event loop.
    """

    durable = False
    shared = False

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._values: dict[str, _Value] = {}
        self._windows: dict[str, Counter] = {}
        self._ends: list[tuple[float, str, bool]] = []
        self._lock = threading.Lock()
        self._clock = clock
        self._latest = clock()
        self._epoch = time.time() - self._latest
        self._max = max_entries
        self._free = max_bytes
        self._version = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryStore(entries={len(self)})"

    def __len__(self) -> int:
        """How many live values and counters it holds."""
        with self._lock:
            self._sweep(self._tick(), len(self._ends))
            return self._entries()

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order."""
        with self._lock:
            now = self._begin()
            found = [self._live(key, now) for key in keys]
            return [Entry(value=value.data, version=value.version) if value else None for value in found]

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, gone after `ttl` seconds."""
        with self._lock:
            self._set(key, value, ttl, self._begin())

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent)."""
        with self._lock:
            now = self._begin()
            there = self._live(key, now)
            if (there.version if there else None) != version:
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
            self._forget(self._values, key)
            return there.data

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; see `Store.add`. Raises `ValueError` for amounts, limits or windows below 0."""
        check_amounts(amounts)
        with self._lock:
            now = self._begin()
            names = [name_of(amount) for amount in amounts]
            self._make_room(len(amounts), sum(map(len, names)), now)
            refused = refusal(amounts, {name: self._windows.get(name) for name in names}, now)
            if refused is not None:
                return refused
            pairs = list(zip(names, amounts, strict=True))
            fresh_names = {name for name, amount in pairs if amount.amount and name not in self._windows}
            if fresh_names:
                self._take_room(len(fresh_names), sum(map(len, fresh_names)))
            for name, amount in pairs:
                if amount.amount:
                    self._charge(name, amount, now)
            return Added(ok=True, used=tuple(self._used(name, now) for name in names))

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries in the order of their keys, after `cursor`."""
        with self._lock:
            now = self._begin()
            after = cursor if cursor is not None else ""
            keys = heapq.nsmallest(
                n + 1,
                (
                    key
                    for key, value in self._values.items()
                    if key.startswith(prefix) and (cursor is None or key > after) and value.ends > now
                ),
            )
            page = [(key, Entry(value=self._values[key].data, version=self._values[key].version)) for key in keys[:n]]
            return page, keys[n - 1] if len(keys) > n else None

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
            self._ends.clear()

    # --- under the lock -------------------------------------------------------------------------------------------

    def _begin(self) -> float:
        """The time of this operation, after dropping some of what has ended."""
        if self._closed:
            raise StoreUnavailable("the memory store is closed")
        now = self._tick()
        self._sweep(now, SWEPT)
        return now

    def _tick(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest

    def _entries(self) -> int:
        return len(self._values) + len(self._windows)

    def _sweep(self, now: float, most: int) -> None:
        """Drops what has ended, `most` entries at once."""
        while most and self._ends and self._ends[0][0] <= now:
            most -= 1
            _, key, is_value = heapq.heappop(self._ends)
            table: dict[str, Any] = self._values if is_value else self._windows
            there = table.get(key)
            if there is not None and there.ends <= now:
                self._forget(table, key)
            elif there is not None and there.noted > now:
                pass  # its end was written down anew
            elif there is not None:
                self._note(there, key, is_value)

    def _note(self, there: _Value | Counter, key: str, is_value: bool) -> None:
        """Writes down when an entry ends. Ends that mean nothing any more are cleared away once they are the most."""
        there.noted = there.ends
        heapq.heappush(self._ends, (there.ends, key, is_value))
        if len(self._ends) > 2 * self._entries() + SWEPT:
            self._ends = [(v.noted, k, True) for k, v in self._values.items()]
            self._ends += [(w.noted, k, False) for k, w in self._windows.items()]
            heapq.heapify(self._ends)

    def _forget(self, table: dict[str, Any], key: str) -> None:
        there = table.pop(key)
        self._free += len(key) + (len(there.data) if isinstance(there, _Value) else 0)

    def _live(self, key: str, now: float) -> _Value | None:
        there = self._values.get(key)
        return there if there is not None and there.ends > now else None

    def _set(self, key: str, value: bytes, ttl: float, now: float) -> None:
        if not ttl > 0 or not math.isfinite(ttl):
            raise ValueError("a ttl is a number of seconds above 0")
        self._make_room(1, len(key) + len(value), now)
        there = self._values.get(key)
        if there is None:
            self._take_room(1, len(key) + len(value))
        else:
            self._take_room(0, len(value) - len(there.data))
        self._version += 1
        fresh = _Value(bytes(value), str(self._version), now + ttl)
        self._values[key] = fresh
        if there is not None and now < there.noted <= fresh.ends:
            fresh.noted = there.noted  # the end that is written down comes first, and leads to this one
        else:
            self._note(fresh, key, True)

    def _charge(self, key: str, amount: Amount, now: float) -> None:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = fresh(amount)
        window.add(now, amount.amount, amount.window)
        if not now < window.noted <= window.ends:
            self._note(window, key, False)

    def _used(self, key: str, now: float) -> int:
        window = self._windows.get(key)
        return window.used(now) if window is not None else 0

    def _make_room(self, entries: int, size: int, now: float) -> None:
        """Drops all that has ended if room is short."""
        if self._entries() + entries > self._max or size > self._free:
            self._sweep(now, len(self._ends))

    def _take_room(self, entries: int, size: int) -> None:
        """Raises `StoreUnavailable` where there is no room for so many more entries and bytes."""
        if (entries and self._entries() + entries > self._max) or size > self._free:
            raise StoreUnavailable("the memory store is full")
        self._free -= size


def _open(address: str, context: StoreContext) -> Store:
    if address != "memory":
        raise ValueError("the memory store takes no address: store: memory")
    return MemoryStore()


TYPE: Final = StoreType(scheme="memory", open=_open, summary="In this process; gone when it ends.")
