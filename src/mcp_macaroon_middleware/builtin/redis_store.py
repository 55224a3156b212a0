"""The `redis` store: the six primitives on a Redis or Valkey server, shared between processes and machines.

Each primitive is one script, so it happens whole or not at all, in one round trip, by the server's clock. It never
sends an operation a second time: after a lost reply nobody knows what happened, and that is `StoreUnavailable`.

It is as durable as its server: what the server loses in a crash or a failover is forgotten here too. Run it with
`maxmemory-policy noeviction`, and with `appendonly yes` where a used id must stay used after a power cut. Where the
server's clock is set back, what is stored lasts longer by as much; nothing that was seen gone comes back.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pydantic import Field

from ..plugin import Added, Amount, Entry, PluginError, Settings, Store, StoreContext, StoreType, StoreUnavailable
from . import redis_scripts as scripts
from .redis_address import RedisAddress, read_address

if TYPE_CHECKING:
    from .redis_link import Link

MOST_ENTRIES: Final = 1000
MOST_BYTES: Final = 4 * 1024 * 1024
_LONGEST: Final = 100 * 365 * 86_400  # seconds; whatever is to last longer lasts this long
_MOST: Final = 2**53 - 1  # what the server counts exactly


class RedisSettings(Settings):
    """The section `redis` (`rediss`): `timeout` of an operation in seconds, how many may wait at once, and whether a
    server may be used that forgets any key when it is full (`maxmemory-policy allkeys-…`), limits included."""

    timeout: float = Field(default=2.0, gt=0, le=60)
    max_waiting: int = Field(default=200, ge=1, le=100_000)
    allow_eviction: bool = False


class RedisStore:
    """A `Store` on a server. It connects on first use, in whatever event loop uses it, and again after an outage.

    Every key begins with `mcpm:{audience}:`, so servers with different audiences share nothing, in one database.
    """

    durable = True
    shared = True

    def __init__(self, address: RedisAddress, audience: str, settings: RedisSettings | None = None) -> None:
        from .redis_link import CLOSED, Link

        self._address = address
        self._settings = settings or RedisSettings()
        self._base = f"mcpm:{{{quote(audience, safe='', errors='surrogatepass')}}}:".encode()
        self._common = (self._base, self._base + b"i", self._base + b"x")
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}
        self._lock = threading.Lock()
        self._make = Link
        self._closed = False
        self._closed_text = CLOSED
        self._latest = 0.0

    def __repr__(self) -> str:
        return f"RedisStore({'rediss' if self._address.tls else 'redis'}://…)"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order, read at one instant."""
        reply = await self._link().run(scripts.GET, (self._base, *map(self._value_key, keys)))
        if len(reply) != len(keys):
            raise StoreUnavailable("the redis server answers what cannot be read")
        return [_entry(found) if found is not None else None for found in reply]

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, gone after `ttl` seconds. Raises `ValueError` for a ttl that is not above 0."""
        await self._link().run(scripts.PUT, self._keys(key), (_bytes(key), _stamped(value), _milliseconds(ttl)))

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent)."""
        there = b"" if version is None else _bytes(version) or b"-"  # no version is as short as this
        arguments = (_bytes(key), _stamped(value), _milliseconds(ttl), there)
        return bool(await self._link().run(scripts.SWAP, self._keys(key), arguments) == 1)

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value; of any number of takers at most one gets it."""
        found = await self._link().run(scripts.TAKE, self._keys(key), (_bytes(key),))
        return _entry(found).value if found is not None else None

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; see `Store.add`. Raises `ValueError` for amounts, limits or windows below 0."""
        for amount in amounts:
            if amount.amount < 0 or amount.limit < 0 or not 0 < amount.window < math.inf:
                raise ValueError("amounts and limits are 0 or more, windows a number of seconds above 0")
        keys = (self._base + (b"b:" if amount.refills else b"c:") + _bytes(amount.key) for amount in amounts)
        lines = [number for amount in amounts for number in _line(amount)]
        ok, wait, *used = await self._link().run(scripts.ADD, (self._base, *keys), lines)
        return Added(ok=ok == 1, used=tuple(used), retry_after=None if wait < 0 else wait / 1_000_000)

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries in the order of their keys, after `cursor`; at most `MOST_ENTRIES`, or about
        `MOST_BYTES`, at once."""
        if n < 1:
            raise ValueError("a page has at least one entry")
        start, after = _bytes(prefix), _bytes(cursor or "")
        first = b"(" + after if cursor is not None and after >= start else b"[" + start
        arguments = (first, b"(" + start + b"\xff", min(n, MOST_ENTRIES), MOST_BYTES)  # no text has a byte of 255
        last, found = await self._link().run(scripts.SCAN, self._common, arguments)
        page = [(_text(key), _entry(value)) for key, value in zip(found[::2], found[1::2], strict=True)]
        return page, _text(last) if last is not None else None

    async def now(self) -> float:
        """The server's clock, in seconds since the epoch; it never goes back for one who asks this store."""
        seconds, micros = await self._link().run(scripts.CHECK, ())
        self._latest = max(self._latest, int(seconds) + int(micros) / 1_000_000)
        return self._latest

    async def close(self) -> None:
        """Closes the connections of this event loop, and asks others that are running to close theirs."""
        with self._lock:
            self._closed = True
            links, self._links = self._links, {}
        for loop, link in links.items():
            if loop is asyncio.get_running_loop():
                await link.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(link.close(), loop)

    def _link(self) -> Link:
        """The connections of the event loop that is running."""
        loop, options = asyncio.get_running_loop(), self._settings
        with self._lock:
            if self._closed:
                raise StoreUnavailable(self._closed_text)
            link = self._links.get(loop)
            if link is None or link.over:
                self._links = {known: there for known, there in self._links.items() if not there.over}
                link = self._links[loop] = self._make(
                    self._address,
                    timeout=options.timeout,
                    max_waiting=options.max_waiting,
                    allow_eviction=options.allow_eviction,
                )
            return link

    def _value_key(self, key: str) -> bytes:
        return self._base + b"v:" + _bytes(key)

    def _keys(self, key: str) -> tuple[bytes, ...]:
        return (*self._common, self._value_key(key))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(key: Any) -> str:
    try:
        return bytes(key).decode("utf-8", "surrogatepass")
    except ValueError:
        raise StoreUnavailable("the redis server holds what this store did not write") from None


