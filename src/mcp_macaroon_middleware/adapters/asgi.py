"""The policy around an ASGI application: `MacaroonASGIMiddleware(app, "policies.yaml")`. Read `__call__` first.

Routes are components, named as `GET /customers/{number}`. Requests are judged before the application sees them; under
an output rule its JSON answers lose what must not leave. What cannot be judged with certainty is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.decisions import Decision, plain_refusal
from ..core.enforcement import Carried, Questions, run
from ..core.plan import Plan
from ..core.visibility import open_to
from ..errors import ArgumentsInvalid, AuditUnavailable, StoreUnavailable
from ..model import Challenge, Refusal, RequestContext, Result
from . import asgi_http as web
from .asgi_desk import Desk, Refused, action, opened
from .asgi_held import Held, Waiting
from .asgi_response import Captured, raw
from .asgi_routes import Found, Routes, route_path
from .callers import WEB, Identity

logger: Final = logging.getLogger("mcp_macaroon_middleware")

HAS_RUN: Final = Refusal(code="approval_required", reason="The request has run; a person must agree to its answer.")
NO_PATH: Final = "There is no such path."


class MacaroonASGIMiddleware:
    """Enforces a policy file on an ASGI application.

    `source` is a policy file, the same as a mapping, or a `Runtime`; the same file as an MCP server's is the same
    runtime. `auth` verifies tokens that are not ours. `public` are paths that stand outside the rules. People are asked
    by answers: 403 `approval_required` with the question, and `POST {approvals}/{id}` with `{"choices": ["once"]}`.
    `limit` is how many bytes a request's body may have. WebSockets are refused: nothing could judge their messages.
    """

    def __init__(
        self,
        app: ASGIApp,
        source: Any,
        *,
        auth: Any = None,
        public: Sequence[str] = (),
        approvals: str = "/approvals",
        limit: int = web.LARGEST,
    ) -> None:
        self.app = app
        self._desk = Desk(source, auth)
        self.runtime: Final = self._desk.runtime
        self._routes = Routes(app, self)
        self._public = frozenset(public)
        self._approvals = approvals.rstrip("/")
        self._limit = limit
        self._waiting = Waiting(self._let_go)
        self._templates: tuple[Plan, Sequence[str]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Who, what, decide, run, finish; every request ends in one final record."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not allowed"})
        elif scope["type"] == "http":
            token = WEB.set(True)
            try:
                await self._request(scope, receive, send)
            finally:
                WEB.reset(token)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self._waiting.close()

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._waiting.purge()
        if route_path(scope) in self._public:
            await self.app(scope, receive, send)
            return
        if self._is_preflight(scope):
            await (await self._preflight(scope, receive))(scope, receive, send)
            return
        try:
            judged = await self._judged(scope, receive)
        except Refused as error:
            judged = error.response
        except ClientDisconnect:
            return
        response = judged if isinstance(judged, Response) else await self._run(judged, scope, receive, send)
        if response is not None:
            await response(scope, receive, send)

    def _is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks what it may send, at a place where no route of the application would run for that."""
        names = {name.lower() for name, _ in scope["headers"]}
        asks = scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names
        return asks and self._routes.lacks(scope)

    async def _preflight(self, scope: Scope, receive: Receive) -> Response:
        """What the application's own middleware says to a browser; never that there is a route of another method."""
        captured = Captured()
        await self.app({**scope}, receive, captured)  # routers write into theirs
        if captured.status == 405 or 300 <= captured.status < 400:
            return await self._unknown(scope)
        return raw(captured.status, captured.headers, bytes(captured.body))

    async def _judged(self, scope: Scope, receive: Receive) -> _Allowed | Response:
        """Leave to run the application, or the answer without it. Raises `Refused`."""
        challenge = self._challenge(scope)
        if challenge is not None:
            return await self._approval(challenge, scope, receive)
        found = self._routes.find(scope)
        caller = await self._desk.caller(Request(scope), found.component)
        context = self._desk.context(caller, found.component)
        objection = found.objection or self._lost(found)
        if objection or await self._borders(found, scope, context, caller):
            detail = f"the path holds {objection or 'routes that are hidden'}"
            await self._desk.engine.refuse(context, "unknown_component", NO_PATH, detail=detail, hidden=True)
            return await self._unknown(scope)
        body = await self._desk.body(context, receive, self._limit)

        async def values() -> Mapping[str, Any]:
            return await _arguments(scope, found, body)

        decision = await self._desk.decided(context, caller, values)
        if not decision.allowed:
            return await self._refused(decision, scope)
        return _Allowed(decision, caller, body)

    async def _borders(self, found: Found, scope: Scope, context: RequestContext, caller: Identity) -> bool:
        """Whether the application's answer to a request that it has no route for would tell of a hidden one."""
        engine = self._desk.engine
        if found.is_route or found.opaque is not None or not engine.plan.settings.hide_denied:
            return False
        try:
            for beside in self._routes.beside(scope):
                if not await open_to(engine, context.replace(component=beside.component), token=caller.token):
                    return True
        except Exception as error:
            logger.error("the routes of a path could not be told: %s", type(error).__name__)
            return True
        return False

    def _lost(self, found: Found) -> str:
        """Why a request is refused where a rule may name its route, and the application does not show its routes."""
        plan = self._desk.engine.plan
        if self._templates is None or self._templates[0] is not plan:
            patterns = [rule.target.pattern.partition(" ")[2] for rule in plan.rules]
            self._templates = plan, [pattern for pattern in patterns if "{" in pattern]
        return "a route that cannot be told" if found.misses(self._templates[1]) else ""

    async def _refused(self, decision: Decision, scope: Scope) -> Response:
        refusal = decision.refusal or plain_refusal("internal")
        return await self._unknown(scope) if refusal.hidden else web.refused(refusal)

    # --- the run ------------------------------------------------------------------------------------------------------

    async def _run(self, allowed: _Allowed, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Runs the application once. Where nothing of its response can be withheld, it goes straight through."""
        decision, captured = allowed.decision, Captured()
        try:
            await run(
                self._desk.engine,
                decision,
                self.app(scope, web.again(allowed.body, receive), captured if decision.after else send),
            )
        except Exception:
            if decision.after:  # whoever handles it outside would show what it says
                await web.withheld(500)(scope, receive, send)
            raise
        if not decision.after:
            await self._desk.finished(decision, allowed.caller, Result.of(None), lambda _: None)
            return None
        return await self._released(decision, captured, allowed.caller)

    async def _released(self, decision: Decision, captured: Captured, caller: Identity) -> Response:
        """The response without what must not leave; or the question that it waits for."""
        carry = partial(self._hold, captured)
        step = await self._desk.finished(decision, caller, captured.result, captured.response, carry)
        if isinstance(step, Carried):
            self._waiting.hold(step.response)
            return web.refused(HAS_RUN, step.response.challenges)
        if step.refusal is not None:
            return web.refused(step.refusal)
        response: Response = step.applied
        return response

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _hold(
        self, captured: Captured, decision: Decision, challenges: Sequence[Challenge], questions: Questions
    ) -> Carried | Refusal:
        """The response as it is kept until its questions are answered, which ends its request."""
        refusal = await opened(challenges, questions)
        if refusal is not None:
            return refusal
        try:
            leg = await self._desk.engine.consent.park(decision)
        except StoreUnavailable as error:
            return plain_refusal(error.code)
        return Carried(
            Held(
                request=decision.request,
                answer=captured,
                open={challenge.id for challenge in challenges},
                challenges=tuple(challenges),
                until=time.monotonic() + self.runtime.settings.approvals.timeout,
                leg=leg,
            )
        )

    async def _approval(self, challenge: str, scope: Scope, receive: Receive) -> Response:
        """Takes a person's answer from the caller who was asked, and releases what waited for it."""
        desk, request = self._desk, Request(scope)
        found = action(f"{scope['method'].upper()} {self._approvals}/{{id}}")
        caller = await desk.caller(request, found)
        context = desk.context(caller, found)
        body = await desk.body(context, receive, self._limit)
        try:
            choices = web.choices(request, body) if scope["method"] == "POST" else []
        except ArgumentsInvalid as error:
            raise await desk.unfit(context, error) from None
        if not choices:
            raise await desk.unfit(context, ArgumentsInvalid('Post {"choices": ["once"]} as JSON.'))
        try:
            allowed = await desk.answered(context, caller, challenge, choices)
        except Refused as error:
            if error.code == "approval_invalid":  # the question is used up
                self._waiting.drop(challenge, "unanswered")
            raise
        held = self._waiting.answered(challenge)
        if held is not None and not held.open:
            return await self._again(held, caller, scope)
        await desk.observed(context)
        return JSONResponse({"allowed": allowed} | ({"left": sorted(held.open)} if held is not None else {}))

    async def _again(self, held: Held, caller: Identity, scope: Scope) -> Response:
        """Releases a held response as the rules in force and the caller's present credential say."""
        decision = await self._desk.again(held.request, caller, held.leg)
        if not decision.allowed:
            self._let_go(held, "refused")
            return await self._refused(decision, scope)
        decision.facts["releases"] = held.request.id
        return await self._released(decision, held.answer, caller)

    def _let_go(self, held: Held, why: str) -> None:
        """Records that a response which waited will never leave; its request ended as `held`."""
        try:
            self.runtime.audit.event("held_ended", {"of": held.request.id, "why": why})
        except AuditUnavailable:
            logger.error("the end of a held response could not be recorded")

    def _challenge(self, scope: Scope) -> str | None:
        """The question that a request to the place of approvals answers."""
        path = route_path(scope)
        return path[len(self._approvals) + 1 :] if self._approvals and path.startswith(self._approvals + "/") else None

    async def _unknown(self, scope: Scope) -> Response:
        """What the application itself answers for a path that it surely does not have; nothing of it runs else."""
        path = self._routes.absent(scope)
        nowhere = {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "method": "GET"}
        if not self._routes.lacks(nowhere):
            return Response("Not Found", 404)
        captured = Captured()

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        try:
            await self.app(nowhere, nothing, captured)
        except Exception as error:
            logger.error("the application has no answer for unknown paths: %s", type(error).__name__)
            return Response("Not Found", 404)
        return raw(captured.status, captured.headers, bytes(captured.body))


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Allowed:
    """A request that may run: what was decided, for whom, and its body, which has been read."""

    decision: Decision
    caller: Identity
    body: bytes


async def _arguments(scope: Scope, found: Found, body: bytes) -> Mapping[str, Any]:
    """What rules look at. Raises `ArgumentsInvalid` for what is not certain."""
    if found.clashes:
        raise ArgumentsInvalid(f"{min(found.clashes)!r} is taken as different values")
    return await web.arguments(Request(scope), found.params, body, found.fields)
