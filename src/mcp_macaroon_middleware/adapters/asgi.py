"""The policy around an ASGI application: `MacaroonASGIMiddleware(app, "policies.yaml")`. Read `__call__` first.

Routes are components, named as `GET /customers/{number}`. Requests are judged before the application sees them; under
an output rule its JSON answers lose what must not leave. What cannot be judged with certainty is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config.runtime import Runtime, load_runtime, shared_runtime
from ..core.asks import Asking
from ..core.bearers import is_token
from ..core.decisions import Decision, Outcome
from ..errors import (
    ArgumentsInvalid,
    AuditUnavailable,
    PolicyViolationError,
    ResultWithheld,
    StoreUnavailable,
    TokenInvalid,
)
from ..fields import redact
from ..model import Challenge, Component, Effect, Kind, Redaction, Refusal, RequestContext, Result, request_ids
from . import asgi_http as web
from .callers import Identity, Unidentified, anonymous, borne, signed_in, source_of

logger: Final = logging.getLogger("mcp_macaroon_middleware")

DISCHARGES: Final = "macaroon-discharge"
RESPONSE: Final = 5 << 20
"""Bytes of a response that output rules may look at."""
WAITING: Final = 1_000
OF_THE_WHOLE: Final = frozenset({b"etag", b"content-md5", b"digest", b"repr-digest", b"content-digest"})
"""Headers that speak of a response's very bytes."""
ASKING: Final = Asking(forms=True, host=True)


class Callers:
    """Who sends a request: by a token of ours, by another provider's, or nobody in particular.

    `auth` is anything with `async verify_token(token)`, as FastMCP's providers have. Ours never reach it.
    """

    def __init__(self, runtime: Runtime, auth: Any = None) -> None:
        self._runtime = runtime
        self._auth = auth

    async def identify(self, request: Request) -> Identity:
        """The caller. Raises `Unidentified`; `token_invalid` where a credential does not count."""
        settings = self._runtime.settings.identity
        address = request.client.host if request.client is not None else None
        given = request.headers.getlist("authorization")
        if not given:
            return anonymous(settings, address)
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not token:
            raise Unidentified("token_invalid", "another scheme than Bearer, or several")
        token = token.strip()
        if is_token(token):
            return await self._ours(token, request, address)
        access = await self._auth.verify_token(token) if self._auth is not None else None
        if access is None or (access.expires_at is not None and access.expires_at <= time.time()):
            raise Unidentified("token_invalid", "not known")
        return signed_in(access, settings, source_of(self._auth), address)

    async def _ours(self, token: str, request: Request, address: str | None) -> Identity:
        bearers = self._runtime.bearers
        if bearers is None:
            raise Unidentified("token_invalid", "token_not_accepted")
        sent = [part.strip() for text in request.headers.getlist(DISCHARGES) for part in text.split(",")]
        try:
            bearer = await bearers.accept(token, [part for part in sent if part])
        except TokenInvalid as error:
            self._note(error.code, address)
            raise Unidentified("token_invalid", error.code) from None
        except StoreUnavailable as error:
            raise Unidentified("store_unavailable", error.code) from None
        return borne(bearer, self._runtime.settings.identity, address)

    def _note(self, code: str, address: str | None) -> None:
        try:
            self._runtime.audit.event("token_refused", {"code": code, "client_address": address})
        except AuditUnavailable:
            logger.error("a refused token could not be recorded")


@dataclass(slots=True, kw_only=True)
class Held:
    """A response that waits for answers: its request has run."""

    decision: Decision
    answer: Captured
    owner: Identity
    left: set[str]
    until: float


@dataclass(slots=True)
class Captured:
    """A response of the application, whole. `overflow`: it was too large to be looked at."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    overflow: bool = False
    ended: bool = False

    async def __call__(self, message: Message) -> None:
        """Takes one message of the application."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            if len(self.body) + len(message.get("body", b"")) > RESPONSE:
                self.overflow = True
            if not self.overflow:
                self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)

    @property
    def document(self) -> Any:
        """The JSON document that it is. Raises `ResultWithheld` for anything else."""
        found = {name.lower(): value for name, value in self.headers}
        kind = found.get(b"content-type", b"").split(b";")[0].strip().lower()
        plain = kind == b"application/json" or kind.endswith(b"+json")
        if self.overflow or not self.ended or not plain or found.get(b"content-encoding", b"identity") != b"identity":
            raise ResultWithheld("the response is no JSON that can be looked at", code="no_fields")
        try:
            return web.parsed(bytes(self.body))
        except ArgumentsInvalid:
            raise ResultWithheld("the response is no JSON that can be looked at", code="no_fields") from None

    def response(self, redaction: Redaction) -> Response:
        """The response without what the redaction withholds. Raises `ResultWithheld`."""
        if redaction.is_empty and not self.overflow:
            return _raw(self.status, self.headers, bytes(self.body))
        left, _ = redact(self.document, redaction)
        body = json.dumps(left, ensure_ascii=False, separators=(",", ":")).encode()
        return _raw(self.status, [pair for pair in self.headers if pair[0].lower() not in OF_THE_WHOLE], body)


