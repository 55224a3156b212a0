"""Authorization for MCP servers: rules, redaction, limits and narrowable tokens, as one middleware and one YAML file.

    from mcp_macaroon_middleware import guard

    guard(server, "policies.yaml")

Public names are loaded when they are first used (PEP 562): importing this package imports neither FastMCP nor Redis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__: Final = "3.0.0a1"

if TYPE_CHECKING:
    from .adapters.asgi import MacaroonASGIMiddleware
    from .adapters.discharging import discharge_service
    from .adapters.fastmcp import Guard, MacaroonAuth, MacaroonClientAuth, MacaroonMiddleware
    from .adapters.fastmcp.servers import guard
    from .adapters.holder import via_http
    from .config.revoking import revoke
    from .core.holders import attenuate, mint
    from .core.policy_engine import PolicyEngine
    from .errors import (
        ApprovalRequired,
        BindError,
        ConfigError,
        DischargeRefused,
        MacaroonError,
        PolicyViolationError,
        StoreUnavailable,
        TokenInvalid,
    )
    from .model import ActionType, Caveat, ExecutionPhase, Principal, RequestContext
    from .plugin import enforcer, policy_enforcer
    from .tokens import (
        Inspection,
        KeyRing,
        ThirdParty,
        VerifiedToken,
        bind,
        discharge,
        inspect,
        require,
        unmet,
        verify,
    )

_HOMES: Final[dict[str, str]] = {
    "Guard": "adapters.fastmcp",
    "MacaroonAuth": "adapters.fastmcp",
    "MacaroonClientAuth": "adapters.fastmcp",
    "MacaroonMiddleware": "adapters.fastmcp",
    "guard": "adapters.fastmcp",
    "MacaroonASGIMiddleware": "adapters.asgi",
    "discharge_service": "adapters.discharging",
    "via_http": "adapters.holder",
    "revoke": "config.revoking",
    "PolicyEngine": "core.policy_engine",
    "attenuate": "core.holders",
    "mint": "core.holders",
    "ApprovalRequired": "errors",
    "BindError": "errors",
    "ConfigError": "errors",
    "DischargeRefused": "errors",
    "MacaroonError": "errors",
    "PolicyViolationError": "errors",
    "StoreUnavailable": "errors",
    "TokenInvalid": "errors",
    "ActionType": "model",
    "Caveat": "model",
    "ExecutionPhase": "model",
    "Principal": "model",
    "RequestContext": "model",
    "enforcer": "plugin",
    "policy_enforcer": "plugin",
    "Inspection": "tokens",
    "KeyRing": "tokens",
    "ThirdParty": "tokens",
    "VerifiedToken": "tokens",
    "bind": "tokens",
    "discharge": "tokens",
    "inspect": "tokens",
    "require": "tokens",
    "unmet": "tokens",
    "verify": "tokens",
}

__all__ = [
    "ActionType",
    "ApprovalRequired",
    "BindError",
    "Caveat",
    "ConfigError",
    "DischargeRefused",
    "ExecutionPhase",
    "Guard",
    "Inspection",
    "KeyRing",
    "MacaroonASGIMiddleware",
    "MacaroonAuth",
    "MacaroonClientAuth",
    "MacaroonError",
    "MacaroonMiddleware",
    "PolicyEngine",
    "PolicyViolationError",
    "Principal",
    "RequestContext",
    "StoreUnavailable",
    "ThirdParty",
    "TokenInvalid",
    "VerifiedToken",
    "__version__",
    "attenuate",
    "bind",
    "discharge",
    "discharge_service",
    "enforcer",
    "guard",
    "inspect",
    "mint",
    "policy_enforcer",
    "require",
    "revoke",
    "unmet",
    "verify",
    "via_http",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