def _stamped(value: bytes) -> bytes:
    """`value` after a version that was never there before."""
    return secrets.token_hex(scripts.VERSION // 2).encode() + value


def _entry(found: bytes) -> Entry:
    if len(found) < scripts.VERSION:
        raise StoreUnavailable("the redis server holds what this store did not write")
    return Entry(value=found[scripts.VERSION :], version=_text(found[: scripts.VERSION]))


def _milliseconds(ttl: float) -> int:
    if not ttl > 0 or not math.isfinite(ttl):
        raise ValueError("a ttl is a number of seconds above 0")
    return math.ceil(min(ttl, _LONGEST) * 1000)


def _line(amount: Amount) -> tuple[int, int, int, int]:
    """A line as the script counts: what is above its largest number is refused, whatever the limit."""
    window = math.ceil(min(amount.window, _LONGEST) * 1_000_000)
    return min(amount.amount, _MOST + 1), min(amount.limit, _MOST), window, int(amount.refills)


def _open(address: str, context: StoreContext) -> Store:
    if not context.audience:
        raise PluginError("a redis store needs `audience`, which names this server")
    return RedisStore(read_address(address, context.base), context.audience, context.settings)


REDIS: Final = StoreType(
    scheme="redis", open=_open, settings=RedisSettings, summary="On a Redis or Valkey server; redis://host:port/0."
)
REDISS: Final = StoreType(scheme="rediss", open=_open, settings=RedisSettings, summary="The same, over TLS.")
