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
from ..core.enforcement import Apply, Carried, Carry, Questions, agree, release
from ..core.visibility import open_to
from ..errors import ArgumentsInvalid, AuditUnavailable, BindError, PolicyViolationError, StoreUnavailable
from ..model import (
    EMPTY,
    Challenge,
    Component,
    Effect,
    Kind,
    Refusal,
    RequestContext,
    Result,
)
from . import asgi_http as web
from .asgi_callers import Callers
from .callers import NO_ONE, Identity, Unidentified
from .issuers import issuers_of, problems_of

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Values = Callable[[], Awaitable[Mapping[str, Any]]]
UNKNOWN: Final = "The credential cannot be checked at present; try again later."
MUST_AGREE: Final = Refusal(code="approval_required", reason="A person must agree first.")


class Refused(PolicyViolationError):
    """A request is refused, and recorded; `response` is the answer to it."""

    def __init__(self, response: Response, refusal: Refusal) -> None:
        super().__init__(refusal.reason, code=refusal.code, policy=refusal.policy, retry_after=refusal.retry_after)
        self.response = response
        self.hidden: Final = refusal.hidden


class Desk:
    """One policy at the door of a web application. `source` and `auth` as for the adapters that sit behind it."""

    def __init__(self, source: Any, auth: Any = None) -> None:
        self.runtime: Final = runtime_of(source)
        problems = list(problems_of(self.runtime.engine.plan, issuers_of(auth, self.runtime)))
        if problems:
            raise BindError("\n".join(problems))
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
            if await self._is_repeated(error, request):
                raise Refused(web.unauthorized(invalid=True), refusal) from None
        except Exception as error:  # a provider that fails admits nobody
            logger.error("a caller could not be identified: %s", type(error).__name__)
            refusal, detail = Refusal(code="internal", reason=UNKNOWN), type(error).__name__
        await self.engine.refuse(context, refusal.code, refusal.reason, detail=detail)
        if refusal.code in web.UNAVAILABLE:
            raise Refused(web.refused(refusal), refusal)
        raise Refused(web.unauthorized(invalid=refusal.code == "token_invalid"), refusal)

    async def _is_repeated(self, error: Unidentified, request: Request) -> bool:
        """Whether it is one more bad credential of its address in a second: then it has no record of its own."""
        if error.code != "token_invalid":
            return False
        address = request.client.host if request.client is not None else None
        first = self.runtime.bad_credentials.note(error.detail, address)
        await self.runtime.bad_credentials.slow(error.detail, address)
        return not first

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

    async def hides(self, request: Request, found: Component) -> bool:
        """Whether whoever sends the request would be told that there is no such component. It records nothing.

        Who must show a credential first is told so of every component alike.
        """
        if not self.engine.plan.settings.hide_denied:
            return False
        try:
            caller = await self._callers.identify(request)
        except Unidentified:
            return False
        return not await open_to(self.engine, self.context(caller, found), token=caller.token)

    # --- before and after the run -------------------------------------------------------------------------------------

    async def decided(self, context: RequestContext, caller: Identity, values: Values) -> Decision:
        """What the rules say, once everybody who can be waited for has answered: ALLOW or DENY.

        Raises `Refused` with the question that somebody must answer first, or with what is wrong with the arguments.
        """
        try:
            step = await agree(
                self.engine, context, _put_before, token=caller.token, arguments=values, asking=_asking(caller)
            )
        except ArgumentsInvalid as error:
            raise Refused(web.invalid(error), Refusal(code=error.code, reason=str(error))) from None
        if isinstance(step, Carried):
            raise step.response
        return step

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
        self, decision: Decision, caller: Identity, result: Result, apply: Apply, carry: Carry | None = None
    ) -> Outcome | Carried:
        """What of a result may leave; or what `carry` made of the questions that must be answered first.

        Without `carry`, or where nobody can be asked, what would be asked about is withheld.
        """

        async def view() -> tuple[Result, Apply]:
            return result, apply

        return await release(self.engine, decision, view, carry, asking=_asking(caller) if carry is not None else None)

    # --- questions ----------------------------------------------------------------------------------------------------

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


async def opened(challenges: Sequence[Challenge], questions: Questions) -> Refusal | None:
    """Opens every challenge; the refusal of the first that cannot be."""
    for challenge in challenges:
        refusal = await questions.open(challenge)
        if refusal is not None:
            return refusal
    return None


async def _put_before(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Carried | Refusal:
    """Questions before the run: the request is refused with them, and comes again when they are answered."""
    failed = await opened(challenges, questions)
    refusal = decision.refusal or MUST_AGREE
    return failed or Carried(Refused(web.refused(refusal, challenges), refusal))


def _asking(caller: Identity, *, leg: str | None = None) -> Asking:
    return Asking(forms=True, person=caller.person, until=caller.expires, leg=leg, host=True)
