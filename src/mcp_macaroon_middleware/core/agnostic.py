"""The documented use without a framework: `enforce_policies` before and after a call. It judges nothing itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..errors import ApprovalRequired, PolicyViolationError, ResultWithheld
from ..fields import is_large, redact_document
from ..model import (
    Challenge,
    Component,
    Kind,
    Phase,
    Redaction,
    Refusal,
    RequestContext,
    Result,
    request_ids,
    thawed,
)
from .asks import Asking
from .decisions import Decision, Outcome
from .enforcement import Apply, Carried, Engine, Questions, agree, release

OPEN: Final = 4096


@dataclass(frozen=True, slots=True)
class _Open:
    context: RequestContext
    decision: Decision


class OpenCalls:
    """Decisions whose call has not come back yet, by context instance and tool; bounded, the oldest is let go."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, str], _Open] = OrderedDict()
        self._asked: OrderedDict[str, None] = OrderedDict()

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

    def begin(self, context: RequestContext) -> RequestContext:
        """The context, with an id of its own if it comes again after a question: each try has its own record."""
        return context.replace(id=request_ids.next()) if context.id in self._asked else context

    def asked(self, context: RequestContext) -> None:
        """Remembers that a context's call was answered with a question."""
        self._asked[context.id] = None
        if len(self._asked) > OPEN:
            self._asked.popitem(last=False)


async def enforce(
    engine: Engine,
    calls: OpenCalls,
    macaroon: Any,
    phase: Phase,
    tool: str,
    context: RequestContext,
    result: Any,
) -> Any:
    """One phase of one call; see `PolicyEngine.enforce_policies`."""
    if phase is Phase.BEFORE:
        left = calls.put(context, tool, await _allowed(engine, calls, tool, context))
        if left is not None:
            await engine.fail(left, "unknown", "the call never came back")
        return macaroon
    decision = calls.take(context, tool)
    if decision is None:
        decision = await _allowed(engine, calls, tool, context)
    step = await _released(engine, decision, result)
    if isinstance(step, Carried):
        calls.put(context, tool, decision)  # the call has run: it is finished when its questions are answered
        raise step.response
    if step.refusal is not None:
        raise _violation(step.refusal)
    return step.applied, macaroon


ASKING: Final = Asking(forms=True, host=True)


async def _allowed(engine: Engine, calls: OpenCalls, tool: str, context: RequestContext) -> Decision:
    component = context.component if context.component.name == tool else Component(kind=Kind.TOOL, name=tool)
    request = calls.begin(context).replace(component=component, at=engine.clock.now())
    step = await agree(engine, request, _carried, asking=ASKING)
    if isinstance(step, Carried):
        calls.asked(context)
        raise step.response
    if step.refusal is not None:
        raise _violation(step.refusal)
    return step


async def _carried(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Carried | Refusal:
    """Opens questions and hands them to the program, which asks its people itself."""
    for challenge in challenges:
        refusal = await questions.open(challenge)
        if refusal is not None:
            return refusal
    response = ApprovalRequired(REQUIRED, challenges=tuple(challenges))
    return Carried(response, ends=not decision.allowed)  # after the run the program comes back with the same decision


async def _released(engine: Engine, decision: Decision, result: Any) -> Outcome | Carried:
    """The result with what may leave; or the questions that must be answered first."""

    def build() -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return (_plain(result),), ()

    def apply(redaction: Redaction) -> Any:
        return result if redaction.is_empty else redact_document(_plain(result), redaction)

    async def view() -> tuple[Result, Apply]:
        return Result(build, large=lambda: is_large(result)), apply

    return await release(engine, decision, view, _carried, asking=ASKING)


REQUIRED: Final = "A person must agree first."


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
