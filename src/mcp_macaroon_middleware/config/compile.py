"""Compiles a policy file into a `Plan`, or into everything that is wrong with it, at once. It opens nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.binding import PlanSettings, RuleProblem
from ..core.plan import Plan, compile_plan
from ..errors import Diagnostic, RuleError
from ..host.discovery import Discovery, DiscoveryOptions, discover
from ..host.registry import Registry
from ..model import Rule
from ..plugin.contract import StoreType
from .advice import Rules, advise
from .counting import apart
from .places import DataPath, Source
from .policies import PROVIDERS, PlacedRule, problem_diagnostic, read_rules
from .sections import (
    Sections,
    SinkPlan,
    approver_names,
    approver_problems,
    read_audit,
    read_sections,
    section_name,
    store_kind,
)
from .settings import FileSettings, read_settings
from .source import read_source, source_of

REVISION_CHARACTERS: Final = 16
ELSEWHERE: Final = (
    "install the plugin that provides it (see  mcp-macaroon plugins list), or define it with @policy_enforcer before "
    "the file is loaded (then check it with  --server)"
)
_USERINFO: Final = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A policy file, read and bound. `plan` is None where an error stands among the diagnostics."""

    source: Source
    settings: FileSettings
    rules: tuple[Rule, ...]
    plan: Plan | None
    discovery: Discovery
    sections: Sections
    audit: tuple[SinkPlan, ...]
    store: StoreType | None
    revision: str
    diagnostics: tuple[Diagnostic, ...]

    @property
    def registry(self) -> Registry:
        """Everything that the loaded plugins contribute."""
        return self.discovery.registry

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that keep the file from being used."""
        return tuple(d for d in self.diagnostics if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that do not."""
        return tuple(d for d in self.diagnostics if d.severity != "error")


def compile_file(
    config: str | Path | Mapping[str, Any], *, application: Sequence[object] = (), discovery: Discovery | None = None
) -> Compiled:
    """Compiles a policy file, or the same as a mapping. With `discovery` no plugin is looked for again.

    Raises `ConfigError` only where the file cannot be read as data at all; all else stands in `diagnostics`.
    """
    source = source_of(config) if isinstance(config, Mapping) else read_source(config)
    return compile_source(source, application=application, discovery=discovery)


def compile_source(
    source: Source, *, application: Sequence[object] = (), discovery: Discovery | None = None
) -> Compiled:
    """Compiles what has been read already."""
    settings, problems = read_settings(source)
    found = discovery or discover(_options(source, settings, problems), application=application)
    sections, section_problems = read_sections(source, settings, found.registry)
    audit, audit_problems = read_audit(source, settings, found.registry)
    store, store_problems = store_kind(source, settings, found.registry)
    placed, rule_problems = read_rules(source)
    revision = revision_of(source.data)
    plan, plan_problems = _bind(
        source, settings, placed, found, sections, revision, quiet=_follow_ups(source, problems, found)
    )
    rules = Rules(source=source, placed=placed, registry=found.registry, config=settings.config)
    everything = (
        *source.problems,
        *problems,
        *found.problems,
        *section_problems,
        *audit_problems,
        *store_problems,
        *approver_problems(source, settings, found.registry),
        *rule_problems,
        *plan_problems,
        *_unset(source, settings, placed, found.registry, sections, audit, store),
        *apart(source, placed, plan, store),
        *advise(rules),
    )
    diagnostics = _ordered(everything)
    return Compiled(
        source=source,
        settings=settings,
        rules=tuple(p.rule for p in placed),
        plan=plan if all(d.severity != "error" for d in diagnostics) else None,
        discovery=found,
        sections=sections,
        audit=tuple(audit),
        store=store,
        revision=revision,
        diagnostics=diagnostics,
    )


def revision_of(data: Any) -> str:
    """A digest of the configuration's content: equal for equal content, and made without its secrets."""
    text = json.dumps(_without_secrets(data), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:REVISION_CHARACTERS]


