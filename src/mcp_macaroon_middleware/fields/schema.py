"""Changes an output schema so that every result of a redaction is valid against it; it can only widen a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from ..model import Redaction
from .nodes import UNNAMED
from .paths import Folded, States, Wild, advance, advance_any, ended, start

WRAPPED: Final = "x-fastmcp-wrap-result"
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 60

Schema = Mapping[str, Any]
Keeps = tuple[States, ...]

# What a place that can lose something may no longer demand. Whatever is not known here can only say how to read it.
_COUNTS: Final = ("minProperties", "minItems", "uniqueItems", "contains", "minContains", "maxContains")
_OTHERS: Final = ("dependentRequired", "dependentSchemas", "dependencies", "if", "then", "else", "not")
_VALUES: Final = ("const", "enum", "minLength", "maxLength", "pattern", "format")
_CONTENT: Final = ("contentEncoding", "contentMediaType", "contentSchema", "propertyNames")
_REST: Final = ("unevaluatedProperties", "unevaluatedItems", "additionalItems", "extends", "disallow")
_DROPPED: Final = frozenset(_COUNTS + _OTHERS + _VALUES + _CONTENT + _REST)

_NO_SIBLINGS: Final = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")  # dialects in which `$ref` stands alone
_NOTES: Final = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})


def relax_schema(schema: Schema, redaction: Redaction | None) -> dict[str, Any]:
    """The schema, widened for what `redaction` can remove; None: anything may leave. References are resolved.

    A result that is wrapped as `{"result": …}` keeps its wrapper: paths begin inside it. What the schema cannot say
    any more, and what is nested or repeated too deep to follow, becomes `{}`, which admits anything.
    """
    wrapped = bool(schema.get(WRAPPED))
    mark: dict[str, Any] = {WRAPPED: True} if wrapped else {}
    relax = _Relax(schema)
    kind = relax.kind()
    if redaction is None or redaction.everything:
        return {**kind, **mark}
    if redaction.is_empty:
        return dict(schema)
    states, keeps = start(redaction.withhold), tuple(start(keep) for keep in redaction.keep)
    if wrapped:
        found = relax.resolved(schema).get("properties")
        inner = found.get("result", {}) if isinstance(found, Mapping) else {}
        properties = {"result": relax.node(inner, states, keeps, frozenset(), 0)}
        out: dict[str, Any] = {"properties": properties, "required": ["result"], **mark}
    else:
        out = relax.node(schema, states, keeps, frozenset(), 0)
    dialect = {"$schema": schema["$schema"]} if "$schema" in schema else {}
    return {**dialect, **out, **kind}


class _Relax:
    """One pass over one schema."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0
        self._lone = any(draft in str(root.get("$schema", "")) for draft in _NO_SIBLINGS)

    def kind(self) -> dict[str, Any]:
        """What the whole result is, which no redaction changes: an object, what the schema says, or anything."""
        root: Any = self._root
        for _ in range(MAX_DEPTH):
            if not isinstance(root, Mapping):
                return {}
            if "type" in root:
                kinds = root["type"] if isinstance(root["type"], list) else [root["type"]]
                return {"type": "object" if set(kinds) - {"null"} == {"object"} else root["type"]}
            if "properties" in root:
                return {"type": "object"}
            if "$ref" not in root:
                return {}
            root = self._target(root["$ref"])
        return {}

    def node(self, schema: Any, withheld: States, keeps: Keeps, seen: frozenset[Any], depth: int) -> dict[str, Any]:
        """The schema of a place that paths may reach, or that holds references."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            return {}
        while isinstance(schema, Mapping) and "$ref" in schema:
            mark = (str(schema["$ref"]), withheld, keeps)
            if mark in seen:
                return {}
            seen |= {mark}
            schema = self.resolved(schema)
        if not isinstance(schema, Mapping) or ("$id" in schema and schema is not self._root):
            return {}  # anything or nothing; or a document of its own, whose references begin there
        out = {key: value for key, value in schema.items() if key not in _DROPPED and not key.startswith("$")}
        out.pop("definitions", None)
        place = _Place(self, withheld, keeps, seen, depth + 1)
        place.object(out)
        place.array(out)
        place.branches(out)
        return out

    def resolved(self, schema: Schema) -> Any:
        """Follows one local reference; a reference that leads elsewhere, or to a name, is anything."""
        reference = schema.get("$ref")
        if reference is None:
            return schema
        rest = {key: value for key, value in schema.items() if key != "$ref" and key not in _NOTES}
        rest = {} if self._lone else {key: value for key, value in rest.items() if not key.startswith("$")}
        target = self._target(reference)
        return {"allOf": [target, rest]} if rest else target

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return {}
        target: Any = self._root
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                return {}
        return target


class _Place:
    """Where the paths stand at one node, with what is known on the way there."""

    __slots__ = ("_depth", "_keeps", "_relax", "_seen", "_withheld")

    def __init__(self, relax: _Relax, withheld: States, keeps: Keeps, seen: frozenset[Any], depth: int) -> None:
        self._relax = relax
        self._withheld = withheld
        self._keeps = keeps
        self._seen = seen
        self._depth = depth

    def _below(self, schema: Any, withheld: States, keeps: Sequence[States]) -> Any:
        """The schema below, where these states lead; as it is where they do not and it holds no references."""
        left = tuple(keep for keep in keeps if not ended(keep))
        if not withheld and not left and not _refers(schema, MAX_DEPTH):
            return schema
        return self._relax.node(schema, withheld, left, self._seen, self._depth)

    def branches(self, out: dict[str, Any]) -> None:
        """`allOf`, `anyOf`, `oneOf`. What told the branches of a `oneOf` apart may be gone: more than one can match."""
        for word in ("allOf", "anyOf", "oneOf"):
            branches = out.pop(word, None)
            if not isinstance(branches, list):
                continue
            relaxed = [self._below(branch, self._withheld, self._keeps) for branch in branches]
            key = "allOf" if word == "allOf" else "anyOf"
            if key in out:
                out.setdefault("allOf", []).append({key: relaxed})
            else:
                out[key] = relaxed

    def object(self, out: dict[str, Any]) -> None:
        """Properties: those that can leave are not required."""
        found, demanded = out.get("properties"), out.get("required")
        if isinstance(found, Mapping):
            out["properties"] = {
                name: self._below(child, advance(self._withheld, name), [advance(keep, name) for keep in self._keeps])
                for name, child in found.items()
            }
        if isinstance(demanded, list):
            out["required"] = [name for name in demanded if isinstance(name, str) and not self._can_leave(name)]
        else:
            out.pop("required", None)
        if "additionalProperties" in out:
            out["additionalProperties"] = self._unnamed(out["additionalProperties"])
        patterns = out.get("patternProperties")
        if isinstance(patterns, Mapping):
            out["patternProperties"] = {pattern: self._unnamed(child) for pattern, child in patterns.items()}

    def _can_leave(self, name: str) -> bool:
        """Whether the redaction may take the key out. One that only leads to what is kept leaves if it is no object."""
        return ended(advance(self._withheld, name)) or not all(ended(advance(keep, name)) for keep in self._keeps)

    def _unnamed(self, value: Any) -> Any:
        """Properties without names of their own: any path may go through them."""
        if isinstance(value, bool):
            return value
        keeps = [advance(keep, UNNAMED) for keep in self._keeps]
        if any(advance_any(keep) != exact for keep, exact in zip(self._keeps, keeps, strict=True)):
            return {}  # which of them a path keeps depends on names that the schema does not say
        return self._below(value, advance_any(self._withheld), keeps)

    def array(self, out: dict[str, Any]) -> None:
        """Items may go and the rest move up, so their positions mean nothing any more."""
        items = out.get("items")
        positional = "prefixItems" in out or isinstance(items, list) or any(map(_spells_items, self._keeps))
        out.pop("prefixItems", None)
        if positional or "items" not in out:
            out.pop("items", None)
        else:
            out["items"] = self._below(items, self._withheld | advance_any(self._withheld), self._keeps)


def _spells_items(states: States) -> bool:
    """Whether a path may go on through the position of an item, not only through what the item holds."""
    steps = [state[0] for state in states if state]
    names = [step.key if isinstance(step, Folded) else step for step in steps if not isinstance(step, Wild)]
    return Wild.ONE in steps or any(name.isdigit() for name in names)


def _refers(schema: Any, depth: int) -> bool:
    """Whether references stand in the schema, which would lead nowhere in the one that is made."""
    if depth < 0:
        return True
    if isinstance(schema, Mapping):
        return any(str(key).startswith("$") or _refers(value, depth - 1) for key, value in schema.items())
    return isinstance(schema, list) and any(_refers(item, depth - 1) for item in schema)
