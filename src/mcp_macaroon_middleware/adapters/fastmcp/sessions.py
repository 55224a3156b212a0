"""Who may speak in an HTTP session of the protocols up to 2025-11-25: an ASGI layer before FastMCP's transports.

FastMCP binds a session to client, issuer and subject, which are the same for everything narrowed from one token. Here
an answer, a cancellation and a progress note are held to the token of the request that they speak of, a stream and the
end of a session to the token that began it: that very token, or a wider one of its line. Whatever else comes is
answered as for a session that there is not, by the transport itself. It judges no rule.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import pydantic_core
from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext, authorization_context
from mcp.server.streamable_http import GET_STREAM_KEY, MCP_SESSION_ID_HEADER
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE, RequestBodyLimitMiddleware
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.jsonrpc import jsonrpc_message_adapter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...core.bearers import narrows
from ...errors import TokenInvalid
from ...tokens import named
from .bearing import TOKEN, MacaroonAccessToken

logger: Final = logging.getLogger("mcp_macaroon_middleware")

LINE: Final = "mcp_macaroon.session"
KEPT: Final = 1024
"""Calls and questions that a session remembers after their end: what comes late is told from what is foreign."""
SWEEP: Final = 256
_SSE: Final = re.compile(rb"[?&]session_id=([0-9a-f]{32})")
_SESSION: Final = MCP_SESSION_ID_HEADER.lower().encode()
_VERSION: Final = MCP_PROTOCOL_VERSION_HEADER.lower().encode()

Key = int | str
Refused = Callable[[str], None]
"""Told of each message that does not count, by what it was."""


@dataclass(frozen=True, slots=True, repr=False)
class Sender:
    """Whose message it is: client, issuer and subject, and the text of the token, where it is one of ours."""

    who: AuthorizationContext
    text: str | None

    def stands_for(self, other: Sender) -> bool:
        """Whether this is the other's token or a wider one of its line; for other credentials, the same caller."""
        if self.who != other.who or (self.text is None) != (other.text is None):
            return False
        if self.text is None or other.text is None or self.text == other.text:
            return True
        return _narrows(other.text, self.text)

    def is_kin(self, other: Sender) -> bool:
        """Whether both were narrowed from one token; for other credentials, whether it is the same caller."""
        if self.who != other.who or (self.text is None) != (other.text is None):
            return False
        return self.text is None or other.text is None or named(self.text) == named(other.text)

    def narrowed(self, text: object) -> Sender:
        """The sender of a request that brings a narrower token in its `_meta`."""
        if self.text is None or not isinstance(text, str) or not _narrows(text, self.text):
            return self
        return Sender(self.who, text)


@dataclass(slots=True)
class Entry:
    """A call or a question of a session. `sender` is None where nobody may speak of it."""

    sender: Sender | None
    open: bool = True


