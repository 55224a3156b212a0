"""What goes wrong during a soak, one after the other: stores and servers hung, killed, started again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from load import Load
from redis_server import RedisServer
from several import Fleet

PAUSE = 3.0
BETWEEN = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One that happened: its name, when it began and ended, and how long after that the first call succeeded."""

    name: str
    began: float
    ended: float
    returned: float | None


class Faults:
    """Brings them about, and waits after each until calls succeed again."""

    def __init__(self, made: Fleet, redis: RedisServer | None, load: Load) -> None:
        self.happened: list[Fault] = []
        self._made, self._redis, self._load = made, redis, load

    async def run(self, seconds: float) -> None:
        """One after the other, for so long; each kind at least once."""
        end, kinds, number = time.monotonic() + seconds, self._kinds(), 0
        while number < len(kinds) or time.monotonic() < end:
            name, fault = kinds[number % len(kinds)]
            number += 1
            began = time.time()
            await fault()
            ended = time.time()
            self.happened.append(Fault(name=name, began=began, ended=ended, returned=await self._returned(ended)))
            left = end - time.monotonic()
            await asyncio.sleep(max(min(BETWEEN, left), 0.5))

    def _kinds(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [("policy written anew", self._reload)]
        if len(self._made.servers) > 1:
            kinds.append(("server killed", self._kill_server))
        if self._redis is not None:
            kinds += [
                ("store hung", self._hang),
                ("store killed", self._kill_store),
                ("connections ended", self._disconnect),
            ]
        elif "sqlite" in self._made.store:
            kinds.append(("file held", self._hold))
        return kinds

    async def _returned(self, ended: float) -> float | None:
        """Seconds until a call that began after the fault succeeded at a tool that needs the store."""
        until = time.monotonic() + 15
        while time.monotonic() < until:
            for call in reversed(self._load.calls):
                if call.began < ended:
                    break
                if call.said == "ok" and call.tool in ("send", "user"):
                    return max(0.0, call.began + call.took - ended)
            await asyncio.sleep(0.05)
        return None

    async def _reload(self) -> None:
        for path in self._made.files:
            path.write_text(path.read_text("utf-8") + "\n# written anew\n", "utf-8")
        await asyncio.sleep(1)

    async def _kill_server(self) -> None:
        server = self._made.servers[-1]
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)

    async def _hang(self) -> None:
        assert self._redis is not None
        self._redis.pause()
        await asyncio.sleep(PAUSE)
        self._redis.resume()

    async def _kill_store(self) -> None:
        assert self._redis is not None
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(self._redis.start)

    async def _disconnect(self) -> None:
        assert self._redis is not None
        await asyncio.to_thread(self._redis.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def _hold(self) -> None:
        """Another process holds the file's lock for longer than an operation may take."""

        def hold() -> None:
            with contextlib.closing(sqlite3.connect(self._made.folder / "state.db", timeout=10)) as link:
                link.isolation_level = None
                link.execute("BEGIN IMMEDIATE")
                time.sleep(PAUSE)
                link.execute("ROLLBACK")

        await asyncio.to_thread(hold)
