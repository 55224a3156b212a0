"""The `redis` store: the six primitives on a Redis or Valkey server, shared between processes and machines.

Each primitive is one script, so it happens whole or not at all, in one round trip, by the server's clock. It never
sends an operation a second time: after a lost reply nobody knows what happened, and that is `StoreUnavailable`.

It is as durable as its server: what the server loses in a crash or a failover is forgotten here too. It runs with
`maxmemory-policy noeviction` alone, unless told otherwise, and with `appendonly yes` where a used id must stay used
after a power cut. Where the server's clock is set back, values last longer by as much and limits by one window at most;
where it is set ahead, all of them end as if the time had passed, which nobody can tell apart from there.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from ..plugin import Added, Amount, Entry, PluginError, StoreContext, StoreType, StoreUnavailable
from . import redis_scripts as scripts
from .broken import BROKEN, Broken, Event
from .redis_address import ClusterAddress, read_address, read_cluster, read_sentinels
from .redis_parts import Part, Parts
from .redis_transport import Address, Link, RedisSettings
from .redis_values import foreign, line_of, milliseconds, stamped, to_bytes, to_entry, to_text

MOST_ENTRIES: Final = 1000
MOST_BYTES: Final = 4 * 1024 * 1024
PROBE_LASTS: Final = 10_000
"""Milliseconds that a probe's key lasts, where it cannot be taken again."""
APART: Final = "limits_apart"
"""The code of charges that lie in several parts of a cluster."""

T = TypeVar("T")


