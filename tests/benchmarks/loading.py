"""The load of `throughput`, as a program: raw calls over so many connections at once. It imports no server."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx2

VERSION = "2026-07-28"
HEADERS = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": VERSION,
    "mcp-method": "tools/call",
    "mcp-name": "tool_0",
}
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def load(url: str, connections: int, seconds: float) -> dict[str, float]:
    """Calls over so many connections, one after another on each, for so long; all stand before the time begins."""
    took: list[float] = []
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(headers=HEADERS, timeout=60, verify=False))
            for _ in range(connections)
        ]
        await asyncio.gather(*(call(client, url, number) for client in clients for number in (1, 2)))
        began = time.perf_counter()
        await asyncio.gather(*(until(began + seconds, client, url, took) for client in clients))
        rate = len(took) / (time.perf_counter() - began)
    return {"rate": rate, "median": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98]}


async def until(end: float, client: httpx2.AsyncClient, url: str, took: list[float]) -> None:
    """One connection's calls, and how many milliseconds each took; at least two of them."""
    number = 2
    while time.perf_counter() < end or number < 4:
        number += 1
        began = time.perf_counter()
        await call(client, url, number)
        took.append((time.perf_counter() - began) * 1e3)


async def call(client: httpx2.AsyncClient, url: str, number: int) -> None:
    """One call. Raises `RuntimeError` for anything but its result."""
    answer = await client.post(url, json=request(number))
    if answer.status_code != 200 or '"isError":true' in answer.text or "123-45" not in answer.text:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")


def request(number: int) -> dict[str, Any]:
    """A call as today's protocol has it: it stands alone, without a handshake."""
    params = {"name": "tool_0", "arguments": {"id": number}, "_meta": META}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.loads(sys.argv[1])))))
