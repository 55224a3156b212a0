"""Holds resources that a prompt or a tool's result carries along to the rules for reading them. It reads none itself.

A component's code may put the content of a resource into its own result, where no read is judged. A copy of a resource
that this caller cannot read is left out, and one that an output rule speaks of loses the same fields as when it is
read. Links are let through, since whoever follows one is judged then.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from fastmcp import FastMCP
from fastmcp.prompts.base import Message, PromptResult
from fastmcp.tools.base import ToolResult
from mcp_types import EmbeddedResource

from ...core.decisions import Decision
from ...core.visibility import open_to
from ...errors import ResultWithheld
from ...model import Redaction
from ...rules import normal_uri
from .blocks import Blocks, note
from .copies import tool_result
from .resolve import Found

if TYPE_CHECKING:
    from .frames import Ticket
    from .guard import Guard

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Rule = Callable[[str], Awaitable[Redaction | None]]
"""What leaves a copy of the resource with this URI: some fields, nothing (an empty redaction), or (None) all of it."""


async def carried(guard: Guard, ticket: Ticket, result: Any) -> Any:
    """The result as this guard lets it leave, as far as resources in it are concerned. What is amiss is left out."""
    return await without_unreadable(result, _rule(guard, ticket), passes=guard.passes)


async def without_unreadable(result: Any, rule: Rule, *, passes: bool = False) -> Any:
    """The result with each embedded resource as a read of it would be answered; the very result where all may stay.

    `passes` lets through what has no fields where only fields leave.
    """
    blocks = _blocks(result)
    rules = {uri: await rule(uri) for uri in dict.fromkeys(block.resource.uri for block in blocks)}
    if all(redaction is not None and redaction.is_empty for redaction in rules.values()):
        return result

    def settle(block: Any) -> Any | None:
        return _settled(block, rules, passes) if isinstance(block, EmbeddedResource) else block

    if isinstance(result, PromptResult):
        return _prompt(result, settle)
    return _tool(result, settle)


def _blocks(result: Any) -> list[EmbeddedResource]:
    if isinstance(result, PromptResult):
        found: list[Any] = [message.content for message in result.messages]
    else:
        found = list(result.content) if isinstance(result, ToolResult) else []
    return [block for block in found if isinstance(block, EmbeddedResource)]


def _settled(block: EmbeddedResource, rules: Mapping[str, Redaction | None], passes: bool) -> Any | None:
    redaction = rules[block.resource.uri]
    if redaction is None:
        return None
    if redaction.is_empty:
        return block
    try:
        left = Blocks(redaction, passes=passes).block(block)
    except ResultWithheld:
        return None
    if left is None:
        return None
    resource = left.resource.model_copy(update={"uri": block.resource.uri})  # whoever may read it knows its name
    return left.model_copy(update={"resource": resource})


def _prompt(result: PromptResult, settle: Callable[[Any], Any]) -> PromptResult:
    messages = [Message(settle(message.content) or note(), role=message.role) for message in result.messages]
    return PromptResult(messages=messages, description=result.description, meta=result.meta)


def _tool(result: ToolResult, settle: Callable[[Any], Any]) -> ToolResult:
    left = [kept for block in result.content if (kept := settle(block)) is not None]
    content = left if len(left) == len(result.content) else [*left, note()]
    return tool_result(result, content, result.structured_content, result.meta)


def _rule(guard: Guard, ticket: Ticket) -> Rule:
    """The rules of one guard for the resources that this component may embed, at its own server and at the root.

    A URI that names no resource of these servers is the component's own affair.
    """

    async def rule(uri: str) -> Redaction | None:
        united = Redaction()
        try:
            spellings = {uri, normal_uri(uri), normal_uri(uri).partition("#")[0]}
            for server, spelling in product({ticket.found.server, guard.server}, spellings):
                left = await _left_of(guard, server, spelling, ticket.decision)
                if left is None:
                    return None
                united |= left
        except Exception as error:
            logger.error("an embedded resource could not be judged: %s", type(error).__name__)
            return None
        return united

    return rule


async def _left_of(guard: Guard, server: FastMCP[Any], uri: str, decision: Decision) -> Redaction | None:
    resource = await guard.resolver.resource(server, uri)
    if resource is None:
        return Redaction()
    if not isinstance(resource, Found):
        return None
    request = decision.request.replace(component=resource.component, arguments={})
    if not await open_to(guard.engine, request, token=decision.token):
        return None
    return guard.engine.possible_redaction(request, token=decision.token)
