"""Ends requests that reach their own server again and again: each refused one has its record. It measures nothing."""

from __future__ import annotations

from typing import Any, Final, NoReturn, Protocol

from fastmcp.server.middleware import MiddlewareContext
from fastmcp.server.middleware.middleware import _dispatch_phase

from ...core.policy_engine import PolicyEngine
from ...model import Component, Kind, Refusal, RequestContext
from .frames import frame
from .identity import Identity
from .refusals import nested_refusal, protocol_refusal, tool_refusal
from .shapes import LONGEST_NAME

TOO_DEEP: Final = Refusal(code="nested_too_deep", reason="This call lies too deep within others: it may never end.")
KINDS: Final = {"tools/call": Kind.TOOL, "resources/read": Kind.RESOURCE, "prompts/get": Kind.PROMPT}

OUTSIDE: Final = frozenset({"initialize", "server/discover", "ping", "logging/setLevel"})
"""Methods that every client needs and that give nothing away: they stand outside the rules."""

Context = MiddlewareContext[Any]


class Recorder(Protocol):
    """The part of a guard that writes a refusal down."""

    @property
    def engine(self) -> PolicyEngine:
        """What records."""

    async def somebody(self) -> Identity:
        """The caller as far as that can be told."""

    def request(self, identity: Identity | None, component: Component, *, nested: bool = False) -> RequestContext:
        """The request to be recorded."""


def counts(context: Context) -> bool:
    """Whether a message can lead further in: the handshake and notifications do not."""
    return context.type != "notification" and context.method not in OUTSIDE


async def refuse(guard: Recorder, context: Context) -> Any:
    """Refuses a request, in the way of its method, and records it."""
    await _record(guard, _component(context))
    if context.method == "tools/call" and _dispatch_phase.get() != "outer":
        return tool_refusal("", TOO_DEEP, nested=frame().depth > 0)
    raise protocol_refusal(TOO_DEEP)


async def refuse_code(guard: Recorder, component: Component) -> NoReturn:
    """Refuses a component that code runs past the middleware; the refusal is raised."""
    await _record(guard, component)
    raise nested_refusal(TOO_DEEP)


async def _record(guard: Recorder, component: Component) -> None:
    request = guard.request(await guard.somebody(), component, nested=frame().depth > 0)
    await guard.engine.refuse(request, TOO_DEEP.code, TOO_DEEP.reason)


def _component(context: Context) -> Component:
    kind = KINDS.get(context.method or "")
    if kind is None:
        return Component(kind=Kind.METHOD, name=(context.method or "")[:LONGEST_NAME])
    asked = getattr(context.message, "uri", None) or getattr(context.message, "name", None) or ""
    return Component(kind=kind, name=str(asked)[:LONGEST_NAME])
