"""Binds rules to their enforcers: params, actions, phases, settings; or says why a rule cannot be bound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import ValidationError

from ..model import Action, Assurance, Edit, Phase, Rule, Selector
from ..plugin.contract import EnforcerType, Params, RuleView
from .deadline import now

if TYPE_CHECKING:
    from ..host.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalTerms:
    """How people are asked, where a rule does not say. `timeout` is in seconds.

    `fallback` are approvers for when the first one cannot be asked; none below it is taken. `end_with_token`: no
    approval outlives the credential of the request that it was given in.
    """

    default: str = "mcp"
    fallback: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("once", "period")
    max_pending: int = 20
    timeout: int = 120
    end_with_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What the engine needs of the file's `config:` section. `default` is ALLOW or DENY.

    `same_as` maps namespaces of approvers' people to those of callers that are named alike.
    """

    default: Action = Action.DENY
    mode: str = "enforce"
    hide_denied: bool = True
    roles: Mapping[str, Selector] = field(default_factory=dict)
    methods: frozenset[str] = frozenset()
    audience: str = ""
    elicit_expiry: int = 900
    deny_expiry: int = 60
    approvals: ApprovalTerms = ApprovalTerms()
    clear_arguments: frozenset[str] = frozenset()
    same_as: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleProblem:
    """Why a rule cannot be bound. `param_index` counts positional params from 0."""

    rule: Rule
    code: str
    message: str
    param_index: int | None = None
    hint: str = ""
    severity: str = "error"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundCheck:
    """One rule bound to its enforcer and its validated params. `judged` is the action that the enforcer sees.

    `reads_arguments` and `may_withhold` are what the enforcer says of these params, asked once: no request asks it.
    `space` is where in the store its state lies; `ends`, of a token's rule, when the last token that bears it does.
    """

    rule: Rule
    enforcer: EnforcerType
    params: Params
    view: RuleView
    judged: Action
    plugin: str = ""
    distribution: str = ""
    version: str = ""
    settings: Any = field(default=None, repr=False)
    from_token: bool = False
    scope: tuple[str, ...] = ()
    reads_arguments: bool = True
    may_withhold: Sequence[Edit] | None = None
    space: str = ""
    ends: datetime | None = None

    @property
    def counts(self) -> bool:
        """Whether its enforcer says that it keeps anything, or charges."""
        return self.enforcer.stateful or self.enforcer.counts_together is not None

    @property
    def grants_only(self) -> bool:
        """Whether the rule lets components through and restricts nothing."""
        return self.enforcer.grants and self.rule.action is Action.ALLOW

    @property
    def may_grant(self) -> bool:
        """Whether passing this rule counts under `default: deny`."""
        return self.enforcer.grants and self.rule.action is not Action.DENY

    @property
    def constant(self) -> bool:
        """Whether the verdict is the same for every request on one component; a question depends on the result."""
        return self.enforcer.constant and not (self.rule.phase is Phase.AFTER and self.rule.action is Action.ELICIT)

    @property
    def conditional(self) -> bool:
        """Whether it depends on the principal or the time that the rule applies at all."""
        return self.rule.for_ is not None or self.rule.except_ is not None or self.rule.expires is not None

    def edits(self) -> Sequence[Edit] | None:
        """Everything the check can ever withhold; None where it cannot tell."""
        return self.may_withhold


