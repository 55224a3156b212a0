"""Questions of a server behind, to the person at our client: marked as its own, and never for a credential.

Up to 2025-11-25 a proxied server asks while its call runs, since then its question is the call's result. It changes no
question of a component in this process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx
from fastmcp.server.providers.proxy import ProxyPrompt, ProxyResource, ProxyTemplate, ProxyTool
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST, ElicitRequest, ElicitRequestFormParams, InputRequiredResult

from ...core.wording import plain
from ...model import Refusal
from .compat import AnyComponent
from .copies import ORIGIN, twin
from .doors import same_connection
from .marks import without
from .refusals import FixedText
from .stripping import again

ASKS: Final = "The server behind asks:"
CREDENTIAL: Final = Refusal(
    code="question_refused", reason="The server behind asks for a credential, which nobody is asked for here."
)
REMOTE: Final = (ProxyTool, ProxyResource, ProxyTemplate, ProxyPrompt)
_ASKING: Final = "elicitation/create"
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SECRET: Final = re.compile(
    r"pass(?:word|wd|code|phrase|key)|pwd|secret|credential|token|api_?key|private_?key|access_?key|one_?time|bearer|cvv|cvc",
)
_WHOLE: Final = frozenset({"pin", "otp", "totp", "mfa", "pass"})


class CredentialAsked(FixedText, MCPError):
    """A server behind wanted a credential from a person."""


def is_remote(leaf: AnyComponent) -> bool:
    """Whether another server runs this component."""
    return isinstance(leaf, REMOTE)


def asks_for_credential(schema: Any) -> bool:
    """Whether a form has a field whose name, title or format is that of a credential."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return False
    return any(_is_secret(name, field) for name, field in properties.items())


def _is_secret(name: object, field: Any) -> bool:
    told = field if isinstance(field, Mapping) else {}
    if told.get("format") == "password" or told.get("writeOnly") is True:
        return True
    return any(isinstance(text, str) and _names_secret(text) for text in (name, told.get("title")))


def _names_secret(text: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(text)]
    return (
        _SECRET.search("_".join(words)) is not None
        or _SECRET.search("".join(words)) is not None
        or bool(_WHOLE & set(words))
    )


def marked(message: object) -> str:
    """A question's text behind ours: whatever it says, it says it in its own name, line for line."""
    lines = str(message).splitlines() or [""]
    return "\n".join([ASKS, *(f"> {plain(line)}" for line in lines)])


def question_of(result: InputRequiredResult) -> InputRequiredResult | None:
    """A server's questions, marked as its own; None where one is for a credential."""
    requests: dict[str, Any] = {}
    for key, request in (result.input_requests or {}).items():
        if isinstance(request, ElicitRequest):
            params = request.params
            if isinstance(params, ElicitRequestFormParams) and asks_for_credential(_plain(params.requested_schema)):
                return None
            changes = {"message": marked(params.message), "meta": without(getattr(params, "meta", None))}
            request = request.model_copy(update={"params": params.model_copy(update=changes)})
        requests[key] = request
    return result.model_copy(update={"input_requests": requests or result.input_requests, "meta": without(result.meta)})


def _plain(schema: Any) -> Any:
    return schema if isinstance(schema, Mapping) else schema.model_dump(by_alias=True)


class ForeignChannel:
    """A way to the client on which questions are marked as those of the server behind."""

    def __init__(self, channel: Any) -> None:
        self.__channel = channel

    def __repr__(self) -> str:
        return "ForeignChannel(…)"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__channel, name)

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> Any:
        """Sends a question in the name of who asks it. Raises `CredentialAsked`."""
        if method == _ASKING and params is not None:
            if asks_for_credential(params.get("requestedSchema")):
                raise CredentialAsked(code=INVALID_REQUEST, message=f"{CREDENTIAL.reason} [{CREDENTIAL.code}]")
            params = {**params, "message": marked(params.get("message", ""))}
        return await self.__channel.send_raw_request(method, params, opts)


class _Foreign(AbstractContextManager[None]):
    """Runs a remote component with the client's session in its own name."""

    __slots__ = ("_bound", "_token")

    def __init__(self, bound: FastMCPRequestContext) -> None:
        self._bound = bound

    def __enter__(self) -> None:
        session = self._bound.session
        connection = same_connection(session._connection)
        connection.outbound = ForeignChannel(connection.outbound)
        outbound, origin = ForeignChannel(session._request_outbound), getattr(session, ORIGIN, session)
        named = twin(session, _request_outbound=outbound, _connection=connection, **{ORIGIN: origin})
        self._token = fastmcp_request_ctx.set(again(self._bound, session=named))

    def __exit__(self, *_: object) -> None:
        fastmcp_request_ctx.reset(self._token)


def foreign(leaf: AnyComponent) -> AbstractContextManager[None]:
    """Around the run of a component: what another server asks meanwhile is marked as its own."""
    bound = fastmcp_request_ctx.get() if is_remote(leaf) else None
    return _Foreign(bound) if bound is not None else nullcontext()
