"""Everything that the loaded plugins provide, by name, with the plugin it came from. It loads and judges nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar

from ..errors import Diagnostic
from ..plugin.contract import ApproverType, AuditSinkType, Contribution, EnforcerType, KeySourceType, StoreType
from ..plugin.decorators import place_of

T = TypeVar("T", bound=Contribution)

KINDS: Final[Mapping[str, type[Contribution]]] = {
    "enforcer": EnforcerType,
    "store": StoreType,
    "sink": AuditSinkType,
    "approver": ApproverType,
    "key source": KeySourceType,
}

Status = Literal["loaded", "disabled", "not allowed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """One plugin: where it comes from, what it provides, whether it is loaded, and why not.

    `distribution` and `version` are empty for application code and for files; `editable_path` is the folder of an
    editable installation, or the file itself. `provides` names contributions as `enforcer NAME`, `store SCHEME`,
    `sink NAME`, `approver NAME`, `key source SCHEME`.
    """

    name: str
    distribution: str = ""
    version: str = ""
    editable_path: Path | None = None
    module: str = ""
    provides: tuple[str, ...] = ()
    status: Status = "loaded"
    why: str = ""

    @property
    def origin(self) -> str:
        """How a message names the plugin: its distribution and version, its file, or the application."""
        if self.distribution:
            return f"{self.distribution} {self.version}".rstrip()
        return str(self.editable_path) if self.editable_path is not None else f"application code ({self.module})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provided(Generic[T]):
    """A contribution and the plugin that provides it."""

    contribution: T
    plugin: PluginInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What rules and the file can name. Of two contributions with one name neither is here."""

    enforcers: Mapping[str, Provided[EnforcerType]] = field(default_factory=dict)
    stores: Mapping[str, Provided[StoreType]] = field(default_factory=dict)
    sinks: Mapping[str, Provided[AuditSinkType]] = field(default_factory=dict)
    approvers: Mapping[str, Provided[ApproverType]] = field(default_factory=dict)
    key_sources: Mapping[str, Provided[KeySourceType]] = field(default_factory=dict)

    def enforcer(self, name: str) -> EnforcerType | None:
        """The enforcer that rules call `name`, or None."""
        found = self.enforcers.get(name)
        return found.contribution if found is not None else None

    def suggest(self, name: str) -> str | None:
        """The policy whose name is nearest to `name`, or None where none is near."""
        return nearest(name, self.enforcers)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to `word`, or None where none is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return found[0] if found else None


def kind_of(contribution: Contribution) -> str:
    """What a contribution is: `enforcer`, `store`, `sink`, `approver` or `key source`."""
    return next(kind for kind, type_ in KINDS.items() if isinstance(contribution, type_))


def name_of(contribution: Contribution) -> str:
    """The name under which the file knows a contribution."""
    return contribution.scheme if isinstance(contribution, StoreType | KeySourceType) else contribution.name


def label_of(contribution: Contribution) -> str:
    """A contribution as lists show it: `enforcer working_hours`."""
    return f"{kind_of(contribution)} {name_of(contribution)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two contributions of one kind and name, and what to tell about them."""

    first: PluginInfo
    second: PluginInfo
    diagnostic: Diagnostic


def build_registry(given: Iterable[tuple[PluginInfo, Contribution]]) -> tuple[Registry, tuple[Conflict, ...]]:
    """Files contributions by kind and name. One name given twice is a conflict, and stays out."""
    tables: dict[str, dict[str, Provided[Any]]] = {kind: {} for kind in KINDS}
    conflicts: dict[tuple[str, str], list[Conflict]] = {}
    for plugin, contribution in given:
        kind, name = kind_of(contribution), name_of(contribution)
        here: Provided[Any] = Provided(contribution=contribution, plugin=plugin)
        first = tables[kind].setdefault(name, here)
        if first is not here and (first.contribution is not contribution or first.plugin is not plugin):
            conflicts.setdefault((kind, name), []).append(_conflict(kind, name, first, here))
    for kind, name in conflicts:
        del tables[kind][name]
    registry = Registry(
        enforcers=MappingProxyType(tables["enforcer"]),
        stores=MappingProxyType(tables["store"]),
        sinks=MappingProxyType(tables["sink"]),
        approvers=MappingProxyType(tables["approver"]),
        key_sources=MappingProxyType(tables["key source"]),
    )
    return registry, tuple(conflict for some in conflicts.values() for conflict in some)


def _conflict(kind: str, name: str, first: Provided[Any], second: Provided[Any]) -> Conflict:
    diagnostic = Diagnostic(
        code="plugin_conflict",
        message=f"two {kind}s named {name!r}: one from {_from(first)}, one from {_from(second)}",
        hint="rename one, or leave one of the plugins out with  plugins: {disable: [NAME]}",
    )
    return Conflict(first=first.plugin, second=second.plugin, diagnostic=diagnostic)


def _from(provided: Provided[Any]) -> str:
    plugin = provided.plugin
    place = place_of(getattr(provided.contribution, "check", None))
    return f"plugin {plugin.name!r} of {plugin.origin}" + (f", {place}" if place else "")
