"""What every HTTP adapter does with a request: names its caller, has it judged, puts questions, takes answers.

It sends nothing. What ends a request early is raised as `Refused`, with the answer to it and after its one record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from ..config.runtime import Runtime, load_runtime, shared_runtime
from ..core.asks import Asking
from ..core.decisions import Decision, Outcome, plain_refusal
from ..core.policy_engine import Apply
from ..errors import ArgumentsInvalid, AuditUnavailable, PolicyViolationError, StoreUnavailable
from ..model import (
    EMPTY,
    Answer,
    Challenge,
    Component,
    Effect,
    Kind,
    Refusal,
    RequestContext,
    Result,
    request_ids,
)
from . import asgi_http as web
from .asgi_callers import Callers
from .callers import NO_ONE, Identity, Unidentified

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Values = Callable[[], Awaitable[Mapping[str, Any]]]
UNKNOWN: Final = "The credential cannot be checked at present; try again later."
MUST_AGREE: Final = Refusal(code="approval_required", reason="A person must agree first.")


class Refused(PolicyViolationError):
    """A request is refused, and recorded; `response` is the answer to it."""

    def __init__(self, response: Response, refusal: Refusal) -> None:
        super().__init__(refusal.reason, code=refusal.code, policy=refusal.policy, retry_after=refusal.retry_after)
        self.response = response


class Desk:
    """One policy at the door of a web application. `source` and `auth` as for the adapters that sit behind it."""

    def __init__(self, source: Any, auth: Any = None) -> None:
        self.runtime: Final = runtime_of(source)
        self.runtime.enforced = True
        self.engine: Final = self.runtime.engine
        self._callers = Callers(self.runtime, auth)

    def context(self, caller: Identity | None, found: Component) -> RequestContext:
        """The request as rules see it, without its arguments."""
        who = caller or NO_ONE
        return RequestContext(
            principal=who.principal,
            component=found,
            claims=who.claims,
            client=who.client,
            client_address=who.address,
            at=self.engine.clock.now(),
        )

    # --- who and what -------------------------------------------------------------------------------------------------

    async def caller(self, request: Request, found: Component) -> Identity:
        """Who sends the request. Raises `Refused`: 401, or 503 where that cannot be told at present."""
        context = self.context(None, found)
        try:
            return await self._callers.identify(request)
        except asyncio.CancelledError:
            await self.cancelled(context)
            raise
        except Unidentified as error:
            refusal, detail = Refusal(code=error.code, reason=error.reason), error.detail
        except Exception as error:  # a provider that fails admits nobody
            logger.error("a caller could not be identified: %s", type(error).__name__)
            refusal, detail = Refusal(code="internal", reason=UNKNOWN), type(error).__name__
        await self.engine.refuse(context, refusal.code, refusal.reason, detail=detail)
        if refusal.code in web.UNAVAILABLE:
            raise Refused(web.refused(refusal), refusal)
        raise Refused(web.unauthorized(invalid=refusal.code == "token_invalid"), refusal)

    async def body(self, context: RequestContext, receive: Receive, limit: int) -> bytes:
        """The request's body. Raises `Refused` with 413; `ClientDisconnect` for a client that went away."""
        try:
            return await web.whole(receive, limit)
        except web.TooLarge as error:
            raise await self.unfit(context, error) from None
        except (asyncio.CancelledError, ClientDisconnect):
            await self.cancelled(context)
            raise

    async def unfit(self, context: RequestContext, error: ArgumentsInvalid) -> Refused:
        """Records a request that cannot be judged; what is to be raised for it."""
        refusal = Refusal(code=error.code, reason=str(error))
        await self.engine.refuse(context, refusal.code, refusal.reason)
        return Refused(web.invalid(error), refusal)

    async def cancelled(self, context: RequestContext) -> None:
        """Records a request that ended before it was judged."""
        try:
            await self.engine.observe(context, code="cancelled", outcome="cancelled")
        except AuditUnavailable:
            logger.error("the end of a request could not be recorded")

    # --- before and after the run -------------------------------------------------------------------------------------

    async def decided(self, context: RequestContext, caller: Identity, values: Values) -> Decision:
        """What the rules say, once everybody who can be waited for has answered: ALLOW or DENY.

        Raises `Refused` with the question that somebody must answer first, or with what is wrong with the arguments.
        """
        asking = _asking(caller)
        while True:
            try:
                decision = await self.engine.decide(context, token=caller.token, arguments=values, asking=asking)
            except ArgumentsInvalid as error:
                raise Refused(web.invalid(error), Refusal(code=error.code, reason=str(error))) from None
            if decision.effect is not Effect.ASK:
                return decision
            replies = await self._put(decision, decision.challenges)
            if isinstance(replies, Refusal):
                return self.engine.deny(decision, replies)
            if not replies:
                await self.engine.asked(decision)
                refusal = decision.refusal or MUST_AGREE
                raise Refused(web.refused(refusal, decision.challenges), refusal)
            context, asking = context.replace(id=request_ids.next()), asking.answered(replies)

    async def again(self, ran: RequestContext, caller: Identity, leg: str | None) -> Decision:
        """Judges a request that has run, from the beginning and under the rules in force. Nobody is asked anything new.

        `leg` is what it was approved and charged for when it ran.
        """

        async def values() -> Mapping[str, Any]:
            return ran.arguments

        context = self.context(caller, ran.component).replace(arguments=EMPTY)
        decision = await self.engine.decide(
            context, token=caller.token, arguments=values, asking=_asking(caller, leg=leg)
        )
        stale = decision.effect is Effect.ASK
        return self.engine.deny(decision, plain_refusal("approval_stale")) if stale else decision

    async def finished(
        self, decision: Decision, caller: Identity, result: Result, apply: Apply, *, asks: bool = True
    ) -> Outcome:
        """What of a result may leave. With effect ASK its questions are open, and nothing leaves before their answers.

        Without `asks`, or where nobody can be asked, what would be asked about is withheld.
        """
        asking = _asking(caller) if asks else None
        while True:
            try:
                outcome = await self.engine.finish(decision, result, apply, asking=asking)
            except asyncio.CancelledError:
                await self.engine.fail(decision, "cancelled")
                raise
            if outcome.effect is not Effect.ASK or asking is None:
                return outcome
            replies = await self._put(decision, outcome.challenges)
            if isinstance(replies, Refusal):
                asking = None
            elif not replies:
                return outcome
            else:
                asking = asking.answered(replies)

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _put(self, decision: Decision, challenges: Sequence[Challenge]) -> Mapping[str, Answer] | Refusal:
        """Opens questions; the answers of those that are asked out of band, which come first and by themselves."""
        engine, replies = self.engine, {}
        outside = [challenge for challenge in challenges if not engine.consent.is_in_band(challenge)]
        try:
            for challenge in outside or challenges:
                refusal = await engine.pose(decision, challenge, waits=bool(outside))
                if refusal is not None:
                    return refusal
                if outside:
                    replies[challenge.id] = await self._elsewhere(decision, challenge)
        except asyncio.CancelledError:
            await engine.fail(decision, "cancelled")
            raise
        except Exception as error:
            logger.error("a question could not be asked: %s", type(error).__name__)
            return plain_refusal("approval_failed")
        return replies

    async def _elsewhere(self, decision: Decision, challenge: Challenge) -> Answer:
        try:
            return await self.engine.consent.elsewhere(decision, challenge)
        except asyncio.CancelledError:
            await self.engine.consent.withdraw(decision, challenge)
            raise

    async def answered(self, context: RequestContext, caller: Identity, challenge: str, choices: Sequence[str]) -> bool:
        """Takes a person's answer, once; True if anything was allowed. Raises `Refused`."""
        try:
            return await self.engine.answer(challenge, *choices, context=context, token=caller.token)
        except asyncio.CancelledError:
            await self.cancelled(context)
            raise
        except PolicyViolationError as error:
            refusal = Refusal(code=error.code, reason=str(error))
        except (StoreUnavailable, AuditUnavailable) as error:
            refusal = plain_refusal(error.code)
        except Exception as error:
            logger.error("an answer could not be taken: %s", type(error).__name__)
            refusal = Refusal(code="internal", reason="The answer could not be taken.")
        await self.engine.refuse(context, refusal.code, refusal.reason)
        raise Refused(web.refused(refusal), refusal)

    async def observed(self, context: RequestContext) -> None:
        """Records a request that runs nothing. Raises `Refused` where it cannot be recorded."""
        try:
            await self.engine.observe(context)
        except AuditUnavailable as error:
            refusal = plain_refusal(error.code)
            raise Refused(web.refused(refusal), refusal) from None


# --- parts ------------------------------------------------------------------------------------------------------------


def runtime_of(source: Any) -> Runtime:
    """The policy that a file, a mapping or a runtime stands for; one file is one runtime in this process."""
    if isinstance(source, Runtime):
        return source
    return load_runtime(source) if isinstance(source, Mapping) else shared_runtime(source)


def action(name: str) -> Component:
    """What an adapter itself does with a request, or an action that a program has named."""
    return Component(kind=Kind.TOOL, name=name, names=(name,))


def _asking(caller: Identity, *, leg: str | None = None) -> Asking:
    return Asking(forms=True, person=caller.person, until=caller.expires, leg=leg)
