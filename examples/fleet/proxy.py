"""A small reverse proxy: request after request goes to the next server. Sessions of the protocol of 2025-11-25, which
live in one server, stay there.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

SESSION = "mcp-session-id"
MOST = 10_000
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def proxy(servers: Sequence[str]) -> Starlette:
    """An ASGI app in front of servers at these base URLs."""
    following = itertools.cycle(servers)
    sessions: OrderedDict[str, str] = OrderedDict()
    client = httpx2.AsyncClient(timeout=httpx2.Timeout(10, read=None))

    async def forward(request: Request) -> Response:
        server = sessions.get(request.headers.get(SESSION, "")) or next(following)
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        content = None if request.method == "GET" else request.stream()
        sent = client.build_request(request.method, server + path, headers=headers, content=content)
        try:
            answer = await client.send(sent, stream=True)
        except httpx2.TransportError:
            return PlainTextResponse("this server does not answer; ask again", 502)
        if SESSION in answer.headers:
            sessions[answer.headers[SESSION]] = server
            while len(sessions) > MOST:
                sessions.popitem(last=False)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(body(), answer.status_code, kept)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    methods = ["GET", "POST", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)], lifespan=life)
