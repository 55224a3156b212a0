"""Who calls: a principal from the connection's own credential. Never from a session id or from what a client says."""

from __future__ import annotations

from typing import Any

from fastmcp.server.context import _current_transport
from fastmcp.server.dependencies import fastmcp_request_ctx, get_access_token, get_http_request

from ...config.settings import IdentitySettings
from ...core.bearers import Bearer, Bearers, is_token
from ...errors import StoreUnavailable, TokenInvalid
from ...model import Principal
from ..callers import HERE, NO_ONE, Identity, Unidentified, anonymous, borne, signed_in, source_of
from .bearing import MacaroonAccessToken, from_here, over_http
from .stripping import bare, brought

__all__ = ["NO_ONE", "Identity", "Unidentified", "bearer_here", "identify", "somebody", "source_of"]


async def identify(settings: IdentitySettings, source: str = "", bearers: Bearers | None = None) -> Identity:
    """The caller of the request in hand. `source` names the auth provider, for tokens that name no issuer.

    `bearers` accepts our own tokens, where the file does. Raises `Unidentified`: over HTTP without a credential, unless
    `anonymous` names those; on stdio and in memory without a token, if `local` names nobody; with a token that does not
    count, whatever else the request brings; without any connection (a background worker, a direct call) always.
    """
    try:
        return await _identified(settings, source, bearers)
    except TokenInvalid as error:
        raise Unidentified("token_invalid", error.code) from None
    except StoreUnavailable as error:
        raise Unidentified("store_unavailable", error.code) from None


async def _identified(settings: IdentitySettings, source: str, bearers: Bearers | None) -> Identity:
    bearer = await bearer_here(bearers)
    if bearer is not None:
        return borne(bearer, settings, _address())
    access = get_access_token()
    if access is not None:
        return signed_in(access, settings, source, _address())
    if _is_http():
        return anonymous(settings, _address())
    local = settings.local_subject(tokens=bearers is not None)
    if local is None:
        raise Unidentified("unauthenticated")
    return Identity(principal=Principal(kind="local", namespace=HERE, subject=local))


async def bearer_here(bearers: Bearers | None) -> Bearer | None:
    """The token that the request in hand stands on, if it stands on one. Raises `TokenInvalid`, `StoreUnavailable`."""
    access, bound = get_access_token(), fastmcp_request_ctx.get()
    meta = brought(bound)
    if isinstance(access, MacaroonAccessToken):
        bare(bound)
        return await over_http(access, meta, bearers)
    if access is not None or _is_http():
        if meta or (access is not None and is_token(access.token)):
            raise TokenInvalid("token_misplaced")
        return None
    if bound is None:
        raise Unidentified("no_identity")
    return await from_here(meta, bearers)


def _is_http() -> bool:
    return _current_transport.get() not in (None, "stdio") or _request() is not None


async def somebody(settings: IdentitySettings, source: str = "", bearers: Bearers | None = None) -> Identity:
    """The caller as far as that can be told, for the records of what needs no identity."""
    try:
        return await identify(settings, source, bearers)
    except Unidentified:
        return NO_ONE


def _request() -> Any | None:
    try:
        return get_http_request()
    except RuntimeError:
        return None


def _address() -> str | None:
    client = getattr(_request(), "client", None)
    return client.host if client is not None else None
