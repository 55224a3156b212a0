"""Who calls: a principal from the connection's own credential. Never from a session id or from what a client says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fastmcp.server.auth import AccessToken
from fastmcp.server.context import _current_transport
from fastmcp.server.dependencies import fastmcp_request_ctx, get_access_token, get_http_request

from ...config.runtime import Runtime
from ...config.settings import IdentitySettings
from ...core.bearers import Bearer, Bearers, is_token
from ...errors import StoreUnavailable, TokenInvalid
from ...model import EMPTY, NOBODY, Principal
from ...tokens import VerifiedToken
from .bearing import MacaroonAccessToken, from_here, over_http
from .stripping import bare, brought

HERE: Final = "local"
"""The namespace of principals that no issuer vouches for."""

REASONS: Final[Mapping[str, str]] = {
    "unauthenticated": "The request carries no credential, and this server needs one.",
    "claim_missing": "The credential does not say what this server needs to know.",
    "token_invalid": "The token does not count here.",
    "store_unavailable": "The token cannot be checked at present; try again later.",
    "no_identity": "The request came over no connection, so nobody can be named for it.",
}


class Unidentified(Exception):
    """The caller cannot be named; the code says why, and the request is refused. `detail` is for the audit alone."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail

    @property
    def reason(self) -> str:
        """What the caller may read."""
        return REASONS[self.code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A principal with what rules may ask about it. `person` is False for machines: nobody can be asked for them.

    `expires` is when the credential does, an aware UTC datetime. `token` is the token that it came by, if it is one.
    """

    principal: Principal = NOBODY
    claims: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    client: str | None = None
    address: str | None = None
    person: bool = True
    expires: datetime | None = None
    token: VerifiedToken | None = field(default=None, repr=False)


NO_ONE: Final = Identity(person=False)


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
        return _borne(bearer, settings)
    access = get_access_token()
    if access is not None:
        return _bearer(access, settings, source)
    if _is_http():
        return _anonymous(settings)
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


def _anonymous(settings: IdentitySettings) -> Identity:
    if settings.anonymous is None:
        raise Unidentified("unauthenticated")
    principal = Principal(kind="anonymous", namespace=HERE, subject=settings.anonymous)
    return Identity(principal=principal, address=_address(), person=False)


def _borne(bearer: Bearer, settings: IdentitySettings) -> Identity:
    """The caller that a token stands for: the same for everything that was narrowed from it."""
    token, principal = bearer.token, bearer.principal
    if settings.tenant is not None and principal.tenant is None:
        raise Unidentified("claim_missing")
    claims = {"sub": principal.subject} | ({"iss": principal.namespace} if principal.namespace else {})
    if settings.tenant is not None and principal.tenant is not None:
        claims[settings.tenant] = principal.tenant
    return Identity(
        principal=principal,
        claims=claims,
        client=token.client,
        address=_address(),
        expires=token.expires,
        token=token,
    )


async def somebody(settings: IdentitySettings, source: str = "", bearers: Bearers | None = None) -> Identity:
    """The caller as far as that can be told, for the records of what needs no identity."""
    try:
        return await identify(settings, source, bearers)
    except Unidentified:
        return NO_ONE


def source_of(auth: Any) -> str:
    """The id of an auth provider: stable across restarts, the same for every token that it verifies."""
    auth = getattr(auth, "other", auth) if isinstance(getattr(auth, "runtime", None), Runtime) else auth
    return f"auth:{type(auth).__name__}" if auth is not None else "server"


def _bearer(token: AccessToken, settings: IdentitySettings, source: str) -> Identity:
    claims: Mapping[str, Any] = token.claims or {}
    subject, kind = _subject(token, claims, settings)
    tenant = None
    if settings.tenant is not None and (tenant := _text(claims.get(settings.tenant))) is None:
        raise Unidentified("claim_missing")
    principal = Principal(kind=kind, namespace=_namespace(token, claims, source), subject=subject, tenant=tenant)
    return Identity(
        principal=principal,
        claims=claims,
        client=token.original_client_id or token.client_id,
        address=_address(),
        person=kind == "user",
        expires=datetime.fromtimestamp(token.expires_at, UTC) if token.expires_at is not None else None,
    )


def _subject(token: AccessToken, claims: Mapping[str, Any], settings: IdentitySettings) -> tuple[str, str]:
    """The subject and whether it is a person's: a claim that the file names must be there."""
    if settings.claim is not None:
        named = _text(claims.get(settings.claim))
        if named is None and settings.claim == "sub":
            named = _text(token.subject)
        if named is None:
            raise Unidentified("claim_missing")
        return named, "user"
    subject = _text(token.subject) or _text(claims.get("sub"))
    if subject is not None:
        return subject, "user"
    client = _text(token.original_client_id) or _text(token.client_id)
    if client is None:
        raise Unidentified("claim_missing")
    return client, "client"


def _namespace(token: AccessToken, claims: Mapping[str, Any], source: str) -> str:
    """The issuer; where there is none, which of the server's auth sources vouched for the token."""
    issuer = _text(claims.get("iss"))
    if issuer is not None:
        return issuer
    if token.original_client_id is None:
        return source
    try:  # several sources: FastMCP puts the one that answered first into the client id
        return f"{source}:{json.loads(token.client_id)[0]}"
    except (ValueError, LookupError, TypeError):
        raise Unidentified("claim_missing") from None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def _request() -> Any | None:
    try:
        return get_http_request()
    except RuntimeError:
        return None


def _address() -> str | None:
    client = getattr(_request(), "client", None)
    return client.host if client is not None else None
