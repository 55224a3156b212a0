"""Who calls: a principal from the connection's own credential. Never from a session id or from what a client says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastmcp.server.context import _current_transport
from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx, get_access_token
from fastmcp.server.http import _current_http_request
from mcp.server.auth.middleware.auth_context import auth_context_var

from ...config.settings import IdentitySettings
from ...core.bearers import Bearer, Bearers, is_token
from ...errors import StoreUnavailable, TokenInvalid
from ...model import Principal
from ..callers import HERE, NO_ONE, WEB, Identity, Unidentified, anonymous, borne, signed_in, source_of
from ..credentials import has_several
from .bearing import MacaroonAccessToken, from_here, over_http
from .stripping import bare, brought

__all__ = ["NO_ONE", "Identity", "Unidentified", "bearer_here", "caller", "identify", "somebody"]


def caller(settings: IdentitySettings, auth: Any = None, bearers: Bearers | None = None) -> Identity | None:
    """`identify`, where no token of ours has to be looked at; None where one has. Raises `Unidentified`."""
    bound = fastmcp_request_ctx.get()
    request = _request(bound)
    if request is not None:
        _refuse_several(request)
    vouched = request is not None or auth_context_var.get() is not None
    access = get_access_token() if vouched else None  # where there is none, it would look for it at length
    if bearers is not None or brought(bound) or (access is not None and is_token(access.token)):
        return None
    if isinstance(access, MacaroonAccessToken):
        return None
    return _without_token(settings, auth, access, bound, tokens=False)


async def identify(settings: IdentitySettings, auth: Any = None, bearers: Bearers | None = None) -> Identity:
    """The caller of the request in hand. `auth` is the server's auth provider, for tokens that name no issuer.

    `bearers` accepts our own tokens, where the file does. Raises `Unidentified`: over HTTP without a credential, unless
    `anonymous` names those; on stdio and in memory without a token, if `local` names nobody; with a token that does not
    count, whatever else the request brings; without any connection (a background worker, a direct call), if `direct`
    names nobody.
    """
    try:
        return await _identified(settings, auth, bearers)
    except TokenInvalid as error:
        raise Unidentified("token_invalid", error.code) from None
    except StoreUnavailable as error:
        raise Unidentified("store_unavailable", error.code) from None


async def _identified(settings: IdentitySettings, auth: Any, bearers: Bearers | None) -> Identity:
    bound = fastmcp_request_ctx.get()
    request = _request(bound)
    if request is not None:
        _refuse_several(request)
    bearer = await bearer_here(bearers)
    if bearer is not None:
        return borne(bearer, settings, _address(bound))
    return _without_token(settings, auth, get_access_token(), bound, tokens=bearers is not None)


def _without_token(
    settings: IdentitySettings, auth: Any, access: Any, bound: FastMCPRequestContext | None, *, tokens: bool
) -> Identity:
    """The caller by another provider's credential, by his connection, or by being here. `tokens`: ours count here."""
    if access is not None:
        return signed_in(access, settings, source_of(auth), _address(bound))
    if _is_http(bound):
        return anonymous(settings, _address(bound))
    if bound is None:
        return _direct(settings)
    local = settings.local_subject(tokens=tokens)
    if local is None:
        raise Unidentified("unauthenticated")
    return _here(local)


def _direct(settings: IdentitySettings) -> Identity:
    """Whoever calls from the program itself, where the file names him and no web request brought him there."""
    if settings.direct is None or WEB.get():
        raise Unidentified("no_identity")
    return _here(settings.direct)


@lru_cache(maxsize=64)
def _here(subject: str) -> Identity:
    return Identity(principal=Principal(kind="local", namespace=HERE, subject=subject))


async def bearer_here(bearers: Bearers | None) -> Bearer | None:
    """The token that the request in hand stands on, if it stands on one. Raises `TokenInvalid`, `StoreUnavailable`."""
    access, bound = get_access_token(), fastmcp_request_ctx.get()
    meta = brought(bound)
    if isinstance(access, MacaroonAccessToken):
        bare(bound)
        return await over_http(access, meta, bearers)
    if access is not None or _is_http(bound):
        if meta or (access is not None and is_token(access.token)):
            raise TokenInvalid("token_misplaced")
        return None
    if bound is None:
        return None
    return await from_here(meta, bearers)


async def somebody(settings: IdentitySettings, auth: Any = None, bearers: Bearers | None = None) -> Identity:
    """The caller as far as that can be told, for the records of what needs no identity."""
    try:
        return await identify(settings, auth, bearers)
    except Unidentified:
        return NO_ONE


def _refuse_several(request: Any) -> None:
    """Raises `Unidentified` for a request that bears two credentials: which of them counts elsewhere, nobody knows."""
    if has_several(request.scope["headers"], request.scope.get("query_string", b"")):
        raise Unidentified("token_invalid", "several credentials")


def _is_http(bound: FastMCPRequestContext | None) -> bool:
    return _current_transport.get() not in (None, "stdio") or _request(bound) is not None


def _request(bound: FastMCPRequestContext | None) -> Any | None:
    """The HTTP request, where FastMCP looks for it too."""
    request = bound.request if bound is not None else None
    return request if request is not None else _current_http_request.get()


def _address(bound: FastMCPRequestContext | None) -> str | None:
    client = getattr(_request(bound), "client", None)
    return client.host if client is not None else None
