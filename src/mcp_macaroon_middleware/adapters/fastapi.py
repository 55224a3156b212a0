"""The policy inside a FastAPI application: `Depends(macaroon.caller)`, `Depends(macaroon.requires("transfer"))`.

A dependency runs before its endpoint and never sees the answer, so output rules need `permit.release`; whoever forgets
it gets no permit. The middleware of `asgi` does both for whole routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..core.asks import Asking
from ..core.decisions import Decision
from ..errors import ArgumentsInvalid, PolicyViolationError, ResultWithheld
from ..fields import redact
from ..model import Challenge, Component, Effect, Kind, Redaction, Refusal, RequestContext, Result, request_ids
from . import asgi_http as web
from .asgi import Callers, runtime_of
from .callers import Identity, Unidentified

logger: Final = logging.getLogger("mcp_macaroon_middleware")


class Refused(PolicyViolationError):
    """A request is refused; `response` is the answer to it. `Macaroon.install` has an application send it."""

    def __init__(self, response: Response, refusal: Refusal) -> None:
        super().__init__(refusal.reason, code=refusal.code, policy=refusal.policy, retry_after=refusal.retry_after)
        self.response = response


class Permit:
    """An allowed action of a request. `caller` is who acts."""

    def __init__(self, macaroon: Macaroon, decision: Decision, caller: Identity) -> None:
        self._macaroon = macaroon
        self._decision = decision
        self.caller: Final = caller

    async def release(self, result: Any) -> Any:
        """What of a result may leave, as plain data; once. Raises `Refused` where nothing may.

        A field that a person would be asked for is withheld: the endpoint has run, and would run again with the answer.
        """
        outcome = await self._macaroon.runtime.engine.finish(
            self._decision, Result(lambda: ((_plain(result),), ())), lambda redaction: _redacted(result, redaction)
        )
        if outcome.refusal is not None:
            raise Refused(web.refused(outcome.refusal), outcome.refusal)
        return outcome.applied

    async def _end(self) -> None:
        """The endpoint has returned."""
        if self._decision.closed:
            return
        if self._decision.after:
            await self._macaroon.runtime.engine.fail(self._decision, "error", "the result was never released")
            raise RuntimeError("output rules apply to this action: return  await permit.release(result)")
        await self._macaroon.runtime.engine.finish(self._decision, Result.of(None), lambda _: None)

    async def _failed(self, error: BaseException) -> None:
        if not self._decision.closed:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
            await self._macaroon.runtime.engine.fail(self._decision, outcome, type(error).__name__)


class Macaroon:
    """One policy file for the endpoints of an application: `macaroon = Macaroon("policies.yaml", auth=provider)`.

    `source` and `auth` as for the ASGI middleware. `install(app)` has refusals answered as what they are.
    """

    def __init__(self, source: Any, *, auth: Any = None, limit: int = web.LARGEST) -> None:
        self.runtime: Final = runtime_of(source)
        self.runtime.enforced = True
        self._callers = Callers(self.runtime, auth)
        self._limit = limit

    def install(self, app: Any) -> None:
        """Adds the answers for refusals to a FastAPI or Starlette application."""

        async def answer(request: Request, error: Exception) -> Response:
            if isinstance(error, Refused):
                return error.response
            assert isinstance(error, PolicyViolationError)
            refusal = Refusal(code=error.code, reason=error.reason, policy=error.policy, retry_after=error.retry_after)
            return web.refused(refusal, getattr(error, "challenges", ()))

        app.add_exception_handler(PolicyViolationError, answer)

    async def caller(self, request: Request) -> Identity:
        """Who sends the request; a dependency. Raises `Refused` with 401."""
        try:
            return await self._callers.identify(request)
        except Unidentified as error:
            refusal = Refusal(code=error.code, reason=error.reason)
            found = Component(kind=Kind.TOOL, name=f"{request.method} {request.url.path}")
            await self.runtime.engine.refuse(self._context(None, found), error.code, error.reason, detail=error.detail)
            unavailable = error.code == "store_unavailable"
            answer = web.refused(refusal) if unavailable else web.unauthorized(invalid=error.code == "token_invalid")
            raise Refused(answer, refusal) from None

    def requires(self, action: str, *, releases: bool = False) -> Callable[[Request], AsyncIterator[Permit]]:
        """A dependency that judges `action`, a component of that name, before the endpoint, and yields a `Permit`.

        Rules look at path, query and JSON body. Where output rules apply to the action, only an endpoint that promises
        to return what `permit.release` gives (`releases=True`) is let through.
        """

        async def dependency(request: Request) -> AsyncIterator[Permit]:
            permit = await self._permitted(request, action, releases)
            try:
                yield permit
            except BaseException as error:
                await permit._failed(error)
                raise
            await permit._end()

        return dependency

    async def _permitted(self, request: Request, action: str, releases: bool) -> Permit:
        caller = await self.caller(request)
        found = Component(kind=Kind.TOOL, name=action, names=(action,))
        engine, body = self.runtime.engine, await request.body()

        async def values() -> Mapping[str, Any]:
            if len(body) > self._limit:
                raise ArgumentsInvalid("the body is too large")
            return web.arguments(request.scope, request.path_params, body)

        asking = Asking(forms=True, host=True, person=caller.person, until=caller.expires)
        context = self._context(caller, found)
        while True:
            try:
                decision = await engine.decide(context, token=caller.token, arguments=values, asking=asking)
            except ArgumentsInvalid as error:
                refusal = Refusal(code=error.code, reason=str(error))
                raise Refused(JSONResponse({"code": error.code, "message": str(error)}, 400), refusal) from None
            if decision.effect is not Effect.ASK:
                break
            replies = await self._posed(decision, decision.challenges)
            if not replies:
                await engine.asked(decision)
                refusal = decision.refusal or Refusal(code="approval_required", reason="A person must agree first.")
                raise Refused(web.refused(refusal, decision.challenges), refusal)
            context, asking = context.replace(id=request_ids.next()), asking.answered(replies)
        if decision.refusal is not None and not decision.allowed:
            hidden = decision.refusal.hidden
            answer = JSONResponse({"detail": "Not Found"}, 404) if hidden else web.refused(decision.refusal)
            raise Refused(answer, decision.refusal)
        if decision.after and not releases:
            await engine.fail(decision, "withheld", "the endpoint releases nothing")
            logger.error("output rules apply to %r: its endpoint needs requires(…, releases=True)", action)
            refusal = Refusal(code="withheld", reason="The answer cannot be shown.")
            raise Refused(web.refused(refusal), refusal)
        return Permit(self, decision, caller)

    async def _posed(self, decision: Decision, challenges: tuple[Challenge, ...]) -> Mapping[str, Any]:
        """Opens every question and waits for those that are asked out of band. Raises `Refused`."""
        engine, replies = self.runtime.engine, {}
        for challenge in challenges:
            outside = not engine.consent.is_in_band(challenge)
            refusal = await engine.pose(decision, challenge, waits=outside)
            if refusal is not None:
                refusal = engine.deny(decision, refusal).refusal or refusal
                raise Refused(web.refused(refusal), refusal)
            if outside:
                replies[challenge.id] = await engine.consent.elsewhere(decision, challenge)
        return replies

    async def answer(self, request: Request, challenge_id: str, *choices: str) -> bool:
        """Takes a person's answer for the caller of `request`, once; True if anything was allowed. Raises `Refused`."""
        caller = await self.caller(request)
        context = self._context(caller, Component(kind=Kind.TOOL, name="answer"))
        try:
            return await self.runtime.engine.answer(challenge_id, *choices, context=context, token=caller.token)
        except PolicyViolationError as error:
            refusal = Refusal(code=error.code, reason=str(error))
            raise Refused(web.refused(refusal), refusal) from None

    def _context(self, caller: Identity | None, found: Component) -> RequestContext:
        who = caller or Identity(person=False)
        return RequestContext(
            principal=who.principal,
            component=found,
            claims=who.claims,
            client=who.client,
            client_address=who.address,
            at=self.runtime.engine.clock.now(),
        )


def _plain(result: Any) -> Any:
    try:
        return to_jsonable_python(result)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise ResultWithheld("the result is not plain data") from None


def _redacted(result: Any, redaction: Redaction) -> Any:
    return result if redaction.is_empty else redact(_plain(result), redaction)[0]


__all__ = ["Macaroon", "Permit", "Refused"]
