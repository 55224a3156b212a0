"""An ASGI layer before FastMCP's authentication: a request with two credentials is one without. It verifies none."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from ..credentials import HEADER, has_several


class OneCredential:
    """Takes both off a request that bears two, so that it is answered as one without; `refused` is told."""

    def __init__(self, app: ASGIApp, refused: Callable[[], None]) -> None:
        self.app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http" and has_several(scope["headers"], scope.get("query_string", b"")):
            self._refused()
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != HEADER]}
        await self.app(scope, receive, send)