class RedisStore:
    """A `Store` on a server, on the master that sentinels name, or on a cluster. It connects on first use, in whatever
    event loop uses it, and again after an outage.

    Every key begins with `mcpm:{audience}:` (on a cluster `mcpm:{audience/part}:`), so servers with different
    audiences share nothing, in one database.
    """

    durable = True
    shared = True

    def __init__(
        self,
        address: Address,
        audience: str,
        settings: RedisSettings | None = None,
        event: Event = lambda name, facts: None,
    ) -> None:
        from .redis_opening import CLOSED, open_link  # loads the client library

        self._address = address
        self._settings = settings or RedisSettings()
        self._parts = Parts(audience, spread=isinstance(address, ClusterAddress))
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}
        self._lock = threading.Lock()
        self._broken = Broken(event)
        self._make = open_link
        self._closed = False
        self._closed_text = CLOSED
        self._latest = 0.0

    def __repr__(self) -> str:
        return f"RedisStore({self._address.scheme}://…)"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order; those of one part read at one instant, the parts side by side."""
        places: dict[Part, list[int]] = {self._parts.server: []} if not keys else {}
        for at, key in enumerate(keys):
            places.setdefault(self._parts.of(key), []).append(at)
        if len(places) == 1:
            ((part, _),) = places.items()
            return await self._get(part, keys)
        read = await asyncio.gather(*(self._get(part, [keys[at] for at in ats]) for part, ats in places.items()))
        found: list[Entry | None] = [None] * len(keys)
        for ats, entries in zip(places.values(), read, strict=True):
            for at, entry in zip(ats, entries, strict=True):
                found[at] = entry
        return found

    async def _get(self, part: Part, keys: Sequence[str]) -> list[Entry | None]:
        names = (part.base, *(part.base + b"v:" + to_bytes(key) for key in keys))

        def read(reply: Any) -> list[Entry | None]:
            if len(reply) != len(keys):
                raise StoreUnavailable("the redis server answers what cannot be read")
            return [to_entry(found) if found is not None else None for found in reply]

        return await self._read(read, scripts.GET, names)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, gone after `ttl` seconds. Raises `ValueError` for a ttl that is not above 0."""
        arguments = (to_bytes(key), stamped(value), milliseconds(ttl))
        await self._read(self._done, scripts.PUT, self._keys(key), arguments)

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent)."""
        there = b"" if version is None else to_bytes(version) or b"-"  # no version is as short as this
        arguments = (to_bytes(key), stamped(value), milliseconds(ttl), there)
        return bool(await self._read(self._done, scripts.SWAP, self._keys(key), arguments) == 1)

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value; of any number of takers at most one gets it."""

        def read(reply: Any) -> bytes | None:
            found = self._done(reply)
            return to_entry(found).value if found is not None else None

        return await self._read(read, scripts.TAKE, self._keys(key), (to_bytes(key),))

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; see `Store.add`. Raises `ValueError` for amounts, limits or windows below 0.

        Raises `StoreUnavailable` with the code `limits_apart` for lines of several parts of a cluster, which it has no
        way to charge together, and with `record_broken` for a counter that holds what nobody here wrote: that is moved
        aside, and the next one to ask finds a fresh window.
        """
        for amount in amounts:
            if amount.amount < 0 or amount.limit < 0 or not 0 < amount.window < math.inf:
                raise ValueError("amounts and limits are 0 or more, windows a number of seconds above 0")
            if amount.lasts is not None and not 0 < amount.lasts < math.inf:
                raise ValueError("a counter lasts a number of seconds above 0")
        parts = {self._parts.of(amount.key) for amount in amounts} or {self._parts.server}
        if len(parts) > 1:
            raise StoreUnavailable("limits in several parts of a redis cluster cannot be charged at once", code=APART)
        (part,) = parts
        keys = (part.base + (b"b:" if amount.refills else b"c:") + to_bytes(amount.key) for amount in amounts)
        lines = [number for amount in amounts for number in line_of(amount)]
        ok, wait, *used = await self._link().run(scripts.ADD, (part.base, *keys), lines)
        if ok < 0:
            self._broken.moved("counter", wait)
            raise foreign()
        return Added(ok=ok == 1, used=tuple(used), retry_after=None if wait < 0 else wait / 1_000_000)

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries, after `cursor`; at most `MOST_ENTRIES`, or about `MOST_BYTES`, at once. In the order
        of their keys; on a cluster one part after the other."""
        if n < 1:
            raise ValueError("a page has at least one entry")
        parts = self._parts.under(prefix)
        at, after = _place(cursor) if len(parts) > 1 else (0, cursor)
        page: list[tuple[str, Entry]] = []
        for number in range(at, len(parts)):
            found, last = await self._page(parts[number], prefix, after, n - len(page))
            page, after = [*page, *found], last
            if last is not None:
                return page, last if len(parts) == 1 else f"{number}:{last}"
            if len(page) == n and number + 1 < len(parts):
                return page, f"{number + 1}:"
        return page, None

    async def _page(
        self, part: Part, prefix: str, cursor: str | None, n: int
    ) -> tuple[list[tuple[str, Entry]], str | None]:
        start, after = to_bytes(prefix), to_bytes(cursor or "")
        first = b"(" + after if cursor is not None and after >= start else b"[" + start
        arguments = (first, b"(" + start + b"\xff", min(n, MOST_ENTRIES), MOST_BYTES)  # no text has a byte of 255

        def read(reply: Any) -> tuple[list[tuple[str, Entry]], str | None]:
            last, found, aside = reply
            self._broken.moved("index", aside)
            page = [(to_text(key), to_entry(value)) for key, value in zip(found[::2], found[1::2], strict=True)]
            return page, to_text(last) if last is not None else None

        return await self._read(read, scripts.SCAN, part.common, arguments)

    async def _read(
        self,
        read: Callable[[Any], T],
        script: scripts.Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | int] = (),
    ) -> T:
        """What `read` makes of the server's reply. Where a value is not ours, that is told."""
        try:
            return read(await self._link().run(script, keys, arguments))
        except StoreUnavailable as error:
            if error.code == BROKEN:
                self._broken.met()
            raise

    def _done(self, reply: Any) -> Any:
        """The answer of a script that may have moved an index aside."""
        if not isinstance(reply, list):
            return reply
        answer, aside = reply
        self._broken.moved("index", aside)
        return answer

    async def now(self) -> float:
        """The server's clock, in seconds since the epoch; it never goes back for one who asks this store. On a cluster
        it is the clock of the node that has what is nobody's in particular."""
        seconds, micros = await self._link().run(scripts.CHECK, (self._parts.server.base,))
        self._latest = max(self._latest, int(seconds) + int(micros) / 1_000_000)
        return self._latest

    async def probe(self) -> None:
        """Writes a key and takes it again, at each server that has a part. Raises what keeps the store from that."""
        parts = {part.base: part for part in self._parts.all}
        chosen = await self._link().spread(tuple(parts))
        tried = await asyncio.gather(*(self._tried(parts[name]) for name in chosen), return_exceptions=True)
        for error in tried:
            if error is not None:
                raise error

    async def _tried(self, part: Part) -> None:
        key = b"probe " + secrets.token_hex(8).encode()
        keys = (*part.common, part.base + b"v:" + key)
        await self._read(self._done, scripts.PUT, keys, (key, stamped(b""), PROBE_LASTS))
        await self._read(self._done, scripts.TAKE, keys, (key,))

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
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._closed:
                raise StoreUnavailable(self._closed_text)
            link = self._links.get(loop)
            if link is None or link.over:
                self._links = {known: there for known, there in self._links.items() if not there.over}
                link = self._links[loop] = self._make(self._address, self._settings)
            return link

    def _keys(self, key: str) -> tuple[bytes, ...]:
        part = self._parts.of(key)
        return (*part.common, part.base + b"v:" + to_bytes(key))


