"""The door of a FastAPI application: a response whose permit was not released does not pass, whoever made it.

It stands around the whole application, so that no order in which a framework ends its dependencies matters. It judges
nothing: permits say what they withhold.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import asgi_http as web
from .asgi_routes import Routes

logger: Final = logging.getLogger("mcp_macaroon_middleware")

HIDES: Final = "hides_from"
"""The attribute by which a dependency says whether it would hide its endpoint from whoever sends a request."""
KEY: Final = "mcp_macaroon_middleware.door"


class Withholding(Protocol):
    """What a door asks of a permit."""

    @property
    def withholds(self) -> bool:
        """Whether what the endpoint answers must not leave."""

    async def unreleased(self) -> None:
        """Records that the answer was withheld."""


class Door:
    """One request's way out. `ours`: the response is a refusal by the policy, which holds nothing of the endpoint's.

    `hidden`: it is one that says that there is no such path.
    """

    __slots__ = ("_closed", "_open", "_permits", "hidden", "ours")

    def __init__(self) -> None:
        self._permits: list[Withholding] = []
        self._open = False
        self._closed = False
        self.ours = False
        self.hidden = False

    @classmethod
    def of(cls, scope: Scope) -> Door | None:
        """The door of a request, if its application has one."""
        found: Door | None = scope.get(KEY)
        return found

    def admit(self, permit: Withholding) -> None:
        """Lets a permit say what passes."""
        self._permits.append(permit)

    @property
    def is_free(self) -> bool:
        """Whether no permit was asked for and nothing was sent: the framework's own answer, perhaps."""
        return not (self._permits or self.ours or self._open or self._closed)

    @property
    def _withholding(self) -> list[Withholding]:
        return [] if self.ours else [permit for permit in self._permits if permit.withholds]

    async def through(self, message: Message, send: Send, answer: tuple[Scope, Receive]) -> None:
        """Sends a message, or in place of the whole response that nothing can be shown."""
        withholding = [] if self._open else self._withholding
        if self._closed:
            return
        if not withholding:
            self._open = self._open or message["type"] == "http.response.start"
            await send(message)
        elif message["type"] == "http.response.start":
            await self.close(message["status"], send, answer)

    async def close(self, status: int, send: Send, answer: tuple[Scope, Receive]) -> None:
        """Answers that nothing can be shown, if something would be withheld and nothing was sent."""
        withholding = [] if self._open or self._closed else self._withholding
        if not withholding:
            return
        self._closed = True
        for permit in withholding:
            await permit.unreleased()
        await web.withheld(status)(*answer, send)


class Doors:
    """Gives each request of an application its door. One is enough: a second one inside it is none.

    What the policy hides is answered as the application answers for a path that it does not have: the hidden refusal
    itself, and what the framework says of other methods (405) or of a slash more or less (a redirect).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._routes = Routes(app, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application behind the request's door."""
        if scope["type"] != "http" or KEY in scope:
            await self.app(scope, receive, send)
            return
        door: Any = Door()
        scope[KEY] = door
        asked, answered = {**scope}, False  # routers write into theirs

        async def sending(message: Message) -> None:
            nonlocal answered
            if answered:
                return
            if message["type"] == "http.response.start" and await self._hides(door, message["status"], asked):
                answered = True
                await self._absent(asked, receive, send)
                return
            await door.through(message, send, (scope, receive))

        try:
            await self.app(scope, receive, sending)
        except Exception:  # whoever handles it outside would show what it says
            await door.close(500, send, (scope, receive))
            raise

    async def _hides(self, door: Door, status: int, scope: Scope) -> bool:
        """Whether a response would tell of what the policy hides."""
        if door.hidden:
            return True
        if not door.is_free or not (status == 405 or 300 <= status < 400) or not self._routes.lacks(scope):
            return False
        request = Request(scope)
        try:
            for found in self._routes.beside(scope):
                for hides in filter(None, (getattr(each.call, HIDES, None) for each in found.fields.dependants)):
                    if await hides(request):
                        return True
        except Exception as error:
            logger.error("the routes of a path could not be told: %s", type(error).__name__)
            return True
        return False

    async def _absent(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._routes.absent(scope)
        nowhere = {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "method": "GET"}
        if self._routes.lacks(nowhere):
            await self.app(nowhere, receive, send)
        else:
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
