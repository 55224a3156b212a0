"""Who calls, from a credential that has been verified: the same principal in every adapter. It verifies nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ..config.settings import IdentitySettings
from ..core.bearers import Bearer
from ..model import EMPTY, NOBODY, Principal
from ..tokens import VerifiedToken

HERE: Final = "local"
"""The namespace of principals that no issuer vouches for."""

REASONS: Final[Mapping[str, str]] = {
    "unauthenticated": "The request carries no credential, and this server needs one.",
    "claim_missing": "The credential does not say what this server needs to know.",
    "token_invalid": "The token does not count here.",
    "store_unavailable": "The token cannot be checked at present; try again later.",
    "no_identity": "The request came over no connection, so nobody can be named for it.",
}


WEB: Final[ContextVar[bool]] = ContextVar("mcp_macaroon_web", default=False)
"""Whether a request of a web application is in hand: what its handler calls is not called by the program itself."""


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


def anonymous(settings: IdentitySettings, address: str | None = None) -> Identity:
    """Whoever calls over a network without a credential. Raises `Unidentified` where the file names nobody for that."""
    if settings.anonymous is None:
        raise Unidentified("unauthenticated")
    principal = Principal(kind="anonymous", namespace=HERE, subject=settings.anonymous)
    return Identity(principal=principal, address=address, person=False)


def borne(bearer: Bearer, settings: IdentitySettings, address: str | None = None) -> Identity:
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
        address=address,
        expires=token.expires,
        token=token,
    )


def source_of(auth: Any) -> str:
    """The id of an auth provider: stable across restarts, the same for every token that it verifies."""
    auth = getattr(auth, "other", auth) if getattr(auth, "bearers", None) is not None else auth
    return f"auth:{type(auth).__name__}" if auth is not None else "server"


def signed_in(token: Any, settings: IdentitySettings, source: str, address: str | None = None) -> Identity:
    """The caller of another provider's token, which has client, subject and claims as FastMCP's access tokens do."""
    claims: Mapping[str, Any] = token.claims or {}
    subject, kind = _subject(token, claims, settings)
    tenant = None
    if settings.tenant is not None and (tenant := _text(claims.get(settings.tenant))) is None:
        raise Unidentified("claim_missing")
    principal = Principal(
        kind=kind, namespace=_namespace(token, claims, source, settings.issuer), subject=subject, tenant=tenant
    )
    return Identity(
        principal=principal,
        claims=_with_scopes(claims, token),
        client=_original(token) or token.client_id,
        address=address,
        person=kind == "user",
        expires=datetime.fromtimestamp(token.expires_at, UTC) if token.expires_at is not None else None,
    )


def _subject(token: Any, claims: Mapping[str, Any], settings: IdentitySettings) -> tuple[str, str]:
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
    client = _text(_original(token)) or _text(token.client_id)
    if client is None:
        raise Unidentified("claim_missing")
    return client, "client"


def _namespace(token: Any, claims: Mapping[str, Any], source: str, named: str | None) -> str:
    """The issuer; where there is none, `named` for a single provider, else which auth source vouched for the token."""
    issuer = _text(claims.get("iss"))
    if issuer is not None:
        return issuer
    if _original(token) is None:
        return named or source
    try:  # several sources: FastMCP puts the one that answered first into the client id
        return f"{source}:{json.loads(token.client_id)[0]}"
    except (ValueError, LookupError, TypeError):
        raise Unidentified("claim_missing") from None


def _with_scopes(claims: Mapping[str, Any], token: Any) -> Mapping[str, Any]:
    """The claims, with the scopes that the provider tells by itself where no claim does."""
    scopes = getattr(token, "scopes", None)
    if not scopes or "scope" in claims or "scp" in claims:
        return claims
    return {**claims, "scope": list(scopes)}


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def _original(token: Any) -> str | None:
    """The client as its own provider names it, where several providers stand side by side."""
    found: str | None = getattr(token, "original_client_id", None)
    return found