def _place(cursor: str | None) -> tuple[int, str | None]:
    """The part at which a page of several begins, and after which of its keys."""
    if cursor is None:
        return 0, None
    number, separator, after = cursor.partition(":")
    if not separator or not number.isdecimal() or len(number) > 4:
        raise ValueError("this cursor is not one that `scan` gave")
    return int(number), after or None


def _opener(read: Callable[[str, Path], Address]) -> Callable[[str, StoreContext], RedisStore]:
    def opened(address: str, context: StoreContext) -> RedisStore:
        if not context.audience:
            raise PluginError("a redis store needs `audience`, which names this server")
        return RedisStore(read(address, context.base), context.audience, context.settings, context.event)

    return opened


def _prober(opened: Callable[[str, StoreContext], RedisStore]) -> Callable[[str, StoreContext], None]:
    def probe(address: str, context: StoreContext) -> None:
        from .redis_opening import probe_store  # loads the client library

        store = opened(address, context)
        probe_store(store, (context.settings or RedisSettings()).timeout)

    return probe


def _type(scheme: str, read: Callable[[str, Path], Address], summary: str) -> StoreType:
    return StoreType(
        scheme=scheme,
        open=_opener(read),
        probe=_prober(_opener(read)),
        settings=RedisSettings,
        partitioned=read is read_cluster,
        summary=summary,
    )


REDIS: Final = _type("redis", read_address, "On a Redis or Valkey server; redis://host:port/0.")
REDISS: Final = _type("rediss", read_address, "The same, over TLS.")
SENTINEL: Final = _type(
    "redis+sentinel", read_sentinels, "On the master that sentinels name; redis+sentinel://host:port,host:port/name/0."
)
SENTINELS: Final = _type("rediss+sentinel", read_sentinels, "The same, over TLS.")
CLUSTER: Final = _type(
    "redis+cluster", read_cluster, "On a Redis or Valkey cluster; redis+cluster://host:port,host:port."
)
CLUSTERS: Final = _type("rediss+cluster", read_cluster, "The same, over TLS.")
TYPES: Final = (REDIS, REDISS, SENTINEL, SENTINELS, CLUSTER, CLUSTERS)
