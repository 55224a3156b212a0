"""What a guard covers and what it cannot: the report that a start prints. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from fastmcp.tools.base import Tool
from fastmcp.tools.tool_transform import TransformedTool

from ...model import Action, Kind, Phase
from ...rules import format_target, target_matches
from .compat import is_pure, is_remote, task_mode
from .resolve import counted

if TYPE_CHECKING:
    from .guard import Guard

SHOWN: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The guarded servers with their components, what is refused outright, what is not covered, and remarks."""

    revision: str
    default: str
    mode: str
    servers: tuple[str, ...]
    components: tuple[str, ...]
    refused: tuple[str, ...]
    uncovered: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for people, one fact a line."""
        by_kind = {
            kind: [name for known, _, name in (line.partition(" ") for line in self.components) if known == kind]
            for kind in ("tool", "prompt", "resource")
        }
        counted = ", ".join(f"{len(names)} {kind}s" for kind, names in by_kind.items() if names) or "no components"
        found = [f"guarded: {', '.join(self.servers)}: {counted}; default {self.default}, revision {self.revision}"]
        for kind, names in by_kind.items():
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                found.append(f"{kind}s: {', '.join(names[:SHOWN])}{more}")
        if self.mode != "enforce":
            found.append(f"mode: {self.mode}: rules are recorded, not enforced")
        for title, texts in (("refused", self.refused), ("not covered", self.uncovered), ("note", self.remarks)):
            found += [f"{title}: {text}" for text in texts]
        return found

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return "\n".join(self.lines())


def report_on(guard: Guard) -> Report:
    """The report of a bound guard."""
    settings = guard.engine.plan.settings
    return Report(
        revision=guard.runtime.revision,
        default=settings.default.value,
        mode=settings.mode,
        servers=tuple(server.name for server in guard.servers),
        components=tuple(
            f"{component.kind.value} {component.name}"
            for component in map(counted, guard.resolver.census.entries.values())
        ),
        refused=tuple(_refused(guard)),
        uncovered=tuple(_uncovered(guard)),
        remarks=tuple(_remarks(guard)),
    )


def _refused(guard: Guard) -> Iterable[str]:
    allowed = guard.engine.plan.settings.methods
    for server in guard.servers:
        methods = sorted({name for names in server._extension_methods.values() for name in names} - set(allowed))
        if methods:
            yield f"{server.name}: extension methods that config.methods does not name: {', '.join(methods)}"
    tasks = sorted(
        entry.key[1]
        for entry in guard.resolver.census.entries.values()
        if isinstance(entry.component, Tool) and _runs_as_task(entry.core)
    )
    if tasks:
        yield f"background tasks of {', '.join(tasks)}"


def _runs_as_task(component: Any) -> bool:
    return task_mode(component) != "forbidden"


def _uncovered(guard: Guard) -> Iterable[str]:
    for server in guard.servers:
        routes = [getattr(route, "path", "?") for route in server._additional_http_routes]
        if routes:
            yield f"{server.name}: custom HTTP routes: {', '.join(routes)}"
        if any(True for _ in server._injected_tools()):
            yield f"{server.name}: injected tools called from code without middleware"
        if server.instructions:
            yield f"{server.name}: the text of its instructions, which everybody reads"
    yield "functions that Python code calls directly"


def _remarks(guard: Guard) -> Iterable[str]:
    settings = guard.engine.plan.settings
    if settings.default is Action.ALLOW:
        yield "default is allow: every tool, prompt and resource that no rule restricts may be used by everybody"
    elif not any(check.may_grant and check.rule.target.kind in (None, Kind.RESOURCE) for check in _checks(guard)):
        yield "no rule allows a resource: none can be read"
    if guard.resolver.census.missing:
        yield f"components looked at on the first request: {', '.join(guard.resolver.census.missing)}"
    for server in guard.servers:
        if server._completion_handler is not None:
            yield f"{server.name}: completions follow the prompt or template that they complete"
        if any(is_remote(provider) for provider in server.providers):
            yield f"{server.name}: proxied tools get their arguments as the caller sent them"
    yield from _transforms(guard)
    yield from _globs(guard)


def _transforms(guard: Guard) -> Iterable[str]:
    for entry in guard.resolver.census.entries.values():
        component: Any = entry.component
        while isinstance(component, TransformedTool):
            if not is_pure(component):
                yield f"{entry.key[1]} computes its arguments: they are judged when it calls {entry.leaf}"
                break
            component = component.parent_tool


def _globs(guard: Guard) -> Iterable[str]:
    """Field rules whose glob reaches tools that return text without fields."""
    if guard.passes:
        return
    for check in _checks(guard):
        target = check.rule.target
        if check.rule.phase is not Phase.AFTER or not (target.is_glob or target.kind is None):
            continue
        names = sorted(
            entry.key[1]
            for entry in guard.resolver.census.entries.values()
            if _is_plain(entry.component) and target_matches(target, counted(entry))
        )
        if names:
            text = f"{format_target(target)} {check.rule.policy}"
            yield f"{text}: results without fields are withheld: {', '.join(names)}"


def _is_plain(component: Any) -> bool:
    """Whether a tool says that it returns a text, which has no fields."""
    schema = component.output_schema if isinstance(component, Tool) else None
    inner = (schema or {}).get("properties", {}).get("result", {})
    return bool(schema and schema.get("x-fastmcp-wrap-result") and inner.get("type") == "string")


def _checks(guard: Guard) -> Iterable[Any]:
    return guard.engine.plan.book.checks
