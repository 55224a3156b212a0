"""Carries questions to people and answers back, in both protocols; who is asked and what counts is decided in core.

Up to 2025-11-25 the server asks while the call waits; since 2026-07-28 the question is the call's result, and the
client repeats the call with the answer. The driver, `core.enforcement`, has opened none of them before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ...core.asks import Asking
from ...core.decisions import Decision, plain_refusal
from ...core.enforcement import Carried, Questions, Replies
from ...errors import ResultWithheld
from ...model import Answer, Challenge, Refusal, Reply
from ...plugin.contract import Form, FormField, Pending
from .frames import frame
from .identity import Identity
from .masking import masked
from .resolve import Found
from .turns import FIRST, Turn, answer_key, state_text, turn_of

if TYPE_CHECKING:
    from .guard import Guard

logger: Final = logging.getLogger("mcp_macaroon_middleware")

TITLED: Final = "2025-11-25"
"""The first protocol in which the options of a form have titles in JSON Schema's own way."""


class Conversation:
    """The questions of one call. `turn` is what the request brings."""

    __slots__ = ("_guard", "_identity", "turn")

    def __init__(self, guard: Guard, identity: Identity) -> None:
        self._guard = guard
        self._identity = identity
        runtime = guard.runtime
        self.turn: Turn = turn_of(runtime.keys, runtime.settings.audience) if _is_modern() else FIRST

    def asking(self, found: Found) -> Asking:
        """How people can be asked about this call. For a machine nobody is: no person would give its answers."""
        return Asking(
            person=self._identity.person,
            forms=_shows_forms(),
            replies=self.turn.replies,
            leg=self.turn.leg,
            until=self._identity.expires,
            mask=lambda arguments: masked(found.leaf, arguments),
            server=self._guard.server.name,
        )

    def lacks_forms(self) -> bool:
        """Whether the client could be asked in the protocol it speaks, if it could only show a form."""
        bound = fastmcp_request_ctx.get()
        return _is_modern() and bound is not None and not _has_forms(bound)

    async def carry(
        self,
        decision: Decision,
        challenges: Sequence[Challenge],
        questions: Questions,
        freeze: Callable[[], bytes] | None = None,
    ) -> Replies | Carried | Refusal:
        """Puts questions to the client: as the answer to this request, or while the call waits.

        `freeze` gives the finished result, where the call has run.
        """
        if _is_modern():
            return await self._put(decision, challenges, questions, freeze)
        return await self._push(decision, challenges, questions)

    # --- 2026-07-28 -----------------------------------------------------------------------------------------------

    async def _put(
        self,
        decision: Decision,
        challenges: Sequence[Challenge],
        questions: Questions,
        freeze: Callable[[], bytes] | None,
    ) -> Carried | Refusal:
        runtime = self._guard.runtime
        requests: dict[str, Any] = {}
        for challenge in challenges:
            form = await self._form(decision, challenge)
            if form is None:
                return plain_refusal("approval_failed")
            try:
                held = freeze() if freeze is not None else None
            except ResultWithheld:
                return plain_refusal("approval_unavailable")
            refusal = await questions.open(challenge, held=held)
            if refusal is not None:
                return refusal
            params = ElicitRequestFormParams(message=form.message, requested_schema=schema_of(form))
            requests[answer_key(runtime.keys, runtime.settings.audience, challenge.id)] = ElicitRequest(params=params)
        state = state_text(
            asked=[c.id for c in challenges], held=freeze is not None, inner=self.turn.state, given=self.turn.wire()
        )
        return Carried(InputRequiredResult(input_requests=requests, request_state=state))

    # --- 2025-11-25 and older ---------------------------------------------------------------------------------------

    async def _push(
        self, decision: Decision, challenges: Sequence[Challenge], questions: Questions
    ) -> Replies | Refusal:
        replies: dict[str, Reply | Answer] = {}
        for challenge in challenges:
            form = await self._form(decision, challenge)
            if form is None:
                return plain_refusal("approval_failed")
            refusal = await questions.open(challenge, waits=True)
            if refusal is not None:
                return refusal
            replies[challenge.id] = await self._pushed(decision, form)
        return replies

    async def _pushed(self, decision: Decision, form: Form) -> Reply | Answer:
        bound = fastmcp_request_ctx.get()
        if bound is None:
            return Answer(ending="failed")
        titled = bound.protocol_version >= TITLED
        try:
            async with asyncio.timeout(decision.plan.settings.approvals.timeout):
                result: ElicitResult = await bound.session.elicit_form(
                    form.message, schema_of(form, titled=titled), related_request_id=bound.request_id
                )
        except TimeoutError:
            return Answer(ending="timeout")
        except Exception as error:
            logger.error("a client could not be asked: %s", type(error).__name__)
            return Answer(ending="failed")
        return Reply(action=result.action, content=dict(result.content or {}))

    async def _form(self, decision: Decision, challenge: Challenge) -> Form | None:
        """The form of an approver in band; a fault, or anything that is no form, is none."""
        found = self._guard.engine.consent.approvers.get(challenge.approver)
        if found is None:
            return None
        pending = await found.ask(challenge, decision.plan.settings.approvals.timeout)
        return pending.form if isinstance(pending, Pending) else None


# --- parts ----------------------------------------------------------------------------------------------------------


def schema_of(form: Form, *, titled: bool = True) -> dict[str, Any]:
    """The form as MCP's restricted JSON Schema: every choice is required, and preset to the safe one."""
    properties = {field.name: _property(field, titled=titled) for field in form.fields}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _property(field: FormField, *, titled: bool) -> dict[str, Any]:
    names = [option.name for option in field.options]
    titles = [option.title for option in field.options]
    options: dict[str, Any] = (
        {"oneOf": [{"const": name, "title": title} for name, title in zip(names, titles, strict=True)]}
        if titled
        else {"enum": names, "enumNames": titles}
    )
    return {"type": "string", "title": field.title, **options, "default": field.default}


def can_ask() -> bool:
    """Whether the request in hand is a client's own call, which alone may bring answers and be asked."""
    return frame().depth == 0 and fastmcp_request_ctx.get() is not None


def _is_modern() -> bool:
    bound = fastmcp_request_ctx.get()
    return bound is not None and bound.protocol_version in MODERN_PROTOCOL_VERSIONS


def _shows_forms() -> bool:
    """Whether the client has said that it can show a form, and there is a way to it."""
    bound = fastmcp_request_ctx.get()
    if bound is None or not _has_forms(bound):
        return False
    if bound.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return True
    return bool(bound.session._request_outbound.can_send_request)


def _has_forms(bound: FastMCPRequestContext) -> bool:
    capabilities = bound.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
