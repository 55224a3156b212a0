"""What is known of a call's arguments beside what came: the names that the component publishes, and its defaults.

A component of another process gets what its caller sent and nothing else. What it does about an argument that was left
out is its own affair; its schema may say a default, so a rule is shown that reading too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Path = tuple[str, ...]
"""Names from the outermost argument inwards; lists on the way are walked and have no name."""

MOST: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The names that a component's input schema lists, at any depth. Below a `free` path the caller chooses the names.

    The empty path is the arguments themselves.
    """

    names: frozenset[Path] = frozenset()
    free: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentFacts:
    """The arguments of one call as they came (`given`), and as they read with the defaults that the schema says.

    There is at least one of `readings`, more where the schema says several defaults of one argument. `untyped` are
    outermost arguments whose schema cannot be evaluated. `foreign`: the component gets what came, and reads it its own
    way; otherwise `given` are the values that it gets, defaults and all.
    """

    given: Mapping[str, Any]
    readings: tuple[Mapping[str, Any], ...]
    published: Published | None = None
    untyped: frozenset[str] = frozenset()
    foreign: bool = False


def fold_name(name: str) -> str:
    """A name as servers read it that tell neither case nor width apart (Go's JSON reader, for one)."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def paths_of(name: str) -> tuple[Path, ...]:
    """What a rule's `filter.owner` can mean: the argument of that very name, and the nested one."""
    parts = tuple(name.split("."))
    return ((name,), parts) if len(parts) > 1 else ((name,),)


def respelled(facts: ArgumentFacts, judged: Iterable[Path]) -> bool:
    """Whether a name that came is another spelling of a judged one, at its place, and no published name of its own.

    True also where there is too much to be looked through.
    """
    known = facts.published.names if facts.published is not None else frozenset()
    looked = 0
    for path in judged:
        for mapping, depth in _levels(facts.given, path):
            looked += len(mapping) or 1
            if looked > MOST:
                return True
            if any(_is_respelling(name, path, depth, known) for name in mapping):
                return True
    return False


def _is_respelling(name: Any, path: Path, depth: int, known: frozenset[Path]) -> bool:
    part = path[depth]
    if name == part or not isinstance(name, str) or fold_name(name) != fold_name(part):
        return False
    return (*path[:depth], name) not in known


def _levels(given: Mapping[str, Any], path: Path) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Every mapping on the way of a path, with the number of the part that is looked for in it."""
    waiting: list[tuple[Any, int]] = [(given, 0)]
    seen = 0
    while waiting and seen <= MOST:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, Mapping):
            yield value, depth
            if depth + 1 < len(path) and path[depth] in value:
                waiting.append((value[path[depth]], depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(item, depth) for item in value[: MOST + 1]]
    if waiting:
        yield dict.fromkeys(map(str, range(MOST + 1))), 0
