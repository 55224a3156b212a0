"""Validates what plugins add to the file: their own sections, the options of audit sinks, the store's kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, Diagnostic
from ..model import Rule
from ..plugin.contract import AuditSinkType, StoreType
from .places import DataPath, Source
from .references import Reference, resolve_references
from .settings import AuditEntry, FileSettings, did_you_mean, validation_diagnostics

if TYPE_CHECKING:
    from ..host.discovery import PluginInfo
    from ..host.registry import Provided, Registry

OURS: Final = frozenset({"builtin", "application"})  # their contributions have sections of their own
MEMORY: Final = "memory"
_STORE: Final[DataPath] = ("config", "store")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkPlan:
    """An audit sink to be opened: its kind, its options, and whether calls need its record."""

    entry: AuditEntry
    kind: AuditSinkType
    options: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """Validated plugin sections: by the name in the file, and by the contribution that each belongs to."""

    named: Mapping[str, Any] = field(default_factory=dict, repr=False)
    enforcers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sinks: Mapping[str, Any] = field(default_factory=dict, repr=False)
    stores: Mapping[str, Any] = field(default_factory=dict, repr=False)
    approvers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    key_sources: Mapping[str, Any] = field(default_factory=dict, repr=False)


def section_models(registry: Registry) -> dict[str, type[BaseModel]]:
    """The settings model of every section that the loaded plugins take."""
    found: dict[str, type[BaseModel]] = {}
    for name, provided in _contributions(registry):
        model = provided.contribution.settings
        if model is not None:
            found.setdefault(section_name(provided.plugin, name), model)
    return found


def section_name(plugin: PluginInfo, contribution: str) -> str:
    """The section of a contribution: its plugin's name; its own for a built-in one and the application's."""
    return contribution if plugin.name in OURS else plugin.name


def read_sections(source: Source, settings: FileSettings, registry: Registry) -> tuple[Sections, list[Diagnostic]]:
    """Validates every plugin's section. A section that no loaded plugin takes is an error."""
    models = section_models(registry)
    data, problems = resolve_references(source, ("plugins",), keep=frozenset({"allow", "disable", "require", "files"}))
    problems += list(_conflicts(registry, source))
    for name in settings.sections:
        if name not in models:
            problems.append(_unknown_section(source, name, models, registry))
    named: dict[str, Any] = {}
    for name, model in models.items():
        given = (data or {}).get(name) if isinstance(data, Mapping) else None
        value = _validated(model, given, source, ("plugins", name), problems, named=name in settings.sections)
        if value is not None:
            named[name] = value
    return _by_contribution(registry, named), problems


def read_audit(source: Source, settings: FileSettings, registry: Registry) -> tuple[list[SinkPlan], list[Diagnostic]]:
    """The sinks that `config.audit` names, with their options validated."""
    plans: list[SinkPlan] = []
    problems: list[Diagnostic] = []
    for index, entry in enumerate(settings.config.audit):
        path: DataPath = ("config", "audit", index)
        provided = registry.sinks.get(entry.sink)
        if provided is None:
            hint = did_you_mean(entry.sink, registry.sinks) or f"known sinks are {', '.join(sorted(registry.sinks))}"
            problems.append(
                source.diagnostic("unknown_sink", f"no audit sink named {entry.sink!r}", (*path, "sink"), hint=hint)
            )
            continue
        told = len(problems)
        options = _validated(
            provided.contribution.options, dict(entry.__pydantic_extra__ or {}), source, path, problems
        )
        if len(problems) == told:
            plans.append(SinkPlan(entry=entry, kind=provided.contribution, options=options))
    return plans, problems


def store_kind(source: Source, settings: FileSettings, registry: Registry) -> tuple[StoreType | None, list[Diagnostic]]:
    """The kind of store that `config.store` names. A store that outlives this process needs `audience`."""
    try:
        address = settings.config.store.resolve(source.base)
    except ConfigError as error:
        return None, [source.diagnostic(d.code, d.message, _STORE, hint=d.hint) for d in error.diagnostics]
    scheme = scheme_of(address)
    provided = registry.stores.get(scheme)
    if provided is None:
        hint = did_you_mean(scheme, registry.stores) or f"known stores are {', '.join(sorted(registry.stores))}"
        known = f"no store for addresses like {scheme}:…" if _shows(settings.config.store, scheme) else "unknown store"
        return None, [source.diagnostic("unknown_store", known, _STORE, hint=hint)]
    if scheme != MEMORY and not settings.config.audience:
        return provided.contribution, [audience_missing(source)]
    return provided.contribution, []