@dataclass(slots=True, repr=False)
class Line:
    """A session: who began it, its calls and the questions to its client, by their ids."""

    owner: Sender
    dispatcher: Any = None
    calls: OrderedDict[Key, Entry] = field(default_factory=OrderedDict)
    asked: OrderedDict[Key, Entry] = field(default_factory=OrderedDict)

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return self.dispatcher is not None and bool(self.dispatcher._closed)

    def admits(self, sender: Sender, message: Any) -> bool:
        """Whether a message counts from this sender."""
        if isinstance(message, JSONRPCRequest):
            return self._admits_request(sender, message)
        if isinstance(message, JSONRPCNotification):
            return self._admits_notification(sender, message)
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            return message.id is None or self._may_speak(sender, self.asked, message.id)
        return sender.is_kin(self.owner)

    def _admits_request(self, sender: Sender, request: JSONRPCRequest) -> bool:
        """A request opens a stream for its id; one in use, or that of the session's own stream, would be another's."""
        if request.method == "initialize" or str(request.id) == GET_STREAM_KEY:
            return sender.stands_for(self.owner)
        known = self.calls.get(coerce_request_id(request.id))
        if known is not None and self._is_open(coerce_request_id(request.id), known):
            return known.sender is not None and sender.stands_for(known.sender)
        return sender.is_kin(self.owner)

    def _admits_notification(self, sender: Sender, note: JSONRPCNotification) -> bool:
        if note.method == "notifications/cancelled":
            call = cancelled_request_id_from_params(note.params)
            return sender.is_kin(self.owner) if call is None else self._may_speak(sender, self.calls, call)
        if note.method == "notifications/progress":
            token = (note.params or {}).get("progressToken")
            if isinstance(token, str | int) and not isinstance(token, bool):
                return self._may_speak(sender, self.asked, token)
        return sender.is_kin(self.owner)

    def _may_speak(self, sender: Sender, entries: OrderedDict[Key, Entry], of: Key) -> bool:
        entry = entries.get(coerce_request_id(of))
        if entry is None:
            return sender.stands_for(self.owner)
        return entry.sender is not None and sender.stands_for(entry.sender)

    def _is_open(self, key: Key, entry: Entry) -> bool:
        return entry.open or (self.dispatcher is not None and key in self.dispatcher._in_flight)

    def call(self, sender: Sender, request: JSONRPCRequest) -> Entry:
        """Notes who sent a request, with the token that it brings in its `_meta`."""
        meta = (request.params or {}).get("_meta")
        entry = Entry(sender.narrowed(meta.get(TOKEN)) if isinstance(meta, dict) else sender)
        _keep(self.calls, coerce_request_id(request.id), entry, self._is_open)
        return entry

    def ask(self, key: Key, related: Key | None) -> Entry:
        """Notes whose question goes to the client: that of the call it belongs to, else of the session's beginner."""
        entry = Entry(self._asker(related))
        _keep(self.asked, key, entry, lambda _, kept: kept.open)
        return entry

    def _asker(self, related: Key | None) -> Sender | None:
        bound = fastmcp_request_ctx.get() if related is None else None
        if related is None and (bound is None or line_of(bound) is not self or bound.request_id is None):
            return self.owner
        key = related if related is not None else bound.request_id if bound is not None else None
        call = self.calls.get(coerce_request_id(key)) if key is not None else None
        return call.sender if call is not None else None


def _keep(entries: OrderedDict[Key, Entry], key: Key, entry: Entry, is_open: Callable[[Key, Entry], bool]) -> None:
    entries[key] = entry
    entries.move_to_end(key)
    if len(entries) > KEPT:
        for old in [each for each, kept in entries.items() if not is_open(each, kept)][: len(entries) - KEPT]:
            del entries[old]


