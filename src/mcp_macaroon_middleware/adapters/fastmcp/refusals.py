"""Turns a refusal into the answer that a FastMCP client gets: clear, with a stable code, and no more than it may know.

An answer names no rule, file, key or hidden component. A hidden component answers exactly as one that does not exist.
The texts are fixed for each code; only the reason, which an enforcer's author wrote for callers, and the time to wait
vary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from fastmcp.exceptions import NotFoundError, ToolError
from fastmcp.tools.base import ToolResult
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY, CallToolResult, TextContent

from ...model import Refusal

META: Final = "mcp-macaroon"
"""The key of the machine-readable part in a tool result's `_meta`."""

REFUSED: Final = -31001
"""The JSON-RPC code of a refused prompt, resource, list or method: outside the reserved range -32768..-32000."""

NEXT: Final[Mapping[str, str]] = {
    "denied": "Do not repeat the call; tell the user that it is not allowed.",
    "not_allowed": "Do not repeat the call; tell the user that it is not allowed.",
    "token_insufficient": "Do not repeat the call with this token; a wider one is needed.",
    "token_expired": "Do not repeat the call with this token; a new one is needed.",
    "unauthenticated": "Sign in first.",
    "claim_missing": "Sign in with an account that this server knows more of.",
    "no_identity": "Connect as a client first.",
    "approval_unavailable": "Tell the user that somebody with the right to do it must do it.",
    "approval_too_long": "Call with shorter arguments, or have it done by somebody with the right to.",
    "approval_cancelled": "Do not repeat the call, unless the user asks for it.",
    "approval_timeout": "Do not repeat the call, unless the user asks for it.",
    "approval_invalid": "Call again to be asked again.",
    "approval_failed": "Try again later; if it stays, the server's operator must act.",
    "approval_stale": "Call again, without the old state, to be asked again.",
    "approver_is_requester": "Tell the user that somebody else must agree.",
    "grant_used": "Call again, without the old state, to be asked again.",
    "request_changed": "Call again to be asked about this call.",
    "declined": "Do not repeat the call.",
    "too_many_pending": "Wait until earlier questions are answered.",
    "rate_limited": "Wait before the next call.",
    "attempts_exhausted": "Do not repeat the call; no attempts are left.",
    "completion_refused": "Type the value in full.",
    "nested_too_deep": "Do not repeat the call; the server's operator must act.",
    "not_ready": "Tell the user that the server's operator must act.",
    "internal": "Try again later; if it stays, the server's operator must act.",
    "enforcer_error": "Try again later; if it stays, the server's operator must act.",
    "enforcer_timeout": "Try again later; if it stays, the server's operator must act.",
    "enforcer_contract": "The server's operator must act; repeating the call does not help.",
    "withheld": "Do not repeat the call.",
    "no_fields": "Do not repeat the call; no part of its result could be shown alone.",
    "question_refused": "Do not repeat the call, and ask the user for no credential.",
    "question_withheld": "Do not repeat the call; what it asks may not be shown.",
    "schema_changed": "Do not repeat the call; list the tools again before the next one.",
    "result_too_large": "Do not repeat the call as it is; ask for less at once.",
    "result_unknown": "Do not repeat the call.",
    "result_unserialisable": "Do not repeat the call.",
    "redaction_failed": "Do not repeat the call.",
    "error_withheld": "The server's operator can see the cause.",
}
"""What a model should do next, for each code that has one thing to do. Codes are stable.

The reason of any other code says it already: `store_unavailable`, `audit_unavailable` and `busy` (try later),
`task_not_supported` (call without a task), `caveat_invalid`, and the codes of enforcers, which say what they miss.
"""


class RefusedResult(ToolResult):
    """A refused tool call, as this process answers it: no component and no wire brings one."""


class FixedText(Exception):
    """An error whose text is ours, and says nothing of a value: it may leave where others are withheld."""


class NestedRefusal(FixedText, ToolError):
    """A call by another component is refused."""


class ProtocolRefusal(FixedText, MCPError):
    """A request that is no tool call is refused."""


