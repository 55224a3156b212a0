"""Words for people: what a question says, and how values are shown so that nothing in them passes for anything else.

Every value is on one line, as JSON text; control, invisible and direction-changing characters are shown as their
escapes; what could make a link or markup is broken. Nothing is ever cut: a question that is too long is not asked.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic_core import to_jsonable_python

from ..model import Component, Kind, Phase, Principal, Question, ShownArgument, thawed

LONG: Final = 60
OURS: Final = frozenset({"", "local", "server"})
UNITS: Final = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
NOUNS: Final = {
    Kind.TOOL: "Tool",
    Kind.PROMPT: "Prompt",
    Kind.RESOURCE: "Resource",
    Kind.METHOD: "Method",
}
_MARKUP: Final = frozenset("[]<>`")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_LINK: Final = re.compile(r"(?i)(?:https?|ftps?|wss?|file):/|mailto:|javascript:|data:|www\.")
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")


class Secret:
    """Stands for a value that a person must not be shown: its length alone is said."""

    __slots__ = ("length",)

    def __init__(self, value: Any) -> None:
        self.length = len(value) if isinstance(value, str) else len(_json(value))

    def __repr__(self) -> str:
        return "Secret(…)"


class Unsent:
    """Stands for an argument that was left out, for which a schema says one default, or several."""

    __slots__ = ("defaults",)

    def __init__(self, defaults: Sequence[Any]) -> None:
        self.defaults = tuple(defaults)

    def __repr__(self) -> str:
        return "Unsent(…)"


def shown(arguments: Mapping[str, Any]) -> tuple[ShownArgument, ...]:
    """Every argument, one line each. `Secret` values say their length alone, wherever they stand."""
    return tuple(ShownArgument(name=_named(name, value), text=value_text(value)) for name, value in arguments.items())


def _named(name: str, value: Any) -> str:
    """The name, with the length of a text that is too long to be counted by eye."""
    long = isinstance(value, str) and len(value) > LONG
    return f"{plain(name)} ({_count(len(value), 'character')})" if long else plain(name)


def hidden(value: Any, path: Sequence[str]) -> Any:
    """The same data with what lies at `path` replaced by a `Secret`; lists are walked."""
    if not path and isinstance(value, Unsent):
        return Unsent([hidden(default, path) for default in value.defaults])
    if not path:
        return value if isinstance(value, Secret) or value is None else Secret(value)
    if isinstance(value, Unsent):
        return Unsent([hidden(default, path) for default in value.defaults])
    if isinstance(value, Mapping):
        return {key: hidden(item, path[1:]) if key == path[0] else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(item, path) for item in value]
    return value


def value_text(value: Any) -> str:
    """One value on one line: JSON, with everything made visible."""
    if isinstance(value, Secret):
        return f"(secret, {_count(value.length, 'character')})"
    if isinstance(value, Unsent):
        return f"not given; the server's schema says {' or '.join(map(value_text, value.defaults))}"
    if isinstance(value, str):
        return f'"{_visible(json.dumps(value, ensure_ascii=False)[1:-1])}"'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{value_text(str(key))}: {value_text(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return value_text(to_jsonable_python(thawed(value), fallback=lambda other: type(other).__name__))


def plain(text: str) -> str:
    """A name or sentence of foreign origin, for use within a sentence: visible, without markup, on one line."""
    return _visible(json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"'))


def _visible(text: str) -> str:
    """JSON text with every hidden character as `\\uXXXX`, and markup and links broken by a backslash."""
    if text.isascii() and not any(c in _MARKUP or c in ":.\x7f" for c in text):
        return text
    marked = "".join(f"\\{c}" if c in _MARKUP else _escaped(c) if _is_hidden(c) else c for c in text)
    return _LINK.sub(lambda link: f"{link[0][:-1]}\\{link[0][-1]}", marked)


def _is_hidden(character: str) -> bool:
    if character == " ":
        return False
    category = unicodedata.category(character)
    return category in _HIDDEN or category == "Zs" or character in _BLANK or 0xFE00 <= ord(character) <= 0xFE0F


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json(value: Any) -> str:
    return json.dumps(to_jsonable_python(thawed(value), fallback=lambda other: type(other).__name__))


def duration(seconds: float) -> str:
    """`15 minutes`, `1 hour`, `90 seconds`: in the largest unit that says it exactly; fractions are dropped."""
    whole = int(seconds)
    unit, size = next((unit, size) for unit, size in UNITS if whole % size == 0 and (whole >= size or size == 1))
    return _count(whole // size, unit)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def person(principal: Principal) -> str:
    """A principal as a person reads it. Our own names for what has no issuer would say nothing to anybody."""
    ours = principal.namespace in OURS or principal.namespace.startswith("auth:")
    issuer = "" if ours else principal.namespace.removeprefix("https://")
    where = [plain(part) for part in (issuer, principal.tenant) if part]
    return plain(principal.subject) + (f" ({', '.join(where)})" if where else "")


def message(
    *,
    phase: Phase,
    server: str,
    principal: Principal,
    component: Component,
    arguments: Sequence[ShownArgument],
    questions: Sequence[Question],
    expires: datetime,
) -> str:
    """The whole text of a challenge: who asks, for whom, for what, with which arguments, and until when to answer."""
    where = f"{plain(server)}: " if server else ""
    head = (
        "your approval is needed before this call."
        if phase is Phase.BEFORE
        else "this call has run; your approval is needed before parts of its result are shown."
    )
    lines = [f"{where}{head}" if where else head[0].upper() + head[1:], ""]
    lines.append(f"{NOUNS[component.kind]}: {plain(component.uri or component.name)}")
    lines.append(f"For: {person(principal)}")
    if arguments:
        lines += ["Arguments:", *(f"  {argument.name}: {argument.text}" for argument in arguments)]
    elif component.kind is not Kind.RESOURCE:
        lines.append("Arguments: none")
    lines.append("")
    lines += [question.text for question in questions]
    lines += ["", f"Answer before {expires:%H:%M:%S} UTC; otherwise it is not allowed."]
    return "\n".join(lines)


# --- what each choice does ------------------------------------------------------------------------------------------


def deny_title(phase: Phase) -> str:
    """The safe choice."""
    return "Do not allow this" if phase is Phase.BEFORE else "Do not show this"


def once_title(phase: Phase) -> str:
    """This very call."""
    return "Allow this call, once" if phase is Phase.BEFORE else "Show it in this result, once"


def period_title(phase: Phase, component: Component, seconds: float, *, same_values: bool) -> str:
    """The same for a while; it says with which arguments."""
    name = plain(component.uri or component.name)
    values = "with these very arguments" if same_values else "with any arguments"
    if phase is Phase.BEFORE:
        return f"Allow {name} {values}, for {duration(seconds)}"
    return f"Show it in every result of {name} {values}, for {duration(seconds)}"
