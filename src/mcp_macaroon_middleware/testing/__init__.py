"""Conformance suites for authors of plugins: what the framework needs of what a plugin contributes, as tests.

Subclass a suite in a test module, give it the thing to test, and run pytest; nothing else is needed, async methods
included. Names are loaded when first used, so that pytest, which imports a module of this package at every start, loads
nothing else of it.

    from mcp_macaroon_middleware.testing import Case, EnforcerContract

    class TestWorkingHours(EnforcerContract):
        enforcer = working_hours
        cases = (Case(params=("9", "17"), at="2026-01-05T10:00:00Z", expect={"allow": "allow"}),)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .approvers import ApproverContract
    from .cases import Case
    from .challenges import sample_challenges
    from .enforcers import EnforcerContract
    from .fakes import BrokenStore, FixedClock, Records
    from .keys import KeySourceContract
    from .sinks import AuditSinkContract
    from .stores import StoreContract

__all__ = [
    "ApproverContract",
    "AuditSinkContract",
    "BrokenStore",
    "Case",
    "EnforcerContract",
    "FixedClock",
    "KeySourceContract",
    "Records",
    "StoreContract",
    "sample_challenges",
]

_HOMES: Final = {
    "ApproverContract": "approvers",
    "AuditSinkContract": "sinks",
    "BrokenStore": "fakes",
    "Case": "cases",
    "EnforcerContract": "enforcers",
    "FixedClock": "fakes",
    "KeySourceContract": "keys",
    "Records": "fakes",
    "StoreContract": "stores",
    "sample_challenges": "challenges",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
