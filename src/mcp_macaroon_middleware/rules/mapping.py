"""A rule in the long form, read and written: the same as a line of text says, and more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..errors import RuleError
from ..model import SCOPES, Kind, Phase, Place, Rule, Target
from .instants import EXPIRY_FORMAT, parse_expiry
from .parts import TIME, Part, refuse_control_characters, suggestion
from .selectors import parse_selector, read_texts, selector_mapping
from .targets import parse_target, pattern_of
from .text import format_rule, read_action, read_policy

_LONG_KEYS: Final = (
    "before",
    "after",
    "policy",
    "action",
    "params",
    "expires",
    "for",
    "except",
    "approver",
    "scopes",
    "expiry",
    "secret",
    "four_eyes",
    "dynamic",
)


def rule_from_mapping(mapping: Mapping[str, Any], *, place: Place | None = None) -> Rule:
    """Reads one rule in the long form. Raises `RuleError` with what is wrong and the right word."""
    for key in mapping:
        if key not in _LONG_KEYS:
            raise RuleError(
                f"unknown key {key!r} in a rule",
                hint=f"keys are {', '.join(_LONG_KEYS)}" + suggestion(str(key), _LONG_KEYS),
                code="unknown_key",
            )
    phase, target = _long_target(mapping)
    rule = Rule(
        phase=phase,
        target=target,
        policy=read_policy(Part(_text(mapping, "policy"), 0, 0)),
        action=read_action(Part(_text(mapping, "action"), 0, 0)),
        params=_long_params(mapping.get("params", ())),
        expires=parse_expiry(_text(mapping, "expires").removeprefix(TIME)) if "expires" in mapping else None,
        for_=parse_selector(mapping["for"], "for") if "for" in mapping else None,
        except_=parse_selector(mapping["except"], "except") if "except" in mapping else None,
        approver=_text(mapping, "approver") if "approver" in mapping else None,
        scopes=_scopes(mapping.get("scopes", ())),
        expiry=_seconds(mapping.get("expiry")),
        secret=read_texts(mapping.get("secret", ()), "secret"),
        four_eyes=_four_eyes(mapping.get("four_eyes", False)),
        dynamic=_dynamic(mapping["dynamic"]) if "dynamic" in mapping else False,
        place=place or Place(),
    )
    return replace(rule, text=_one_line(rule))


def rule_to_mapping(rule: Rule) -> dict[str, Any]:
    """The long form: `rule_from_mapping` of it gives an equal rule."""
    side = "before" if rule.phase is Phase.BEFORE else "after"
    kind = rule.target.kind
    bare = kind is None or (kind is Kind.TOOL and parse_target(rule.target.pattern) == rule.target)
    mapping: dict[str, Any] = {
        side: rule.target.pattern if bare else {str(kind): rule.target.pattern},
        "policy": rule.policy,
        "action": rule.action.value,
    }
    if rule.params:
        mapping["params"] = dict(rule.params) if isinstance(rule.params, Mapping) else list(rule.params)
    if rule.expires is not None:
        mapping["expires"] = rule.expires.strftime(EXPIRY_FORMAT)
    for key, selector in (("for", rule.for_), ("except", rule.except_)):
        if selector is not None:
            mapping[key] = selector_mapping(selector)
    if rule.approver is not None:
        mapping["approver"] = rule.approver
    for key, texts in (("scopes", rule.scopes), ("secret", rule.secret)):
        if texts:
            mapping[key] = list(texts)
    if rule.expiry is not None:
        mapping["expiry"] = rule.expiry
    if rule.four_eyes:
        mapping["four_eyes"] = True
    if rule.dynamic:
        mapping["dynamic"] = True
    return mapping


def _long_target(mapping: Mapping[str, Any]) -> tuple[Phase, Target]:
    if ("before" in mapping) == ("after" in mapping):
        raise RuleError("a rule has either before: or after:, with its target", hint="as in {before: delete_*, …}")
    key = "before" if "before" in mapping else "after"
    phase = Phase.BEFORE if key == "before" else Phase.AFTER
    value = mapping[key]
    if isinstance(value, str) and value:
        return phase, parse_target(value)
    if isinstance(value, Mapping) and len(value) == 1:
        kind, pattern = next(iter(value.items()))
        if kind in set(Kind) and isinstance(pattern, str) and pattern:
            return phase, Target(kind=Kind(kind), pattern=pattern_of(Kind(kind), pattern))
    raise RuleError(f"{key}: takes a name or glob, or {{tool: …}}, {{prompt: …}}, {{resource: …}} or {{method: …}}")


def _long_params(value: Any) -> tuple[Any, ...] | Mapping[str, Any]:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise RuleError("params by name are {name: value}")
        return dict(value)
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


def _scopes(value: Any) -> tuple[str, ...]:
    scopes = read_texts(value, "scopes")
    for scope in scopes:
        if scope not in SCOPES:
            raise RuleError(f"unknown scope {scope!r}", hint=f"one of {', '.join(SCOPES)}" + suggestion(scope, SCOPES))
    return scopes


def _seconds(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise RuleError("expiry is a whole number of seconds above 0")
    return value


def _four_eyes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RuleError("four_eyes is true or false")
    return value


def _dynamic(value: Any) -> bool:
    """`dynamic: true`. To keep a rule to what is known at the start cannot be done yet, so asking for it is refused."""
    if value is False:
        raise RuleError(
            "dynamic: false, which would keep a rule to what is known at the start, cannot be kept yet",
            hint="leave it out; deny what must not appear, or name what may be used",
        )
    if value is not True:
        raise RuleError("dynamic is true")
    return True


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise RuleError(f"a rule needs {key}: a text")
    refuse_control_characters(value)
    return value


def _one_line(rule: Rule) -> str:
    try:
        return format_rule(rule)
    except RuleError:
        return json.dumps(rule_to_mapping(rule), ensure_ascii=True, default=str)