def bind_rule(
    rule: Rule,
    registry: Registry,
    settings: PlanSettings,
    plugin_settings: Mapping[str, Any],
    *,
    from_token: bool = False,
    scope: tuple[str, ...] = (),
) -> BoundCheck | RuleProblem:
    """Binds one rule to its enforcer, or says why that cannot be."""
    provided = registry.enforcers.get(rule.policy)
    if provided is None:
        near = registry.suggest(rule.policy)
        hint = f"did you mean {near!r}?" if near else "install the plugin that provides it; `mcp-macaroon plugins list`"
        return RuleProblem(rule=rule, code="unknown_policy", message=f"no policy named {rule.policy!r}", hint=hint)
    enforcer = provided.contribution
    problem = _misuse(rule, enforcer, settings, registry, from_token=from_token)
    if problem is not None:
        return problem
    judged = judged_action(rule.action, enforcer)
    try:
        params = bind_params(enforcer.params, rule)
    except ValidationError as error:
        return _params_problem(rule, enforcer, error)
    said = _said(enforcer, params, judged, rule)
    if isinstance(said, str):
        return RuleProblem(rule=rule, code="bad_params", message=f"{rule.policy}: {said}", param_index=0)
    reads_arguments, may_withhold = said
    section = plugin_settings.get(enforcer.name)
    return BoundCheck(
        rule=rule,
        enforcer=enforcer,
        params=params,
        view=_view(rule, enforcer, section, scope),
        judged=judged,
        plugin=provided.plugin.name,
        distribution=provided.plugin.distribution,
        version=provided.plugin.version,
        settings=section,
        from_token=from_token,
        scope=scope,
        reads_arguments=reads_arguments,
        may_withhold=may_withhold,
        space=f"plugin/{provided.plugin.name}",
    )


def _said(
    enforcer: EnforcerType, params: Params, judged: Action, rule: Rule
) -> tuple[bool, Sequence[Edit] | None] | str:
    """Whether these params look at the arguments and what they may withhold, as the enforcer says; or what is wrong
    with them, its own faults included.
    """
    validate, reads, withholds = enforcer.validate, enforcer.reads_arguments, enforcer.may_withhold
    try:
        wrong = now(lambda: validate(params, judged, rule.phase)) if validate is not None else None
        reading = now(lambda: reads(params)) if callable(reads) else reads
        edits = now(lambda: withholds(params, judged)) if withholds is not None else None
        if isinstance(wrong, str):
            return wrong
        if (
            wrong is not None
            or not isinstance(reading, bool)
            or not (edits is None or all(isinstance(edit, Edit) for edit in edits))
        ):
            raise TypeError
    except Exception as error:
        return f"the plugin cannot look at these params: {type(error).__name__}"
    return reading, edits


def judged_action(action: Action, enforcer: EnforcerType) -> Action:
    """The action that the enforcer sees: for `elicit`, the one whose refusal becomes a question."""
    if action is not Action.ELICIT:
        return action
    return Action.DENY if Action.DENY in enforcer.actions else Action.ALLOW


def bind_params(model: type[Params], rule: Rule) -> Params:
    """The params as the enforcer's own model. Raises pydantic's `ValidationError`."""
    if isinstance(rule.params, Mapping):
        return model.model_validate(dict(rule.params))
    names = [name for name in model.model_fields if name not in model.named]
    if model.rest is not None:
        return _bind_rest(model, rule, names)
    values: dict[str, Any] = {}
    params = list(rule.params)
    takes_rest = bool(names) and _is_variadic(model, names[-1])
    single = names[:-1] if takes_rest else names
    for name, value in zip(single, params, strict=False):
        values[name] = value
    left = params[len(single) :]
    if takes_rest and (left or len(params) >= len(single)):
        values[names[-1]] = tuple(left)
    elif left:
        values["surplus"] = left  # refused by the model: it takes fewer params
    return model.model_validate(values)


def _bind_rest(model: type[Params], rule: Rule, names: list[str]) -> Params:
    """Positional params before the `rest` field are cut at colons, the remainder is given as it was written."""
    before = [name for name in names if name != model.rest]
    raw = rule.raw_params if rule.raw_params is not None else ":".join(str(param) for param in rule.params)
    values: dict[str, Any] = {}
    for name in before:
        head, _, raw = raw.partition(":")
        values[name] = head
    if raw:
        values[str(model.rest)] = raw
    return model.model_validate(values)


