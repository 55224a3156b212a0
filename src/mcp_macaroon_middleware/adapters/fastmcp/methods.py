"""Every other message: the handshake, notifications, completions, and methods that only a rule may let through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

from fastmcp.server.dependencies import fastmcp_request_ctx
from fastmcp.server.middleware import CallNext, MiddlewareContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ...core.decisions import Decision, Outcome
from ...core.enforcement import Apply, release, run
from ...core.visibility import open_to
from ...errors import ResultWithheld
from ...fields import is_large, redact
from ...model import Component, Kind, Redaction, Refusal, Result
from .depth import OUTSIDE
from .doors import held
from .frames import body, entered, frame, within
from .guard import Guard
from .identity import Identity, Unidentified
from .marks import unmarked_wire
from .refusals import method_refusal, protocol_refusal, tool_refusal, wire_form
from .resolve import Found
from .sealed import STALE, is_stale
from .sessions import note_questions
from .shapes import LONGEST_NAME

logger: Final = logging.getLogger("mcp_macaroon_middleware")

COMPONENTS: Final = frozenset(
    {
        "tools/call",
        "tools/list",
        "resources/read",
        "resources/list",
        "resources/templates/list",
        "prompts/get",
        "prompts/list",
    }
)
"""Methods that FastMCP dispatches further in; here they come only if they failed before."""

NO_METHOD: Final = Refusal(code="method_not_allowed", reason="There is no such method.", hidden=True)
NO_RESOURCE: Final = Refusal(code="unknown_component", reason="There is no such resource.", hidden=True)
FOLLOWS: Final = Refusal(
    code="completion_refused", reason="Completions are not given where a rule withholds parts of the result."
)

Context = MiddlewareContext[Any]
Next = CallNext[Any, Any]


async def typed(guard: Guard, context: Context, call_next: Next) -> Any:
    """The handshake: `initialize` and `server/discover`, recorded and let through."""
    return await _observed(guard, context, call_next)


async def outer(guard: Guard, context: Context, call_next: Next) -> Any:
    """What FastMCP shows only in its outer pass."""
    method = context.method or ""
    if context.type == "notification" or method in OUTSIDE:
        return await _observed(guard, context, call_next)
    if method in COMPONENTS:
        return await _component(guard, context, call_next)
    if method == "completion/complete":
        return await _completed(guard, context, call_next)
    return await _ruled(guard, context, call_next)


async def _observed(guard: Guard, context: Context, call_next: Next, *, failed: str = "error") -> Any:
    identity, component = await guard.somebody(), _method(context)
    if context.method == "initialize":
        note_questions(fastmcp_request_ctx.get())
    try:
        result = await _inside(guard, context, call_next)
    except asyncio.CancelledError:
        await guard.observe(identity, component, outcome="cancelled", code="cancelled")
        raise
    except BaseException as error:
        stale = is_stale(error)
        outcome, code = ("denied", STALE.code) if stale else ("error", failed)
        await guard.observe(identity, component, outcome=outcome, code=code, detail=type(error).__name__)
        raise
    await guard.observe(identity, component)
    return result


async def _component(guard: Guard, context: Context, call_next: Next) -> Any:
    """What failed before its own handler: a malformed request, or a state that FastMCP's boundary did not take.

    That one asks for no more than to be asked again, and says so in the way of every refusal.
    """
    try:
        return await _observed(guard, context, call_next, failed="malformed")
    except MCPError as error:
        if not is_stale(error):
            raise
    if context.method == "tools/call":
        return wire_form(tool_refusal("", STALE), modern=_is_modern(context))
    raise protocol_refusal(STALE)


async def _inside(guard: Guard, context: Context, call_next: Next) -> Any:
    """Runs a handler in a frame of its own: the components that it calls are judged, as nested."""
    with within(body(entered(frame(), guard), ())):
        return unmarked_wire(await call_next(context))


def _method(context: Context) -> Component:
    return Component(kind=Kind.METHOD, name=(context.method or "")[:LONGEST_NAME])


# --- methods that rules may let through -----------------------------------------------------------------------------


async def _ruled(guard: Guard, context: Context, call_next: Next) -> Any:
    """A method that `config.methods` names is decided like a component; any other is answered as an unknown one."""
    method, identity = context.method or "", await _identity(guard, context)
    request = guard.request(identity, _method(context))
    if method not in guard.engine.plan.settings.methods:
        await guard.engine.refuse(request, NO_METHOD.code, NO_METHOD.reason, hidden=True)
        raise method_refusal(method, NO_METHOD)
    arguments = _arguments(context.message)
    if await _names_closed(guard, identity, arguments.get("uri")):
        await guard.engine.refuse(request, "unknown_component", NO_RESOURCE.reason, hidden=True)
        raise protocol_refusal(NO_RESOURCE)

    async def values() -> Mapping[str, Any]:
        return arguments

    decision = await guard.engine.decide(request, token=identity.token, arguments=values, raw=arguments)
    if decision.refusal is not None:
        raise method_refusal(method, decision.refusal)
    return await _run(guard, context, call_next, decision)


async def _names_closed(guard: Guard, identity: Identity, uri: Any) -> bool:
    """Whether a method speaks of a resource, by whatever spelling, that this caller could not read."""
    found = await guard.resolver.resource(guard.server, uri) if isinstance(uri, str) else None
    if not isinstance(found, Found):
        return found is not None
    return not await open_to(guard.engine, guard.request(identity, found.component), token=identity.token)


async def _run(guard: Guard, context: Context, call_next: Next, decision: Decision) -> Any:
    async def inside() -> Any:
        with held("method", passes=guard.passes) if decision.after else nullcontext():
            return await _inside(guard, context, call_next)

    result = await run(guard.engine, decision, inside())

    async def view() -> tuple[Result, Apply]:
        return Result(lambda: ((result,), ()), large=lambda: is_large(result)), lambda redaction: _redacted(
            result, redaction
        )

    outcome = await release(guard.engine, decision, view)
    assert isinstance(outcome, Outcome)  # nobody can be asked about a method
    if outcome.refusal is not None:
        raise protocol_refusal(outcome.refusal)
    return outcome.applied


def _redacted(result: Any, redaction: Redaction) -> Any:
    if redaction.is_empty:
        return result
    if not isinstance(result, Mapping):
        raise ResultWithheld("the result has no fields", code="no_fields")
    return redact(dict(result), redaction)[0]


def _arguments(message: Any) -> dict[str, Any]:
    return (
        {str(name): value for name, value in message.items() if name != "_meta"} if isinstance(message, Mapping) else {}
    )


async def _identity(guard: Guard, context: Context) -> Identity:
    try:
        return await guard.identify()
    except Unidentified as error:
        await guard.engine.refuse(guard.request(None, _method(context)), error.code, error.reason, detail=error.detail)
        raise protocol_refusal(Refusal(code=error.code, reason=error.reason)) from None


# --- completions ----------------------------------------------------------------------------------------------------


async def _completed(guard: Guard, context: Context, call_next: Next) -> Any:
    """A completion follows the prompt or template that it completes: closed where that is, and under output rules."""
    identity = await _identity(guard, context)
    found = await _completing(guard, context)
    request = guard.request(identity, found.component if found is not None else _method(context))
    if found is None or not await open_to(guard.engine, request, token=identity.token):
        await guard.engine.refuse(request, "unknown_component", "There is nothing to complete.", hidden=True)
        return _nothing(context)
    withheld = guard.engine.possible_redaction(request, token=identity.token)
    if withheld is None or not withheld.is_empty:
        await guard.engine.refuse(request, FOLLOWS.code, FOLLOWS.reason)
        raise protocol_refusal(FOLLOWS)
    return await _observed(guard, context, call_next)


def _nothing(context: Context) -> dict[str, Any]:
    """An empty completion, in the form of the connection's protocol."""
    return {"completion": {"values": []}} | ({"resultType": "complete"} if _is_modern(context) else {})


def _is_modern(context: Context) -> bool:
    bound = context.fastmcp_context.request_context if context.fastmcp_context is not None else None
    return bound is not None and bound.protocol_version in MODERN_PROTOCOL_VERSIONS


async def _completing(guard: Guard, context: Context) -> Found | None:
    """The prompt or template that a completion refers to."""
    message = context.message if isinstance(context.message, Mapping) else {}
    ref = message.get("ref")
    if not isinstance(ref, Mapping):
        return None
    if ref.get("type") == "ref/prompt" and isinstance(ref.get("name"), str):
        return await guard.resolver.prompt(guard.server, ref["name"])
    if ref.get("type") == "ref/resource" and isinstance(ref.get("uri"), str):
        return await guard.resolver.template(guard.server, ref["uri"])
    return None
