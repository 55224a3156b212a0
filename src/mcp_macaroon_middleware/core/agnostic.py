"""The documented use without a framework: `enforce_policies` before and after a call. It judges nothing itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..errors import ApprovalRequired, PolicyViolationError, ResultWithheld
from ..fields import redact
from ..model import Component, Effect, Kind, Phase, Redaction, Refusal, RequestContext, Result, thawed
from .decisions import Decision

if TYPE_CHECKING:
    from .policy_engine import PolicyEngine

OPEN: Final = 4096


@dataclass(frozen=True, slots=True)
class _Open:
    context: RequestContext
    decision: Decision


class OpenCalls:
    """Decisions whose call has not come back yet, by context instance and tool; bounded, the oldest is let go."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, str], _Open] = OrderedDict()

    def put(self, context: RequestContext, tool: str, decision: Decision) -> Decision | None:
        """Remembers a decision; returns one that this pushes out."""
        before = self.take(context, tool)
        self._open[(id(context), tool)] = _Open(context, decision)
        if before is not None:
            return before
        return self._open.popitem(last=False)[1].decision if len(self._open) > OPEN else None

    def take(self, context: RequestContext, tool: str) -> Decision | None:
        """Removes and returns the decision made for this very context and tool."""
        found = self._open.pop((id(context), tool), None)
        return found.decision if found is not None and found.context is context else None


async def enforce(
    engine: PolicyEngine,
    calls: OpenCalls,
    macaroon: Any,
    phase: Phase,
    tool: str,
    context: RequestContext,
    result: Any,
) -> Any:
    """One phase of one call; see `PolicyEngine.enforce_policies`."""
    if phase is Phase.BEFORE:
        left = calls.put(context, tool, await _allowed(engine, tool, context))
        if left is not None:
            await engine.fail(left, "unknown", "the call never came back")
        return macaroon
    decision = calls.take(context, tool)
    if decision is None:
        decision = await _allowed(engine, tool, context)
    return await _released(engine, decision, result), macaroon


async def _allowed(engine: PolicyEngine, tool: str, context: RequestContext) -> Decision:
    component = context.component if context.component.name == tool else Component(kind=Kind.TOOL, name=tool)
    decision = await engine.decide(context.replace(component=component, at=engine.clock.now()))
    if decision.refusal is None:
        return decision
    if decision.effect is Effect.ASK:
        raise ApprovalRequired(decision.refusal.reason, challenges=decision.challenges)
    raise _violation(decision.refusal)


async def _released(engine: PolicyEngine, decision: Decision, result: Any) -> Any:
    def build() -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return (_plain(result),), ()

    def apply(redaction: Redaction) -> Any:
        return result if redaction.is_empty else redact(_plain(result), redaction)[0]

    outcome = await engine.finish(decision, Result(build), apply)
    if outcome.refusal is not None:
        raise _violation(outcome.refusal)
    return outcome.applied


def _plain(result: Any) -> Any:
    """The result as plain JSON data; text that is no data has no fields, so it cannot be redacted."""
    try:
        plain = to_jsonable_python(thawed(result))
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise ResultWithheld("the result is not plain data") from None
    return plain


def _violation(refusal: Refusal) -> PolicyViolationError:
    return PolicyViolationError(
        refusal.reason, code=refusal.code, policy=refusal.policy, retry_after=refusal.retry_after
    )
