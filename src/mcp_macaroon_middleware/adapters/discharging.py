"""The third party's side: a small service that discharges a caveat once the rules of its own file allow it.

It opens tickets under the shared key alone, and never logs, records or repeats a ticket, a root key or a discharge.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..config.compile import Compiled
from ..config.key_sources import secret_text
from ..config.places import DataPath
from ..core.decisions import Decision, plain_refusal
from ..errors import ArgumentsInvalid, ConfigError, KeyRingError, TokenInvalid
from ..fields import redact
from ..model import Component, Result
from ..tokens import KeyRing, ThirdParty, answers, discharge
from ..tokens.discharges import Ticket
from . import asgi_http as web
from .asgi_desk import Desk, Refused, action
from .callers import Identity

logger: Final = logging.getLogger("mcp_macaroon_middleware")

LARGEST: Final = 16 * 1024
"""Bytes of a request's body."""
EVERY: Final = "*"
UNNAMED: Final = "discharge"
"""What rules call an empty condition, and a request whose ticket is not known yet."""
SECTION: Final[DataPath] = ("config", "discharges")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


def discharge_service(source: Any, auth: Any = None) -> Starlette:
    """An ASGI application that discharges third-party caveats; mount it anywhere.

    `source` is a policy file with a section `discharges`, the same as a mapping, or a `Runtime`. `auth` verifies
    credentials that are not tokens of ours, as FastMCP's providers do. `POST /` takes {"ticket": base64url} and answers
    {"discharge": "md_…", "expires": instant}; `POST /approvals/{id}` takes the answer to a question. Raises
    `ConfigError` for a file that cannot be used, or says nothing of discharges.
    """
    service = _Service(Desk(source, auth))
    return Starlette(
        routes=[
            Route("/", service.discharge, methods=["POST"]),
            Route("/approvals/{id}", service.approve, methods=["POST"]),
        ],
        exception_handlers={Refused: _refused, ClientDisconnect: _refused},
    )


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to a refused request; a client that went away gets none."""
    return error.response if isinstance(error, Refused) else Response(status_code=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the service discharges, for how long, and with which caveats by condition."""

    party: ThirdParty
    expires: timedelta
    caveats: Mapping[str, tuple[str, ...]]
    same_subject: bool

    def made(self, ticket: Ticket, sealed: bytes, **when: Any) -> dict[str, str]:
        """The answer for a ticket: the discharge, and when it ends. Raises `TokenInvalid` for one that is too large."""
        name = ticket.condition or UNNAMED
        caveats = [*self.caveats.get(EVERY, ()), *(self.caveats.get(name, ()) if name != EVERY else ())]
        text = discharge(ticket, sealed, expires=self.expires, caveats=caveats, **when)
        return {"discharge": text, "expires": answers(text, sealed).isoformat()}


def open_terms(compiled: Compiled) -> Terms:
    """The section `discharges` of a file, with its key. Raises `ConfigError` where it cannot be used."""
    given, source = compiled.settings.config.discharges, compiled.source
    if given is None:
        hint = "write  discharges: {location: NAME, key: ${SHARED}}  under config"
        message = "a discharge service needs the section discharges"
        raise ConfigError([source.diagnostic("discharges_missing", message, ("config",), hint=hint)])
    try:
        key = KeyRing.from_secret(secret_text(compiled, given.key, (*SECTION, "key")))
    except KeyRingError as error:
        message = f"the shared secret: {error}"
        raise ConfigError([source.diagnostic("keys_invalid", message, (*SECTION, "key"))]) from None
    terms = Terms(
        party=ThirdParty(location=given.location, key=key),
        expires=timedelta(seconds=given.expires),
        caveats=given.caveats,
        same_subject=given.same_subject,
    )
    for condition in given.caveats:
        try:
            _tried(terms, condition)
        except TokenInvalid:
            message = f"a discharge with the caveats of {condition!r} would be too large to count"
            raise ConfigError([source.diagnostic("bad_value", message, (*SECTION, "caveats"))]) from None
    return terms


