"""`MacaroonClientAuth`: a token for `fastmcp.Client`, over HTTP, on stdio and in memory. It verifies nothing.

Over HTTP it is the client's `auth`. Other transports carry no credentials, so `over` has each request bring the token;
there, `narrowed` lends single calls a narrower one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import httpx2
from fastmcp.client.transports import ClientTransport, SSETransport, StreamableHttpTransport, infer_transport
from fastmcp.client.transports.base import TransportOptions
from mcp import ClientSession

from ...core.holders import CheckRule
from ..holder import Fetch, Holder
from .bearing import DISCHARGES, HEADER, TOKEN

_lent: Final[ContextVar[str | None]] = ContextVar("mcp_macaroon_lent", default=None)


class MacaroonClientAuth(httpx2.Auth, Holder):
    """Attaches a token to every request: `Client("https://…/mcp", auth=MacaroonClientAuth(token))`.

    `services` are the discharge services that may be asked, by location: a URL, or an async function of the ticket.
    Raises `TokenInvalid` for a text that is no token.
    """

    def __init__(self, token: str, *, services: Mapping[str, str | Fetch] | None = None) -> None:
        Holder.__init__(self, token, services=services)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Adds the token and the discharges to an HTTP request."""
        request.headers["Authorization"] = f"Bearer {self.token}"
        discharges = await self.discharges()
        if discharges:
            request.headers[HEADER] = ", ".join(discharges)
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
        token = self.narrow(*caveats, expires=expires, check=check) if caveats or expires is not None else self.token
        return await self._meta(token)

    @contextlib.contextmanager
    def narrowed(
        self, *caveats: str, expires: timedelta | datetime | None = None, check: CheckRule | None = None
    ) -> Iterator[str]:
        """Requests inside bring a narrower token; for clients made with `over`."""
        token = self.narrow(*caveats, expires=expires, check=check)
        mark = _lent.set(token)
        try:
            yield token
        finally:
            _lent.reset(mark)

    def over(self, transport: Any) -> ClientTransport:
        """The transport, with each request bringing the token in its `_meta`.

        `transport` is whatever `fastmcp.Client` takes: a server, a command, a transport, a URL. Over HTTP the token
        goes into the `Authorization` header as well, and only a narrower one into `_meta`.
        """
        inner = infer_transport(transport)
        over_http = isinstance(inner, StreamableHttpTransport | SSETransport)
        if over_http:
            inner._set_auth(self)
        return _Bearing(inner, self, credential=over_http)

    async def _meta(self, token: str) -> dict[str, Any]:
        discharges = await self.discharges(token)
        return {TOKEN: token} | ({DISCHARGES: list(discharges)} if discharges else {})

    async def brought(self, *, credential: bool) -> dict[str, Any]:
        """What a request brings now; nothing where the credential says it all."""
        lent = _lent.get()
        return {} if credential and lent is None else await self._meta(lent or self.token)


class _Bearing(ClientTransport):
    """A transport whose sessions bring a token with each request."""

    def __init__(self, inner: ClientTransport, auth: MacaroonClientAuth, *, credential: bool) -> None:
        self._inner = inner
        self._auth = auth
        self._credential = credential
        self.legacy_only = inner.legacy_only

    def __repr__(self) -> str:
        return f"<MacaroonClientAuth over {self._inner!r}>"

    @contextlib.asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session_kwargs: Any
    ) -> AsyncIterator[ClientSession]:
        """The inner transport's session."""
        options = transport_options or TransportOptions()
        auth, credential = self._auth, self._credential

        class Session(options.session_class):  # type: ignore[name-defined,misc]
            async def send_request(self, request: Any, *args: Any, **more: Any) -> Any:
                added = await auth.brought(credential=credential)
                return await super().send_request(_with(request, added) if added else request, *args, **more)

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
