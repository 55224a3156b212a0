"""The loop that every host drives: decide, ask, decide again; run; finish, ask again; one final record at the end.

A host brings four things: how a question is carried to its client (`Carry`), how the component runs, how its result is
viewed (`View`) and how a redaction is applied to it. Read `agree`, `run` and `release`: they are the three parts of one
request, called in this order. A host that does not run the component itself calls the first and the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from ..model import Answer, ArgumentFacts, Challenge, Effect, Redaction, Refusal, Reply, RequestContext, Result
from ..plugin.contract import Clock
from ..tokens import VerifiedToken
from .asks import Asking
from .consent import Consent
from .decisions import Decision, Outcome, plain_refusal

logger: Final = logging.getLogger("mcp_macaroon_middleware")

T = TypeVar("T")

Replies = Mapping[str, Reply | Answer]
Arguments = Callable[[], Awaitable[Mapping[str, Any] | ArgumentFacts]]
Apply = Callable[[Redaction], Any]
View = Callable[[], Awaitable[tuple[Result, Apply]]]
"""A finished result as rules see it, and what makes the redacted one."""

ROUNDS: Final = 16
"""How often one request is decided anew; rules that never stop asking are refused then."""
UNJUDGED: Final = Refusal(code="internal", reason="The call ran, and its result could not be checked.")


class Engine(Protocol):
    """What the driver needs of the engine; see `PolicyEngine`."""

    @property
    def clock(self) -> Clock:
        """The clock that a request's time is read from."""

    @property
    def consent(self) -> Consent:
        """Who is asked, and what is kept of questions."""

    async def decide(
        self,
        request: RequestContext,
        *,
        token: VerifiedToken | None = None,
        arguments: Arguments | None = None,
        raw: Mapping[str, Any] | None = None,
        deferred: bool = False,
        asking: Asking | None = None,
    ) -> Decision:
        """Judges a request before its component runs."""

    async def finish(
        self, decision: Decision, result: Result, apply: Apply | None = None, *, asking: Asking | None = None
    ) -> Outcome:
        """Judges a finished result."""

    async def pose(
        self, decision: Decision, challenge: Challenge, *, held: bytes | None = None, waits: bool = False
    ) -> Refusal | None:
        """Opens a challenge, or says why it cannot be."""

    def deny(self, decision: Decision, refusal: Refusal) -> Decision:
        """Refuses a decision whose questions could not be asked, with its record."""

    async def asked(self, decision: Decision, *, held: bool = False) -> None:
        """Records that the request ends with its questions."""

    async def fail(self, decision: Decision, status: str, detail: str = "") -> None:
        """Records that the request ended without a result; nothing where it has its record."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The questions leave with the answer to this request; `response` is that answer in the host's own form.

    `ends`: the request ends with it, and the answers come with another one. A host that comes back with the very same
    decision says no.
    """

    response: Any
    ends: bool = True


class Questions:
    """The questions of one request. What was opened and is not going to be answered is withdrawn by `close`."""

    __slots__ = ("_decision", "_engine", "_opened")

    def __init__(self, engine: Engine, decision: Decision) -> None:
        self._engine = engine
        self._decision = decision
        self._opened: list[Challenge] = []

    async def open(self, challenge: Challenge, *, held: bytes | None = None, waits: bool = False) -> Refusal | None:
        """Opens a challenge, so that its answer can be taken, once; the refusal where it cannot be (see `pose`)."""
        self._opened.append(challenge)  # first: a store that fails, or is left, may have written it all the same
        return await self._engine.pose(self._decision, challenge, held=held, waits=waits)

    async def elsewhere(self, challenges: Sequence[Challenge]) -> Replies | Refusal:
        """Opens challenges that are asked out of band, one after another, and waits for their answers."""
        replies: dict[str, Answer] = {}
        for challenge in challenges:
            refusal = await self.open(challenge, waits=True)
            if refusal is not None:
                return refusal
            replies[challenge.id] = await self._engine.consent.elsewhere(self._decision, challenge)
        return replies

    def follow(self, decision: Decision) -> None:
        """Goes on with the same request, decided anew."""
        self._decision = decision

    def leave(self) -> None:
        """Leaves open what is open: its answers are on their way with another request, or were taken."""
        self._opened.clear()

    async def close(self) -> None:
        """Withdraws what was opened and not left; in a task of its own, since whoever is cancelled may be so again."""
        if not self._opened:
            return
        task = asyncio.ensure_future(self._withdraw(tuple(self._opened)))
        _closing.add(task)
        task.add_done_callback(_closing.discard)
        await asyncio.shield(task)

    async def _withdraw(self, opened: Sequence[Challenge]) -> None:
        for challenge in opened:
            await self._engine.consent.withdraw(self._decision, challenge)


_closing: Final[set[asyncio.Task[None]]] = set()
"""Tasks that withdraw questions: the event loop itself does not keep them alive."""


class Carry(Protocol):
    """Carries the questions of a decision to the host's client; all of them are asked in band.

    Opens each by `questions.open`. The answers where the client gives them now; `Carried` where they come later.
    """

    async def __call__(
        self, decision: Decision, challenges: Sequence[Challenge], questions: Questions
    ) -> Replies | Carried | Refusal:
        """See the class."""


