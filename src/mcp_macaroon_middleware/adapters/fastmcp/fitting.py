"""Holds the rules against the components: a literal target that nothing bears is an error, with near names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from fastmcp import FastMCP
from fastmcp.resources.template import ResourceTemplate, match_uri_template

from ...core.binding import BoundCheck
from ...core.plan import Plan
from ...errors import Diagnostic
from ...model import Component, Kind
from ...rules import format_target, target_matches
from .census import Census, Entry
from .resolve import counted


def misfits(plan: Plan, census: Census, *, guarded: FastMCP[Any]) -> list[Diagnostic]:
    """One diagnostic for each rule whose literal target no component bears, at the rule's place."""
    components = [(entry, counted(entry)) for entry in census.entries.values()]
    return [
        _misfit(check, [component for _, component in components], guarded)
        for check in plan.book.checks
        if _is_literal(check) and not any(_fits(check, entry, component) for entry, component in components)
    ]


def _is_literal(check: BoundCheck) -> bool:
    target = check.rule.target
    return target.kind not in (None, Kind.METHOD) and not target.is_glob and not check.rule.dynamic


def _fits(check: BoundCheck, entry: Entry, component: Component) -> bool:
    target = check.rule.target
    if target_matches(target, component, granting=check.grants_only):
        return True
    if target.kind is not Kind.RESOURCE or not isinstance(entry.component, ResourceTemplate):
        return False
    names = (component.name,) if check.grants_only else component.names
    return any(match_uri_template(target.pattern, name) is not None for name in names)


def _misfit(check: BoundCheck, components: Sequence[Component], guarded: FastMCP[Any]) -> Diagnostic:
    rule = check.rule
    same = [component for component in components if component.kind is rule.target.kind]
    inner = [component.name for component in same if target_matches(rule.target, component)]
    if inner:
        hint = f"a rule that grants must use the public name: {', '.join(map(repr, inner))}"
    else:
        hint = _near(rule.target.pattern, {name for c in same for name in (c.name, *c.names)})
    return Diagnostic(
        code="target_unknown",
        message=f"no component of {guarded.name!r} is called {format_target(rule.target)!r}",
        file=rule.place.file,
        line=rule.place.line,
        column=rule.place.column,
        hint=hint,
    )


def _near(pattern: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.5)
    known = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    return known + "If it appears later, use the long form with  dynamic: true"
