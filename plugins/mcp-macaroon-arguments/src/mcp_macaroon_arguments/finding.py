"""Finds values among a call's arguments, by name or by what a name looks like. What it cannot read it refuses."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from mcp_macaroon_middleware.plugin import Check, Params, Published, Verdict, paths_of

Path = tuple[str, ...]
P = TypeVar("P", bound=Params)

MOST: Final = 10_000
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class Found:
    """One value, its name, and the mapping that it stands in."""

    name: str
    value: Any
    beside: Mapping[str, Any]


class Unjudged(Exception):
    """The arguments cannot be judged, so the call is refused with this code and public reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def refusing(check: Callable[[Check[P]], Verdict]) -> Callable[[Check[P]], Verdict]:
    """Turns what `check` cannot judge into a refusal, or a question where the rule says `elicit`."""

    @functools.wraps(check)
    def judged(given: Check[P]) -> Verdict:
        try:
            return check(given)
        except Unjudged as why:
            return given.refuse(why.code, why.reason)

    return judged


Absent = Literal["refuse", "default", "pass"]
"""What it means to a rule that an argument was left out: a refusal; the default that the schema says, judged; nothing.

Unless the rule says it, the default is judged where there is one, and where there is none the call is refused.
"""


def wanted(check: Check[Any], name: str, absent: Absent | None) -> list[Found]:
    """The values of an argument that a rule names, none where it was left out and that passes. Raises `Unjudged`."""
    if absent == "pass" and not _is_given(check.given, name):
        return []
    if absent == "refuse":
        required(check.given, name)
    return required(check.request.arguments, name)


def _is_given(arguments: Mapping[str, Any], name: str) -> bool:
    """Whether anything of a name came; a list on the way counts as something."""
    first, *rest = name.split(".")
    value: Any = arguments
    for part in (first, *rest):
        if isinstance(value, list | tuple):
            return True
        if not isinstance(value, Mapping) or part not in value:
            return name in arguments
        value = value[part]
    return True


def names_of_rule(params: Any, _: Any, __: Any) -> Iterator[tuple[str, ...]]:
    """The arguments that a rule names by itself."""
    named = params.argument
    for name in (named,) if isinstance(named, str) else named:
        yield from paths_of(name)


def required(arguments: Mapping[str, Any], name: str) -> list[Found]:
    """Every value that `name` can mean: the argument of that very name, and the nested ones that its dots lead to.

    Lists on the way are walked. Raises `Unjudged` where there is none, or where one item of a list lacks it.
    """
    found = _named(arguments, name)
    if not found:
        raise _missing(name)
    return found


def present(arguments: Mapping[str, Any], names: Sequence[str]) -> list[Found]:
    """The values of those of `names` that are there. Raises `Unjudged` where one item of a list lacks one."""
    return [found for name in names for found in _named(arguments, name)]


def _named(arguments: Mapping[str, Any], name: str) -> list[Found]:
    whole = [Found(name, arguments[name], arguments)] if name in arguments else []
    first, *rest = name.split(".")
    if not rest or first not in arguments:
        return whole
    nested = [Found(first, arguments[first], arguments)]
    for part in rest:
        beside = [item for found in nested for item in _opened(found.value)]
        if not all(isinstance(item, Mapping) and part in item for item in beside):
            raise _missing(name)
        nested = [Found(part, item[part], item) for item in beside]
    return whole + nested


def _missing(name: str) -> Unjudged:
    return Unjudged("argument_required", f"The argument {name} is required by policy; give it explicitly.")


def looking_like(
    arguments: Mapping[str, Any], like: Callable[[tuple[str, ...]], bool], published: Published | None = None
) -> list[Found]:
    """The values, at any depth, whose names `like` recognises by their words; none if the caller chose all their names.

    `published` are the names that the tool's schema lists. Whoever calls chooses the others: such a value is looked at
    beside one with a listed name, and never in its place. Numbers and booleans are left out (`file_count`); a mapping
    under such a name is looked into, and must have such a name in it. Raises `Unjudged` for one that has not, for one
    whose keys the caller may choose (any of them may be a path), and for more than 10,000 values.
    """
    found: list[Found] = []
    listed = published is None
    waiting: list[tuple[Any, Path]] = [(arguments, ())]
    seen = 0
    while waiting:
        value, at = waiting.pop()
        inside: Any = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
        for name, inner in inside:
            seen += 1
            if seen + len(waiting) > MOST:
                raise _TOO_MANY
            path = at if name is None else (*at, str(name))
            if not isinstance(name, str) or not like(words(name)):
                waiting += [(inner, path)] if isinstance(inner, Mapping | list | tuple) else []
            elif not isinstance(inner, bool | int | float):
                single = _opened(inner)
                mappings = [item for item in single if isinstance(item, Mapping)]
                if mappings and (published is None or path in published.free or path not in published.names):
                    raise _UNREADABLE
                waiting += [(item, path) for item in mappings if _holds(item, like)]
                found += [Found(name, item, value) for item in single if not isinstance(item, Mapping)]
                listed = listed or (published is not None and path in published.names)
    return found if listed else []


def _holds(mapping: Mapping[str, Any], like: Callable[[tuple[str, ...]], bool]) -> bool:
    if any(isinstance(name, str) and like(words(name)) for name in mapping):
        return True
    raise _UNREADABLE


@functools.lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case: `newFilePath` and `new_file_path` are the same three."""
    return tuple(word.lower() for word in _WORD.findall(name[:256]))


def items(value: Any) -> list[Any]:
    """A value as a list of single ones: lists are opened, whatever their depth.

    Raises `Unjudged` for null, an empty list, a mapping among the items, and more than 10,000 of them.
    """
    single = _opened(value)
    if any(item is None or isinstance(item, list | tuple | Mapping) for item in single):
        raise _UNREADABLE
    return single


def _opened(value: Any) -> list[Any]:
    """The items of a list and of the lists in it; an empty list is an item of its own, and so is any other value."""
    waiting, single = [value], []
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple) and item:
            waiting.extend(item)
        else:
            single.append(item)
        if len(waiting) + len(single) > MOST:
            raise _TOO_MANY
    return single


_UNREADABLE: Final = Unjudged("argument_unreadable", "An argument cannot be judged by policy.")
_TOO_MANY: Final = Unjudged("arguments_too_large", "There are too many arguments to be judged.")
