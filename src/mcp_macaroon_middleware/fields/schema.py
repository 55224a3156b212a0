"""Changes an output schema so that every result of a redaction is valid against it; it can only widen a schema.

Each part that is referred to has one definition for each standing of the paths there, so that a schema of types that
refer to each other stays near its own size. A field that is never there is not named. What may leave tells its
structure alone: no default, no example, no constant, no description, since those may be what is withheld.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..model import Redaction
from .paths import ended, start
from .pointers import MAX_DEPTH, NOWHERE, Schema, count, is_plain, target, weight
from .standing import NOBODY_KNOWS, Standing

WRAPPED: Final = "x-fastmcp-wrap-result"
MAX_NODES: Final = 50_000
TIMES: Final = 3
"""How many times as long as its own a published schema may be; past that, one standing serves every place."""

_NO_SIBLINGS: Final = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")  # dialects in which `$ref` stands alone

# The words of a place that a path reaches. Whatever is not here may demand what can leave, or tell it.
_STRUCTURE: Final = frozenset({"type", "nullable"})
_BOUNDS: Final = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "maxItems", "maxProperties"}
)
_NOTES: Final = frozenset({"title", "description", "deprecated", "readOnly", "writeOnly"})
_TOLD: Final = frozenset({"default", "example", "examples"})  # only where nothing leaves
_CONTAINERS: Final = frozenset(
    {"properties", "patternProperties", "additionalProperties", "items", "prefixItems", "allOf", "anyOf", "oneOf"}
)

# Where schemas stand in a schema, for one that is copied as it is but for its references.
_BY_NAME: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_ONE_OR_MORE: Final = frozenset(
    {"items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "contentSchema"}
    | {"additionalProperties", "unevaluatedProperties", "propertyNames"}
    | {"allOf", "anyOf", "oneOf", "not", "if", "then", "else"}
)
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_IDLE: Final = Standing()


def relax_schema(
    schema: Schema, redaction: Redaction | None, never: Redaction | None = None, *, twofold: bool = False
) -> dict[str, Any]:
    """The schema, widened for what `redaction` can remove; None: anything may leave.

    What `never` removes, which `redaction` removes too, is never in a result, and is not named. A result that is
    wrapped as `{"result": …}` keeps its wrapper: paths begin inside it. `twofold`: a lone `result` may be such a
    wrapper and may be a field. What the schema cannot say any more becomes `{}`, which admits anything. It is at most
    `TIMES` as long as its own, whatever the paths.
    """
    wrapped = bool(schema.get(WRAPPED))
    mark: dict[str, Any] = {WRAPPED: True} if wrapped else {}
    kind = _kind(schema)
    size = count(schema, MAX_NODES)
    if redaction is None or redaction.everything or ended(start(redaction.withhold)) or size == MAX_NODES:
        return {**kind, **mark}
    if redaction.is_empty:
        return dict(schema)
    never = never or Redaction()
    dialect = {"$schema": schema["$schema"]} if "$schema" in schema else {}
    longest = TIMES * weight(schema)
    for standing in (Standing.first(redaction, never, twofold=twofold), Standing.anywhere(never)):
        made = _Relax(schema, TIMES * size + 8).whole(standing, wrapped=wrapped) if standing is not None else None
        if made is not None:
            found = {**dialect, **made, **kind, **mark}
            if weight(found) <= longest:
                return found
    return {**kind, **mark}


def _kind(schema: Schema) -> dict[str, Any]:
    """What the whole result is, which no redaction changes: an object, what the schema says, or anything."""
    root: Any = schema
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
        root = target(schema, root["$ref"])
    return {}


class _TooMany(Exception):
    """More places were made than the schema may have."""


class _Relax:
    """One pass over one schema. `most`: how many places it may make."""

    def __init__(self, root: Schema, most: int) -> None:
        self._root = root
        self._most = most
        self._lone = any(draft in str(root.get("$schema", "")) for draft in _NO_SIBLINGS)
        self._word = "definitions" if self._lone else "$defs"
        self._plain = is_plain(root, MAX_NODES * 4)
        self._names: dict[tuple[int, Standing], str] = {}
        self._taken: set[str] = set()
        self._waiting: list[tuple[str, Any, Standing]] = []

    def whole(self, standing: Standing, *, wrapped: bool) -> dict[str, Any] | None:
        """The schema with its definitions; None where it would become too large."""
        root = self._referred(self._root)
        try:
            if wrapped:
                found = root.get("properties")
                inner = found.get("result", {}) if isinstance(found, Mapping) else {}
                out: dict[str, Any] = {
                    "properties": {"result": self._below(inner, standing, 0)},
                    "required": ["result"],
                }
            else:
                out = self._place(root, standing, 0)
            definitions: dict[str, Any] = {}
            while self._waiting:
                name, schema, at = self._waiting.pop()
                definitions[name] = self._below(schema, at, 0)
        except (_TooMany, RecursionError):
            return None
        return {**out, self._word: definitions} if definitions else out

    def _referred(self, schema: Schema) -> Schema:
        """The root, or what it refers to with what it says besides: a result's schema says itself what it is."""
        if "$ref" not in schema:
            return schema
        found = target(self._root, schema["$ref"])
        rest = {key: value for key, value in schema.items() if key != "$ref" and not key.startswith("$")}
        if not isinstance(found, Mapping):
            return rest
        return found if self._lone or not set(rest) - _NOTES - _DEFINITIONS else {"allOf": [found, rest]}

    def _reference(self, reference: Any, at: Standing) -> dict[str, Any]:
        """A reference to the definition for this standing; to one that leads nowhere, what admits anything."""
        found = target(self._root, reference)
        if found is NOWHERE:
            return {}
        mark = (id(found), at)
        name = self._names.get(mark)
        if name is None:
            name = self._names[mark] = self._named(str(reference))
            self._waiting.append((name, found, at))
        return {"$ref": f"#/{self._word}/{name}"}

    def _named(self, reference: str) -> str:
        last = re.sub(r"[^A-Za-z0-9]+", "_", reference.rpartition("/")[2]).strip("_")[:60] or "Root"
        name, number = last, 1
        while name in self._taken:
            number += 1
            name = f"{last}_{number}"
        self._taken.add(name)
        return name

    # --- places that no path reaches ----------------------------------------------------------------------------

    def _below(self, schema: Any, at: Standing, depth: int) -> Any:
        """The schema of a place; as it is where nothing can leave and it holds no references."""
        if at.is_idle and not _refers(schema, MAX_DEPTH):
            return schema
        return self._copied(schema) if at.is_idle and self._plain else self._place(schema, at, depth)

    def _copied(self, schema: Any) -> Any:
        """The schema with its references led to the definitions that are made here."""
        if isinstance(schema, list):
            return [self._copied(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        self._spend()
        if "$ref" in schema and self._lone:
            return self._reference(schema["$ref"], _IDLE)
        out: dict[str, Any] = {}
        for word, value in schema.items():
            if word == "$ref":
                out |= self._reference(value, _IDLE)
            elif word in _BY_NAME and isinstance(value, Mapping):
                out[word] = {name: self._copied(child) for name, child in value.items()}
            elif word in _ONE_OR_MORE:
                out[word] = self._copied(value)
            elif word not in _DEFINITIONS and word != "$comment":
                out[word] = value
        return out

    def _spend(self) -> None:
        self._most -= 1
        if self._most < 0:
            raise _TooMany

    # --- places that paths may reach ----------------------------------------------------------------------------

    def _place(self, schema: Any, at: Standing, depth: int) -> dict[str, Any]:
        """The schema of a place that paths may reach, or that holds references which cannot be moved."""
        self._spend()
        if depth > MAX_DEPTH or not isinstance(schema, Mapping) or ("$id" in schema and schema is not self._root):
            return {}  # anything or nothing; or a document of its own, whose references begin there
        if "$ref" in schema and self._lone:
            return self._reference(schema["$ref"], at)
        if at.keeps and not _CONTAINERS & set(schema) and "$ref" not in schema:
            at = at.concealed()  # a leaf that no path has named yet leaves
        words = _STRUCTURE if at.hidden else _STRUCTURE | _BOUNDS | _NOTES
        words = words | _TOLD if at.is_idle else words
        out = {word: value for word, value in schema.items() if word in words}
        if "$ref" in schema:
            out |= self._reference(schema["$ref"], at)
        self._object(schema, out, at, depth + 1)
        self._array(schema, out, at, depth + 1)
        self._branches(schema, out, at, depth + 1)
        return out

    def _branches(self, schema: Schema, out: dict[str, Any], at: Standing, depth: int) -> None:
        """`allOf`, `anyOf`, `oneOf`. What told the branches of a `oneOf` apart may be gone: more than one can match."""
        for word in ("allOf", "anyOf", "oneOf"):
            branches = schema.get(word)
            if not isinstance(branches, list):
                continue
            relaxed = [self._below(branch, at, depth) for branch in branches]
            key = "allOf" if word == "allOf" else "anyOf"
            if key in out:
                out["allOf"] = [*out.get("allOf", ()), {key: relaxed}]
            else:
                out[key] = relaxed

    def _object(self, schema: Schema, out: dict[str, Any], at: Standing, depth: int) -> None:
        """Properties: those that can leave are not required, those that are never there are not named.

        Where one is not named, others are not forbidden: a client may hold this schema when the rules have changed.
        """
        is_open = False
        found, demanded = schema.get("properties"), schema.get("required")
        if isinstance(found, Mapping):
            below = {name: at.key(name) for name in found}
            out["properties"] = {
                name: self._below(child, standing, depth)
                for name, child in found.items()
                if (standing := below[name]) is not None
            }
            is_open = len(out["properties"]) < len(found)
        if isinstance(demanded, list):
            left = [name for name in demanded if isinstance(name, str) and not at.may_leave(name)]
            out |= {"required": left} if left or self._word == "$defs" else {}
        patterns = schema.get("patternProperties")
        if isinstance(patterns, Mapping):
            unnamed = (
                {} if at.hidden else {pattern: self._unnamed(child, at, depth) for pattern, child in patterns.items()}
            )
            out["patternProperties"] = {pattern: child for pattern, child in unnamed.items() if child is not None}
            is_open = is_open or len(out["patternProperties"]) < len(patterns)
        rest = self._unnamed(schema["additionalProperties"], at, depth) if "additionalProperties" in schema else None
        if rest is not None and not is_open:
            out["additionalProperties"] = rest

    def _unnamed(self, value: Any, at: Standing, depth: int) -> Any:
        """Properties without names of their own: any path may go through them. None where none is ever there."""
        if isinstance(value, bool):
            return value
        standing = at.unnamed()
        if standing is NOBODY_KNOWS:
            return {}
        return self._below(value, standing, depth) if isinstance(standing, Standing) else None

    def _array(self, schema: Schema, out: dict[str, Any], at: Standing, depth: int) -> None:
        """Items may go and the rest move up, so their positions mean nothing any more."""
        items = schema.get("items")
        standing = at.item()
        if "prefixItems" in schema or isinstance(items, list) or at.is_positional or standing is None:
            return
        if "items" in schema:
            out["items"] = self._below(items, standing, depth)


def _refers(schema: Any, depth: int) -> bool:
    """Whether references or definitions stand in the schema, which would lead nowhere in the one that is made."""
    if depth < 0:
        return True
    if isinstance(schema, Mapping):
        words = schema.items()
        return any(
            str(key).startswith("$") or key == "definitions" or _refers(value, depth - 1) for key, value in words
        )
    return isinstance(schema, list) and any(_refers(item, depth - 1) for item in schema)
