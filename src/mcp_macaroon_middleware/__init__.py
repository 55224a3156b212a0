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
    from .adapters.fastmcp import MacaroonAuth, MacaroonClientAuth, MacaroonMiddleware
    from .adapters.fastmcp.guard import Guard, guard
    from .core.holders import attenuate, mint
    from .core.policy_engine import PolicyEngine
    from .errors import (
        ApprovalRequired,
        BindError,
        ConfigError,
        MacaroonError,
        PolicyViolationError,
        TokenInvalid,
    )
    from .model import ActionType, Caveat, ExecutionPhase, RequestContext
    from .plugin import enforcer, policy_enforcer
    from .tokens import Inspection, KeyRing, VerifiedToken, inspect, verify

_HOMES: Final[dict[str, str]] = {
    "Guard": "adapters.fastmcp",
    "MacaroonAuth": "adapters.fastmcp",
    "MacaroonClientAuth": "adapters.fastmcp",
    "MacaroonMiddleware": "adapters.fastmcp",
    "guard": "adapters.fastmcp",
    "PolicyEngine": "core.policy_engine",
    "ApprovalRequired": "errors",
    "BindError": "errors",
    "ConfigError": "errors",
    "MacaroonError": "errors",
    "PolicyViolationError": "errors",
    "TokenInvalid": "errors",
    "ActionType": "model",
    "Caveat": "model",
    "ExecutionPhase": "model",
    "RequestContext": "model",
    "enforcer": "plugin",
    "policy_enforcer": "plugin",
    "Inspection": "tokens",
    "KeyRing": "tokens",
    "VerifiedToken": "tokens",
    "attenuate": "core.holders",
    "inspect": "tokens",
    "mint": "core.holders",
    "verify": "tokens",
}

__all__ = [
    "ActionType",
    "ApprovalRequired",
    "BindError",
    "Caveat",
    "ConfigError",
    "ExecutionPhase",
    "Guard",
    "Inspection",
    "KeyRing",
    "MacaroonAuth",
    "MacaroonClientAuth",
    "MacaroonError",
    "MacaroonMiddleware",
    "PolicyEngine",
    "PolicyViolationError",
    "RequestContext",
    "TokenInvalid",
    "VerifiedToken",
    "__version__",
    "attenuate",
    "enforcer",
    "guard",
    "inspect",
    "mint",
    "policy_enforcer",
    "verify",
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
