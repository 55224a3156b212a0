"""The other ways out of a running component: errors, log lines, progress, questions. Held while an output rule applies.

What a component says while it runs reaches the client before its result could be judged, so it is held to the rule for
plain text: withheld, unless the file says `unstructured: pass`. It cannot hold what a component sends by means of its
own: its own loggers, files and connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from types import TracebackType
from typing import Any, Final, cast

from fastmcp.exceptions import FastMCPError, PromptError, ResourceError, ToolError
from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx
from fastmcp.tools.base import ToolResult
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

from ...errors import ResultWithheld
from ...model import Refusal
from .copies import ORIGIN, twin
from .documents import read
from .logs import QUIET, hush, is_quiet, quiet_logs, unhush
from .refusals import REFUSED, FixedText
from .results import ERROR_WITHHELD
from .stripping import again

NOT_NOW: Final = "This component asks for input, which may not be shown under an output rule. [question_withheld]"
LACKS: Final = "The client lacks a capability that this component needs."

CHANGES: Final = frozenset(
    f"notifications/{what}/list_changed" for what in ("tools", "resources", "prompts")
)  # they say nothing but that a list is to be read again
PROGRESS: Final = "notifications/progress"
HARMLESS: Final = frozenset({"ping", "roots/list"})  # requests without any text of the component's
CAPABILITIES: Final = ("elicitation", "sampling", "roots")


# --- errors ---------------------------------------------------------------------------------------------------------


class _Alone(FixedText):
    """An error without a past: whoever follows its chain does not find what it stands for."""

    @property
    def __context__(self) -> BaseException | None:
        return None

    @__context__.setter
    def __context__(self, error: BaseException | None) -> None:
        """Forgets it: exit stacks set this, and it would lead to the value."""


class HeldToolError(_Alone, ToolError):
    """A tool failed, and its error cannot be shown."""


class HeldResourceError(_Alone, ResourceError):
    """A read failed, and its error cannot be shown."""


class HeldPromptError(_Alone, PromptError):
    """A prompt failed, and its error cannot be shown."""


class QuestionWithheld(_Alone, ToolError):
    """A component wanted to ask the client while an output rule applies."""


class HeldProtocolError(_Alone, MCPError):
    """A component failed with a protocol error that clients must see, without its text."""


KINDS: Final[Mapping[str, type[FastMCPError]]] = {
    "tool": HeldToolError,
    "resource": HeldResourceError,
    "prompt": HeldPromptError,
}


def guarded_error(kind: str, error: Exception, *, passes: bool = False) -> Exception:
    """The error that may leave instead of what a component raised: one fixed text, code `error_withheld`.

    Our own errors leave as they are, since their texts are ours; a missing client capability keeps its code. With
    `passes` an error leaves as it is, unless its text is JSON.
    """
    ours = isinstance(error, FixedText) or isinstance(getattr(error, "refusal", None), Refusal)
    if ours or (passes and _is_prose(error)):
        return error
    if isinstance(error, MCPError) and error.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY:
        return HeldProtocolError(code=error.error.code, message=LACKS, data=_needs(error.error.data))
    if kind == "method":
        return HeldProtocolError(code=REFUSED, message=ERROR_WITHHELD, data={"code": "error_withheld"})
    return KINDS[kind](ERROR_WITHHELD)


def _is_prose(error: BaseException | None) -> bool:
    """Whether no error in the chain says anything that has fields."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if not all(_says_prose(text) for text in (str(error), *map(str, error.args))):
            return False
        error = error.__cause__ or error.__context__
    return True


def _says_prose(text: str) -> bool:
    try:
        return read(text) is None
    except ResultWithheld:
        return False


def _needs(data: Any) -> dict[str, Any]:
    named = data.get("requiredCapabilities") if isinstance(data, Mapping) else None
    found = [name for name in CAPABILITIES if isinstance(named, Mapping) and name in named]
    return {"requiredCapabilities": {name: {} for name in found}}


# --- the client's session -------------------------------------------------------------------------------------------


