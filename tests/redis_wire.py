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
    """The address at which `handler` takes connections; it ends those that are left."""
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
