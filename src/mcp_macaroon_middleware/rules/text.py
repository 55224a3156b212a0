"""A rule as one line of text, read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from ..errors import RuleError
from ..model import Action, Phase, Place, Rule
from .instants import EXPIRY_FORMAT, parse_expiry
from .parts import TIME, Part, escape, located, refuse_control_characters, split_parts, suggestion
from .targets import format_target, parse_target

MAX_RULE: Final = 4096


_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")


def parse_rule(text: str, *, place: Place | None = None, in_token: bool = False) -> Rule:
    """Reads one rule in string form. In a token a rule-level `time<` is the operator's alone, so it is an error.

    Raises `RuleError`, whose offset and length point at the wrong part of `text`.
    """
    if len(text) > MAX_RULE:
        raise RuleError(f"a rule has at most {MAX_RULE} characters, this one has {len(text)}", length=1)
    refuse_control_characters(text)
    parts = split_parts(text)
    if len(parts) < 4:
        missing = ("phase", "target", "policy", "action")[len(parts)]
        raise RuleError(
            f"a rule reads phase:target:policy:action[:param…]; the {missing} is missing",
            offset=len(text),
            hint="for example  bf:delete_*:tool_access:deny",
        )
    for part in parts:
        if not part.value:
            raise RuleError("an empty part; write \\: for a colon that belongs to a name", offset=part.start)
    expires, rest = _expiry_of(parts, in_token=in_token)
    rule = Rule(
        phase=_phase(parts[0]),
        target=located(parse_target, parts[1]),
        policy=read_policy(parts[2]),
        action=read_action(parts[3]),
        params=tuple(part.value for part in rest),
        raw_params=text[rest[0].start : rest[-1].end] if rest else None,
        expires=expires,
        place=place or Place(),
    )
    return replace(rule, text=format_rule(rule))


def format_rule(rule: Rule) -> str:
    """The canonical string form: `parse_rule` of it gives an equal rule.

    Raises `RuleError` for a rule that only the long form can say.
    """
    if any(_long_only(rule)):
        raise RuleError("this rule needs the long form")
    params = rule.params
    if isinstance(params, Mapping) or not all(isinstance(param, str) and param for param in params):
        raise RuleError("params by name need the long form")
    parts = [rule.phase.value, format_target(rule.target), escape(rule.policy), rule.action.value]
    parts += [escape(param) for param in params]
    if rule.expires is not None:
        parts.append(TIME + rule.expires.strftime(EXPIRY_FORMAT))
    return ":".join(parts)


def _expiry_of(parts: list[Part], *, in_token: bool) -> tuple[datetime | None, list[Part]]:
    for part in parts[:-1]:
        if part.is_time:
            raise RuleError("time<… must be the last part; write \\time< for a param", offset=part.start, length=5)
    last = parts[-1]
    if len(parts) < 5 or not last.is_time:
        return None, parts[4:]
    if in_token:
        raise RuleError("a rule in a token has no time<…; add time<… to the token itself", offset=last.start, length=5)
    return located(lambda value: parse_expiry(value[len(TIME) :]), last), parts[4:-1]


def _phase(part: Part) -> Phase:
    if part.value in (Phase.BEFORE, Phase.AFTER):
        return Phase(part.value)
    raise RuleError(
        f"{part.value!r} is not a phase",
        offset=part.start,
        length=part.end - part.start,
        hint="write bf (before the call) or af (after it)" + suggestion(part.value, ["bf", "af"]),
    )


def read_action(part: Part) -> Action:
    """The action that a part names. Raises `RuleError` with the right word."""
    if part.value in set(Action):
        return Action(part.value)
    actions = [action.value for action in Action]
    raise RuleError(
        f"{part.value!r} is not an action",
        offset=part.start,
        length=part.end - part.start,
        hint=f"one of {', '.join(actions)}" + suggestion(part.value, actions),
    )


def read_policy(part: Part) -> str:
    """The policy that a part names. Raises `RuleError` for what cannot be one."""
    if _NAME.match(part.value):
        return part.value
    raise RuleError(
        f"{part.value!r} cannot be a policy name (letters, digits, . _ -)",
        offset=part.start,
        length=part.end - part.start,
    )


def _long_only(rule: Rule) -> Iterable[bool]:
    yield from (rule.for_ is not None, rule.except_ is not None, rule.approver is not None)
    yield from (bool(rule.scopes), rule.expiry is not None, bool(rule.secret), rule.four_eyes, rule.dynamic)