def sentence(refusal: Refusal) -> str:
    """What a model reads: the reason, when to come back or what to do, the code."""
    reason = " ".join(refusal.reason.split())
    parts = [reason if reason.endswith((".", "!", "?")) or not reason else f"{reason}."]
    if refusal.retry_after is not None and refusal.retry_after > 0:
        parts.append(f"Retry after {seconds(refusal.retry_after)} seconds.")
    elif refusal.code in NEXT:
        parts.append(NEXT[refusal.code])
    parts.append(f"[{refusal.code}]")
    return " ".join(part for part in parts if part)


def seconds(duration: float) -> int:
    """Whole seconds that are long enough, within what JSON numbers carry."""
    return math.ceil(min(duration, 2**53)) if duration > 0 else 0


def facts(refusal: Refusal) -> dict[str, Any]:
    """The machine-readable part: `code`, and `policy`, `retry_after` in seconds, `approval` where they apply."""
    data: dict[str, Any] = {"code": refusal.code}
    if refusal.policy is not None:
        data["policy"] = refusal.policy
    if refusal.retry_after is not None:
        data["retry_after"] = seconds(refusal.retry_after)
    if refusal.approval is not None:
        data["approval"] = refusal.approval
    return data


def tool_refusal(name: str, refusal: Refusal, *, nested: bool = False) -> ToolResult:
    """A refused tool call: a returned result with `isError`, or, for a call by another component, a raised `ToolError`.

    A hidden tool raises what FastMCP raises for an unknown one, so that the client gets the same bytes.
    """
    if refusal.hidden:
        raise NotFoundError(f"Unknown tool: {name!r}") from None
    if nested:
        raise nested_refusal(refusal) from None
    content: list[Any] = [TextContent(type="text", text=sentence(refusal))]
    return RefusedResult(content=content, meta={META: facts(refusal)}, is_error=True)


def wire_form(result: ToolResult, *, modern: bool) -> dict[str, Any]:
    """A refused tool call as it goes on the wire, for where FastMCP takes nothing else."""
    call = CallToolResult(content=result.content, is_error=result.is_error, _meta=result.meta)
    wire: dict[str, Any] = call.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in wire.items() if modern or key != "resultType"}


def nested_refusal(refusal: Refusal) -> ToolError:
    """A refused call by another component, to be raised: careless code ignores a returned error, not a raised one."""
    return NestedRefusal(sentence(refusal))


def resource_refusal(uri: str, refusal: Refusal, *, lacks_elicitation: bool = False) -> Exception:
    """A refused read, to be raised. A hidden resource gets FastMCP's own error for an unknown one."""
    if refusal.hidden:
        return NotFoundError(f"Unknown resource: {uri!r}")
    return protocol_refusal(refusal, lacks_elicitation=lacks_elicitation)


def prompt_refusal(name: str, refusal: Refusal, *, lacks_elicitation: bool = False) -> Exception:
    """A refused prompt, to be raised. A hidden prompt gets FastMCP's own error for an unknown one."""
    if refusal.hidden:
        return NotFoundError(f"Unknown prompt: {name!r}")
    return protocol_refusal(refusal, lacks_elicitation=lacks_elicitation)


def method_refusal(method: str, refusal: Refusal) -> MCPError:
    """A refused protocol method, to be raised. A hidden one gets the SDK's own error for a method that there is not."""
    if refusal.hidden:
        return ProtocolRefusal(code=METHOD_NOT_FOUND, message="Method not found", data=method)
    return protocol_refusal(refusal)


def protocol_refusal(refusal: Refusal, *, lacks_elicitation: bool = False) -> MCPError:
    """A refusal of anything that is no tool call, to be raised, with the facts as its data.

    `lacks_elicitation`: only a question would help, and the client cannot show one. That has a code of its own in
    protocol 2026-07-28 (missing required client capability).
    """
    data = facts(refusal)
    if lacks_elicitation:
        needs: dict[str, Any] = {"requiredCapabilities": {"elicitation": {}}, META: data}
        return ProtocolRefusal(code=MISSING_REQUIRED_CLIENT_CAPABILITY, message=sentence(refusal), data=needs)
    return ProtocolRefusal(code=REFUSED, message=sentence(refusal), data=data)
