"""What a real client gets from a real server, in both protocol eras, down to the text on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.server.middleware import Middleware
from mcp.shared.exceptions import MCPError

ERAS = ("auto", "legacy")


class Answering(Middleware):
    """Does with each result, or instead of each call, what a test says."""

    def __init__(self, apply: Callable[[Any], Any] | None = None, instead: Callable[[str], Any] | None = None) -> None:
        self._apply = apply or (lambda result: result)
        self._instead = instead

    async def _answer(self, name: str, context: Any, call_next: Any) -> Any:
        if self._instead is not None:
            answer = self._instead(name)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        return self._apply(await call_next(context))

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        return await self._answer(context.message.name, context, call_next)

    async def on_read_resource(self, context: Any, call_next: Any) -> Any:
        return await self._answer(str(context.message.uri), context, call_next)

    async def on_get_prompt(self, context: Any, call_next: Any) -> Any:
        return await self._answer(context.message.name, context, call_next)


@dataclass
class Heard:
    """Everything that a client was told: what it asked for, and what came unasked."""

    answers: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def all(self) -> str:
        """All of it as one text."""
        return "\n".join([*self.answers, *self.unasked])


@asynccontextmanager
async def client_of(server: FastMCP[Any], era: str, heard: Heard | None = None) -> AsyncIterator[Client[Any]]:
    """A connected client that notes what comes unasked."""
    heard = heard or Heard()

    async def log(message: Any) -> None:
        heard.unasked.append(message.model_dump_json())

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        heard.unasked.append(json.dumps(["progress", progress, total, message]))

    async def elicit(message: str, *rest: Any) -> Any:
        heard.unasked.append(json.dumps(["elicit", message, repr(rest)]))
        return {"value": "yes"}

    async def other(message: Any) -> None:
        heard.unasked.append(repr(message))

    async with Client(
        server,
        mode=era,
        log_handler=log,
        progress_handler=progress,
        elicitation_handler=elicit,
        message_handler=other,
    ) as client:
        yield client


async def called(server: FastMCP[Any], era: str, tool: str = "tool", **arguments: Any) -> Any:
    """The raw result of a tool call, as the wire's data."""
    async with client_of(server, era) as client:
        result = await client.call_tool_mcp(tool, arguments)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def validated(server: FastMCP[Any], era: str, tool: str = "tool", **arguments: Any) -> Any:
    """The data of a tool call as FastMCP's client hands it out, after validating it against the published schema."""
    async with client_of(server, era) as client:
        await client.list_tools()
        result = await client.call_tool(tool, arguments)
        return result.structured_content


async def failed(server: FastMCP[Any], era: str, request: Callable[[Client[Any]], Any]) -> dict[str, Any]:
    """The protocol error that a request ends in."""
    async with client_of(server, era) as client:
        try:
            await request(client)
        except MCPError as error:
            return error.error.model_dump(mode="json", by_alias=True)
    raise AssertionError("the request did not fail")
