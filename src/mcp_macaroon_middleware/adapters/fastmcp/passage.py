"""One call through one guard: who, what, decide, run, finish. Read `Passage.take` from top to bottom.

Every request ends in exactly one final record, however it ends. No error of ours reaches a client with more than a
fixed text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastmcp import FastMCP
from fastmcp.exceptions import PromptError, ToolError, ValidationError
from fastmcp.tools.base import ToolResult
from mcp.shared.exceptions import MCPError
from mcp_types import EmbeddedResource

from ...core.decisions import Decision, plain_refusal
from ...core.enforcement import Apply, Carried, agree, release, run
from ...core.rejudging import rejudge
from ...errors import ArgumentsInvalid, ResultWithheld, StoreUnavailable
from ...model import Action, ArgumentFacts, Component, Phase, Refusal, Result
from . import stepping
from .arguments import coerced, is_local, judged, through
from .asking import Conversation, can_ask
from .behind import CREDENTIAL, foreign, is_remote, question_of
from .compat import REMOTE, AnyComponent, is_guarded
from .doors import held
from .embedding import carried
from .frames import Frame, Ticket, body, frame, ticketed, within
from .freezing import freeze, thaw
from .identity import Identity, Unidentified
from .marks import unmarked_error
from .refusals import FixedText, protocol_refusal
from .resolve import Found, Objection
from .shapes import LONGEST_NAME, TOOL, Shape
from .turns import FIRST, Turn, is_ours, state_text

if TYPE_CHECKING:
    from .guard import Guard

logger: Final = logging.getLogger("mcp_macaroon_middleware")

INTERNAL: Final = Refusal(code="internal", reason="The request could not be checked.")
UNKNOWN: Final = Refusal(code="unknown_component", reason="There is no such component.", hidden=True)
NO_TASKS: Final = Refusal(
    code="task_not_supported", reason="This tool cannot run as a background task here; call it without one."
)
RESULT_UNKNOWN: Final = Refusal(
    code="result_unknown", reason="The call ran, and its result is of a kind that cannot be checked."
)

Proceed = Callable[[Turn], Awaitable[Any]]
Find = Callable[[], Awaitable[Found | Objection | None]]


class ArgumentsUnfit(FixedText, ValidationError):
    """A call's arguments do not fit; the text speaks of them alone, so that it may leave under an output rule."""


class LeafRefused(ToolError):
    """A leaf's real arguments do not pass: raised by the gate, answered by whoever holds the ticket."""

    def __init__(self, ticket: Ticket, refusal: Refusal) -> None:
        super().__init__(refusal.reason, log_level=logging.INFO)
        self.ticket = ticket
        self.refusal = refusal


