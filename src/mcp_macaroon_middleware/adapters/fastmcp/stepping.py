"""HTTP 403 `insufficient_scope` where it is the token that lacks authority, so that a client can fetch a wider one.

Only while nothing of the response has been sent: on a stream that has begun, the refusal in it stands. Off unless the
file says `tokens: {step_up: true}`, since it tells a holder that his token, not the server, is in the way.
Source: RFC 6750, 3.1; MCP 2026-07-28, authorization.
"""

from __future__ import annotations

import json
from typing import Final

from fastmcp.server.dependencies import get_http_request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BOX: Final = "mcp_macaroon.step_up"
TEXT: Final = "The token does not allow this."
CHALLENGE: Final = f'Bearer error="insufficient_scope", error_description="{TEXT}"'
BODY: Final = json.dumps({"error": "insufficient_scope", "error_description": TEXT}).encode()


class StepUp:
    """The ASGI middleware that answers for a token that lacks authority."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; replaces its response if the guard has marked it before the response began."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        box: list[bool] = []
        scope[BOX] = box
        replaced = False

        async def sending(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and box:
                replaced = True
                await _forbid(send)
            elif not replaced:
                await send(message)

        await self.app(scope, receive, sending)


async def _forbid(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
        (b"www-authenticate", CHALLENGE.encode()),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def mark() -> None:
    """Says of the request in hand that its token lacks authority; nothing happens where nobody would answer for it."""
    try:
        box = get_http_request().scope.get(BOX)
    except RuntimeError:
        return
    if box is not None:
        box.append(True)
