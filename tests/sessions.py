"""Sessions of the older protocol over raw HTTP: what each credential can do in a session that it did not begin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from fastmcp import FastMCP
from serving import listening

HEAD = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
CLIENT = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"elicitation": {}, "roots": {}},
    "clientInfo": {"name": "raw", "version": "1"},
}
SOON = 5.0
"""Seconds until something that must come counts as missing."""


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def rpc(number: Any, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def note(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


def answer(number: Any, option: str = "once") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": {"action": "accept", "content": {"approval": option}}}


@dataclass
class Raw:
    """One session. `heard` is what comes on the streams, by what opened them."""

    http: httpx2.AsyncClient
    url: str
    headers: dict[str, str]
    heard: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def post(self, token: str, message: Any, **more: Any) -> httpx2.Response:
        """Posts a message whose response ends by itself."""
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.http.post(self.url, content=content, headers=self._as(token), **more)

    async def call(self, token: str, message: Mapping[str, Any]) -> asyncio.Task[None]:
        """Posts a request and goes on listening to its stream."""
        task = asyncio.create_task(self._stream("POST", token, json.dumps(message).encode()))
        self.tasks.append(task)
        return task

    async def next(self, method: str | None = None) -> dict[str, Any]:
        """The next message, or the next of a method."""
        async with asyncio.timeout(SOON):
            while True:
                found = await self.heard.get()
                if method is None or found.get("method") == method:
                    return found

    async def status(self, method: str, token: str, **headers: str) -> tuple[int, str]:
        """How a stream or a DELETE is answered, without listening."""
        async with self.http.stream(method, self.url, headers=self._as(token) | headers) as response:
            return response.status_code, "" if response.status_code == 200 else (await response.aread()).decode()

    async def _stream(self, method: str, token: str, content: bytes | None) -> None:
        async with self.http.stream(method, self.url, content=content, headers=self._as(token)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self.heard.put_nowait(json.loads(line[6:]))

    def _as(self, token: str) -> dict[str, str]:
        return HEAD | bearer(token) | self.headers


@asynccontextmanager
async def session(server: FastMCP[Any], transport: str, token: str, **app: Any) -> AsyncIterator[Raw]:
    """A session that `token` began, on a loopback socket."""
    async with (
        listening(server.http_app(transport=transport, **app)) as origin,  # type: ignore[arg-type]
        httpx2.AsyncClient(base_url=origin, timeout=SOON) as http,
    ):
        raw = Raw(http, "/mcp", {})
        try:
            if transport == "sse":
                await _begin_sse(raw, token)
            else:
                begun = await raw.post(token, rpc(0, "initialize", **CLIENT))
                raw.headers = {"mcp-session-id": begun.headers["mcp-session-id"]}
            await raw.post(token, note("initialized"))
            yield raw
        finally:
            for task in raw.tasks:
                task.cancel()
            await asyncio.gather(*raw.tasks, return_exceptions=True)


async def _begin_sse(raw: Raw, token: str) -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        async with raw.http.stream("GET", "/sse", headers=HEAD | bearer(token)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    raw.heard.put_nowait(json.loads(line[6:]))
                elif line.startswith("data: ") and not told.done():
                    told.set_result(line[6:])

    raw.tasks.append(asyncio.create_task(listen()))
    raw.url = await asyncio.wait_for(told, SOON)
    await raw.post(token, rpc(0, "initialize", **CLIENT))
    await raw.next()