class Passage:
    """A call on its way through one guard.

    `asked` is the name or URI as the request spells it, for the answer alone; `arguments` are those that were sent.
    `known` is what was found a moment ago, `find` finds it. `raises`: refusals of tools are raised, since the caller
    is code. `seek` does what is done for a name that nothing bears: a hidden component costs the same.
    """

    __slots__ = ("arguments", "asked", "find", "guard", "known", "raises", "seek", "shape", "talk", "wants_task")

    def __init__(
        self,
        guard: Guard,
        shape: Shape,
        asked: str,
        arguments: Mapping[str, Any],
        find: Find,
        *,
        known: Found | None = None,
        seek: Callable[[Found], Awaitable[None]] | None = None,
        raises: bool = False,
        wants_task: Callable[[Found], bool] | None = None,
    ) -> None:
        self.guard = guard
        self.shape = shape
        self.asked = asked
        self.arguments = arguments
        self.find = find
        self.known = known
        self.seek = seek
        self.raises = raises
        self.wants_task = wants_task
        self.talk: Conversation | None = None

    async def take(self, proceed: Proceed) -> Any:
        """The call's answer: what `proceed` returns, without what may not leave; or a refusal, returned or raised."""
        prepared = self._at_once() or await self._prepared()
        if (
            not isinstance(prepared, Refusal)
            and isinstance(prepared[1].leaf, REMOTE)
            and self._may_use_approvals(*prepared)
        ):
            self.guard.resolver.forget(self.guard.servers)  # an approval is for the definition of now, not for a copy
            self.known = None
            prepared = await self._prepared()
        if isinstance(prepared, Refusal):
            return self._refuse(prepared)
        identity, found, expected = prepared
        if self.wants_task is not None and self.wants_task(found):
            return await self._recorded(NO_TASKS, found.component, identity)
        if not self.raises and can_ask():
            self.talk = Conversation(self.guard, identity)
        decision = await self._agreed(identity, found, expected)
        if not isinstance(decision, Decision):
            return decision
        ticket = Ticket(found, decision, self.guard, expected)
        if decision.held is not None:
            return await self._released(ticket, decision.held)
        running = self._behind_doors(ticket, proceed) if decision.after else self._proceed(ticket, proceed)
        try:
            result = await run(self.guard.engine, decision, running)
        except LeafRefused as error:
            if error.ticket is not ticket:
                raise
            return self._refuse(error.refusal)
        return await self._finished(ticket, result)

    def _may_use_approvals(self, identity: Identity, found: Found, _: object) -> bool:
        """Whether an approval could let this call through."""
        plan = self.guard.engine.plan
        books = [plan.book]
        if identity.token is not None:
            books.append(self.guard.engine.caveats.of(identity.token, plan))
        return any(
            match.check.rule.action is Action.ELICIT
            for book in books
            for phase in Phase
            for match in book.lookup(phase, found.component).all
        )

    # --- before ---------------------------------------------------------------------------------------------------

    def _at_once(self) -> tuple[Identity, Found, dict[str, Any] | None] | None:
        """Who calls and what, where nothing has to be waited for. Whoever cannot be named is refused by `_prepared`."""
        if self.known is None:
            return None
        try:
            identity = self.guard.caller()
        except Exception:
            return None
        return (identity, self.known, self._expected(self.known)) if identity is not None else None

    async def _prepared(self) -> tuple[Identity, Found, dict[str, Any] | None] | Refusal:
        """Who calls and what; or why not, with its record."""
        identity: Identity | None = None
        try:
            identity = await self.guard.identify()
            found = self.known if self.known is not None else await self.find()
            if isinstance(found, Found):
                return identity, found, self._expected(found)
        except asyncio.CancelledError:
            await self._observe_end(identity, "cancelled")
            raise
        except Unidentified as error:
            refusal = Refusal(code=error.code, reason=error.reason)
            return await self._recorded_refusal(refusal, None, None, error.detail)
        except Exception as error:
            logger.error("a request could not be prepared: %s", type(error).__name__)
            return await self._recorded_refusal(INTERNAL, None, identity, type(error).__name__)
        detail = f"the URI holds {found.why}" if found is not None else ""
        return await self._recorded_refusal(UNKNOWN, None, identity, detail)

    def _expected(self, found: Found) -> dict[str, Any] | None:
        """The raw arguments that the leaf should get; None where only the leaf can tell."""
        if self.shape.name == "resource":
            return dict(found.params)
        if not found.transforms:
            return dict(self.arguments)
        try:
            return through(found.transforms, self.arguments)
        except ArgumentsInvalid:
            return None  # FastMCP's transform refuses them itself, and says why

    async def _agreed(self, identity: Identity, found: Found, expected: dict[str, Any] | None) -> Any:
        """The decision that allows the call, once everybody who must has agreed; else the answer to the request."""
        request = self.guard.request(identity, found.component, nested=frame().depth > 0)
        talk = self.talk

        async def values() -> ArgumentFacts:
            return judged(found.leaf, expected or {}, found.server)

        try:
            step = await agree(
                self.guard.engine,
                request,
                talk.carry if talk is not None else None,
                token=identity.token,
                arguments=values,
                raw=self.arguments or found.params,
                deferred=expected is None,
                asking=talk.asking(found) if talk is not None else None,
            )
        except ArgumentsInvalid as error:
            raise self._invalid(error) from None
        if isinstance(step, Carried):
            return self.shape.asks(step.response)
        if step.lacking and not request.nested and not self.raises:  # nothing has run for this request yet
            stepping.mark()
        if step.refusal is None:
            return step
        if step.refusal.hidden and self.seek is not None:
            await self.seek(found)
        return self._refuse(step.refusal)

    def _invalid(self, error: ArgumentsInvalid) -> Exception:
        """FastMCP's own kind of error: the model must see what is wrong with its arguments."""
        return PromptError(str(error)) if self.shape.name == "prompt" else ValidationError(str(error))

    # --- the run --------------------------------------------------------------------------------------------------

    async def _behind_doors(self, ticket: Ticket, proceed: Proceed) -> Any:
        with held(self.shape.name, passes=self.guard.passes):
            return await self._proceed(ticket, proceed)

    async def _proceed(self, ticket: Ticket, proceed: Proceed) -> Any:
        turn = self.talk.turn if self.talk is not None else FIRST
        try:
            with within(self._frame(ticket)):
                if not turn.ours and not is_remote(ticket.found.leaf):
                    return await proceed(turn)
                with turn.inside() if turn.ours else nullcontext(), foreign(ticket.found.leaf):
                    return await proceed(turn)
        except MCPError as error:
            other = unmarked_error(error)
            if other is error:
                raise
            raise other from None
        except LeafRefused as error:
            await self.guard.engine.fail(ticket.decision, "denied", error.refusal.code)
            raise

    def _frame(self, ticket: Ticket) -> Frame:
        """The frame that the call goes on in. A tool that no gate stands around gets its body's frame here."""
        current = ticketed(frame(), ticket)
        return current if is_guarded(ticket.found.offered) else body(current, (ticket,))

    async def _released(self, ticket: Ticket, held: bytes) -> Any:
        """The result of a call that ran in an earlier request, and has waited for an answer since."""
        try:
            result = thaw(held)
        except ResultWithheld:
            await self.guard.engine.fail(ticket.decision, "withheld", "the held result cannot be read")
            return self._refuse(RESULT_UNKNOWN)
        return await self._finished(ticket, result)

    async def _finished(self, ticket: Ticket, result: Any) -> Any:
        engine, decision = self.guard.engine, ticket.decision
        if isinstance(result, self.shape.asking) and not decision.after:
            return await self._asks_itself(ticket, result)
        if not isinstance(result, self.shape.result):
            await engine.fail(decision, "withheld", f"a result of type {type(result).__name__}")
            return self._refuse(RESULT_UNKNOWN)
        result = self.shape.unmark(result)
        talk = self.talk if decision.after else None

        async def view() -> tuple[Result, Apply]:
            nonlocal result
            if self.shape.name != "resource" and _embeds(result):
                result = await carried(self.guard, ticket, result)
            return self.shape.view(result), self.guard.redactor(self.shape, ticket.found.key, decision, result)

        step = await release(
            engine,
            decision,
            view,
            partial(talk.carry, freeze=lambda: freeze(result)) if talk is not None else None,
            asking=talk.asking(ticket.found).answered({}) if talk is not None else None,
        )
        if isinstance(step, Carried):
            return self.shape.asks(step.response)
        return self._refuse(step.refusal) if step.refusal is not None else step.applied

    async def _asks_itself(self, ticket: Ticket, result: Any) -> Any:
        """A component that asks its client: what was approved and charged goes with its question."""
        engine, decision, question = self.guard.engine, ticket.decision, result.input_required
        if is_remote(ticket.found.leaf):
            named = question_of(question)
            if named is None:
                await engine.fail(decision, "withheld", CREDENTIAL.code)
                return self._refuse(CREDENTIAL)
            question, result = named, self.shape.asks(named)
        try:
            leg = await engine.consent.park(decision)
        except StoreUnavailable as error:
            await engine.fail(decision, "withheld", error.code)
            return self._refuse(plain_refusal(error.code))
        await engine.fail(decision, "input_required")
        if leg is None and not is_ours(question.request_state):
            return result
        state = state_text(leg=leg, inner=question.request_state)
        return self.shape.asks(question.model_copy(update={"request_state": state}))

    # --- refusals -------------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> Any:
        nested = self.raises or frame().depth > 0
        if self.shape is not TOOL and self._lacks_forms(refusal):
            raise protocol_refusal(refusal, lacks_elicitation=True)
        return self.shape.refuse(self.asked, refusal, nested)

    def _lacks_forms(self, refusal: Refusal) -> bool:
        """Whether nothing but a client that can show forms would help."""
        if self.talk is None or refusal.approval is None or not self.talk.lacks_forms():
            return False
        found = self.guard.engine.consent.approvers.get(refusal.approval)
        return found is not None and found.in_band

    async def _recorded(self, refusal: Refusal, component: Component, identity: Identity) -> Any:
        return self._refuse(await self._recorded_refusal(refusal, component, identity))

    async def _recorded_refusal(
        self, refusal: Refusal, component: Component | None, identity: Identity | None, detail: str = ""
    ) -> Refusal:
        component = component or Component(kind=self.shape.kind, name=self.asked[:LONGEST_NAME])
        request = self.guard.request(identity, component, nested=frame().depth > 0)
        await self.guard.engine.refuse(request, refusal.code, refusal.reason, detail=detail, hidden=refusal.hidden)
        return refusal

    async def _observe_end(self, identity: Identity | None, outcome: str) -> None:
        component = Component(kind=self.shape.kind, name=self.asked[:LONGEST_NAME])
        await self.guard.observe(identity, component, outcome=outcome, code=outcome)


