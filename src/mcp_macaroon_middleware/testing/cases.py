"""A case of an enforcer, bound and judged as the engine would do it, without the engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from ..builtin.memory import MemoryStore
from ..core.binding import BoundCheck, PlanSettings, RuleProblem, bind_rule
from ..host.registry import PluginInfo, Provided, Registry
from ..model import Action, Component, Effect, Kind, Phase, Principal, RequestContext, Result, Rule, Verdict
from ..plugin.contract import Check, EnforcerType, Store
from ..rules import escape, parse_rule, rule_from_mapping
from .fakes import FixedClock

ALICE: Final = Principal(kind="user", namespace="https://idp.example", subject="alice")
TOOL: Final = Component(kind=Kind.TOOL, name="tool", names=("tool",), digest="d1")
WRITTEN: Final[Mapping[str, Effect]] = {"allow": Effect.ALLOW, "ask": Effect.ASK, "deny": Effect.DENY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to use an enforcer: the rule's params and a request, with the verdicts that are expected, if any.

    `params` are positional texts, a mapping (the long form), or one text, which is the end of the rule as it is
    written. `arguments`, `at` (ISO 8601) and `claims` make the request, or `request` gives it whole. `result` is what
    the component returned, for the phase after the call. `settings` is the plugin's section. `actions` are those that
    these params fit; all that the enforcer takes, unless given. `expect` maps actions to `allow`, `ask` or `deny`.
    """

    name: str = ""
    params: tuple[str, ...] | Mapping[str, Any] | str = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    at: str = "2026-01-05T12:00:00Z"
    claims: Mapping[str, Any] = field(default_factory=dict)
    request: RequestContext | None = None
    result: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    actions: Sequence[str] = ()
    expect: Mapping[str, str] = field(default_factory=dict)

    @property
    def instant(self) -> datetime:
        """`at` as an aware datetime in UTC."""
        return datetime.fromisoformat(self.at).astimezone(UTC)

    def context(self, arguments: Mapping[str, Any] | None = None) -> RequestContext:
        """The request, with other arguments where they are given."""
        if self.request is not None:
            return self.request if arguments is None else self.request.replace(arguments=arguments)
        return RequestContext(
            principal=ALICE,
            component=TOOL,
            arguments=self.arguments if arguments is None else arguments,
            claims=self.claims,
            at=self.instant,
            id="request",
        )

    def rule(self, enforcer: EnforcerType, phase: Phase, action: Action) -> Rule:
        """The operator's rule of this case. Raises `RuleError`."""
        if isinstance(self.params, Mapping):
            key = "before" if phase is Phase.BEFORE else "after"
            return rule_from_mapping(
                {key: "tool", "policy": enforcer.name, "action": action.value, "params": dict(self.params)}
            )
        end = [self.params] if isinstance(self.params, str) else [escape(param) for param in self.params]
        return parse_rule(":".join([phase.value, "tool", enforcer.name, action.value, *(part for part in end if part)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A case under one phase and action, bound."""

    case: Case
    enforcer: EnforcerType
    phase: Phase
    action: Action
    bound: BoundCheck

    def __str__(self) -> str:
        return f"{self.case.name or self.case.params} {self.phase}:{self.action}"

    def under(self, action: Action) -> Trial | None:
        """The same under another action; None where the enforcer does not take it here."""
        return trial(self.case, self.enforcer, self.phase, action)

    async def verdict(
        self,
        *,
        arguments: Mapping[str, Any] | None = None,
        request: RequestContext | None = None,
        result: Any = None,
        store: Store | None = None,
    ) -> Any:
        """What the enforcer answers, in its own time at most. Arguments reach only an enforcer that reads them."""
        context = request if request is not None else self.case.context(arguments)
        if not self.bound.reads_arguments and request is None:
            context = context.replace(arguments={})
        document = self.case.result if result is None else result
        check: Check[Any] = Check(
            request=context,
            rule=self.bound.view,
            params=self.bound.params,
            action=self.bound.judged,
            clock=FixedClock(context.at),
            store=store if store is not None else MemoryStore(),  # an empty store may be falsy
            result=Result.of(document) if self.phase is Phase.AFTER else None,
            settings=self.bound.settings,
        )
        return await asyncio.wait_for(self._answer(check), self.enforcer.timeout)

    async def _answer(self, check: Check[Any]) -> Any:
        answer: Any
        if self.enforcer.blocking:
            answer = await asyncio.to_thread(self.enforcer.check, check)
        else:
            answer = self.enforcer.check(check)
        return await answer if inspect.isawaitable(answer) else answer


def trial(
    case: Case, enforcer: EnforcerType, phase: Phase, action: Action, *, from_token: bool = False
) -> Trial | None:
    """Binds a case. None where the enforcer, or the case, does not take this phase or action; fails if it cannot."""
    if action not in enforcer.actions or phase not in enforcer.phases:
        return None
    if case.actions and action.value not in case.actions:
        return None
    if action is Action.ELICIT and phase is Phase.AFTER and enforcer.may_withhold is None:
        return None  # an error in a policy file: a question cannot stop a call that has run
    plugin = PluginInfo(name="suite")
    registry = Registry(enforcers={enforcer.name: Provided(contribution=enforcer, plugin=plugin)})
    sections = {enforcer.name: enforcer.settings.model_validate(case.settings)} if enforcer.settings else {}
    rule = case.rule(enforcer, phase, action)
    bound = bind_rule(rule, registry, PlanSettings(), sections, from_token=from_token, scope=("token",) * from_token)
    assert not isinstance(bound, RuleProblem), f"{rule.text}: {bound.message}"
    return Trial(case=case, enforcer=enforcer, phase=phase, action=action, bound=bound)


def trials(case: Case, enforcer: EnforcerType) -> Iterator[Trial]:
    """A case under every phase and action that it and the enforcer take."""
    for phase in Phase:
        for action in Action:
            bound = trial(case, enforcer, phase, action)
            if bound is not None:
                yield bound


def moved(case: Case, seconds: float) -> Case:
    """The same case at a later time."""
    later = datetime.fromtimestamp(case.instant.timestamp() + seconds, UTC)
    return replace(case, at=later.isoformat())


def effect_of(verdict: Any) -> Effect | None:
    """The verdict's effect; None for what is no verdict."""
    return verdict.effect if isinstance(verdict, Verdict) else None
