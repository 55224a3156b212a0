"""Looks at rules that can be read and bound, and says what their author may not have meant. It changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ..core.index import TargetIndex
from ..errors import Diagnostic
from ..model import Action, Component, Kind, Rule
from ..rules import glob_matches
from .places import DataPath, Source
from .policies import PlacedRule
from .settings import ConfigSettings

if TYPE_CHECKING:
    from ..host.registry import Registry

_REFERENCE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
COMPARISONS: Final = 1_000_000
_APPROVALS: Final = ("approver", "scopes", "expiry", "secret", "four_eyes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of a file with what is needed to judge them."""

    source: Source
    placed: Sequence[PlacedRule]
    registry: Registry
    config: ConfigSettings

    def of(
        self, placed: PlacedRule, code: str, message: str, *, hint: str = "", severity: str = "warning"
    ) -> Diagnostic:
        """A diagnostic at a rule."""
        return self.source.diagnostic(code, message, placed.path, hint=hint, severity=severity)

    def grants(self, rule: Rule) -> bool:
        """Whether the rule's enforcer can let a component through."""
        provided = self.registry.enforcers.get(rule.policy)
        return provided is not None and provided.contribution.grants


def advise(rules: Rules) -> Iterator[Diagnostic]:
    """Everything to be said, as warnings; a rule that can never match is an error."""
    yield from _never_matching(rules)
    yield from _ended(rules)
    yield from _allowing_everything(rules)
    yield from _contradicting(rules)
    yield from _granting_nothing(rules)
    yield from _asking(rules)
    yield from _apart(rules)
    yield from _references(rules)


def _never_matching(rules: Rules) -> Iterable[Diagnostic]:
    """Rules for methods that `config.methods` does not name, and rules for nobody (THREATS L04)."""
    for placed in rules.placed:
        rule = placed.rule
        target = rule.target
        if target.kind is Kind.METHOD and not any(glob_matches(target.pattern, name) for name in rules.config.methods):
            yield rules.of(
                placed,
                "never_matches",
                f"config.methods names no method {target.pattern!r}",
                hint=f"write  methods: [{target.pattern}]  under config" if not target.is_glob else "",
                severity="error",
            )
        if rule.for_ is not None and rule.for_ == rule.except_:
            yield rules.of(placed, "never_matches", "for and except name the same principals", severity="error")


def _apart(rules: Rules) -> Iterable[Diagnostic]:
    """Rules for four eyes whose approver names people by another authority than the file says callers are named by."""
    for placed in rules.placed:
        name = placed.rule.approver or rules.config.approvals.default
        provided = rules.registry.approvers.get(name) if placed.rule.four_eyes else None
        authority = provided.contribution.authority if provided is not None else None
        identity = rules.config.identity
        if authority is None or authority in identity.same_as or authority == identity.token_namespace:
            continue
        yield rules.of(
            placed,
            "four_eyes_apart",
            f"{name} names people by {authority!r}; only callers who are named by it too can be told from them",
            hint=f"write  identity: {{same_as: {{{authority}: ISSUER}}}}  under config, with your callers' issuer",
        )


def _ended(rules: Rules) -> Iterable[Diagnostic]:
    now = datetime.now(UTC)
    for placed in rules.placed:
        if placed.rule.expires is not None and placed.rule.expires <= now:
            yield rules.of(placed, "rule_ended", "this rule has ended", hint="remove it, or give it a later time<")


def _allowing_everything(rules: Rules) -> Iterable[Diagnostic]:
    for placed in rules.placed:
        rule = placed.rule
        everything = rule.target.pattern == "*" and rule.target.kind in (None, Kind.TOOL)
        if everything and rule.action is Action.ALLOW and rules.grants(rule) and rule.for_ is None:
            what = "every tool" if rule.target.kind is Kind.TOOL else "everything"
            yield rules.of(placed, "allows_everything", f"this rule allows {what}", hint="name what may be used")