def approver_names(settings: FileSettings, rules: Iterable[Rule]) -> tuple[str, ...]:
    """The approvers that a file names: by default, as fallbacks, and in its rules."""
    terms = settings.config.approvals
    named = [rule.approver for rule in rules if rule.approver is not None]
    return tuple(dict.fromkeys((terms.default, *terms.fallback, *named)))


def approver_problems(source: Source, settings: FileSettings, registry: Registry) -> Iterable[Diagnostic]:
    """Approvers under `config.approvals` that no loaded plugin provides."""
    terms = settings.config.approvals
    for key, names in (("default", (terms.default,)), ("fallback", terms.fallback)):
        for name in names:
            if name not in registry.approvers:
                hint = did_you_mean(name, registry.approvers) or f"there are {', '.join(sorted(registry.approvers))}"
                place: DataPath = ("config", "approvals", key)
                yield source.diagnostic(
                    "unknown_approver", f"no approver named {name!r} is installed", place, hint=hint
                )


def scheme_of(address: str) -> str:
    """The part of a store's address that names its kind: `memory`, `redis`."""
    return address.partition("://")[0].partition(":")[0].lower()


def audience_missing(source: Source) -> Diagnostic:
    """The diagnostic for a store that is kept or shared without `audience`."""
    return source.diagnostic(
        "audience_missing",
        "a store that is kept or shared needs config.audience, which names this server in its keys",
        _STORE,
        hint="write  audience: NAME  under config",
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _contributions(registry: Registry) -> Iterable[tuple[str, Provided[Any]]]:
    for table in (registry.enforcers, registry.stores, registry.sinks, registry.approvers, registry.key_sources):
        yield from table.items()


def _conflicts(registry: Registry, source: Source) -> Iterable[Diagnostic]:
    seen: dict[str, type[BaseModel]] = {}
    for name, provided in _contributions(registry):
        model = provided.contribution.settings
        if model is None:
            continue
        section = section_name(provided.plugin, name)
        if seen.setdefault(section, model) is not model:
            yield source.diagnostic(
                "plugin_invalid",
                f"plugin {provided.plugin.name!r} ({provided.plugin.distribution}) has two settings models",
                ("plugins",),
                key=True,
            )


def _validated(
    model: type[BaseModel],
    data: Any,
    source: Source,
    path: DataPath,
    problems: list[Diagnostic],
    *,
    named: bool = True,
) -> Any:
    """The section as its model. One that the file leaves out is the model's defaults, or None if it has none."""
    if data is not None and not isinstance(data, Mapping):
        problems.append(source.diagnostic("bad_value", f"{path[-1]} is a mapping", path))
        return None
    try:
        return model.model_validate(dict(data or {}))
    except ValidationError as error:
        if named:
            problems += validation_diagnostics(error, model, source, path)
    except Exception as error:  # a plugin's own validator may raise anything; its text may hold a secret
        problems.append(source.diagnostic("plugin_invalid", f"{path[-1]}: {type(error).__name__} in its model", path))
    return None


def _unknown_section(source: Source, name: str, models: Mapping[str, Any], registry: Registry) -> Diagnostic:
    loaded = {provided.plugin.name for _, provided in _contributions(registry)}
    known = (*models, "allow", "disable", "require", "files")
    message = f"the plugin {name!r} takes no settings" if name in loaded else f"no loaded plugin named {name!r}"
    hint = did_you_mean(name, known) or "see  mcp-macaroon plugins list"
    return source.diagnostic("unknown_section", message, ("plugins", name), key=True, hint=hint)


def _by_contribution(registry: Registry, named: Mapping[str, Any]) -> Sections:
    def of(table: Mapping[str, Provided[Any]]) -> dict[str, Any]:
        return {
            name: named[section]
            for name, provided in table.items()
            if provided.contribution.settings is not None and (section := section_name(provided.plugin, name)) in named
        }

    return Sections(
        named=named,
        enforcers=of(registry.enforcers),
        sinks=of(registry.sinks),
        stores=of(registry.stores),
        approvers=of(registry.approvers),
        key_sources=of(registry.key_sources),
    )


def _shows(reference: Reference, scheme: str) -> bool:
    return reference.is_literal and scheme.isalnum() and len(scheme) <= 20