def _is_variadic(model: type[Params], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,)


def _misuse(
    rule: Rule, enforcer: EnforcerType, settings: PlanSettings, registry: Registry, *, from_token: bool
) -> RuleProblem | None:
    def problem(code: str, message: str, hint: str = "") -> RuleProblem:
        return RuleProblem(rule=rule, code=code, message=message, hint=hint)

    if rule.phase not in enforcer.phases:
        other = "before the call (bf)" if rule.phase is Phase.AFTER else "after the call (af)"
        return problem("wrong_phase", f"{rule.policy} is judged only {other}")
    if rule.action not in enforcer.actions:
        known = ", ".join(action.value for action in Action if action in enforcer.actions)
        return problem("wrong_action", f"{rule.policy} does not take {rule.action.value!r}", f"it takes {known}")
    if from_token and not enforcer.attenuates:
        return problem("not_for_tokens", f"{rule.policy} may not stand in a token")
    if from_token and rule.action in enforcer.idle:
        return problem(
            "cannot_refuse", f"{rule.policy}:{rule.action.value} refuses nothing; it may not stand in a token"
        )
    if rule.phase is Phase.AFTER and rule.action is Action.ELICIT and enforcer.may_withhold is None:
        return problem("asks_after", f"{rule.policy} would refuse a finished call; only fields can be asked for then")
    if rule.approver is not None and rule.approver not in registry.approvers:
        known = ", ".join(sorted(registry.approvers))
        return problem("unknown_approver", f"no approver named {rule.approver!r} is installed", f"there are {known}")
    name = rule.approver or settings.approvals.default
    approver = registry.approvers.get(name)
    if rule.four_eyes and approver is not None and approver.contribution.assurance < Assurance.PERSON:
        return problem(
            "approver_knows_nobody",
            f"four_eyes needs an approver that knows who answers, and {name!r} does not",
            "name one with  approver: NAME",
        )
    for selector in (rule.for_, rule.except_):
        for role in selector.role if selector is not None else ():
            if role not in settings.roles:
                return problem("unknown_role", f"no role named {role!r}", "name it under config.roles")
    return None


def _params_problem(rule: Rule, enforcer: EnforcerType, error: ValidationError) -> RuleProblem:
    first = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    names = [name for name in enforcer.params.model_fields if name not in enforcer.params.named]
    if where and where[0] == "surplus":
        return RuleProblem(
            rule=rule,
            code="bad_params",
            message=f"{rule.policy} takes at most {len(names)} params" + (f": {', '.join(names)}" if names else ""),
            param_index=len(names),
        )
    index = names.index(where[0]) if where and where[0] in names else None
    if index is not None and len(where) > 1 and where[1].isdigit():
        index += int(where[1])
    named = f" {where[0]!r}" if where else ""
    expected = f"it takes {', '.join(names)}" if names else "it takes none"
    return RuleProblem(
        rule=rule,
        code="bad_params",
        message=f"{rule.policy}: param{named}: {first['msg'].removeprefix('Value error, ')}",
        param_index=index,
        hint=expected,
    )


def _view(rule: Rule, enforcer: EnforcerType, section: Any, scope: tuple[str, ...]) -> RuleView:
    params = rule.params if isinstance(rule.params, tuple) else ()
    return RuleView(
        policy=rule.policy,
        action=rule.action,
        phase=rule.phase,
        target=rule.target,
        text=rule.text,
        params=tuple(str(param) for param in params),
        expires=rule.expires,
        digest=rule_digest(rule, enforcer, section, scope),
    )


def rule_digest(rule: Rule, enforcer: EnforcerType, section: Any, scope: tuple[str, ...] = ()) -> str:
    """A digest of the compiled rule: its text and everything that changes what it means."""
    settings = section.model_dump(mode="json") if hasattr(section, "model_dump") else None
    facts = [rule.text, enforcer.name, enforcer.version, settings, list(scope)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