def plan_settings(settings: FileSettings) -> PlanSettings:
    """What the engine needs of `config:`."""
    config = settings.config
    try:
        roles = config.selectors()
    except RuleError:
        roles = {}  # told already
    return PlanSettings(
        default=config.default_action,
        mode=config.mode,
        hide_denied=config.hide_denied,
        roles=roles,
        methods=frozenset(config.methods),
        audience=config.audience,
        elicit_expiry=config.elicit_expiry,
        deny_expiry=config.deny_expiry,
        approvals=config.approvals.terms(),
        clear_arguments=frozenset(config.clear_arguments),
        same_as=dict(config.identity.same_as),
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _options(source: Source, settings: FileSettings, problems: Sequence[Diagnostic]) -> DiscoveryOptions:
    """What discovery may load. Where `plugins:` has a fault, that is nothing but the built-ins."""
    own = settings.plugins
    if _plugins_wrong(source, problems):
        return DiscoveryOptions(allow=(), disable=(), require=(), files=())
    return DiscoveryOptions(
        allow=own.allow,
        disable=own.disable,
        require=own.require,
        files=tuple(source.base / name for name in own.files),
    )


def _plugins_wrong(source: Source, problems: Iterable[Diagnostic]) -> bool:
    return source.get(("plugins",)) is not None and _wrong_under(source, ("plugins",), problems)


def _wrong_under(source: Source, path: DataPath, problems: Iterable[Diagnostic]) -> bool:
    """Whether an error was found in a part of the file; where lines are not known, whether there is any error."""
    first, last = source.spot(path, key=True), source.spot(path)
    if first is None or last is None:
        return any(d.severity == "error" for d in problems)
    lines = range(first.line, max(first.line, last.end_line) + 1)
    return any(d.severity == "error" and d.line in lines for d in (*problems, *source.problems))


def _follow_ups(source: Source, problems: Sequence[Diagnostic], found: Discovery) -> frozenset[str]:
    """Codes that would only follow from other faults: what a plugin or role that is not there would have been."""
    codes = set()
    if any(d.severity == "error" for d in found.problems) or _plugins_wrong(source, problems):
        codes.add("unknown_policy")
    if source.get(("config", "roles")) is not None and _wrong_under(source, ("config", "roles"), problems):
        codes.add("unknown_role")
    return frozenset(codes)


def _bind(
    source: Source,
    settings: FileSettings,
    placed: Sequence[PlacedRule],
    found: Discovery,
    sections: Sections,
    revision: str,
    *,
    quiet: frozenset[str],
) -> tuple[Plan, list[Diagnostic]]:
    plan, problems = compile_plan(
        [p.rule for p in placed], found.registry, plan_settings(settings), sections.enforcers, revision
    )
    where = {id(p.rule): p for p in placed}
    return plan, [
        problem_diagnostic(source, where[id(problem.rule)], problem, hint=_hint(problem, found))
        for problem in problems
        if problem.code not in quiet or (problem.code == "unknown_policy" and problem.rule.policy in PROVIDERS)
    ]


def _hint(problem: RuleProblem, found: Discovery) -> str:
    """Which distribution provides a policy that is not there, where that is known, or who else could."""
    if problem.code != "unknown_policy":
        return ""
    provider = PROVIDERS.get(problem.rule.policy)
    if provider is None:
        return "" if found.registry.suggest(problem.rule.policy) else ELSEWHERE
    for plugin in found.plugins:
        if (plugin.distribution or "").lower().replace("_", "-") == provider and plugin.status != "loaded":
            return f"{provider} provides it; it is installed, but {plugin.status}" + (
                f": {plugin.why}" if plugin.why else ""
            )
    return f"{provider} provides it:  pip install {provider}"


def _unset(
    source: Source,
    settings: FileSettings,
    placed: Sequence[PlacedRule],
    registry: Registry,
    sections: Sections,
    audit: Sequence[SinkPlan],
    store: StoreType | None,
) -> Iterator[Diagnostic]:
    """Plugins in use whose section has no defaults and is not given."""
    used: list[tuple[str, Any, Mapping[str, Any]]] = []
    for policy in dict.fromkeys(p.rule.policy for p in placed):
        if (enforcer := registry.enforcers.get(policy)) is not None:
            used.append((policy, enforcer, sections.enforcers))
    used += [(sink.kind.name, registry.sinks[sink.kind.name], sections.sinks) for sink in audit]
    for name in approver_names(settings, [p.rule for p in placed]):
        if name in registry.approvers:
            used.append((name, registry.approvers[name], sections.approvers))
    if store is not None:
        used.append((store.scheme, registry.stores[store.scheme], sections.stores))
    told: set[str] = set()
    for name, provided, given in used:
        section = section_name(provided.plugin, name)
        missing = provided.contribution.settings is not None and name not in given
        if missing and section not in told and source.get(("plugins", section)) is None:
            told.add(section)
            message = f"{name} needs the section {section!r} under plugins"
            yield source.diagnostic("section_missing", message, ("plugins",), key=True)


def _ordered(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    return tuple(sorted(dict.fromkeys(diagnostics), key=lambda d: (d.line, d.column)))


def _without_secrets(data: Any) -> Any:
    if not isinstance(data, Mapping) or not isinstance(data.get("config"), Mapping):
        return data
    config = dict(data["config"])
    if isinstance(config.get("secret_key"), str) and not config["secret_key"].startswith("${"):
        del config["secret_key"]
    if isinstance(config.get("store"), str):
        config["store"] = _USERINFO.sub("://", config["store"])
    return {**data, "config": config}