class MacaroonASGIMiddleware:
    """Enforces a policy file on an ASGI application.

    `source` is a policy file, the same as a mapping, or a `Runtime`; the same file as an MCP server's is the same
    runtime. `auth` verifies tokens that are not ours. `public` are paths that stand outside the rules. People are asked
    by answers: 403 `approval_required` with the question, and `POST {approvals}/{id}` with `{"choices": ["once"]}`.
    `limit` is how many bytes of a body rules may look at. WebSockets are refused: nothing could judge their messages.
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
        self.runtime: Final = runtime_of(source)
        self.runtime.enforced = True
        self._engine = self.runtime.engine
        self._callers = Callers(self.runtime, auth)
        self._public = frozenset(public)
        self._approvals = approvals.rstrip("/")
        self._limit = limit
        self._held: OrderedDict[str, Held] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Who, what, decide, run, finish; every request ends in one final record."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not allowed"})
            return
        if scope["type"] != "http" or scope["path"] in self._public or _is_preflight(scope):
            await self.app(scope, receive, send)
            return
        response = await self._answered(scope, receive, send)
        if response is not None:
            await response(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """The answer, or None where the application has given it."""
        found, params, _ = web.component(scope, getattr(scope.get("app"), "routes", None) or routes_of(self.app))
        try:
            caller = await self._callers.identify(Request(scope))
        except Unidentified as error:
            await self._engine.refuse(self._request(None, found), error.code, error.reason, detail=error.detail)
            if error.code == "store_unavailable":
                return web.refused(Refusal(code=error.code, reason=error.reason))
            return web.unauthorized(invalid=error.code == "token_invalid")
        if self._approvals and scope["path"].startswith(self._approvals + "/"):
            return await self._approval(scope, receive, caller)
        try:
            body = await web.whole(receive, self._limit)
        except web.TooLarge:
            await self._engine.refuse(self._request(caller, found), "arguments_invalid", "The body is too large.")
            return JSONResponse({"code": "arguments_invalid", "message": "The body is too large."}, 413)
        decision = await self._decided(scope, caller, found, params, body)
        if isinstance(decision, Response):
            return decision
        if decision.refusal is not None and decision.effect is not Effect.ALLOW:
            if decision.refusal.hidden:
                return await self._unknown(scope)
            return web.refused(decision.refusal)
        return await self._run(decision, caller, scope, web.again(body, receive), send)

    def _request(self, caller: Identity | None, found: Component) -> RequestContext:
        who = caller or Identity(person=False)
        return RequestContext(
            principal=who.principal,
            component=found,
            claims=who.claims,
            client=who.client,
            client_address=who.address,
            at=self._engine.clock.now(),
        )

    async def _decided(
        self, scope: Scope, caller: Identity, found: Component, params: Mapping[str, Any], body: bytes
    ) -> Decision | Response:
        """The decision; or the answer that asks, or says what is wrong with the request."""

        async def values() -> Mapping[str, Any]:
            return web.arguments(scope, params, body)

        asking: Asking = Asking(forms=True, host=True, person=caller.person, until=caller.expires)
        request = self._request(caller, found)
        while True:
            try:
                decision = await self._engine.decide(request, token=caller.token, arguments=values, asking=asking)
            except ArgumentsInvalid as error:
                return JSONResponse({"code": error.code, "message": str(error)}, 400)
            if decision.effect is not Effect.ASK:
                return decision
            replies = await self._posed(decision, decision.challenges)
            if isinstance(replies, Refusal):
                return web.refused(self._engine.deny(decision, replies).refusal or replies)
            if not replies:
                await self._engine.asked(decision)
                refusal = decision.refusal or Refusal(code="approval_required", reason="A person must agree first.")
                return web.refused(refusal, decision.challenges)
            request, asking = request.replace(id=request_ids.next()), asking.answered(replies)

    async def _posed(self, decision: Decision, challenges: Sequence[Challenge]) -> Mapping[str, Any] | Refusal:
        """Opens every question and waits for those that are asked out of band."""
        replies: dict[str, Any] = {}
        for challenge in challenges:
            outside = not self._engine.consent.is_in_band(challenge)
            refusal = await self._engine.pose(decision, challenge, waits=outside)
            if refusal is not None:
                return refusal
            if outside:
                replies[challenge.id] = await self._engine.consent.elsewhere(decision, challenge)
        return replies

    # --- the run ------------------------------------------------------------------------------------------------------

    async def _run(
        self, decision: Decision, caller: Identity, scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """Runs the application once. Where nothing of its response can be withheld, it goes straight through."""
        captured = Captured()
        try:
            await self.app(scope, receive, captured if decision.after else send)
        except asyncio.CancelledError:
            await self._engine.fail(decision, "cancelled")
            raise
        except BaseException as error:
            await self._engine.fail(decision, "error", type(error).__name__)
            raise
        if not decision.after:
            await self._engine.finish(decision, Result.of(None), lambda _: None)
            return None
        return await self._released(decision, captured, caller)

    async def _released(self, decision: Decision, captured: Captured, caller: Identity) -> Response:
        asking: Asking | None = Asking(forms=True, host=True, person=caller.person, until=caller.expires)
        while True:
            outcome = await self._finished(decision, captured, asking)
            if outcome.effect is not Effect.ASK:
                break
            replies = await self._posed(decision, outcome.challenges)
            if isinstance(replies, Refusal):
                asking = None
            elif not replies:
                return self._hold(decision, captured, caller, outcome.challenges)
            else:
                asking = ASKING.answered(replies)
        if outcome.refusal is not None:
            return web.refused(outcome.refusal)
        response: Response = outcome.applied
        return response

    async def _finished(self, decision: Decision, captured: Captured, asking: Asking | None) -> Outcome:
        def build() -> tuple[tuple[Any, ...], tuple[str, ...]]:
            try:
                return (captured.document,), ()
            except ResultWithheld:
                return (), (bytes(captured.body).decode("utf-8", "replace"),)

        return await self._engine.finish(decision, Result(build), captured.response, asking=asking)

    # --- questions ----------------------------------------------------------------------------------------------------

    def _hold(
        self, decision: Decision, captured: Captured, caller: Identity, challenges: Sequence[Challenge]
    ) -> Response:
        """Keeps a response until its questions are answered; it is lost with the process, and its request then asks."""
        timeout = self.runtime.settings.approvals.timeout
        left = {challenge.id for challenge in challenges}
        held = Held(decision=decision, answer=captured, owner=caller, left=left, until=time.monotonic() + timeout)
        for challenge in challenges:
            self._held[challenge.id] = held
        while len(self._held) > WAITING:
            self._held.popitem(last=False)
        refusal = Refusal(code="approval_required", reason="The request has run; a person must agree to its answer.")
        return web.refused(refusal, challenges)

    async def _approval(self, scope: Scope, receive: Receive, caller: Identity) -> Response:
        """Takes a person's answer from the caller who was asked. JSON alone: no page of another site can post it."""
        challenge = scope["path"][len(self._approvals) + 1 :]
        found = Component(kind=Kind.TOOL, name=f"{scope['method']} {self._approvals}/{{id}}")
        context = self._request(caller, found)
        kind = Request(scope).headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            given = web.parsed(await web.whole(receive, self._limit)) if kind == "application/json" else None
        except (ArgumentsInvalid, web.TooLarge):
            given = None
        listed = given.get("choices") if isinstance(given, dict) else None
        choices = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
        if scope["method"] != "POST" or not choices or choices != listed:
            await self._engine.refuse(context, "arguments_invalid", "That is no answer.")
            return JSONResponse({"code": "arguments_invalid", "message": 'Post {"choices": ["once"]} as JSON.'}, 400)
        try:
            allowed = await self._engine.answer(challenge, *choices, context=context, token=caller.token)
        except PolicyViolationError as error:
            await self._engine.refuse(context, error.code, str(error))
            return web.refused(Refusal(code=error.code, reason=str(error)))
        await self._engine.observe(context)
        held = self._held.pop(challenge, None)
        if held is None or held.until < time.monotonic():
            return JSONResponse({"allowed": allowed})
        held.left.discard(challenge)
        if held.left:
            return JSONResponse({"allowed": allowed, "left": sorted(held.left)})
        return await self._released(held.decision, held.answer, held.owner)

    async def _unknown(self, scope: Scope) -> Response:
        """What the application itself answers for a path that it does not have."""
        captured = Captured()
        path = f"/{secrets.token_hex(16)}"
        nowhere = {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "method": "GET"}

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        try:
            await self.app(nowhere, nothing, captured)
        except Exception as error:
            logger.error("the application has no answer for unknown paths: %s", type(error).__name__)
            return Response("Not Found", 404)
        return _raw(captured.status, captured.headers, bytes(captured.body))


# --- parts ------------------------------------------------------------------------------------------------------------


def runtime_of(source: Any) -> Runtime:
    """The policy that a file, a mapping or a runtime stands for; one file is one runtime in this process."""
    if isinstance(source, Runtime):
        return source
    return load_runtime(source) if isinstance(source, Mapping) else shared_runtime(source)


def routes_of(app: Any) -> Sequence[Any]:
    """The routes of an application, through the middleware around it; none where it has no router."""
    for _ in range(64):
        routes = getattr(app, "routes", None)
        if routes is not None:
            return list(routes)
        app = getattr(app, "app", None)
    return []


def _is_preflight(scope: Scope) -> bool:
    names = {name.lower() for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names


def _raw(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Response:
    response = Response(status_code=status)
    length = [] if status in (204, 304) else [(b"content-length", str(len(body)).encode())]
    response.raw_headers = [pair for pair in headers if pair[0].lower() != b"content-length"] + length
    response.body = body
    return response
