"""A wire between a store and its server that tests can listen on and cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis_server import RedisServer


class Wire:
    """A wire to a server that can be cut after a command went over and before its reply comes back."""

    def __init__(self, port: int) -> None:
        self.port, self.cut, self.commands = port, False, b""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        on_way = asyncio.ensure_future(self.forward(reader, back))
        try:
            while (data := await there.read(65536)) and not self.cut:
                writer.write(data)
        finally:
            on_way.cancel()
            back.transport.abort()

    async def forward(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.commands += data
            back.write(data)
        back.close()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The address at which `handler` takes connections; it ends those that are left.

    It shares the caller's event loop: a server that is to start on it starts in another thread, since the start waits.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def wired(server: RedisServer) -> AsyncIterator[tuple[Wire, str]]:
    wire = Wire(server.port)
    async with served(wire.carry) as address:
        yield wire, address


class Shears:
    """A wire that is cut at its n-th script, before that goes over or after it was done and before the answer comes
    back; then nothing comes through until it is mended."""

    def __init__(self, port: int) -> None:
        self.port, self.seen, self.at, self.before, self.broken = port, 0, 0, True, False
        self._open: set[asyncio.StreamWriter] = set()

    def arm(self, at: int, *, before: bool) -> None:
        """Cuts at the `at`-th script from now on, the first being 1."""
        self.seen, self.at, self.before = 0, at, before

    def mend(self) -> None:
        """Lets everything through again."""
        self.at, self.broken = 0, False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends or is cut."""
        if self.broken:
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self._open |= {writer, back}
        on_way = asyncio.ensure_future(self._forward(reader, there, back))
        try:
            while (data := await there.read(65536)) and not self.broken:
                writer.write(data)
        finally:
            on_way.cancel()
            self._open -= {writer, back}
            back.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, there: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            before = self.seen
            self.seen += data.count(b"EVALSHA")
            if before < self.at <= self.seen and not self.broken:
                self.broken = True
                if not self.before:
                    back.write(data)
                    await back.drain()
                    await asyncio.sleep(0.05)  # it is done by now
                for writer in tuple(self._open):
                    writer.transport.abort()
                return
            back.write(data)


class Meter:
    """A wire that counts round trips: times at which something is under way, after none was. What is sent while answers
    to other questions are still awaited goes the same trip."""

    def __init__(self, port: int) -> None:
        self.port, self.trips, self.commands = port, 0, 0
        self._waiting: set[asyncio.StreamWriter] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection both ways, until either side ends it."""
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        on_way = asyncio.ensure_future(self._forward(reader, back))
        try:
            while data := await there.read(65536):
                self._waiting.discard(back)
                writer.write(data)
        finally:
            on_way.cancel()
            self._waiting.discard(back)
            back.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.trips += not self._waiting
            self.commands += data.count(b"\r\n*") + data.startswith(b"*")
            self._waiting.add(back)
            back.write(data)
        back.close()
