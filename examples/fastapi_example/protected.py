"""Puts a policy around the work of a web application. It knows nothing of HTTP: it runs, refuses or asks.

These are the steps of the documented integration: a macaroon for the user, a context for the request, the rules before
the call, the call, the rules after it. What is added is the way of a question: it leaves as `ApprovalRequired`, its
answer comes with a later request, and a call that has run by then is not run again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcp_macaroon_middleware import MacaroonMiddleware, PolicyEngine, PolicyViolationError, RequestContext
from mcp_macaroon_middleware.errors import ApprovalRequired

MOST_WAITING = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A call that has run, whose result waits for an answer."""

    name: str
    context: RequestContext
    result: Any
    until: datetime


class Protected:
    """One policy file, for every request of the application."""

    def __init__(self, policies: Path) -> None:
        self.middleware = MacaroonMiddleware(config_path=str(policies))
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()

    @property
    def engine(self) -> PolicyEngine:
        """What decides."""
        return self.middleware.policy_engine

    async def run(self, user: Mapping[str, Any], name: str, work: Callable[..., Any], **arguments: Any) -> Any:
        """Runs `work` under the rules for `name`; returns of its result what may leave.

        Raises `PolicyViolationError` for a refusal, and `ApprovalRequired` where somebody must agree first: to the
        call, which has not run then and is to be sent again after the answer, or to parts of its result, which waits.
        """
        macaroon = await self.middleware._get_or_create_macaroon(user["sub"])
        context = self._context(user, arguments)
        await self.engine.enforce_policies(macaroon, "bf", tool_name=name, context=context)
        result = work(**arguments)
        return await self._release(name, context, result)

    async def answer(self, user: Mapping[str, Any], challenge: str, choices: list[str]) -> tuple[bool, Any]:
        """Takes a person's answer: whether anything was allowed, and the result that waited for it, if one did.

        Only the user who was asked can answer, once. Raises `PolicyViolationError` for everybody and everything else.
        """
        allowed = await self.engine.answer(challenge, *choices, context=self._context(user, {}))
        waiting = self._waiting.pop(challenge, None)
        if waiting is None:
            return allowed, None
        return allowed, await self._release(waiting.name, waiting.context, waiting.result)

    async def close(self) -> None:
        """Ends the records and everything else that the policy file opened."""
        await self.middleware.runtime.close()

    @staticmethod
    def _context(user: Mapping[str, Any], arguments: Mapping[str, Any]) -> RequestContext:
        return RequestContext(user_id=user["sub"], claims=user, arguments=arguments)

    async def _release(self, name: str, context: RequestContext, result: Any) -> Any:
        try:
            released, _ = await self.engine.enforce_policies(None, "af", tool_name=name, context=context, result=result)
        except ApprovalRequired as question:
            for challenge in question.challenges:
                until = challenge.expires or datetime.now(UTC)
                self._keep(challenge.id, Waiting(name=name, context=context, result=result, until=until))
            raise
        return released

    def _keep(self, challenge: str, waiting: Waiting) -> None:
        """Results wait as long as their questions are open, and only so many of them."""
        now = datetime.now(UTC)
        for key in [key for key, other in self._waiting.items() if other.until < now]:
            del self._waiting[key]
        self._waiting[challenge] = waiting
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)


__all__ = ["ApprovalRequired", "PolicyViolationError", "Protected"]
