"""The first-party plugin: what decides, stores, records, asks and brings keys, through hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Iterable

from ..plugin import ApproverType, AuditSinkType, EnforcerType, KeySourceType, StoreType, hookimpl


@hookimpl
def macaroon_enforcers() -> Iterable[EnforcerType]:
    """`tool_access`, `field_access`, `rate_limit`, `allow_attempts`."""
    from . import access, field_access, limits

    return (access.TYPE, field_access.TYPE, limits.RATE_LIMIT, limits.ALLOW_ATTEMPTS)


@hookimpl
def macaroon_stores() -> Iterable[StoreType]:
    """`memory`, `sqlite`, `redis`, `redis+sentinel`, `redis+cluster`, and the last three over TLS: `rediss`, …"""
    from . import memory, redis_store, sqlite_store

    return (memory.TYPE, sqlite_store.TYPE, *redis_store.TYPES)


@hookimpl
def macaroon_audit_sinks() -> Iterable[AuditSinkType]:
    """`log` and `jsonl`."""
    from . import jsonl_sink, log_sink

    return (log_sink.TYPE, jsonl_sink.TYPE)


@hookimpl
def macaroon_approvers() -> Iterable[ApproverType]:
    """`mcp`, `console` and `auto`."""
    from . import auto_approver, console_approver, mcp_approver

    return (mcp_approver.TYPE, console_approver.TYPE, auto_approver.TYPE)


@hookimpl
def macaroon_key_sources() -> Iterable[KeySourceType]:
    """`env` and `file`."""
    from . import key_sources

    return (key_sources.ENV, key_sources.FILE)