# --- before the run ---------------------------------------------------------------------------------------------------


async def agree(
    engine: Engine,
    request: RequestContext,
    carry: Carry | None = None,
    *,
    token: VerifiedToken | None = None,
    arguments: Arguments | None = None,
    raw: Mapping[str, Any] | None = None,
    deferred: bool = False,
    asking: Asking | None = None,
) -> Decision | Carried:
    """The decision once everybody who must has agreed: ALLOW, or DENY with its record; or the questions that leave.

    The arguments are those of `PolicyEngine.decide`. Without `asking`, or without `carry`, nobody is asked. Raises
    `ArgumentsInvalid` after its record. A request that is cancelled here has its record, and leaves no question open.
    """
    if carry is None:
        asking = None
    decision = await engine.decide(request, token=token, arguments=arguments, raw=raw, deferred=deferred, asking=asking)
    if decision.effect is not Effect.ASK or carry is None or asking is None:
        return decision
    questions = Questions(engine, decision)
    try:
        for _ in range(ROUNDS):
            step = await _ask(engine, decision, decision.challenges, questions, carry)
            if isinstance(step, Refusal):
                return engine.deny(decision, step)
            if isinstance(step, Carried):
                questions.leave()
                await engine.asked(decision)
                return step
            # Decided anew from the beginning, by the clock and the rules of now: while a person thinks, an office hour
            # ends, a rule changes, a limit is used up. An answer allows nothing by itself.
            asking = asking.answered(step)
            decision = await engine.decide(
                request.replace(at=engine.clock.now()),
                token=token,
                arguments=arguments,
                raw=raw,
                deferred=deferred,
                asking=asking,
            )
            if decision.effect is Effect.DENY:
                return decision
            questions.leave()  # their answers were taken; after a refusal some may not have been
            if decision.effect is Effect.ALLOW:
                return decision
            questions.follow(decision)
        return engine.deny(decision, plain_refusal("approval_failed"))
    finally:
        await questions.close()


async def _ask(
    engine: Engine, decision: Decision, challenges: Sequence[Challenge], questions: Questions, carry: Carry
) -> Replies | Carried | Refusal:
    """The answers to challenges; or that they leave, or why they cannot be asked.

    Those out of band come first, and alone: the decision that follows their answers has challenges of its own, so one
    in band that was opened now would be opened a second time then, and the first would stay open for nobody.
    """
    outside = [challenge for challenge in challenges if not engine.consent.is_in_band(challenge)]
    try:
        if outside:
            return await questions.elsewhere(outside)
        return await carry(decision, challenges, questions)
    except Exception as error:
        logger.error("a question could not be asked: %s", type(error).__name__)
        return plain_refusal("approval_failed")
    except BaseException:
        # The record before the questions are withdrawn: it waits for nothing, and a second cancellation may strike at
        # the next thing that does.
        await engine.fail(decision, "cancelled")
        raise


# --- the run ----------------------------------------------------------------------------------------------------------


async def run(engine: Engine, decision: Decision, running: Awaitable[T]) -> T:
    """What the component returns. However it ends without that, its request has its record before anything else."""
    try:
        return await running
    except asyncio.CancelledError:
        await engine.fail(decision, "cancelled")
        raise
    except BaseException as error:
        await engine.fail(decision, "error", type(error).__name__)
        raise


# --- after the run ----------------------------------------------------------------------------------------------------


async def release(
    engine: Engine, decision: Decision, view: View, carry: Carry | None = None, *, asking: Asking | None = None
) -> Outcome | Carried:
    """What of a finished result may leave, once those who must have been asked; or the questions that leave first.

    What cannot be asked about is withheld. Nothing leaves of a result that cannot be viewed. With `Carried` the call
    has run, and its result waits with the host.
    """
    questions: Questions | None = None
    try:
        result, apply = await view()
        for _ in range(ROUNDS):
            outcome = await engine.finish(decision, result, apply, asking=asking)
            if outcome.effect is not Effect.DENY and questions is not None and asking is not None:
                questions.leave()  # as in `agree`
            if outcome.effect is not Effect.ASK or carry is None or asking is None:
                return outcome
            questions = questions or Questions(engine, decision)
            step = await _ask(engine, decision, outcome.challenges, questions, carry)
            if isinstance(step, Carried):
                questions.leave()
                if step.ends:
                    await engine.asked(decision, held=True)
                return step
            asking = None if isinstance(step, Refusal) else asking.answered(step)
        return await engine.finish(decision, result, apply)
    except Exception as error:
        if decision.closed:  # it is no fault of the result's: its record stands
            raise
        logger.error("a result could not be judged: %s", type(error).__name__)
        await engine.fail(decision, "withheld", type(error).__name__)
        return Outcome(effect=Effect.DENY, refusal=UNJUDGED)
    except BaseException:
        await engine.fail(decision, "cancelled")
        raise
    finally:
        if questions is not None:
            await questions.close()
