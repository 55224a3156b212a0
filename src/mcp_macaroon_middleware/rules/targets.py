"""Which components a rule speaks of: targets and globs. It never backtracks."""

from __future__ import annotations

from typing import Final

from ..errors import RuleError
from ..model import Component, Kind, Target
from .names import folded, normal_uri, without_query
from .parts import escape

_KIND_PREFIX: Final = {f"{kind}=": kind for kind in Kind}


def parse_target(text: str) -> Target:
    """Reads a target: a tool name or glob, `tool=…`, `prompt=…`, `resource=…`, `method=…`, or `*` for everything."""
    if text == "*":
        return Target(kind=None, pattern="*")
    for prefix, kind in _KIND_PREFIX.items():
        if text.startswith(prefix):
            if len(text) == len(prefix):
                raise RuleError(f"{prefix} needs a name", length=len(text))
            return Target(kind=kind, pattern=pattern_of(kind, text[len(prefix) :]))
    return Target(kind=Kind.TOOL, pattern=text)


def pattern_of(kind: Kind, text: str) -> str:
    """The pattern as it is compared: a resource's URI in its one spelling."""
    return normal_uri(text) if kind is Kind.RESOURCE else text


def format_target(target: Target) -> str:
    """The target as a rule writes it, escaped."""
    if target.kind is None:
        return "*"
    bare = target.kind is Kind.TOOL and target.pattern != "*" and not target.pattern.startswith(tuple(_KIND_PREFIX))
    return escape(target.pattern if bare else f"{target.kind}={target.pattern}")


def glob_matches(pattern: str, text: str) -> bool:
    """Whether `text` fits `pattern`, where `*` stands for any run of characters and nothing else is special.

    Never backtracks: the work is at most the pattern's stars times the text's length.
    """
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def target_matches(target: Target, component: Component, *, granting: bool = False) -> bool:
    """Whether a rule with this target speaks of the component.

    A restricting rule matches any name in the component's chain, of an address any spelling that could be the same; a
    granting one the public name (or URI) as it runs, alone.
    """
    if target.kind is None:
        return True
    if target.kind is not component.kind:
        return False
    if any(glob_matches(target.pattern, name) for name in names_of(component, granting=granting)):
        return True
    if granting or not is_address(component):
        return False
    pattern = folded(target.pattern)
    return any(glob_matches(pattern, name) for name in folded_names(component))


def names_of(component: Component, *, granting: bool) -> tuple[str, ...]:
    """The names that a target is compared with."""
    exposed = (component.name,) if component.uri is None else (component.name, component.uri)
    return exposed if granting else exposed + component.names


def is_address(component: Component) -> bool:
    """Whether callers name the component by an address, which has spellings: a resource, or a web route."""
    return component.kind is Kind.RESOURCE or component.uri is not None


def folded_names(component: Component) -> set[str]:
    """Every name of a component whose names are addresses, folded, with its query and without."""
    names = set(names_of(component, granting=False))
    return {folded(name) for name in names | {without_query(name) for name in names}}
