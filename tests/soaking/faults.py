"""What goes wrong during a soak, one after the other: stores, servers, disks and clocks. It judges nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from load import Load
from redis_server import RedisServer
from several import Fleet, Process

HERE = Path(__file__).resolve().parent
PAUSE = 3.0
BETWEEN = 5.0
SKEW = 7200
"""Seconds by which a server's wall clock is set forward and back."""
Kind = tuple[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One that happened: its name, when it began and ended, and how long after that the first call succeeded."""

    name: str
    began: float
    ended: float
    returned: float | None


class Clocks:
    """The wall clocks of servers, which can be set on Linux where there is a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "clock.so"
        compiler = shutil.which("cc") if sys.platform == "linux" else None
        command = [compiler or "", "-O2", "-shared", "-fPIC", "-o", self._library, HERE / "clock.c", "-ldl"]
        self.can_be_set = (
            compiler is not None and not subprocess.run(command, capture_output=True, check=False).returncode
        )

    def give(self, server: Process, number: int) -> None:
        """Gives a server that has not been started a clock that can be set."""
        if self.can_be_set:
            self.set(number, 0)
            server._environment |= {
                "LD_PRELOAD": str(self._library),
                "SOAK_CLOCK": str(self._folder / f"clock{number}"),
            }

    def set(self, number: int, seconds: int) -> None:
        """Sets a server's clock by so much from what it is everywhere else."""
        descriptor = os.open(self._folder / f"clock{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, struct.pack("=q", seconds))
        os.close(descriptor)


class Faults:
    """Brings them about, and waits after each until calls succeed again. The first server is never killed."""

    def __init__(self, made: Fleet, redis: RedisServer | None, load: Load, clocks: Clocks) -> None:
        self.happened: list[Fault] = []
        self._made, self._redis, self._load, self._clocks = made, redis, load, clocks

    async def run(self, seconds: float) -> None:
        """One after the other, for so long; each kind at least once."""
        end, kinds, number = time.monotonic() + seconds, self._kinds(), 0
        while number < len(kinds) or time.monotonic() < end:
            name, fault = kinds[number % len(kinds)]
            number += 1
            began = time.monotonic()
            await fault()
            ended = time.monotonic()
            self.happened.append(Fault(name=name, began=began, ended=ended, returned=await self._returned(ended)))
            left = end - time.monotonic()
            await asyncio.sleep(max(min(BETWEEN, left), 0.5))

    def _kinds(self) -> list[Kind]:
        kinds: list[Kind] = [("policy written anew", self._reload), ("audit disk full", self._fill)]
        if len(self._made.servers) > 1:
            kinds.append(("server killed", self._kill_server))
        if self._redis is not None:
            kinds += [
                ("store hung", self._hang),
                ("store killed", self._kill_store),
                ("connections ended", self._disconnect),
                ("store emptied", self._empty),
            ]
        elif "sqlite" in self._made.store:
            kinds.append(("file held", self._hold))
        if self._clocks.can_be_set and len(self._made.servers) > 1:
            kinds += [("clock set", self._set_clock), ("server killed", self._kill_server)]
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

    async def _fill(self) -> None:
        """No file of a server may grow past its audit file's length: as a full disk, for its records at least."""
        number = len(self.happened) % len(self._made.servers)
        server = self._made.servers[number].process
        assert server is not None
        _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        size = (self._made.folder / f"audit{number}.jsonl").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + 2000, most))
        await asyncio.sleep(PAUSE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (most, most))

    async def _kill_server(self) -> None:
        server = self._made.servers[-1]
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        if self._clocks.can_be_set:
            self._clocks.set(len(self._made.servers) - 1, 0)
        await asyncio.to_thread(server.start)

    async def _set_clock(self) -> None:
        """The last server's wall clock goes two hours forward, then two hours back."""
        number = len(self._made.servers) - 1
        for seconds in (SKEW, -SKEW):
            self._clocks.set(number, seconds)
            await asyncio.sleep(PAUSE)

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

    async def _empty(self) -> None:
        assert self._redis is not None
        await asyncio.to_thread(self._redis.ask, "FLUSHALL")

    async def _hold(self) -> None:
        """Another process holds the file's lock for longer than an operation may take."""

        def hold() -> None:
            with contextlib.closing(sqlite3.connect(self._made.folder / "state.db", timeout=10)) as link:
                link.isolation_level = None
                link.execute("BEGIN IMMEDIATE")
                time.sleep(PAUSE)
                link.execute("ROLLBACK")

        await asyncio.to_thread(hold)
