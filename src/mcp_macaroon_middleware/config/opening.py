"""Opens what a compiled configuration names: audit sinks and store. What cannot be opened stops the start."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.approvers import Approvers, OpenApprover
from ..core.audit import AuditLog, SinkSlot
from ..errors import ConfigError, Diagnostic, MacaroonError
from ..model import Assurance
from ..plugin.contract import ApproverContext, SinkContext, Store, StoreContext
from ..tokens.keys import KeyRing
from .compile import Compiled
from .sections import approver_names, audience_missing


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
            sink = planned.kind.open(planned.options, context)
        except Exception as error:  # whatever a plugin raises, the start stops
            _close(slots)
            place = ("config", "audit", index)
            message = f"the audit sink {planned.kind.name!r} cannot be opened: {_why(error)}"
            raise ConfigError([compiled.source.diagnostic("sink_failed", message, place)]) from None
        slots.append(SinkSlot(name=planned.kind.name, sink=sink, required=planned.entry.required))
    return AuditLog(
        slots, digest_key=keys.derive("audit", config.audience), clear_arguments=frozenset(config.clear_arguments)
    )


def open_store(compiled: Compiled) -> Store:
    """The store of the file. Raises `ConfigError`; the address is never shown, since it may hold a password."""
    kind, config, source = compiled.store, compiled.settings.config, compiled.source
    if kind is None:
        raise ConfigError("the configuration names no store")
    context = StoreContext(
        audience=config.audience, settings=compiled.sections.stores.get(kind.scheme), base=source.base
    )
    try:
        store = kind.open(config.store.resolve(source.base), context)
    except ConfigError:
        raise
    except Exception as error:  # whatever a plugin raises, the start stops
        raise ConfigError([_store_failed(compiled, kind.scheme, error)]) from None
    if (store.durable or store.shared) and not config.audience:
        raise ConfigError([audience_missing(source)])
    return store


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
            opened[name] = OpenApprover(kind=kind, approver=kind.open(context))
        except Exception as error:  # whatever a plugin raises, the start stops
            message = f"the approver {name!r} cannot be opened: {_why(error)}"
            place = ("config", "approvals")
            raise ConfigError([compiled.source.diagnostic("approver_failed", message, place, key=True)]) from None
    return opened


def _store_failed(compiled: Compiled, scheme: str, error: Exception) -> Diagnostic:
    message = f"the store {scheme!r} cannot be opened: {_why(error)}"
    return compiled.source.diagnostic("store_failed", message, ("config", "store"))


def _close(slots: Sequence[SinkSlot]) -> None:
    for slot in slots:
        slot.sink.close()


def _why(error: Exception) -> str:
    """The cause without values: a foreign exception's text may hold a secret."""
    if isinstance(error, MacaroonError):
        return str(error)
    return getattr(error, "strerror", None) or type(error).__name__
