"""The compiled policy: an immutable `Plan` of rules bound to their enforcers, looked up by phase and component.

A plan is made once, off the request path, and replaced as a whole. It judges nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ..model import Component, Edit, Phase, Redaction, Rule, Verdict
from ..rules import is_address, target_matches
from .binding import (
    BoundCheck,
    PlanSettings,
    RuleProblem,
    bind_rule,
)
from .crowd import Crowd
from .index import TargetIndex
from .tally import Tally

if TYPE_CHECKING:
    from ..host.registry import Registry


MEMO: Final = 4096
NO_CROWD: Final[Crowd[Match]] = Crowd()


@dataclass(slots=True, kw_only=True, eq=False)
class Match:
    """A rule that speaks of a component; `exposed` says whether it does so by the public name.

    `exact` says whether it names what runs; else it names another spelling, which could be the same: it restricts all
    the same, and its `except` frees nobody.
    `verdict` keeps a constant check's verdict, once it was judged.
    """

    check: BoundCheck
    exposed: bool
    exact: bool = True
    verdict: Verdict | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Matches:
    """The rules that speak of one component in one phase, by when they can be judged.

    `folded` are constant and unconditional; `summary` keeps what they come to, once they were judged. `open` are those
    that must be judged anew for every request, `free` and then `arguments`; `hiding` those of them that hide things.
    """

    folded: tuple[Match, ...] = ()
    free: Crowd[Match] = NO_CROWD
    arguments: Crowd[Match] = NO_CROWD
    open: Crowd[Match] = NO_CROWD
    hiding: Crowd[Match] = NO_CROWD
    summary: Tally | None = None

    @property
    def all(self) -> tuple[Match, ...]:
        """Every match."""
        return self.folded + self.open


class Rulebook:
    """Bound checks with an index and a bounded memo by component. The plan has one; every token has its own."""

    def __init__(self, checks: Sequence[BoundCheck]) -> None:
        self.checks: tuple[BoundCheck, ...] = tuple(checks)
        self._by_phase = {phase: tuple(c for c in checks if c.rule.phase is phase) for phase in Phase}
        self._index = {phase: TargetIndex(c.rule.target for c in self._by_phase[phase]) for phase in Phase}
        self._memo: dict[tuple[Phase, Component], Matches] = {}

    def lookup(self, phase: Phase, component: Component) -> Matches:
        """The rules that speak of `component`. Concrete URIs of templates are not remembered: callers choose them."""
        if component.uri is not None:
            return self._find(phase, component)
        key = (phase, component)
        found = self._memo.get(key)
        if found is None:
            found = self._find(phase, component)
            if len(self._memo) >= MEMO:
                self._memo.clear()
            self._memo[key] = found
        return found

    def _find(self, phase: Phase, component: Component) -> Matches:
        checks = self._by_phase[phase]
        if not checks:
            return NO_MATCHES
        index = self._index[phase]
        exact = index.matches(component)
        numbers = sorted({*exact, *index.resembling(component)}) if is_address(component) else exact
        named = frozenset(exact)
        matches = [
            Match(
                check=checks[number],
                exposed=target_matches(checks[number].rule.target, component, granting=True),
                exact=number in named,
            )
            for number in numbers
        ]
        matches = [match for match in matches if match.exposed or not match.check.grants_only]
        free = Crowd(m for m in matches if not _folds(m.check) and not m.check.reads_arguments)
        arguments = Crowd(m for m in matches if not _folds(m.check) and m.check.reads_arguments)
        whole = Crowd((*free, *arguments)) if free and arguments else free or arguments
        return Matches(
            folded=tuple(m for m in matches if _folds(m.check)),
            free=free,
            arguments=arguments,
            open=whole,
            hiding=Crowd(m for m in whole if m.check.enforcer.hides),
        )


def _folds(check: BoundCheck) -> bool:
    return check.constant and not check.conditional


NO_MATCHES: Final = Matches()


class Plan:
    """An immutable compiled policy: settings, revision and the operator's rulebook."""

    __slots__ = ("_registry", "_sections", "book", "revision", "settings")

    def __init__(
        self,
        book: Rulebook,
        settings: PlanSettings,
        revision: str,
        registry: Registry,
        sections: Mapping[str, Any],
    ) -> None:
        self.book = book
        self.settings = settings
        self.revision = revision
        self._registry = registry
        self._sections = sections

    def __repr__(self) -> str:
        return f"Plan(revision={self.revision!r}, rules={len(self.book.checks)})"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The operator's rules, in their order."""
        return tuple(check.rule for check in self.book.checks)

    def bind(self, rule: Rule, *, from_token: bool = False, scope: tuple[str, ...] = ()) -> BoundCheck | RuleProblem:
        """Binds one more rule, from a token or from an enforcer's answer, as the plan's own rules were bound."""
        return bind_rule(rule, self._registry, self.settings, self._sections, from_token=from_token, scope=scope)


def compile_plan(
    rules: Sequence[Rule],
    registry: Registry,
    settings: PlanSettings,
    plugin_settings: Mapping[str, Any],
    revision: str,
) -> tuple[Plan, list[RuleProblem]]:
    """Binds every rule. With any problem of severity `error` the plan must not be used.

    `plugin_settings` are the plugins' validated sections, by the name of the enforcer that they belong to.
    """
    checks: dict[str, BoundCheck] = {}
    problems: list[RuleProblem] = []
    for rule in rules:
        bound = bind_rule(rule, registry, settings, plugin_settings)
        if isinstance(bound, RuleProblem):
            problems.append(bound)
        elif bound.view.digest in checks:
            problems.append(
                RuleProblem(rule=rule, code="duplicate_rule", message="the same rule stands above", severity="warning")
            )
        else:
            checks[bound.view.digest] = bound
    return Plan(Rulebook(list(checks.values())), settings, revision, registry, plugin_settings), problems


def still_holds(rule: Rule, at: datetime) -> bool:
    """Whether a rule with `time<` has not ended."""
    return rule.expires is None or at < rule.expires


def certain(matches: Sequence[Match]) -> Redaction:
    """What these after-checks withhold from every result, whatever it holds and whatever anybody answers."""
    constant = (match.check for match in matches if match.check.constant)
    return Redaction.united([edit for check in constant for edit in check.edits() or ()])


def possible(matches: Sequence[Match]) -> Redaction | None:
    """What these after-checks can withhold; None where one of them cannot tell."""
    edits: list[Edit] = []
    for match in matches:
        some = match.check.edits()
        if some is None:
            return None
        edits.extend(some)
    return Redaction.united(edits)
