"""`MacaroonClientAuth`: a token for `fastmcp.Client`, over HTTP, on stdio and in memory. It verifies nothing.

Over HTTP it is the client's `auth`. Other transports carry no credentials, so `over` has each request bring the token.
`narrowed` lends single calls a narrower one, in either way; it serves the requests of its own auth object alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import httpx2
from fastmcp.client.transports import ClientTransport, SSETransport, StreamableHttpTransport, infer_transport
from fastmcp.client.transports.base import TransportOptions
from mcp import ClientSession

from ...core.holders import CheckRule
from ..holder import Fetch, Holder
from .bearing import DISCHARGES, HEADER, TOKEN

_lent: Final[ContextVar[Mapping[object, str]]] = ContextVar("mcp_macaroon_lent", default=MappingProxyType({}))
"""The narrower tokens that are lent in this context, by the auth object that lends them: no other one brings them."""


class MacaroonClientAuth(httpx2.Auth, Holder):
    """Attaches a token to every request: `Client("https://…/mcp", auth=MacaroonClientAuth(token))`.

    `services` are the discharge services that may be asked, by location: a URL, or an async function of the ticket.
    Raises `TokenInvalid` for a text that is no token.
    """

    def __init__(self, token: str, *, services: Mapping[str, str | Fetch] | None = None) -> None:
        Holder.__init__(self, token, services=services)

    @property
    def current(self) -> str:
        """The token that requests bring here and now: the one that `narrowed` lends, else the whole one."""
        return _lent.get().get(self, self.token)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Adds the token and the discharges to an HTTP request; a redirect to another origin gets neither."""
        token = self.current
        request.headers["Authorization"] = f"Bearer {token}"
        discharges = await self.discharges(token)
        if discharges:
            request.headers = _Headers(request.headers, ", ".join(discharges))
        yield request

    def sync_auth_flow(self, request: httpx2.Request) -> Any:
        """Refuses: discharges are fetched asynchronously."""
        raise RuntimeError("MacaroonClientAuth needs an async client")

    async def meta(
        self, *caveats: str, expires: timedelta | datetime | None = None, check: CheckRule | None = None
    ) -> dict[str, Any]:
        """The `_meta` of one request, with a narrower token for it alone: `call_tool(…, meta=await auth.meta(…))`.

        Over HTTP the server takes it in place of the credential that the request bears, which it must be made from.
        """
        token = self.narrow(*caveats, expires=expires, check=check) if caveats or expires is not None else self.current
        return await self._meta(token)

    @contextlib.contextmanager
    def narrowed(
        self, *caveats: str, expires: timedelta | datetime | None = None, check: CheckRule | None = None
    ) -> Iterator[str]:
        """Requests inside bring a narrower token, in the task that enters and those that it starts there.

        It is for the clients of this auth object, over HTTP as their `auth` and for those made with `over`. One inside
        another narrows further.
        """
        token = self.narrow(*caveats, expires=expires, check=check)
        mark = _lent.set({**_lent.get(), self: token})
        try:
            yield token
        finally:
            _lent.reset(mark)

    def over(self, transport: Any) -> ClientTransport:
        """The transport, with each request bringing the token in its `_meta`.

        `transport` is whatever `fastmcp.Client` takes: a server, a command, a transport, a URL. Over HTTP the token
        goes into the `Authorization` header instead.
        """
        inner = infer_transport(transport)
        if isinstance(inner, StreamableHttpTransport | SSETransport):
            inner._set_auth(self)
            return inner
        return _Bearing(inner, self)

    async def _meta(self, token: str) -> dict[str, Any]:
        discharges = await self.discharges(token)
        return {TOKEN: token} | ({DISCHARGES: list(discharges)} if discharges else {})

    async def brought(self) -> dict[str, Any]:
        """What a request brings now in its `_meta`, where no credential goes with it."""
        return await self._meta(self.current)


class _Headers(httpx2.Headers):
    """Headers with discharges that no copy of them has: a redirect is sent with a copy, and may lead elsewhere."""

    def __init__(self, headers: httpx2.Headers, discharges: str) -> None:
        self._discharges = (HEADER.encode("ascii"), discharges.encode("ascii"))
        super().__init__(headers)
        self.pop(HEADER, None)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """What is sent."""
        return [*super().raw, self._discharges]


class _Bearing(ClientTransport):
    """A transport whose sessions bring a token with each request."""

    def __init__(self, inner: ClientTransport, auth: MacaroonClientAuth) -> None:
        self._inner = inner
        self._auth = auth
        self.legacy_only = inner.legacy_only

    def __repr__(self) -> str:
        return f"<MacaroonClientAuth over {self._inner!r}>"

    @contextlib.asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session_kwargs: Any
    ) -> AsyncIterator[ClientSession]:
        """The inner transport's session."""
        options = transport_options or TransportOptions()
        auth = self._auth

        class Session(options.session_class):  # type: ignore[name-defined,misc]
            async def send_request(self, request: Any, *args: Any, **more: Any) -> Any:
                return await super().send_request(_with(request, await auth.brought()), *args, **more)

        bearing = replace(options, session_class=Session)
        async with self._inner.connect_session(transport_options=bearing, **session_kwargs) as session:
            yield session

    async def close(self) -> None:
        """Closes the inner transport."""
        await self._inner.close()  # type: ignore[no-untyped-call]

    def get_session_id(self) -> str | None:
        """The inner transport's session."""
        return self._inner.get_session_id()


def _with(request: Any, added: Mapping[str, Any]) -> Any:
    """The request with more `_meta`; what it brings itself counts."""
    data = request.model_dump(by_alias=True, mode="json", exclude_none=True)
    params = data.get("params") or {}
    data["params"] = {**params, "_meta": {**added, **(params.get("_meta") or {})}}
    return type(request).model_validate(data)