class Sessions:
    """The ASGI layer. `refused` is told of what does not count."""

    def __init__(self, app: ASGIApp, refused: Refused) -> None:
        self.app = app
        self._refused = refused
        self._lines: dict[str, Line] = {}
        self._bounded = RequestBodyLimitMiddleware(self._posted, DEFAULT_MAX_REQUEST_BODY_SIZE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; what does not count goes on as one for a session that there is not."""
        sender = _sender(scope)
        if sender is None or _is_modern(scope):
            await self.app(scope, receive, send)
            return
        session = _session_of(scope)
        line = self._lines.get(session) if session is not None else None
        if line is None:
            await self._beginning(sender, scope, receive, send)
        elif scope["method"] == "POST":
            await self._bounded({**scope, LINE: line}, receive, send)
        elif sender.stands_for(line.owner):
            await self.app(scope, receive, send)
        else:
            await self._unknown("stream", scope, receive, send)

    async def _beginning(self, sender: Sender, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that may begin a session: whoever sends it, the session is theirs."""
        line, known, seen = Line(sender), None, b""

        async def sending(message: Message) -> None:
            nonlocal known, seen
            if known is None and message["type"] == "http.response.start":
                names = [value for name, value in message.get("headers", ()) if name.lower() == _SESSION]
                known = names[0].decode("latin-1") if names and message["status"] < 400 else None
                self._know(known, line)
            elif known is None and _is_sse(scope) and message["type"] == "http.response.body" and len(seen) < 4096:
                seen += message.get("body", b"")
                found = _SSE.search(seen)
                known = found[1].decode() if found is not None else None
                self._know(known, line)
            await send(message)

        try:
            await self.app({**scope, LINE: line}, receive, sending)
        finally:
            if _is_sse(scope) and known is not None:
                self._lines.pop(known, None)

    def _know(self, session: str | None, line: Line) -> None:
        if session is None:
            return
        if len(self._lines) % SWEEP == SWEEP - 1:
            self._lines = {each: kept for each, kept in self._lines.items() if not kept.is_over}
        self._lines[session] = line

    async def _posted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A message for a session, whose body is whole and within bounds."""
        line: Line = scope[LINE]
        first = await receive()
        sender = _sender(scope)
        found = _messages(first.get("body", b""), whole=_is_sse(scope))
        if sender is None or not all(line.admits(sender, message) for message in found):
            await self._unknown(_what(found), scope, _again(first, receive), send)
            return
        calls = [line.call(sender, message) for message in found if isinstance(message, JSONRPCRequest)]

        def close() -> None:
            for call in calls:
                call.open = False

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                close()  # before the client knows, who may use the id again
            await send(message)

        try:
            await self.app(scope, _again(first, receive), sending)
        finally:
            close()

    async def _unknown(self, what: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._refused(what)
        nowhere = uuid4().hex
        if _is_sse(scope):
            changed: dict[str, Any] = {"query_string": f"session_id={nowhere}".encode()}
        else:
            others = [(name, value) for name, value in scope["headers"] if name != _SESSION]
            changed = {"headers": [*others, (_SESSION, nowhere.encode())]}
        await self.app({**scope, **changed}, receive, send)


# --- parts ------------------------------------------------------------------------------------------------------------


def note_questions(bound: FastMCPRequestContext | None) -> None:
    """From now on the session of a handshake notes who must answer each question to its client; once for each."""
    line = line_of(bound)
    if bound is None or line is None or line.dispatcher is not None:
        return
    dispatcher = line.dispatcher = bound.session._request_outbound._dispatcher  # type: ignore[attr-defined]
    send = dispatcher.send_raw_request

    async def noted(method: str, params: Any, opts: Any = None, *, _related_request_id: Key | None = None) -> Any:
        options = dict(opts or {})
        if options.get("request_id") is None:
            options["request_id"] = dispatcher._allocate_id()
        entry = line.ask(coerce_request_id(options["request_id"]), _related_request_id)
        try:
            return await send(method, params, options, _related_request_id=_related_request_id)
        finally:
            entry.open = False

    dispatcher.send_raw_request = noted


def line_of(bound: FastMCPRequestContext | None) -> Line | None:
    """The session of a request, where the layer stands before it."""
    scope = getattr(bound.request, "scope", None) if bound is not None else None
    line = scope.get(LINE) if scope is not None else None
    return line if isinstance(line, Line) else None


def _sender(scope: Scope) -> Sender | None:
    user = scope.get("user") if scope["type"] == "http" else None
    if not isinstance(user, AuthenticatedUser):
        return None
    token = user.access_token
    return Sender(authorization_context(user), token._text if isinstance(token, MacaroonAccessToken) else None)


def _is_sse(scope: Scope) -> bool:
    return getattr(getattr(scope.get("app"), "state", None), "transport_type", None) == "sse"


def _is_modern(scope: Scope) -> bool:
    """Whether the transport takes a request for one of 2026-07-28, which has no sessions."""
    version = next((value.decode("latin-1") for name, value in scope["headers"] if name == _VERSION), None)
    return not _is_sse(scope) and version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


def _session_of(scope: Scope) -> str | None:
    """The session that a request names, read as its transport reads it."""
    if not _is_sse(scope):
        return Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
    given = QueryParams(scope.get("query_string", b"")).get("session_id")
    try:
        return UUID(hex=given).hex if given is not None else None
    except ValueError:
        return None


def _messages(body: bytes, *, whole: bool) -> Sequence[Any]:
    """The messages of a body, read as the transport reads it; none where that would refuse it."""
    try:
        if whole:
            return (jsonrpc_message_adapter.validate_json(body, by_name=False),)
        read = pydantic_core.from_json(body)
        each = read if isinstance(read, list) else [read]
        return [jsonrpc_message_adapter.validate_python(message, by_name=False) for message in each]
    except ValueError:
        return ()


def _what(messages: Sequence[Any]) -> str:
    """What did not count, for the audit log."""
    for message in messages:
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            return "answer"
        if isinstance(message, JSONRPCNotification):
            return message.method.removeprefix("notifications/")[:40]
    return "request"


def _again(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _narrows(text: str, parent: str) -> bool:
    try:
        return narrows(text, parent)
    except TokenInvalid:
        return False
