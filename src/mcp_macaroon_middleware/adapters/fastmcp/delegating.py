"""`macaroon_delegate`: a tool by which an agent gets a narrower token of its own, for a sub-agent. Off by default.

It narrows what the caller holds and mints nothing: a caller without a token gets none. Rules rule it like any tool.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastmcp.exceptions import ToolError
from fastmcp.tools.base import Tool
from pydantic import Field

from ...core.caveats import caveat_counts, caveat_problem
from ...errors import BindError, MacaroonError, RuleError
from ...model import Rule
from ...tokens import attenuate
from .identity import Unidentified, bearer_here

if TYPE_CHECKING:
    from .guard import Guard

NAME: Final = "macaroon_delegate"
DAY: Final = 86_400

Rules = Annotated[
    list[Annotated[str, Field(max_length=1000)]],
    Field(max_length=16, description='What the sub-agent is held to, e.g. "bf:*:tool_access:only:read_mail".'),
]
Seconds = Annotated[int, Field(ge=1, le=DAY, description="How long the token lasts, in seconds.")]


def offer(guard: Guard) -> None:
    """Adds the tool to the guarded server. Raises `BindError` where the server has another of its name."""

    async def delegate(rules: Rules, expires_in: Seconds = 300) -> dict[str, Any]:
        """Makes a narrower token from your own, for a sub-agent. It can do no more than you, and no longer."""
        return await _delegated(guard, rules, expires_in)

    if any(getattr(each, "name", None) == NAME for each in guard.server.local_provider._components.values()):
        raise BindError(f"{guard.server.name} has a tool {NAME} of its own; rename it, or leave out  delegate: true")
    guard.server.add_tool(Tool.from_function(delegate, name=NAME))


async def _delegated(guard: Guard, rules: list[str], expires_in: int) -> dict[str, Any]:
    try:
        bearer = await bearer_here(guard.runtime.bearers)
    except (MacaroonError, Unidentified):
        bearer = None
    if bearer is None:
        raise ToolError("You hold no token that could be narrowed; connect with one.")
    plan = guard.engine.plan

    def check(rule: Rule) -> None:
        problem = caveat_problem(rule, plan)
        if problem is not None:
            raise RuleError(problem.message, hint=problem.hint, code=problem.code)

    def counts(rule: Rule) -> bool:
        return caveat_counts(rule, plan)

    try:
        lasts = timedelta(seconds=expires_in)
        token = attenuate(
            bearer.text, *rules, expires=lasts, check=check, counts=lambda rule: caveat_counts(rule, plan)
        )
    except MacaroonError as error:
        raise ToolError(f"The token cannot be narrowed so: {error}") from None
    ends = min(bearer.token.expires, datetime.now(UTC) + timedelta(seconds=expires_in))
    return {"token": token, "expires": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "rules": rules}
