"""Stand-ins for what tests cannot provoke otherwise: a clock that stands, a store that is down, a list as sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from ..errors import AuditUnavailable, StoreUnavailable
from ..plugin.contract import Added, Amount, Entry


class FixedClock:
    """A `Clock` that stands still until it is told to go on."""

    def __init__(self, at: datetime | None = None) -> None:
        self._at = at or datetime(2026, 1, 5, 12, tzinfo=UTC)

    def now(self) -> datetime:
        """The instant at which it stands."""
        return self._at

    def advance(self, seconds: float) -> None:
        """Goes on by that many seconds."""
        self._at += timedelta(seconds=seconds)


class BrokenStore:
    """A `Store` that is down: every call raises `StoreUnavailable`. `touched` counts the calls."""

    durable = False
    shared = False

    def __init__(self) -> None:
        self.touched = 0

    def _fail(self) -> NoReturn:
        self.touched += 1
        raise StoreUnavailable("the store is down")

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Raises `StoreUnavailable`, as every method here."""
        self._fail()

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def take(self, key: str) -> bytes | None:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def now(self) -> float:
        """Raises `StoreUnavailable`."""
        self._fail()

    async def close(self) -> None:
        """Does nothing."""


class Records(list[dict[str, Any]]):
    """An `AuditSink` that keeps its records in itself; with `broken` set it cannot record."""

    broken = False
    closed = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Keeps a copy. Raises `AuditUnavailable` when it is broken or closed."""
        if self.broken or self.closed:
            raise AuditUnavailable("the sink cannot record")
        self.append(dict(record))

    def close(self) -> None:
        """Takes no more records."""
        self.closed = True