class QuietChannel:
    """A way to the client that lets nothing of a component's text out: what it says is dropped, what it asks refused.

    Progress becomes a count, 1, 2, 3, so that the client sees that the call is alive, and no number of the component's.
    With `passes` prose leaves, and what has fields does not.
    """

    def __init__(self, channel: Any, *, passes: bool = False, token: Any = None, steps: Iterator[int]) -> None:
        self.__channel = channel
        self.__passes = passes
        self.__token = token
        self.__steps = steps

    def __repr__(self) -> str:
        return "QuietChannel(…)"

    @property
    def can_send_request(self) -> bool:
        """Whether the client can be asked at all."""
        return bool(self.__channel.can_send_request)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        """Drops a notification, unless it says nothing, or prose that may pass."""
        if method in CHANGES:
            await self.__channel.notify(method, None, opts)
        elif self.__passes and _is_prose_alone(params):
            await self.__channel.notify(method, params, opts)
        elif method == PROGRESS and self.__token is not None and (params or {}).get("progressToken") == self.__token:
            counted = {"progressToken": self.__token, "progress": next(self.__steps)}
            await self.__channel.notify(method, counted, opts)

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> Any:
        """Refuses a question to the client, unless it says nothing, or prose that may pass."""
        if method in HARMLESS:
            return await self.__channel.send_raw_request(method, None, opts)
        if self.__passes and _is_prose_alone(params):
            return await self.__channel.send_raw_request(method, params, opts)
        raise QuestionWithheld(NOT_NOW)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Reports that the call is alive."""
        if self.__passes and _says_prose(message or ""):
            await self.__channel.progress(progress, total, message)
        else:
            await self.__channel.progress(next(self.__steps), None, None)


def _is_prose_alone(params: Any) -> bool:
    """Whether no text in it is JSON, and what it logs is a text and no data."""
    if isinstance(params, str):
        return _says_prose(params)
    if isinstance(params, Mapping):
        data = params.get("data")
        if isinstance(data, Mapping) and (set(data) - {"msg", "extra"} or data.get("extra")):
            return False
        return not isinstance(data, list | tuple) and all(_is_prose_alone(value) for value in params.values())
    return all(map(_is_prose_alone, params)) if isinstance(params, list | tuple) else True


def quiet_session(session: Any, *, passes: bool = False, token: Any = None) -> Any:
    """A copy of a client session that speaks through quiet channels alone, whatever method is called on it.

    `token` is the request's own progress token. Raises `AttributeError` if the session keeps its channels elsewhere
    than this version of the SDK does, so that nothing runs with its doors open.
    """
    if is_quiet(session):
        return session
    request, connection, steps = session._request_outbound, session._connection, count(1)
    same = same_connection(connection)
    same.outbound = QuietChannel(connection.outbound, passes=passes, token=token, steps=steps)
    outbound = QuietChannel(request, passes=passes, token=token, steps=steps)
    return twin(session, _request_outbound=outbound, _connection=same, **{QUIET: True, ORIGIN: session})


def same_connection(connection: Any) -> Any:
    """A copy that counts as the same connection: stateful proxies keep their sessions by it."""
    same = twin(connection, _macaroon_original=connection)
    same.__class__ = _same_class(type(connection))
    return same


def _same_class(kind: type[Any]) -> type[Any]:
    """The class of such copies, made once."""
    found = _SAME.get(kind)
    if found is None:
        found = _SAME[kind] = _made_same(kind)
    return found


_SAME: Final[dict[type[Any], type[Any]]] = {}


def _made_same(kind: type[Any]) -> type[Any]:
    return type(
        kind.__name__,
        (kind,),
        {
            "__hash__": lambda self: hash(self._macaroon_original),
            "__eq__": lambda self, other: self._macaroon_original == getattr(other, "_macaroon_original", other),
        },
    )


def works() -> bool:
    """Whether this version of the SDK and FastMCP has its doors where they are held here; asked once, at the start."""
    try:
        connection = Connection(cast(Any, None), protocol_version="2026-07-28")
        quiet: Any = quiet_session(ServerSession(cast(Any, None), connection))
    except (AttributeError, TypeError):
        return False
    channels = (quiet._request_outbound, quiet._connection.outbound)
    known = {"session", "meta"} <= ServerRequestContext.__dataclass_fields__.keys()
    known = known and all(kind.__dictoffset__ for kind in (ServerRequestContext, FastMCPRequestContext))  # for `twin`
    return known and "_raw_mcp_result" in ToolResult.__private_attributes__ and all(map(_is_quiet_channel, channels))


def _is_quiet_channel(channel: Any) -> bool:
    return isinstance(channel, QuietChannel)


# --- around a body --------------------------------------------------------------------------------------------------


class held(AbstractContextManager[None]):
    """Runs a component's body with its doors held. What it raises leaves as one fixed text, without a cause.

    `kind` is `tool`, `resource`, `prompt` or `method`; `passes` says that prose may leave. It stands around the body
    itself, so that the server's own log has no traceback with a value either. Cancellation passes.
    """

    __slots__ = ("_bound", "_hushed", "_kind", "_passes")

    def __init__(self, kind: str, *, passes: bool = False) -> None:
        self._kind = kind
        self._passes = passes

    def __enter__(self) -> None:
        quiet_logs()
        bound, quiet = fastmcp_request_ctx.get(), None
        if bound is not None:
            source = bound._srctx
            token = source.meta.get("progress_token") if source.meta else None
            quiet = again(bound, session=quiet_session(source.session, passes=self._passes, token=token))
        self._hushed = hush()
        self._bound = fastmcp_request_ctx.set(quiet) if quiet is not None else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bound is not None:
            fastmcp_request_ctx.reset(self._bound)
        unhush(self._hushed)
        if not isinstance(error, Exception):
            return
        failure = guarded_error(self._kind, error, passes=self._passes)
        same = failure is error
        del kind, error, trace  # no frame of this failure's traceback holds the value
        if not same:
            raise failure from None
