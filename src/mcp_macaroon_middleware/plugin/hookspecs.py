"""The pluggy hooks: each is called once, at start, and yields frozen descriptions. No request ever runs a hook.

pluggy has no async, one raising implementation stops a call, and order follows the file system; so none of it sits
under an authorization decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pluggy

from .contract import ApproverType, AuditSinkType, EnforcerType, KeySourceType, StoreType

PROJECT: Final = "mcp_macaroon_middleware"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def macaroon_enforcers() -> Iterable[EnforcerType]:
    """The enforcers that this plugin provides, for policies that rules name."""
    return ()


@hookspec
def macaroon_stores() -> Iterable[StoreType]:
    """The kinds of store that this plugin provides, by the scheme of `config.store`."""
    return ()


@hookspec
def macaroon_audit_sinks() -> Iterable[AuditSinkType]:
    """The kinds of audit sink that this plugin provides, for `config.audit`."""
    return ()


@hookspec
def macaroon_approvers() -> Iterable[ApproverType]:
    """The ways to ask people that this plugin provides, for `approver:` in rules and `config.approvals`."""
    return ()


@hookspec
def macaroon_key_sources() -> Iterable[KeySourceType]:
    """Where keys can come from, by the scheme of `secret_key`, `keys` and the keys of `third_party`."""
    return ()
