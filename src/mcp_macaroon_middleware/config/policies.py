"""Reads `policies:` into rules that know their place, and points every fault at the character that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..core.binding import RuleProblem
from ..errors import Diagnostic, RuleError
from ..model import Phase, Place, Rule
from ..rules import parse_rule, rule_from_mapping
from .places import DataPath, Source

_PART_OF: Final = {"wrong_phase": 0, "unknown_policy": 2, "wrong_action": 3, "asks_after": 3}
_KEY_OF: Final = {
    "unknown_policy": ("policy",),
    "wrong_action": ("action",),
    "asks_after": ("action",),
    "unknown_approver": ("approver",),
    "approver_knows_nobody": ("four_eyes",),
    "unknown_role": ("for", "except"),
}
PROVIDERS: Final[Mapping[str, str]] = {
    "working_hours": "mcp-macaroon-schedule",
    "time_window": "mcp-macaroon-schedule",
    "argument_allowlist": "mcp-macaroon-arguments",
    "argument_range": "mcp-macaroon-arguments",
    "path_allowlist": "mcp-macaroon-arguments",
    "path_whitelist": "mcp-macaroon-arguments",
    "repo_whitelist": "mcp-macaroon-arguments",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRule:
    """A rule with its path in the file."""

    rule: Rule
    path: DataPath


def read_rules(source: Source) -> tuple[list[PlacedRule], list[Diagnostic]]:
    """The rules that can be read, in their order, and what is wrong with the others."""
    placed: list[PlacedRule] = []
    problems: list[Diagnostic] = []
    policies = source.get(("policies",))
    for index, value in enumerate(policies if isinstance(policies, list) else ()):
        path: DataPath = ("policies", index)
        rule = _read(source, path, value, problems)
        if rule is not None:
            placed.append(PlacedRule(rule=rule, path=path))
    return placed, problems


def problem_diagnostic(source: Source, placed: PlacedRule, problem: RuleProblem, *, hint: str = "") -> Diagnostic:
    """What a plan says about a rule, at the part of the rule that is wrong."""
    text = source.get(placed.path)
    path, offset, length = placed.path, 0, None
    if isinstance(text, str):
        offset, length = _part(text, problem)
    elif isinstance(text, Mapping):
        path = (*path, *_place_in(text, problem))
    return source.diagnostic(
        problem.code,
        problem.message,
        path,
        offset=offset,
        length=length,
        hint=hint or problem.hint,
        severity=problem.severity,
    )


def _read(source: Source, path: DataPath, value: Any, problems: list[Diagnostic]) -> Rule | None:
    spot = source.spot(path)
    place = Place(file=source.file, line=spot.line if spot else 0, column=spot.column if spot else 0)
    try:
        if isinstance(value, str):
            return parse_rule(value, place=place)
        if isinstance(value, Mapping):
            return rule_from_mapping(value, place=place)
    except RuleError as error:
        problems.append(_rule_error(source, path, value, error))
        return None
    problems.append(source.diagnostic("rule_invalid", "a rule is a text or a mapping", path))
    return None


def _rule_error(source: Source, path: DataPath, value: Any, error: RuleError) -> Diagnostic:
    if isinstance(value, str):
        return source.diagnostic(
            error.code, str(error), path, offset=error.offset, length=error.length, hint=error.hint
        )
    inner, key = _guilty(value, str(error))
    hint = error.hint
    if key and re.match(r"(bf|af):", str(inner[-1])):
        hint = "a rule with ': ' in it needs quotes"
    return source.diagnostic(error.code, str(error), (*path, *inner), key=key, hint=hint)


def _guilty(mapping: Mapping[str, Any], message: str) -> tuple[DataPath, bool]:
    """The key or value of a long-form rule that a message speaks of; the whole rule where that cannot be told."""
    unknown = re.match(r"unknown key '(.+)' (?:in a rule|under (\w+))\Z", message)
    if unknown is not None:
        name, parent = unknown.groups()
        return ((parent, name) if parent else (name,)), True
    for name, value in mapping.items():
        if isinstance(value, str) and repr(value) in message:
            return (name,), False
        for index, item in enumerate(value if isinstance(value, list) else ()):
            if isinstance(item, str) and repr(item) in message:
                return (name, index), False
    found = [(match.start(), name) for name in mapping if (match := re.search(rf"\b{re.escape(name)}\b", message))]
    return ((min(found)[1],), False) if found else ((), False)


def _part(text: str, problem: RuleProblem) -> tuple[int, int | None]:
    """Offset and length of the part of a string-form rule that a problem is about; all of it where none is."""
    parts = parts_of(text)
    number = _PART_OF.get(problem.code)
    if problem.param_index is not None:
        number = 4 + problem.param_index
    if number is None:
        return 0, None
    start, end = parts[min(number, len(parts) - 1)]
    return start, end - start


def parts_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each part of a rule between its unescaped colons."""
    parts, start, index = [], 0, 0
    while index < len(text):
        if text[index] == ":":
            parts.append((start, index))
            start = index + 1
        index += 2 if text[index] == "\\" else 1
    return [*parts, (start, len(text))]


def _place_in(mapping: Mapping[str, Any], problem: RuleProblem) -> DataPath:
    keys: Sequence[str] = _KEY_OF.get(problem.code, ())
    if problem.code == "wrong_phase":
        keys = ("before" if problem.rule.phase is Phase.BEFORE else "after",)
    if problem.code == "bad_params" and "params" in mapping:
        return _param(mapping["params"], problem)
    return next(((key,) for key in keys if key in mapping), ())


def _param(params: Any, problem: RuleProblem) -> DataPath:
    if isinstance(params, list) and problem.param_index is not None and problem.param_index < len(params):
        return ("params", problem.param_index)
    if isinstance(params, Mapping):
        named = next((name for name in params if repr(name) in problem.message), None)
        return ("params", named) if named is not None else ("params",)
    return ("params",)
