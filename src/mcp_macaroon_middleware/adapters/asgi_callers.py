"""Who sends an HTTP request: by a token of ours, by another provider's, or nobody in particular. It decides nothing."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.requests import Request

from ..config.runtime import Runtime
from ..core.bearers import is_token
from ..errors import StoreUnavailable, TokenInvalid
from .callers import Identity, Unidentified, anonymous, borne, signed_in, source_of
from .credentials import has_several

DISCHARGES: Final = "macaroon-discharge"


class Callers:
    """Names callers. `auth` has `async verify_token(token)`, as FastMCP's providers do; ours never reach it."""

    def __init__(self, runtime: Runtime, auth: Any = None) -> None:
        self._runtime = runtime
        self._auth = auth

    async def identify(self, request: Request) -> Identity:
        """The caller. Raises `Unidentified`; what a provider raises passes."""
        settings = self._runtime.settings.identity
        address = request.client.host if request.client is not None else None
        given = request.headers.getlist("authorization")
        if has_several(request.scope["headers"], request.scope.get("query_string", b"")):
            raise Unidentified("token_invalid", "several credentials")
        if not given:
            return anonymous(settings, address)
        scheme, _, token = given[0].partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unidentified("token_invalid", "another scheme than Bearer")
        token = token.strip()
        if is_token(token):
            return await self._ours(token, request, address)
        access = await self._auth.verify_token(token) if self._auth is not None else None
        if access is None or (access.expires_at is not None and access.expires_at <= time.time()):
            raise Unidentified("token_invalid", "not known")
        return signed_in(access, settings, source_of(self._auth), address)

    async def _ours(self, token: str, request: Request, address: str | None) -> Identity:
        bearers = self._runtime.bearers
        if bearers is None:
            raise Unidentified("token_invalid", "token_not_accepted")
        sent = [part.strip() for text in request.headers.getlist(DISCHARGES) for part in text.split(",")]
        try:
            bearer = await bearers.accept(token, [part for part in sent if part])
        except TokenInvalid as error:
            raise Unidentified("token_invalid", error.code) from None
        except StoreUnavailable as error:
            raise Unidentified("store_unavailable", error.code) from None
        return borne(bearer, self._runtime.settings.identity, address)