def _contradicting(rules: Rules) -> Iterable[Diagnostic]:
    """Allowing rules that a deny covers altogether, so that they can never count: deny wins (THREATS L09)."""
    denials = _denials(rules)
    index = TargetIndex(placed.rule.target for placed in denials)
    everything = [p for p in denials if p.rule.target.kind is None]
    for placed in rules.placed:
        rule = placed.rule
        if rule.action not in (Action.ALLOW, Action.ELICIT):
            continue
        covering = everything if rule.target.kind is None else [denials[n] for n in index.matches(_as_component(rule))]
        against = next((other for other in covering if _opposes(rules, other.rule, rule)), None)
        if against is not None:
            where = f"the rule in line {against.rule.place.line}" if against.rule.place.line else "another rule"
            yield rules.of(placed, "contradiction", f"{where} denies this, and deny wins: {against.rule.text}")


def _denials(rules: Rules) -> list[PlacedRule]:
    """The rules that deny always. Globs without a literal end cost a look each: of very many, none is compared."""
    found = [p for p in rules.placed if p.rule.action is Action.DENY and not _is_limited(p.rule)]
    loose = [p for p in found if p.rule.target.pattern.startswith("*") and p.rule.target.pattern.endswith("*")]
    if len(loose) * len(rules.placed) <= COMPARISONS:
        return found
    ignored = {id(placed) for placed in loose}
    return [placed for placed in found if id(placed) not in ignored]


def _opposes(rules: Rules, denial: Rule, rule: Rule) -> bool:
    if (denial.phase, denial.policy) != (rule.phase, rule.policy):
        return False
    return (rules.grants(rule) and not denial.params) or _params(denial) == _params(rule)


def _params(rule: Rule) -> Any:
    return dict(rule.params) if isinstance(rule.params, Mapping) else tuple(rule.params)


def _is_limited(rule: Rule) -> bool:
    return rule.for_ is not None or rule.except_ is not None or rule.expires is not None


def _as_component(rule: Rule) -> Component:
    """A component that bears the rule's pattern as its name: a glob that matches it matches all that the rule does."""
    return Component(kind=rule.target.kind or Kind.TOOL, name=rule.target.pattern)


def _granting_nothing(rules: Rules) -> Iterable[Diagnostic]:
    """Said only where every rule could be read: else a rule that would allow may be the one that is wrong."""
    policies = rules.source.get(("policies",))
    whole = isinstance(policies, list) and len(policies) == len(rules.placed)
    if rules.config.default != "deny" or not whole:
        return
    if all(p.rule.action is Action.DENY or (_known(rules, p.rule) and not rules.grants(p.rule)) for p in rules.placed):
        yield rules.source.diagnostic(
            "nothing_allowed",
            "no rule allows anything, so everything is refused",
            ("policies",),
            key=True,
            hint='allow what is needed, as in  "bf:read_*:tool_access:allow"',
            severity="warning",
        )


def _known(rules: Rules, rule: Rule) -> bool:
    return rule.policy in rules.registry.enforcers


def _asking(rules: Rules) -> Iterable[Diagnostic]:
    """Keys of approvals on rules that never ask: they would be read and mean nothing."""
    for placed in rules.placed:
        value = rules.source.get(placed.path)
        provided = rules.registry.enforcers.get(placed.rule.policy)
        if placed.rule.action is Action.ELICIT or provided is None or not isinstance(value, Mapping):
            continue
        for key in _APPROVALS:
            if key in value:
                yield rules.source.diagnostic(
                    "never_asks",
                    f"{key} has no effect on a rule that does not ask",
                    (*placed.path, key),
                    key=True,
                    hint="write  action: elicit  to ask",
                    severity="warning",
                )


def _references(rules: Rules) -> Iterable[Diagnostic]:
    for placed in rules.placed:
        for path, text in _texts(rules.source.get(placed.path), placed.path):
            if _REFERENCE.search(text):
                yield rules.source.diagnostic(
                    "not_a_reference",
                    "references are not read in policies; this is the text itself",
                    path,
                    severity="warning",
                )


def _texts(value: Any, path: DataPath) -> Iterator[tuple[DataPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))