async def confirmed(ticket: Ticket, leaf: AnyComponent, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments to run the leaf with: those that it was called with, judged again if others were judged.

    Raises `LeafRefused`, and `ValidationError` for arguments that the leaf does not take.
    """
    same = ticket.arguments is not None and _same(arguments, ticket.arguments)
    same = same and getattr(leaf, "fn", None) is getattr(ticket.found.leaf, "fn", None)
    if same:
        return arguments
    try:
        facts = judged(leaf, arguments, ticket.found.server)
    except ArgumentsInvalid as error:
        raise ValidationError(str(error)) from None
    refusal = await rejudge(ticket.guard.engine, ticket.decision, facts)
    if refusal is not None:
        raise LeafRefused(ticket, refusal)
    return arguments


def unfit(leaf: AnyComponent, arguments: Mapping[str, Any], server: FastMCP[Any]) -> ArgumentsUnfit | None:
    """What is wrong with a local component's arguments, if it is they that made a call fail."""
    if not is_local(leaf):
        return None
    try:
        coerced(leaf, arguments, server)
    except ArgumentsInvalid as error:
        return ArgumentsUnfit(str(error))
    except Exception:
        return None
    return None


def _embeds(result: Any) -> bool:
    """Whether a tool's or a prompt's result carries a resource along."""
    blocks = result.content if isinstance(result, ToolResult) else [message.content for message in result.messages]
    for block in blocks:  # noqa: SIM110 - a generator would cost every call two more
        if isinstance(block, EmbeddedResource):
            return True
    return False


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: unlike in Python, `true` is not 1 and 5.0 is not 5."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
