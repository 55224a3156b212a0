"""Counts the round trips of a decision on the wire, with a proxy before a real Redis; it guesses nothing.

A round trip is a write of the client after which an answer came: commands sent together are one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from decisions import ALLOW, period
from fastmcp import Client
from fastmcp.utilities.tests import asgi_client
from measuring import Bench, cells, heads, policy, server
from redis_server import BINARIES, RedisServer, running
from redis_wire import served

from mcp_macaroon_middleware import MacaroonAuth, guard
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.tokens import mint


@dataclass(slots=True)
class Count:
    """What went over the wire."""

    trips: int = 0
    commands: int = 0
    sent: int = 0
    received: int = 0
    asked: bool = False


class Counter:
    """A wire that counts. A trip ends with the first answer after something was sent."""

    def __init__(self, port: int) -> None:
        self.port, self.count = port, Count()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection both ways, until either side ends it."""
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        on_way = asyncio.ensure_future(self.forward(reader, back))
        try:
            while data := await there.read(65536):
                self.count.received += len(data)
                self.count.trips += self.count.asked
                self.count.asked = False
                writer.write(data)
        finally:
            on_way.cancel()
            back.transport.abort()

    async def forward(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """What the client sends: a command is a RESP array."""
        while data := await reader.read(65536):
            self.count.sent += len(data)
            self.count.asked = True
            self.count.commands += data.count(b"\r\n*") + data.startswith(b"*")
            back.write(data)
        back.close()


CASES: dict[str, dict[str, Any]] = {
    "without limits": {"rules": [ALLOW]},
    "with a limit": {"rules": [ALLOW, "bf:tool_0:rate_limit:allow:100000000/day"]},
    "with three limits": {
        "rules": [ALLOW, *(f"bf:tool_0:rate_limit:allow:{n}/day" for n in (100_000_000, 200_000_000, 300_000_000))]
    },
    "`elicit`, a grant stands": {"rules": ["bf:tool_0:tool_access:elicit"]},
    "with a limit, `elicit`, a grant stands": {
        "rules": ["bf:tool_0:tool_access:elicit", "bf:tool_0:rate_limit:allow:100000000/day"]
    },
    "with a token": {"rules": [ALLOW], "token": True},
    "with a token and a limit": {"rules": [ALLOW, "bf:tool_0:rate_limit:allow:100000000/day"], "token": True},
}


@asynccontextmanager
async def connected(address: str, bench: Bench, rules: list[Any], *, token: bool = False) -> AsyncIterator[Client[Any]]:
    """A client of a guarded server on this store; with `token`, over HTTP, since there a token is a credential."""
    settings = policy(rules, bench.folder, store=address, **({"tokens": {}} if token else {}))
    made = await asyncio.to_thread(load_runtime, settings)  # it waits for its store, which is in this loop
    if not token:
        bare = server()
        guard(bare, made)
        async with Client(bare, elicitation_handler=period) as client:
            yield client
        return
    bare = server()
    bare.auth = MacaroonAuth(made)
    guard(bare, made)
    text = mint(made.keys, subject="alice", audience="bench", caveats=["bf:*:tool_access:only:tool_*"])
    async with asgi_client(bare, auth=text) as client:
        yield client


async def counted(redis: RedisServer, bench: Bench, calls: int, case: dict[str, Any]) -> Count:
    """What one call costs on the wire, once connections and scripts are there."""
    wire = Counter(redis.port)
    async with served(wire.carry) as address, connected(address, bench, **case) as client:
        for number in range(3):
            await client.call_tool("tool_0", {"id": number})
        before = replace(wire.count)
        for number in range(calls):
            await client.call_tool("tool_0", {"id": number})
        return difference(wire.count, before)


def difference(after: Count, before: Count) -> Count:
    """What came between two counts."""
    return Count(
        trips=after.trips - before.trips,
        commands=after.commands - before.commands,
        sent=after.sent - before.sent,
        received=after.received - before.received,
    )


async def trips(bench: Bench) -> list[str]:
    """Round trips, commands and bytes of a call, for each case."""
    title = "one call on the wire to Redis"
    lines = heads(title, "round trips", "commands", "bytes sent", "bytes received")
    calls = bench.rounds(200)
    for name, case in CASES.items():
        with running(next(iter(BINARIES))) as redis:
            count = await counted(redis, bench, calls, case)
        shares = [f"{value / calls:.2f}" for value in (count.trips, count.commands)]
        lines.append(cells(name, *shares, count.sent / calls, count.received / calls))
    return lines
