"""The door of a FastAPI application: a response whose permit was not released does not pass, whoever made it.

It stands around the whole application, so that no order in which a framework ends its dependencies matters. It judges
nothing: permits say what they withhold.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import asgi_http as web

KEY: Final = "mcp_macaroon_middleware.door"


class Withholding(Protocol):
    """What a door asks of a permit."""

    @property
    def withholds(self) -> bool:
        """Whether what the endpoint answers must not leave."""

    async def unreleased(self) -> None:
        """Records that the answer was withheld."""


class Door:
    """One request's way out. `ours`: the response is a refusal by the policy, which holds nothing of the endpoint's."""

    __slots__ = ("_closed", "_open", "_permits", "ours")

    def __init__(self) -> None:
        self._permits: list[Withholding] = []
        self._open = False
        self._closed = False
        self.ours = False

    @classmethod
    def of(cls, scope: Scope) -> Door | None:
        """The door of a request, if its application has one."""
        found: Door | None = scope.get(KEY)
        return found

    def admit(self, permit: Withholding) -> None:
        """Lets a permit say what passes."""
        self._permits.append(permit)

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
    """Gives each request of an application its door. One is enough: a second one inside it is none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application behind the request's door."""
        if scope["type"] != "http" or KEY in scope:
            await self.app(scope, receive, send)
            return
        door: Any = Door()
        scope[KEY] = door

        async def sending(message: Message) -> None:
            await door.through(message, send, (scope, receive))

        try:
            await self.app(scope, receive, sending)
        except Exception:  # whoever handles it outside would show what it says
            await door.close(500, send, (scope, receive))
            raise
