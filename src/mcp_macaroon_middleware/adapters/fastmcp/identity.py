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

from ...config.settings import IdentitySettings
from ...model import EMPTY, NOBODY, Principal

HERE: Final = "local"
"""The namespace of principals that no issuer vouches for."""

REASONS: Final[Mapping[str, str]] = {
    "unauthenticated": "The request carries no credential, and this server needs one.",
    "claim_missing": "The credential does not say what this server needs to know.",
    "no_identity": "The request came over no connection, so nobody can be named for it.",
}


class Unidentified(Exception):
    """The caller cannot be named; the code says why, and the request is refused."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    @property
    def reason(self) -> str:
        """What the caller may read."""
        return REASONS[self.code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A principal with what rules may ask about it. `person` is False for machines: nobody can be asked for them.

    `expires` is when the credential does, an aware UTC datetime.
    """

    principal: Principal = NOBODY
    claims: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    client: str | None = None
    address: str | None = None
    person: bool = True
    expires: datetime | None = None


NO_ONE: Final = Identity(person=False)


def identify(settings: IdentitySettings, source: str = "") -> Identity:
    """The caller of the request in hand. `source` names the auth provider, for tokens that name no issuer.

    Raises `Unidentified`: over HTTP without a credential, unless `anonymous` names those; on stdio and in memory, if
    `local` is null; without any connection (a background worker, a direct call) always.
    """
    token = get_access_token()
    if token is not None:
        return _bearer(token, settings, source)
    transport = _current_transport.get()
    if transport not in (None, "stdio") or _request() is not None:
        if settings.anonymous is None:
            raise Unidentified("unauthenticated")
        principal = Principal(kind="anonymous", namespace=HERE, subject=settings.anonymous)
        return Identity(principal=principal, address=_address(), person=False)
    if fastmcp_request_ctx.get() is None:
        raise Unidentified("no_identity")
    if settings.local is None:
        raise Unidentified("unauthenticated")
    return Identity(principal=Principal(kind="local", namespace=HERE, subject=settings.local))


def somebody(settings: IdentitySettings, source: str = "") -> Identity:
    """The caller as far as that can be told, for the records of what needs no identity."""
    try:
        return identify(settings, source)
    except Unidentified:
        return NO_ONE


def source_of(auth: Any) -> str:
    """The id of an auth provider: stable across restarts, the same for every token that it verifies."""
    return type(auth).__name__ if auth is not None else "server"


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
