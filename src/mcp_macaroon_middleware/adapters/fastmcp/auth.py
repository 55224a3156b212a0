"""`MacaroonAuth`: a FastMCP auth provider that takes our tokens as bearer credentials, beside another provider's.

It admits; the guard enforces. So it admits nobody to a server that no guard of the same policy stands on.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from fastmcp.server.auth import AccessToken, AuthProvider
from fastmcp.server.dependencies import get_http_request
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from ...config.runtime import Runtime
from ...core.bearers import Bearers, is_token
from ...errors import AuditUnavailable, ConfigError, StoreUnavailable, TokenInvalid
from .bearing import HEADER, access_token, in_header
from .guard import Source, runtime_of
from .middleware import MacaroonMiddleware
from .sessions import Sessions
from .singletons import OneCredential
from .stepping import StepUp

logger: Final = logging.getLogger("mcp_macaroon_middleware")

PENDING: Final = "discharge_missing"
"""The one fault that the rest of the request may mend: discharges can come in its `_meta`."""


class MacaroonAuth(AuthProvider):
    """Takes `Authorization: Bearer mm_…`: `FastMCP(auth=MacaroonAuth("policies.yaml"))`, beside a guard of that file.

    `config_path` is the policy file, the same as a mapping, or a `Runtime`. `other` is another provider, whose tokens,
    routes and challenges stay what they are; ours never reach it. What is wrong, expired, tampered with, revoked or
    unknown is answered with 401 like a missing credential. The file needs a `tokens:` section; raises `ConfigError`
    without one.
    """

    def __init__(
        self,
        config_path: Source,
        other: AuthProvider | None = None,
        *,
        base_url: str | None = None,
        required_scopes: list[str] | None = None,
    ) -> None:
        if other is None:
            super().__init__(base_url=base_url, required_scopes=required_scopes)
        else:
            super().__init__(
                base_url=base_url or other.base_url,
                required_scopes=other.required_scopes if required_scopes is None else required_scopes,
                resource_base_url=other.resource_base_url,
            )
        runtime = runtime_of(config_path)
        if runtime.bearers is None:
            raise ConfigError("MacaroonAuth needs a file that accepts tokens: write  tokens: {}  under config")
        self.runtime: Final[Runtime] = runtime
        self.bearers: Final[Bearers] = runtime.bearers
        self.other: Final = other

    def __repr__(self) -> str:
        return f"MacaroonAuth({self.runtime!r}, {type(self.other).__name__ if self.other is not None else None})"

    async def verify_token(self, token: str) -> AccessToken | None:
        """The caller of a bearer token, or None for one that does not count; the audit log has the reason."""
        token = token.strip()
        if not is_token(token):
            return await self.other.verify_token(token) if self.other is not None else None
        request = _request()
        if not self._is_enforced(request):
            logger.error("MacaroonAuth admits nobody: no guard of the same policy stands on this server")
            return None
        try:
            discharges = in_header(request.headers.getlist(HEADER) if request is not None else ())
            return await self._admitted(token, discharges)
        except TokenInvalid as error:
            self._refused(error.code, request)
            await self.runtime.bad_credentials.slow(error.code, _address(request))
            return None

    async def _admitted(self, token: str, discharges: tuple[str, ...]) -> AccessToken:
        try:
            bearer = await self.bearers.accept(token, discharges)
        except StoreUnavailable:
            self.bearers.holds(token)  # the guard asks the store again, and refuses with the reason
            bearer = None
        except TokenInvalid as error:
            if error.code != PENDING:
                raise
            self.bearers.holds(token)
            bearer = None
        return access_token(token, discharges, self.bearers, bearer, self.required_scopes)

    def _is_enforced(self, request: Request | None) -> bool:
        """Whether a guard of the same policy stands on the server that is asked."""
        server = getattr(getattr(request.scope.get("app"), "state", None), "fastmcp_server", None) if request else None
        if server is None:
            return self.runtime.enforced
        ours = [each for each in server.middleware if isinstance(each, MacaroonMiddleware)]
        return any(each.runtime is self.runtime for each in ours)

    def _refused(self, code: str, request: Request | None) -> None:
        self.runtime.bad_credentials.note(code, _address(request))

    # --- the other provider's part ----------------------------------------------------------------------------------

    @property
    def scopes_supported(self) -> list[str]:
        """What the other provider advertises."""
        return self.other.scopes_supported if self.other is not None else self.required_scopes

    def get_challenge_scopes(self, required_scopes: list[str] | None = None) -> list[str]:
        """What the other provider's challenges ask for."""
        if self.other is not None:
            return self.other.get_challenge_scopes(required_scopes)
        return super().get_challenge_scopes(required_scopes)

    def set_mcp_path(self, mcp_path: str | None) -> None:
        """Tells the other provider too where the server stands."""
        super().set_mcp_path(mcp_path)
        if self.other is not None:
            self.other.set_mcp_path(mcp_path)

    def get_routes(self, mcp_path: str | None = None) -> list[Route]:
        """The other provider's routes; ours needs none."""
        return self.other.get_routes(mcp_path) if self.other is not None else []

    def get_well_known_routes(self, mcp_path: str | None = None) -> list[Route]:
        """The other provider's discovery routes."""
        return self.other.get_well_known_routes(mcp_path) if self.other is not None else []

    def get_middleware(self) -> list[Any]:
        """What reads the credential, and what answers for a token that lacks authority where the file says so."""
        settings = self.runtime.settings.tokens
        added = [Middleware(StepUp)] if settings is not None and settings.step_up else []
        sessions = Middleware(Sessions, refused=self._unheard)
        return [Middleware(OneCredential, refused=self._doubled), *super().get_middleware(), sessions, *added]

    def _doubled(self) -> None:
        self._refused("credential_repeated", _request())

    def _unheard(self, what: str) -> None:
        try:
            self.runtime.audit.event("message_refused", {"what": what})
        except AuditUnavailable:
            logger.error("a refused message could not be recorded")


def _address(request: Request | None) -> str | None:
    return request.client.host if request is not None and request.client is not None else None


def _request() -> Request | None:
    try:
        return get_http_request()
    except RuntimeError:
        return None
