"""What a request brings from an earlier one: our own state and answers, taken off before anything inside sees them.

In protocol 2026-07-28 a question is a result, and its answer comes with a repeat of the call (MCP, input-required
results; SEP-2322). The state that travels with it is sealed by FastMCP's boundary; ours lies around the component's
own, so that a component which asks its client itself sees nothing but what it wrote.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastmcp.server.dependencies import fastmcp_request_ctx
from mcp_types import ElicitResult, InputResponseRequestParams

from ...model import EMPTY, Reply
from ...tokens import KeyRing
from .stripping import again

PREFIX: Final = "mcp-macaroon:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request of a conversation. `asked` are legs that wait for an answer, `held`: one of them holds a result.

    `leg` is a leg that asked nothing of its own. `state` and `responses` are what is left for what runs inside.
    """

    ours: bool = False
    asked: tuple[str, ...] = ()
    held: bool = False
    leg: str | None = None
    state: str | None = None
    replies: Mapping[str, Reply] = field(default_factory=lambda: EMPTY, repr=False)
    responses: Mapping[str, Any] | None = field(default=None, repr=False)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Runs with a request that has the component's own state and answers, and none of ours."""
        bound = fastmcp_request_ctx.get()
        if bound is None:
            yield
            return
        params = dict(bound._srctx.params or {})
        for key, value in (("requestState", self.state), ("inputResponses", self.wire())):
            params.pop(key, None)
            if value is not None:
                params[key] = value
        token = fastmcp_request_ctx.set(again(bound, params=params))
        try:
            yield
        finally:
            fastmcp_request_ctx.reset(token)

    def wire(self) -> Mapping[str, Any] | None:
        """The component's own answers in their wire form."""
        if self.responses is None:
            return None
        return {key: value.model_dump(mode="json", by_alias=True) for key, value in self.responses.items()}

    def message(self, message: Any) -> Any:
        """The request's own message with the component's state and answers, and none of ours."""
        if not self.ours or not hasattr(message, "input_responses"):
            return message
        responses = dict(self.responses) if self.responses is not None else None
        return message.model_copy(update={"input_responses": responses, "request_state": self.state})


FIRST: Final = Turn()
"""A request that brings nothing of ours."""


def turn_of(keys: KeyRing, audience: str) -> Turn:
    """What the request in hand brings. Whatever is not ours, or cannot be read, is left as it is."""
    bound = fastmcp_request_ctx.get()
    params = bound._srctx.params if bound is not None else None
    state = params.get("requestState") if isinstance(params, Mapping) else None
    if not isinstance(state, str) or not state.startswith(PREFIX) or params is None:
        return FIRST
    try:
        facts = json.loads(state[len(PREFIX) :])
        asked, inner = tuple(facts["asked"]), facts["state"]
        responses = InputResponseRequestParams.model_validate(dict(params)).input_responses
        earlier = InputResponseRequestParams.model_validate({"inputResponses": facts["given"]}).input_responses or {}
    except (ValueError, TypeError, LookupError, RecursionError):
        return FIRST
    names = {answer_key(keys, audience, leg): leg for leg in asked}
    given = {**earlier, **(responses or {})}
    replies = {leg: _reply(given.pop(name)) for name, leg in names.items() if name in given}
    if facts["held"]:  # the call has run: an answer that is missing is none, and never a reason to run it again
        replies = {leg: replies.get(leg, Reply(action="cancel")) for leg in asked}
    return Turn(
        ours=True,
        asked=asked,
        held=bool(facts["held"]),
        leg=facts["leg"],
        state=inner,
        replies=replies,
        responses=given or None,
    )


def _reply(result: Any) -> Reply:
    """A client's answer to an elicitation; any other kind of answer is none."""
    if not isinstance(result, ElicitResult):
        return Reply(action="cancel")
    return Reply(action=result.action, content=dict(result.content or {}))


def state_text(
    *,
    asked: Sequence[str] = (),
    held: bool = False,
    leg: str | None = None,
    inner: str | None,
    given: Mapping[str, Any] | None = None,
) -> str:
    """Our state around the component's own; `given` are answers for the component that came with this request."""
    facts = {"asked": list(asked), "held": held, "leg": leg, "state": inner, "given": given}
    return PREFIX + json.dumps(facts)


def is_ours(state: str | None) -> bool:
    """Whether a state is one of a guard's: then another guard must put its own around it."""
    return state is not None and state.startswith(PREFIX)


def answer_key(keys: KeyRing, audience: str, leg: str) -> str:
    """The key that an answer stands under: nobody but this server can tell which challenge it belongs to."""
    key = keys.derive("answer", audience)
    return "macaroon-" + hmac.digest(key, leg.encode("utf-8", "surrogatepass"), "sha256").hex()[:32]
