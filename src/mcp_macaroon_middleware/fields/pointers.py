"""Follows the references inside one schema, and measures it. It reads nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

MAX_DEPTH: Final = 60
MAX_HOPS: Final = 32

NOWHERE: Final = object()
"""What a reference names that leads out of the schema, to a name in it, or round and round."""

_NAMES: Final = ("$id", "id", "$anchor")

Schema = Mapping[str, Any]


def target(root: Schema, reference: Any) -> Any:
    """The part of the schema that a reference names in the end, where it is one by a pointer; else `NOWHERE`."""
    found = reference
    seen: set[str] = set()
    begin: Any = NOWHERE
    while isinstance(found, str) and found not in seen and len(seen) < MAX_HOPS:
        seen.add(found)
        part = _part(root, found)
        if part is NOWHERE:
            return NOWHERE
        if begin is NOWHERE and not (isinstance(part, Mapping) and set(part) == {"$ref"}):
            begin = part
        if not isinstance(part, Mapping) or "$ref" not in part:
            return begin
        found = part["$ref"]
    return NOWHERE


def _part(root: Schema, reference: str) -> Any:
    if not (reference == "#" or reference.startswith("#/")):
        return NOWHERE
    part: Any = root
    for step in reference.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, Mapping) and name in part:
            part = part[name]
        elif isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        else:
            return NOWHERE
    return part


def is_plain(root: Schema, most: int) -> bool:
    """Whether every reference in the schema leads to a part of it, no part has a name or an identity of its own, and
    nothing is nested deeper than `MAX_DEPTH`: then references can be moved.
    """
    known: dict[str, bool] = {}
    for number, (value, depth) in enumerate(_parts(root)):
        if number > most or depth > MAX_DEPTH:
            return False
        if not isinstance(value, Mapping):
            continue
        if any(word in value and isinstance(value[word], str) for word in _NAMES) and value is not root:
            return False
        if any(word.startswith(("$dynamic", "$recursive")) for word in map(str, value)):
            return False
        if "$ref" in value:
            reference = value["$ref"]
            if not isinstance(reference, str):
                return False
            if reference not in known:
                known[reference] = target(root, reference) is not NOWHERE
            if not known[reference]:
                return False
    return True


def count(schema: Any, most: int) -> int:
    """How many mappings and lists the schema consists of, or `most` where it has more."""
    number = 0
    for value, _ in _parts(schema):
        number += isinstance(value, Mapping | list)
        if number >= most:
            return most
    return number


def weight(schema: Any) -> int:
    """About how many characters the schema has as JSON."""
    total = 0
    for value, _ in _parts(schema):
        if isinstance(value, Mapping):
            total += 2 + sum(len(str(key)) + 6 for key in value)
        elif isinstance(value, list):
            total += 2 + 2 * len(value)
        elif isinstance(value, str):
            total += len(value) + 2
        else:
            total += 5
    return total


def _parts(schema: Any) -> Iterator[tuple[Any, int]]:
    waiting = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, Mapping):
            waiting.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            waiting.extend((child, depth + 1) for child in value)
