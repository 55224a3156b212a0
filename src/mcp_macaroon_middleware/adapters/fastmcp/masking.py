"""Which arguments a person must not be shown: those whose schema says `format: password` or `writeOnly`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastmcp.tools.base import Tool
from pydantic_core import to_jsonable_python

from ...core.wording import Secret, Unsent
from ...model import thawed
from .arguments import is_local
from .compat import AnyComponent
from .foreign import unsent

DEEPEST: Final = 64


def masked(leaf: AnyComponent, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments as plain data, with a `Secret` for each value that the tool's schema calls one."""
    given = to_jsonable_python(thawed(arguments), fallback=lambda value: type(value).__name__)
    if not isinstance(leaf, Tool):
        return given  # type: ignore[no-any-return]
    if not is_local(leaf):
        given = unsent(leaf.parameters, given)
    left: Mapping[str, Any] = _masked(given, leaf.parameters, leaf.parameters, 0)
    return left


def _masked(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """The value without its secrets; below the deepest level everything is one."""
    if isinstance(value, Secret) or value is None or not isinstance(schema, Mapping):
        return value
    if isinstance(value, Unsent):
        return Unsent([_masked(default, schema, root, depth + 1) for default in value.defaults])
    if depth > DEEPEST:
        return Secret(value)
    schemas = list(_all(schema, root, set()))
    if any(part.get("format") == "password" or part.get("writeOnly") is True for part in schemas):
        return Secret(value)
    for part in schemas:
        value = _inside(value, part, root, depth + 1)
    return value


def _inside(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if isinstance(value, Mapping):
        properties, more = schema.get("properties") or {}, schema.get("additionalProperties")
        return {key: _masked(item, properties.get(key, more), root, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        first, rest = schema.get("prefixItems") or [], schema.get("items")
        kinds = [first[number] if number < len(first) else rest for number in range(len(value))]
        return [_masked(item, kind, root, depth) for item, kind in zip(value, kinds, strict=True)]
    return value


def _all(schema: Any, root: Mapping[str, Any], seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """The schema with everything that it refers to or combines: any of them may call the value a secret."""
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        yield from _all(target, root, seen)
    for key in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(key) or ():
            yield from _all(part, root, seen)
