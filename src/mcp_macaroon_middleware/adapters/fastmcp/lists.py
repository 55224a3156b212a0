"""Lists as this caller may see them: what no call by him could reach is absent. Nothing is charged for a list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_http_headers
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware, _dereference_tool
from fastmcp.tools.base import Tool
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, decode_header_value
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ...model import Component, Kind, Refusal, RequestContext
from . import depth
from .compat import AnyComponent
from .frames import frame, listing, within
from .guard import Guard
from .identity import Identity, Unidentified
from .marks import unmarked_listed
from .passage import INTERNAL
from .refusals import protocol_refusal
from .schemas import publish_tool

logger: Final = logging.getLogger("mcp_macaroon_middleware")

NOT_RECORDED: Final = Refusal(
    code="audit_unavailable", reason="The request cannot be recorded, so it is refused; try again later."
)

Context = MiddlewareContext[Any]
Next = CallNext[Any, Any]


async def tools(guard: Guard, context: Context, call_next: Next) -> Sequence[Tool]:
    """The tools that this caller could call, with the output schemas that his results will have."""
    current = frame()
    if guard.engine in current.listing:
        listed: Sequence[Tool] = await call_next(context)
        return listed
    if _mark(guard, context) in current.around:  # the list that is being made asks for itself
        return await depth.refuse(guard, context)  # type: ignore[no-any-return]
    named = _called_tool(context)
    if named is not None:
        return await _one_tool(guard, context, named)
    return await _filtered(guard, context, call_next)  # type: ignore[return-value]


async def resources(guard: Guard, context: Context, call_next: Next) -> Sequence[Any]:
    """The resources or templates that this caller could read."""
    current = frame()
    if guard.engine in current.listing:
        listed: Sequence[Any] = await call_next(context)
        return listed
    if _mark(guard, context) in current.around:  # the list that is being made asks for itself
        return await depth.refuse(guard, context)  # type: ignore[no-any-return]
    return await _filtered(guard, context, call_next)


prompts: Final = resources


async def _filtered(guard: Guard, context: Context, call_next: Next) -> Sequence[AnyComponent]:
    method = Component(kind=Kind.METHOD, name=context.method or "")
    identity: Identity | None = None
    try:
        identity = await guard.identify()
        with within(listing(frame(), guard, _mark(guard, context))):
            listed = await call_next(context)
        shown = [seen for item in listed if (seen := await _shown(guard, identity, _server(context), item)) is not None]
    except asyncio.CancelledError:
        await guard.observe(identity, method, outcome="cancelled", code="cancelled")
        raise
    except Unidentified as error:
        await guard.engine.refuse(guard.request(None, method), error.code, error.reason, detail=error.detail)
        raise protocol_refusal(Refusal(code=error.code, reason=error.reason)) from None
    except Exception as error:
        await guard.observe(identity, method, outcome="error", code="error", detail=type(error).__name__)
        raise
    if not await guard.observe(identity, method, must=True):
        raise protocol_refusal(NOT_RECORDED)
    return shown


async def _shown(
    guard: Guard, identity: Identity, server: FastMCP[Any], component: AnyComponent
) -> AnyComponent | None:
    """The component as this caller may see it; what cannot be resolved or judged is left out (THREATS M12)."""
    component = unmarked_listed(component)
    try:
        found = await guard.resolver.listed(server, component)
        if found is None:
            return None
        request = guard.request(identity, found.component, nested=frame().depth > 0)
        if not await guard.engine.reachable(request, token=identity.token):
            return None
        if isinstance(component, Tool) and component.output_schema is not None:
            shown = await _published(guard, request, identity, component)
            if shown.output_schema is not None:
                guard.shown(request, identity.token, found.key, shown.output_schema)
            return shown
    except Exception as error:
        logger.error("a component is left out of a list: %s", type(error).__name__)
        return None
    return component


async def _published(guard: Guard, request: RequestContext, identity: Identity, tool: Tool) -> Tool:
    """The tool with the output schema that this caller's results are valid against."""
    possible = guard.engine.possible_redaction(request, token=identity.token)
    if possible is not None and possible.is_empty:
        return tool
    return await publish_tool(tool, possible, guard.engine.certain_redaction(request, token=identity.token))


# --- the list that precedes a call ----------------------------------------------------------------------------------


def _called_tool(context: Context) -> str | None:
    """The tool whose call this list precedes: on a modern HTTP connection the SDK lists every tool before each call.

    Only there: a modern request's method header is held against its body before it comes here, so that nobody can
    imitate it, as one could on an older connection.
    """
    connection = context.fastmcp_context
    bound = connection.request_context if connection is not None else None
    if frame().depth or bound is None or bound.request is None or bound._srctx.method != "tools/list":
        return None
    if bound.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return None
    headers = get_http_headers(include_all=True)
    if headers.get(MCP_METHOD_HEADER) != "tools/call":
        return None
    return decode_header_value(headers.get(MCP_NAME_HEADER))


async def _one_tool(guard: Guard, context: Context, name: str) -> Sequence[Tool]:
    """The tool, if this caller could call it. The call itself is decided and recorded in its turn."""
    server = _server(context)
    try:
        identity = await guard.identify()
        found = await guard.resolver.tool(server, name)
    except Unidentified:
        return ()
    except Exception as error:
        logger.error("a tool cannot be looked up: %s", type(error).__name__)
        raise protocol_refusal(INTERNAL) from None
    if found is None or not isinstance(found.offered, Tool):
        return ()
    shown = await _shown(guard, identity, server, found.offered)
    if not isinstance(shown, Tool):
        return ()
    plain = any(isinstance(middleware, DereferenceRefsMiddleware) for middleware in server.middleware)
    return (_dereference_tool(shown) if plain else shown,)


def _mark(guard: Guard, context: Context) -> tuple[int, str]:
    """What tells this server's list, as this policy filters it, from every other: a server may be under several."""
    return id(_server(context)), f"{context.method} {id(guard.engine)}"


def _server(context: Context) -> FastMCP[Any]:
    found = context.fastmcp_context
    if found is None:
        raise RuntimeError("a message came without FastMCP's context")
    return found.fastmcp
