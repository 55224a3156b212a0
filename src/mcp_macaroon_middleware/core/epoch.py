"""The store's epoch: what was approved before it counts for nothing. It notices a store that was emptied or put back.

One sealed record in the store says since when the store has been whole, and carries a beat that only goes forward. A
missing, broken or older record begins a new epoch (law L5; THREATS D09, FI5).
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from ..plugin.contract import Entry, Store
from ..plugin.ticks import ticks
from .sealing import Broken, Sealer

logger: Final = logging.getLogger("mcp_macaroon_middleware")

NAME: Final = "epoch"
LASTS: Final = 20 * 365 * 86_400.0
BEAT: Final = 5.0
TRIES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    id: str
    since: float
    beat: float


class Epoch:
    """The epoch of one store, as this process knows it. `renewed` is told why a new one began.

    `names` tells under which names things are kept: a record of other names is broken, since what was revoked or
    declined under them can no longer be found.
    """

    def __init__(self, store: Store, sealer: Sealer, *, renewed: Callable[[str], None], names: str = "") -> None:
        self._store = store
        self._sealer = sealer
        self._bound = f"{NAME}/{names}"
        self._renewed = renewed
        self._known: _Record | None = None
        self._looked = self._asked = -math.inf
        self._told = 0.0

    @property
    def begun(self) -> bool:
        """Whether this process has seen the store's epoch, or begun it."""
        return self._known is not None

    async def now(self) -> float:
        """The store's time: what it told a beat ago at most, and the seconds that have passed here since.

        So nobody has to ask at every decision. It is behind the store's own clock only if that was set since; and what
        the store ends, it ends by its own clock all the same.
        """
        passed = ticks() - self._asked
        return self._told + passed if passed <= 2 * BEAT else await self._ask()

    async def _ask(self) -> float:
        """The store's time by the store."""
        asked = ticks()
        self._told, self._asked = await self._store.now(), asked
        return self._told

    def after(self, now: float) -> float:
        """The store's time `now` for what is approved in this epoch: never from before it, whatever clock began it."""
        return now if self._known is None else max(now, self._known.since)

    async def since(self, entry: Entry | None) -> float:
        """Since when approvals count, in the store's own time. `entry` is what the store has under `NAME`."""
        for _ in range(TRIES):
            found = self._read(entry)
            fault = self._fault(entry, found)
            if fault is None and found is not None:
                return await self._beaten(entry, found)
            begun = await self._begin(entry)
            if begun is not None:
                self._renewed(fault or "missing")
                return begun.since
            entry = (await self._store.get([NAME]))[0]
        return await self._store.now()  # others change it at every try: nothing that was approved counts

    def _read(self, entry: Entry | None) -> _Record | None:
        if entry is None:
            return None
        try:
            return _Record(**json.loads(self._sealer.open("record", self._bound, entry.value)))
        except (Broken, ValueError, TypeError):
            return None

    def _fault(self, entry: Entry | None, found: _Record | None) -> str | None:
        """Why the record cannot be relied on."""
        if found is None:
            return "missing" if entry is None else "broken"
        known = self._known
        if known is not None and (found.since < known.since or found.beat < known.beat):
            return "older than what this server has seen"
        return None

    async def _begin(self, entry: Entry | None) -> _Record | None:
        """A new epoch from now on; None if somebody else was faster."""
        now = await self._ask()
        if self._known is not None:
            now = max(now, self._known.beat)  # by another server's clock
        record = _Record(id=secrets.token_hex(8), since=now, beat=now)
        return record if await self._written(entry, record) else None

    async def _beaten(self, entry: Entry | None, found: _Record) -> float:
        """The epoch goes on. Now and then the record is written anew, so that an old copy of it can be told.

        So it is at the first look under another key: it must not go with the key that it was sealed under.
        """
        self._known = found
        if ticks() - self._looked > BEAT:
            self._looked = ticks()
            now = await self._ask()
            if now - found.beat > BEAT or (entry is not None and not self._sealer.is_current(entry.value)):
                await self._written(entry, _Record(id=found.id, since=found.since, beat=max(now, found.beat)))
        return found.since

    async def _written(self, entry: Entry | None, record: _Record) -> bool:
        sealed = self._sealer.seal("record", self._bound, json.dumps(asdict(record)).encode())
        written = await self._store.swap(NAME, entry.version if entry is not None else None, sealed, LASTS)
        if written:
            self._known = record
        return written
