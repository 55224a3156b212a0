"""The faults of a soak: what is done to its servers, store and files while it runs, one at a time, each undone."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Final

from .calls import Fault, Story
from .place import Place

HELD: Final = 3.0
"""Seconds that a store is paused or locked."""
SERVERS: Final = "server killed"


class Faults:
    """Does one fault after the other, each kind once a round."""

    def __init__(self, place: Place, story: Story) -> None:
        self.place, self._story, self._next = place, story, 0
        self._hit = 0

    @property
    def kinds(self) -> dict[str, Callable[[Fault], Awaitable[None]]]:
        """The faults that this place can have."""
        found: dict[str, Callable[[Fault], Awaitable[None]]] = {
            SERVERS: self._server,
            "policy rewritten": self._rewritten,
            "policy half written": self._half_written,
        }
        if self.place.kind == "sqlite":
            return {"store locked": self._locked, **found}
        if self.place.store_server is None:
            return found
        more = {"store killed": self._killed, "connections cut": self._cut}
        return {"store paused": self._paused, **found, **more}

    async def one(self, *, sparing: bool) -> Fault:
        """The next fault; with `sparing` it kills no server, so that its memory can be looked at in the end."""
        kinds = {kind: done for kind, done in self.kinds.items() if not (sparing and kind == SERVERS)}
        kind = list(kinds)[self._next % len(kinds)]
        self._next += 1
        fault = Fault(kind=kind, began=time.monotonic())
        self._story.faults.append(fault)
        await kinds[kind](fault)
        fault.lifted = time.monotonic()
        return fault

    # --- the store ----------------------------------------------------------------------------------------------------

    async def _paused(self, fault: Fault) -> None:
        store = self.place.store_server
        assert store is not None
        store.pause()
        try:
            await asyncio.sleep(HELD)
        finally:
            store.resume()

    async def _killed(self, fault: Fault) -> None:
        store = self.place.store_server
        assert store is not None
        store.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(store.start)

    async def _cut(self, fault: Fault) -> None:
        store = self.place.store_server
        assert store is not None
        await asyncio.to_thread(store.ask, "CLIENT", "KILL", "TYPE", "normal")

    async def _locked(self, fault: Fault) -> None:
        await asyncio.to_thread(self._lock)

    def _lock(self) -> None:
        """Holds the write lock of the SQLite file from outside."""
        holder = sqlite3.connect(self.place.folder / "state.db", timeout=10, isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(HELD)
            holder.execute("ROLLBACK")
        finally:
            holder.close()

    # --- the servers --------------------------------------------------------------------------------------------------

    async def _server(self, fault: Fault) -> None:
        fault.server = self._hit % len(self.place.servers)
        self._hit += 1
        server = self.place.servers[fault.server]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    async def _rewritten(self, fault: Fault) -> None:
        """The rule of the tool `turn` becomes its opposite."""
        self.place.turned = not self.place.turned
        self.place.rewrite()

    async def _half_written(self, fault: Fault) -> None:
        """A file that ends in the middle of a rule, and then the whole of it, unchanged."""
        for policy in self.place.files:
            text = policy.read_text()
            policy.write_text(text[: text.rindex("- ")] + "- bf:free")
        await asyncio.sleep(2)
        self.place.rewrite()