class _Unfit(Exception):
    """A request that no rule needs to look at."""

    def __init__(self, status: int, code: str, message: str = "", *, condition: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.condition = status, code, message, condition

    @property
    def response(self) -> Response:
        facts = {"code": self.code} | ({"message": self.message} if self.message else {})
        return JSONResponse(facts, self.status, headers={"Cache-Control": "no-store"})


class _Service:
    """What the service does: who asks, which ticket, the rules about its condition, the discharge."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        compiled = desk.runtime.compiled
        self._opened: tuple[Compiled, Terms | None] = (compiled, open_terms(compiled))

    async def discharge(self, request: Request) -> Response:
        """Answers one ticket; every request ends in one final record. Raises `Refused`."""
        desk = self._desk
        caller = await desk.caller(request, _component(""))
        body = await desk.body(desk.context(caller, _component("")), request.receive, LARGEST)
        try:
            terms = await self._terms()
            sealed = _sealed(request, body)
            ticket = _opened(terms, sealed)
            _same_subject(terms, caller, ticket)
        except _Unfit as error:
            await desk.engine.refuse(desk.context(caller, _component(error.condition)), error.code, error.message)
            return error.response
        decision = await self._judged(caller, ticket)
        if not decision.allowed:
            return web.refused(decision.refusal or plain_refusal("internal"))
        return await self._given(decision, terms, ticket, sealed)

    async def approve(self, request: Request) -> Response:
        """Takes a person's answer from the caller who was asked, as the ASGI middleware does. Raises `Refused`."""
        desk, found = self._desk, action("POST /approvals/{id}")
        caller = await desk.caller(request, found)
        context = desk.context(caller, found)
        body = await desk.body(context, request.receive, LARGEST)
        try:
            choices = web.choices(request, body)
        except ArgumentsInvalid as error:
            raise await desk.unfit(context, error) from None
        allowed = await desk.answered(context, caller, request.path_params["id"], choices)
        await desk.observed(context)
        return JSONResponse({"allowed": allowed})

    async def _terms(self) -> Terms:
        """The terms of the revision in force. Raises `_Unfit` where that one cannot be used."""
        compiled, terms = self._opened
        if compiled is not self._desk.runtime.compiled:
            compiled, terms = self._desk.runtime.compiled, None
            try:
                terms = await asyncio.to_thread(open_terms, compiled)
            except ConfigError as error:
                logger.error("nothing is discharged until the file is mended:\n%s", error)
            self._opened = (compiled, terms)
        if terms is None:
            raise _Unfit(503, "not_ready", "The service is not ready.")
        return terms

    async def _judged(self, caller: Identity, ticket: Ticket) -> Decision:
        """What the rules say of a condition as of a tool, with what the ticket says as its arguments."""

        async def values() -> Mapping[str, Any]:
            return {"subject": ticket.subject, "audience": ticket.audience, "condition": ticket.condition}

        return await self._desk.decided(self._desk.context(caller, _component(ticket.condition)), caller, values)

    async def _given(self, decision: Decision, terms: Terms, ticket: Ticket, sealed: bytes) -> Response:
        engine = self._desk.engine
        try:
            answer = terms.made(ticket, sealed, now=engine.clock.now())
        except Exception as error:
            logger.error("a discharge could not be made: %s", type(error).__name__)
            await engine.fail(decision, "error", type(error).__name__)
            return web.refused(plain_refusal("internal"))
        outcome = await engine.finish(decision, Result.of(answer), lambda without: redact(answer, without)[0])
        if outcome.refusal is not None:
            return web.refused(outcome.refusal)
        return JSONResponse(outcome.applied, headers={"Cache-Control": "no-store"})


# --- parts ------------------------------------------------------------------------------------------------------------


def _sealed(request: Request, body: bytes) -> bytes:
    """The ticket of a request, still sealed. Raises `_Unfit`."""
    try:
        given = web.parsed(body) if web.is_json(request) else None
    except ArgumentsInvalid:
        given = None
    text = given.get("ticket") if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(text, str):
        raise _Unfit(400, "arguments_invalid", 'Post {"ticket": base64url} as JSON.')
    if not _BASE64URL.match(text) or len(text) % 4 == 1:
        raise _Unfit(400, "discharge_ticket")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _opened(terms: Terms, sealed: bytes) -> Ticket:
    try:
        return terms.party.open(sealed)
    except TokenInvalid as error:
        raise _Unfit(400, error.code) from None


def _same_subject(terms: Terms, caller: Identity, ticket: Ticket) -> None:
    """Raises `_Unfit` unless the caller is whom the ticket is about. No client or anonymous caller can be."""
    who = caller.principal
    if terms.same_subject and not (who.kind == "user" and who.subject == ticket.subject):
        message = "Only the subject of the token may fetch its discharge."
        raise _Unfit(403, "other_subject", message, condition=ticket.condition)


def _component(condition: str) -> Component:
    return action(condition or UNNAMED)


def _tried(terms: Terms, condition: str) -> None:
    """Makes a discharge that answers nothing. Raises `TokenInvalid` for one that nobody would read."""
    ticket = Ticket(location=terms.party.location, audience="", subject="", condition=condition, root_key=bytes(32))
    terms.made(ticket, terms.party.seal(ticket))
