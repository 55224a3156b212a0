"""A rule in a plain sentence, with nothing hidden in it. The rule's enforcer decides; this only tells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from ..errors import RuleError
from ..model import Action, Phase, Rule, Target
from ..rules import parse_rule, parse_target

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.*/@{}=?&%+~-][A-Za-z0-9_.*/@{}=?&%+~:-]*\Z")
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
_UNITS: Final = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def sentence(text: str) -> str:
    """A caveat that is a rule, in a sentence. One that no server could read says that it refuses everything."""
    try:
        return _told(parse_rule(text, in_token=True))
    except RuleError:
        return f"Cannot be read as a rule, so it refuses everything: {spelled(text)}"


def _told(rule: Rule) -> str:
    says = _KNOWN.get((rule.policy, rule.action))
    params = [quoted(str(param)) for param in rule.params]
    told = says(rule, params) if says is not None else None
    return told or _unknown(rule, params)


def spelled(text: str) -> str:
    """The text with every character that could hide, move or end a line as its escape, and backslashes doubled."""
    return "".join(_escaped(character) for character in text.replace("\\", "\\\\"))


def quoted(text: str) -> str:
    """A name within a sentence: bare if it is a plain word, else in quotation marks, hidden characters escaped."""
    if _PLAIN.match(text):
        return text
    return '"' + "".join(_escaped(character) for character in json.dumps(text, ensure_ascii=False)[1:-1]) + '"'


def moment(at: datetime) -> str:
    """An instant, in UTC and whole seconds."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """A length of time in its largest unit, rounded: `7 hours`."""
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds >= size), ("second", 1))
    number = round(seconds / size)
    return f"{number} {unit}" + ("" if number == 1 else "s")


def aim(target: Target) -> str:
    """What a rule speaks of, in words."""
    if target.kind is None:
        return "anything"
    if target.pattern == "*":
        return f"any {target.kind}"
    what = f"any {target.kind} named" if target.is_glob else f"the {target.kind}"
    return f"{what} {quoted(target.pattern)}"


def _escaped(character: str) -> str:
    number = ord(character)
    if character.isprintable() and character not in _BLANK and not _selects(number):
        return character
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _selects(number: int) -> bool:
    """Variation selectors: they print as nothing."""
    return 0xFE00 <= number <= 0xFE0F or 0xE0100 <= number <= 0xE01EF


# --- the policies that come with the package, and those for arguments -----------------------------------------------

Says = Callable[[Rule, Sequence[str]], str | None]


def _unknown(rule: Rule, params: Sequence[str]) -> str:
    when = "Before each call of" if rule.phase is Phase.BEFORE else "On each result of"
    given = f" {', '.join(params)}" if params else ""
    return (
        f"{when} {aim(rule.target)}, the policy {quoted(rule.policy)} is asked: {rule.action}{given}. "
        "A server that does not know it refuses everything."
    )


def _only(rule: Rule, params: Sequence[str]) -> str | None:
    names = [aim(parse_target(str(name))) for name in rule.params]
    if not names:
        return None
    if rule.target.kind is None:
        return f"Allows only {_or(names)}, and nothing else."
    return f"Of {aim(rule.target)}, allows only {_or(names)}."


def _rate(rule: Rule, params: Sequence[str]) -> str | None:
    return f"At most {_and(params)} for {aim(rule.target)}, each counted by itself." if params else None


def _rate_asks(rule: Rule, params: Sequence[str]) -> str | None:
    return f"A person must agree to more than {_and(params)} for {aim(rule.target)}." if params else None


def _attempts(rule: Rule, params: Sequence[str]) -> str | None:
    return f"At most {params[0]} calls in all of {aim(rule.target)}, each counted by itself." if params else None


def _fields(says: str) -> Says:
    def told(rule: Rule, params: Sequence[str]) -> str | None:
        return says.format(fields=_and(params), target=aim(rule.target)) if params else None

    return told


def _argument(rule: Rule, params: Sequence[str]) -> str | None:
    if len(params) < 2:
        return None
    return f"The argument {params[0]} of {aim(rule.target)} must be {_or(params[1:])}."


def _or(words: Sequence[str]) -> str:
    return _joined(words, "or")


def _and(words: Sequence[str]) -> str:
    return _joined(words, "and")


def _joined(words: Sequence[str], last: str) -> str:
    return " ".join((", ".join(words[:-1]), last, words[-1])) if len(words) > 1 else "".join(words)


_KNOWN: Final[Mapping[tuple[str, Action], Says]] = {
    ("tool_access", Action.DENY): lambda rule, _: f"Refuses {aim(rule.target)}.",
    ("tool_access", Action.ELICIT): lambda rule, _: f"A person must agree before each use of {aim(rule.target)}.",
    ("tool_access", Action.ONLY): _only,
    ("field_access", Action.DENY): _fields("Withholds {fields} from what {target} returns."),
    ("field_access", Action.ONLY): _fields("Shows nothing but {fields} of what {target} returns."),
    ("field_access", Action.ELICIT): _fields("A person must agree before {fields} of what {target} returns is shown."),
    ("rate_limit", Action.ALLOW): _rate,
    ("rate_limit", Action.ELICIT): _rate_asks,
    ("allow_attempts", Action.ALLOW): _attempts,
    ("argument_allowlist", Action.ALLOW): _argument,
}
