"""Opens what a compiled configuration names: audit sinks and store. What cannot be opened stops the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ..core.approvers import Approvers, OpenApprover
from ..core.audit import AuditLog, SinkSlot
from ..core.deadline import now
from ..core.supervised import Supervised
from ..errors import ConfigError, Diagnostic, MacaroonError, PluginError
from ..host.requirements import BUILTIN
from ..model import Assurance
from ..plugin.contract import ApproverContext, SinkContext, Store, StoreContext, StoreType
from ..tokens.keys import KeyRing
from .compile import Compiled
from .sections import approver_names, audience_missing

STORE_FAILED: Final = "store_failed"
"""The code of a store that cannot be opened or used."""

Event = Callable[[str, Mapping[str, Any]], None]


def open_audit(compiled: Compiled, keys: KeyRing) -> AuditLog:
    """The audit log with every sink of the file open. Raises `ConfigError` that names the sink."""
    config = compiled.settings.config
    slots: list[SinkSlot] = []
    for index, planned in enumerate(compiled.audit):
        context = SinkContext(
            audience=config.audience,
            settings=compiled.sections.sinks.get(planned.kind.name),
            base=compiled.source.base,
        )
        try:
            sink = _opened(partial(planned.kind.open, planned.options, context), SINK)
        except Exception as error:  # whatever a plugin raises, the start stops
            _close(slots)
            place = ("config", "audit", index)
            message = f"the audit sink {planned.kind.name!r} cannot be opened: {_why(error)}"
            raise ConfigError([compiled.source.diagnostic("sink_failed", message, place)]) from None
        slots.append(SinkSlot(name=planned.kind.name, sink=sink, required=planned.entry.required))
    return AuditLog(
        slots, digest_key=keys.derive("audit", config.audience), clear_arguments=frozenset(config.clear_arguments)
    )


def open_store(compiled: Compiled, event: Event | None = None) -> Store:
    """The store of the file, supervised unless it is one of our own. `event` records what it must not keep to itself.

    Raises `ConfigError`; the address is never shown, since it may hold a password.
    """
    kind = compiled.store
    if kind is None:
        raise ConfigError("the configuration names no store")
    context = store_context(compiled, kind)
    try:
        context = context if event is None else replace(context, event=event)
        store: Store = _opened(partial(kind.open, store_address(compiled), context), STORE)
    except ConfigError:
        raise
    except Exception as error:  # whatever a plugin raises, the start stops
        raise ConfigError([store_failed(compiled, kind.scheme, "opened", error)]) from None
    if (store.durable or store.shared) and not compiled.settings.config.audience:
        raise ConfigError([audience_missing(compiled.source)])
    own = compiled.registry.stores[kind.scheme].plugin.name == BUILTIN
    return store if own else Supervised(store, kind.timeout)


def open_approvers(compiled: Compiled, known: Approvers | None = None) -> dict[str, OpenApprover]:
    """The approvers that the file names, opened, but for those that are `known` already. Raises `ConfigError`.

    One that asks nobody is opened anew each time: whether it may serve depends on `mode`.
    """
    config = compiled.settings.config
    opened: dict[str, OpenApprover] = {}
    for name in approver_names(compiled.settings, compiled.rules):
        provided = compiled.registry.approvers.get(name)
        if provided is None:
            continue
        kind = provided.contribution
        if known is not None and known.get(name) is not None and kind.assurance > Assurance.NONE:
            continue
        context = ApproverContext(
            audience=config.audience,
            settings=compiled.sections.approvers.get(name),
            mode=config.mode,
            timeout=float(config.approvals.timeout),
        )
        try:
            approver = _opened(partial(kind.open, context), APPROVER)
            opened[name] = OpenApprover(kind=kind, approver=approver)
        except Exception as error:  # whatever a plugin raises, the start stops
            message = f"the approver {name!r} cannot be opened: {_why(error)}"
            place = ("config", "approvals")
            raise ConfigError([compiled.source.diagnostic("approver_failed", message, place, key=True)]) from None
    return opened


def store_address(compiled: Compiled) -> str:
    """Where the store is; it may hold a password. Raises `ConfigError` for a reference that means nothing."""
    return compiled.settings.config.store.resolve(compiled.source.base)


def store_context(compiled: Compiled, kind: StoreType) -> StoreContext:
    """What a store of this kind is told."""
    return StoreContext(
        audience=compiled.settings.config.audience,
        settings=compiled.sections.stores.get(kind.scheme),
        base=compiled.source.base,
    )


def store_failed(compiled: Compiled, scheme: str, what: str, error: Exception, hint: str = "") -> Diagnostic:
    """The diagnostic of a store that cannot be opened or used."""
    message = f"the store {scheme!r} cannot be {what}: {_why(error)}"
    return compiled.source.diagnostic(STORE_FAILED, message, ("config", "store"), hint=hint)


STORE: Final = ("get", "put", "swap", "take", "add", "scan", "now", "close", "durable", "shared")
SINK: Final = ("write", "close")
APPROVER: Final = ("available", "ask", "read", "close")


def _opened(call: Callable[[], Any], parts: Sequence[str]) -> Any:
    """What a plugin's `open` returned. Raises `PluginError` where a part of it is missing, or what `open` raised."""
    made = now(call)
    for part in parts:
        if not hasattr(made, part):
            raise PluginError(f"it opened {type(made).__name__}, which has no {part!r}")
    return made


def _close(slots: Sequence[SinkSlot]) -> None:
    AuditLog(slots, digest_key=b"").close()


def _why(error: Exception) -> str:
    """The cause without values: a foreign exception's text may hold a secret."""
    if isinstance(error, MacaroonError):
        return str(error)
    return getattr(error, "strerror", None) or type(error).__name__
