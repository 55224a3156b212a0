"""The policy inside a FastAPI application: `Depends(macaroon.caller)`, `Depends(macaroon.requires("transfer"))`.

A dependency runs before its endpoint and never sees the answer, so output rules need `permit.release`; what was not
released does not leave. The middleware of `asgi` does both for whole routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..core.decisions import Decision, Outcome, plain_refusal
from ..errors import ArgumentsInvalid, PolicyViolationError, ResultWithheld
from ..fields import is_large, redact_document
from ..model import Redaction, Refusal, RequestContext, Result
from . import asgi_http as web
from .asgi_desk import Desk, Refused, action
from .asgi_fields import Fields
from .callers import WEB, Identity
from .fastapi_door import HIDES, Door, Doors

logger: Final = logging.getLogger("mcp_macaroon_middleware")

WITHHELD: Final = Refusal(code="withheld", reason="The answer cannot be shown.")


class Permit:
    """An allowed action of a request. `caller` is who acts."""

    def __init__(self, desk: Desk, decision: Decision, caller: Identity) -> None:
        self._desk = desk
        self._decision = decision
        self._released = False
        self.caller: Final = caller

    @property
    def withholds(self) -> bool:
        """Whether output rules apply and nothing was released, so that whatever the endpoint answers is withheld."""
        return self._decision.after and not self._released

    async def release(self, result: Any) -> Any:
        """What of a result may leave, as plain data; once. Raises `Refused` where nothing may.

        A field that a person would be asked for is withheld: the endpoint has run, and would run again with the answer.
        """
        view = Result(lambda: ((_plain(result),), ()), large=lambda: is_large(result))
        outcome = await self._desk.finished(
            self._decision, self.caller, view, lambda without: _redacted(result, without)
        )
        assert isinstance(outcome, Outcome)  # nobody is asked
        if outcome.refusal is not None:
            raise Refused(web.refused(outcome.refusal), outcome.refusal)
        self._released = True
        return outcome.applied

    async def unreleased(self) -> None:
        """Records that an answer was withheld, for want of `release`."""
        if not self._decision.closed:
            logger.error(
                "output rules apply to %r: return  await permit.release(…)", self._decision.request.component.name
            )
        await self._desk.engine.fail(self._decision, "withheld", "the result was never released")

    async def ended(self) -> None:
        """The endpoint has returned."""
        if self.withholds:
            await self.unreleased()
        elif not self._decision.closed:
            await self._desk.finished(self._decision, self.caller, Result.of(None), lambda _: None)

    async def failed(self, error: BaseException) -> None:
        """The endpoint has raised; what it says is no released result."""
        self._released = False
        outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        await self._desk.engine.fail(self._decision, outcome, type(error).__name__)


class Macaroon:
    """One policy file for the endpoints of an application: `macaroon = Macaroon("policies.yaml", auth=provider)`.

    `source` and `auth` as for the ASGI middleware. `install(app)` has refusals answered as what they are, and what was
    not released held back.
    """

    def __init__(self, source: Any, *, auth: Any = None, limit: int = web.LARGEST) -> None:
        self._desk = Desk(source, auth)
        self.runtime: Final = self._desk.runtime
        self._limit = limit

    def install(self, app: Any) -> None:
        """Adds to an application, before it starts, the answers for refusals and the door that holds back."""

        async def answer(request: Request, error: Exception) -> Response:
            if isinstance(error, Refused):
                door = Door.of(request.scope)
                if door is not None:
                    door.ours, door.hidden = True, error.hidden
                return error.response
            assert isinstance(error, PolicyViolationError)
            refusal = Refusal(code=error.code, reason=error.reason, policy=error.policy, retry_after=error.retry_after)
            return web.refused(refusal, getattr(error, "challenges", ()))

        app.add_exception_handler(PolicyViolationError, answer)
        app.add_middleware(Doors)

    async def caller(self, request: Request) -> Identity:
        """Who sends the request; a dependency. Raises `Refused` with 401, or 503 where that cannot be told."""
        return await self._desk.caller(request, action(f"{request.method} {request.url.path}"))

    def requires(self, name: str, *, releases: bool = False) -> Callable[[Request], AsyncIterator[Permit]]:
        """A dependency that judges `name`, a component of that name, before the endpoint, and yields a `Permit`.

        Rules look at what the endpoint declares, as it takes it: path, query, headers, cookies, form or JSON body.
        Where output rules apply, only an endpoint that promises to return what `permit.release` gives
        (`releases=True`) is let through, in an application that `install` was called for; what it answers without
        having released it is withheld.
        """

        async def dependency(request: Request) -> AsyncIterator[Permit]:
            permit = await self._permitted(request, name, releases)
            WEB.set(True)  # the endpoint runs in this context or in a copy of it, and so does nothing else
            try:
                yield permit
            except BaseException as error:
                await permit.failed(error)
                raise
            await permit.ended()

        async def hides(request: Request) -> bool:
            return await self._desk.hides(request, action(name))

        setattr(dependency, HIDES, hides)
        return dependency

    async def _permitted(self, request: Request, name: str, releases: bool) -> Permit:
        desk = self._desk
        caller = await self.caller(request)
        context = desk.context(caller, action(name))
        fields = Fields.of(request.scope.get("route"))
        body = await self._body(request, context, fields)

        async def values() -> Mapping[str, Any]:
            return await _arguments(request, fields, body)

        decision = await desk.decided(context, caller, values)
        if not decision.allowed:
            refusal = decision.refusal or plain_refusal("internal")
            answer = JSONResponse({"detail": "Not Found"}, 404) if refusal.hidden else web.refused(refusal)
            raise Refused(answer, refusal)
        return await self._admitted(Permit(desk, decision, caller), decision, Door.of(request.scope), releases)

    async def _admitted(self, permit: Permit, decision: Decision, door: Door | None, releases: bool) -> Permit:
        """The permit, with the door told of it. Raises `Refused` where nothing would hold the answer back."""
        if decision.after and (door is None or not releases):
            missing = "macaroon.install(app)" if door is None else "requires(…, releases=True) at its endpoint"
            logger.error("output rules apply to %r: it needs %s", decision.request.component.name, missing)
            await self._desk.engine.fail(decision, "withheld", "the endpoint releases nothing")
            raise Refused(web.refused(WITHHELD), WITHHELD)
        if door is not None:
            door.admit(permit)
        return permit

    async def _body(self, request: Request, context: RequestContext, fields: Fields) -> bytes | FormData | None:
        """The request's body, as a form where FastAPI has read it as one; None for one that is too large."""
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limit:
            return None
        try:
            body = await (request.form() if fields.takes_form else request.body())
        except (asyncio.CancelledError, ClientDisconnect):
            await self._desk.cancelled(context)
            raise
        return None if isinstance(body, bytes) and len(body) > self._limit else body

    async def answer(self, request: Request, challenge_id: str, *choices: str) -> bool:
        """Takes a person's answer for the caller of `request`, once; True if anything was allowed. Raises `Refused`."""
        desk, found = self._desk, action("answer")
        caller = await desk.caller(request, found)
        context = desk.context(caller, found)
        allowed = await desk.answered(context, caller, challenge_id, choices)
        await desk.observed(context)
        return allowed


async def _arguments(request: Request, fields: Fields, body: bytes | FormData | None) -> Mapping[str, Any]:
    """What rules look at. Raises `ArgumentsInvalid` for what is not certain."""
    if body is None:
        raise web.TooLarge
    ways = fields.taken(request.path_params)
    if len(ways) > 1:
        raise ArgumentsInvalid("a parameter of the path is taken as different values")
    return await web.arguments(request, ways[0], body, fields)


def _plain(result: Any) -> Any:
    try:
        return to_jsonable_python(result)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise ResultWithheld("the result is not plain data") from None


def _redacted(result: Any, redaction: Redaction) -> Any:
    return result if redaction.is_empty else redact_document(_plain(result), redaction)


__all__ = ["Macaroon", "Permit", "Refused"]
