"""Finds plugins, loads each in isolation, and says what is wrong with any of them; it never raises for one.

It alone walks the metadata of installed distributions. Where a problem of severity `error` is among the answers,
nothing may be served: whoever starts the server sees to that.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import importlib_metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..errors import Diagnostic
from ..plugin.contract import Contribution, EnforcerType
from ..plugin.decorators import NAME, application_enforcers, contribution_of, module_of
from .contributions import Gathered, belongs_to, gather
from .faults import cause, one_line
from .files import file_fault, load_file, module_name
from .registry import PluginInfo, Registry, build_registry, label_of
from .requirements import BUILTIN, OWN, unmet

__all__ = ["GROUP", "Discovery", "DiscoveryOptions", "PluginInfo", "discover"]

GROUP: Final = "mcp_macaroon_middleware"
APPLICATION: Final = "application"
RESERVED: Final = frozenset({"allow", "disable", "require", "files", APPLICATION})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryOptions:
    """What the file says under `plugins:`. `allow` names distributions; None allows every installed one.

    `disable` names plugins or distributions, `require` distributions with versions (`x>=1,<2`), `files` modules to load
    as plugins. The built-in plugin is always loaded.
    """

    allow: tuple[str, ...] | None = None
    disable: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Every plugin that was found, what is wrong with them, and what the loaded ones provide."""

    plugins: tuple[PluginInfo, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    registry: Registry = field(default_factory=Registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A plugin that may be loaded: what is known without importing it, and how it would be imported."""

    info: PluginInfo
    load: Callable[[], ModuleType]
    fault: str = ""

    @property
    def builtin(self) -> bool:
        return self.info.name == BUILTIN and canonicalize_name(self.info.distribution or OWN) == OWN


def discover(options: DiscoveryOptions | None = None, *, application: Sequence[object] = ()) -> Discovery:
    """Finds and loads plugins: installed distributions, `files`, and the application's own enforcers.

    `application` holds contributions, functions of `@policy_enforcer` or modules. Everything that is wrong stands in
    `problems`, and never stops the others from being found. Not raised for any plugin; only `KeyboardInterrupt` passes.
    """
    options = options or DiscoveryOptions()
    importlib.invalidate_caches()
    candidates, problems = _candidates(options)
    loaded: list[tuple[PluginInfo, Sequence[Contribution]]] = []
    for candidate in candidates:
        info, contributions, faults = _judge(candidate, options)
        problems += faults
        loaded.append((info, contributions))
    infos = [info for info, _ in loaded]
    problems += unmet(infos, allow=options.allow, disable=options.disable, require=options.require)
    own, faults = _application(application, loaded)
    problems += faults
    registry, conflicts = build_registry((info, each) for info, some in (*loaded, *own) for each in some)
    problems += [conflict.diagnostic for conflict in conflicts]
    failed = {id(plugin): c.diagnostic.message for c in reversed(conflicts) for plugin in (c.first, c.second)}
    plugins = (
        replace(info, status="failed", why=failed[id(info)]) if id(info) in failed and info.name != BUILTIN else info
        for info, _ in (*loaded, *own)
    )
    return Discovery(plugins=tuple(plugins), problems=tuple(dict.fromkeys(problems)), registry=registry)


def _judge(
    candidate: _Candidate, options: DiscoveryOptions
) -> tuple[PluginInfo, Sequence[Contribution], list[Diagnostic]]:
    """Loads a plugin, if it may be loaded; one with any fault contributes nothing."""
    info = candidate.info
    kept_out = None if candidate.builtin else _kept_out(info, options)
    if kept_out is not None:
        return kept_out, (), []
    faults = [candidate.fault] if candidate.fault else []
    gathered = Gathered(faults=faults) if faults else _loaded(candidate)
    if gathered.faults:
        failed = replace(info, status="failed", why="; ".join(gathered.faults))
        return failed, (), [_failure(info, fault) for fault in gathered.faults]
    return replace(info, provides=tuple(map(label_of, gathered.contributions))), gathered.contributions, []


def _kept_out(info: PluginInfo, options: DiscoveryOptions) -> PluginInfo | None:
    distribution = canonicalize_name(info.distribution)
    if info.name in options.disable or (distribution and distribution in map(canonicalize_name, options.disable)):
        return replace(info, status="disabled", why="plugins.disable names it")
    if options.allow is not None and distribution and distribution not in map(canonicalize_name, options.allow):
        return replace(info, status="not allowed", why="plugins.allow does not name its distribution")
    return None


def _loaded(candidate: _Candidate) -> Gathered:
    """Imports the plugin and takes what it contributes; whatever it does but Ctrl-C becomes a fault."""
    try:
        module = candidate.load()
        return gather(module, builtin=candidate.builtin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit included: a plugin cannot end the process, nor be skipped (M07)
        return Gathered(faults=[cause(error)])


def _failure(info: PluginInfo, fault: str) -> Diagnostic:
    entry = f" (entry point {info.name} = {info.module})" if info.distribution else ""
    return Diagnostic(
        code="plugin_failed",
        message=f"plugin {info.name!r} of {info.origin}{entry}: {fault}",
        hint=f"mend it, or leave it out with  plugins: {{disable: [{info.name}]}}" if info.distribution else "",
    )


# --- candidates -----------------------------------------------------------------------------------------------------


def _candidates(options: DiscoveryOptions) -> tuple[list[_Candidate], list[Diagnostic]]:
    """The built-in plugin, the installed ones by distribution and name, then files; names that clash are marked."""
    installed, problems = _installed()
    found = sorted(installed, key=lambda c: (not c.builtin, c.info.distribution, c.info.name))
    if not any(candidate.builtin for candidate in found):  # running from a tree that is not installed
        info = PluginInfo(name=BUILTIN, distribution=OWN, module="mcp_macaroon_middleware.builtin")
        found.insert(0, _Candidate(info=info, load=lambda: importlib.import_module(info.module)))
    found += [_file(path) for path in dict.fromkeys(Path(os.path.abspath(path)) for path in options.files)]
    live = [c for c in found if c.builtin or _kept_out(c.info, options) is None]
    return [_checked(candidate, live) for candidate in found], problems


def _checked(candidate: _Candidate, live: Sequence[_Candidate]) -> _Candidate:
    """The candidate, with a fault if its name cannot stand: a name is a section of the file and a part of the store."""
    name = candidate.info.name
    if candidate.builtin or candidate.fault:
        return candidate
    if name in RESERVED or not NAME.match(name):
        return replace(candidate, fault=f"{one_line(repr(name))} cannot be a plugin's name")
    same = [other for other in live if other.info.name == name]
    if len(same) > 1 and candidate in same:
        origins = " and ".join(other.info.origin for other in same)
        return replace(candidate, fault=f"two plugins are named {name!r}: {origins}")
    return candidate


def _installed() -> tuple[list[_Candidate], list[Diagnostic]]:
    """Plugins of installed distributions; of one that is on `sys.path` twice, the one that Python would import."""
    problems: list[Diagnostic] = []
    names: set[str] = set()
    for distribution in importlib_metadata.distributions():
        try:
            if GROUP in (distribution.read_text("entry_points.txt") or ""):
                names.add(canonicalize_name(distribution.metadata["Name"]))
        except Exception as error:
            where = getattr(distribution, "_path", "an installed distribution")
            problems.append(_unreadable(str(where), error))
    found: list[_Candidate] = []
    for name in sorted(names):
        try:
            found += _of_distribution(importlib_metadata.Distribution.from_name(name))
        except Exception as error:
            problems.append(_unreadable(name, error))
    return found, problems


def _unreadable(where: str, error: Exception) -> Diagnostic:
    message = f"the metadata of {one_line(where)} cannot be read: {cause(error)}"
    return Diagnostic(code="plugin_failed", message=message, hint="reinstall that distribution")


def _of_distribution(distribution: importlib_metadata.Distribution) -> Iterator[_Candidate]:
    fault = _wrong_version(distribution)
    for entry in distribution.entry_points.select(group=GROUP):
        info = PluginInfo(
            name=entry.name,
            distribution=str(distribution.metadata["Name"]),
            version=str(distribution.version),
            editable_path=_editable_path(distribution),
            module=entry.value.strip(),
        )
        one_module = all(part.isidentifier() for part in info.module.split("."))
        yield _Candidate(
            info=info,
            load=_importer(info.module),
            fault=fault or ("" if one_module else f"its entry point must name a module, not {one_line(info.module)!r}"),
        )


def _file(path: Path) -> _Candidate:
    info = PluginInfo(name=path.stem, editable_path=path, module=module_name(path))
    return _Candidate(info=info, load=lambda: load_file(path), fault=file_fault(path))


def _importer(module: str) -> Callable[[], ModuleType]:
    return lambda: importlib.import_module(module)


def _wrong_version(distribution: importlib_metadata.Distribution) -> str:
    """What the distribution needs of us and does not get, or nothing; installers warn of this and go on."""
    try:
        ours = Version(importlib_metadata.version(OWN))
    except (importlib_metadata.PackageNotFoundError, InvalidVersion):
        return ""
    for text in distribution.requires or ():
        need = Requirement(text)
        applies = need.marker is None or need.marker.evaluate()
        if canonicalize_name(need.name) == OWN and applies and not need.specifier.contains(ours, prereleases=True):
            return f"it needs {OWN}{need.specifier}, and this is {ours}"
    return ""


def _editable_path(distribution: importlib_metadata.Distribution) -> Path | None:
    """The folder of an editable installation. Source: PEP 610, direct_url.json."""
    try:
        direct: Any = json.loads(distribution.read_text("direct_url.json") or "null")
        if isinstance(direct, dict) and direct.get("dir_info", {}).get("editable"):
            return Path(url2pathname(urlsplit(str(direct["url"])).path))
    except (ValueError, KeyError, AttributeError):
        return None
    return None


# --- the application ------------------------------------------------------------------------------------------------


def _application(
    given: Sequence[object], loaded: Sequence[tuple[PluginInfo, Sequence[Contribution]]]
) -> tuple[list[tuple[PluginInfo, Sequence[Contribution]]], list[Diagnostic]]:
    """What the application itself contributes; functions written in a plugin's package are that plugin's."""
    gathered = Gathered()
    taken = {id(contribution) for _, some in loaded for contribution in some}
    for made in application_enforcers():
        if id(made) not in taken and not any(belongs_to(made, info.module) for info, _ in loaded):
            gathered.add(made, builtin=False)
    for item in given:
        _take(item, gathered)
    info = PluginInfo(
        name=APPLICATION,
        module=", ".join(dict.fromkeys(_homes(gathered.contributions))),
        provides=tuple(map(label_of, gathered.contributions)),
        status="failed" if gathered.faults else "loaded",
        why="; ".join(gathered.faults),
    )
    problems = [_failure(info, fault) for fault in gathered.faults]
    return ([(info, gathered.contributions)] if gathered.contributions or problems else []), problems


def _take(item: object, gathered: Gathered) -> None:
    made = item if isinstance(item, Contribution) else contribution_of(item)
    if made is not None:
        gathered.add(made, builtin=False)
    elif isinstance(item, ModuleType):
        found = gather(item)
        gathered.faults += found.faults
        for contribution in found.contributions:
            gathered.add(contribution, builtin=False)
    else:
        what = type(item).__name__
        gathered.faults.append(f"{what} is no contribution: an EnforcerType, a @policy_enforcer function or a module")


def _homes(contributions: Iterable[Contribution]) -> Iterator[str]:
    for contribution in contributions:
        yield module_of(contribution.check) if isinstance(contribution, EnforcerType) else "given"
