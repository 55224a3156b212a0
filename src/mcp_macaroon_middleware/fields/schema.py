"""Changes an output schema so that every result of a redaction is valid against it; it can only widen a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..model import Redaction
from .paths import States, Wild, advance, advance_any, ended, start

WRAPPED: Final = "x-fastmcp-wrap-result"
MAX_NODES: Final = 20_000
UNNAMED: Final = "\0"

# What a node that can lose something may no longer demand.
_COUNTS: Final = (
    "minProperties",
    "minItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "dependentRequired",
)
_SHAPES: Final = ("const", "enum", "dependentSchemas", "if", "then", "else", "not", "unevaluatedProperties")
_MORE: Final = ("unevaluatedItems", "propertyNames", "$dynamicRef", "$recursiveRef")
_TEXTS: Final = ("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType", "contentSchema")
_DROPPED: Final = frozenset(_COUNTS + _SHAPES + _MORE + _TEXTS)


def relax_schema(schema: Mapping[str, Any], redaction: Redaction | None) -> dict[str, Any]:
    """The schema, widened for what `redaction` can remove; None: anything may leave. References are resolved.

    A result that is wrapped as `{"result": …}` keeps its wrapper: paths begin inside it.
    """
    wrapped = bool(schema.get(WRAPPED))
    if redaction is None or redaction.everything:
        loose: dict[str, Any] = {"type": "object"}
        return {**loose, WRAPPED: True} if wrapped else loose
    if redaction.is_empty:
        return dict(schema)
    relax = _Relax(schema)
    withheld = start(redaction.withhold)
    named = tuple(start(keep) for keep in redaction.keep)
    if not wrapped:
        return relax.node(schema, withheld, named, ())
    inner = relax.resolve(schema.get("properties", {}).get("result", {}))
    return {
        "type": "object",
        "properties": {"result": relax.node(inner, withheld, named, ())},
        "required": ["result"],
        WRAPPED: True,
    }


class _Relax:
    """One pass over one schema. Recursive references and schemas past the size limit become `{}`: anything."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def node(self, schema: Any, withheld: States, keeps: tuple[States, ...], seen: tuple[Any, ...]) -> dict[str, Any]:
        self._nodes += 1
        schema, seen = self._entered(schema, withheld, keeps, seen)
        if not isinstance(schema, Mapping) or self._nodes > MAX_NODES:
            return {}
        out = {key: value for key, value in schema.items() if key not in _DROPPED and not key.startswith("$")}
        self._object(out, withheld, keeps, seen)
        self._array(out, withheld, keeps, seen)
        for word in ("allOf", "anyOf", "oneOf"):
            if word in out:
                branches = [self.node(branch, withheld, keeps, seen) for branch in out.pop(word)]
                # What told the branches apart may be gone, so more than one can match.
                key = "allOf" if word == "allOf" else "anyOf"
                if key in out:
                    out.setdefault("allOf", []).append({key: branches})
                else:
                    out[key] = branches
        return out

    def _entered(
        self, schema: Any, withheld: States, keeps: tuple[States, ...], seen: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
            mark = (schema["$ref"], withheld, keeps)
            if mark in seen:
                return None, seen
            seen = (*seen, mark)
            schema = self.resolve(schema)
        return schema, seen

    def resolve(self, schema: Any) -> Any:
        """Follows one local reference; siblings of `$ref` stay, a reference elsewhere is anything."""
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        target: Any = self._root
        reference = schema["$ref"]
        if not reference.startswith("#"):
            return {}
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {"allOf": [target or {}, rest]} if rest.keys() - {"title", "description", "default"} else target or {}

    def _object(self, out: dict[str, Any], withheld: States, keeps: tuple[States, ...], seen: tuple[Any, ...]) -> None:
        removable: set[str] = set()
        found = out.get("properties")
        properties: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        names = set(properties)
        required = [name for name in out.get("required", ()) if isinstance(name, str)]
        changed: dict[str, Any] = {}
        for name in names | set(required):
            below, kept = advance(withheld, name), [advance(keep, name) for keep in keeps]
            if ended(below) or any(not keep or not ended(keep) for keep in kept):
                removable.add(name)
            if name in names:
                left = tuple(keep for keep in kept if not ended(keep))
                changed[name] = (
                    self.node(properties[name], below, left, seen)
                    if below or left
                    else (self._untouched(properties[name], seen))
                )
        if properties:
            out["properties"] = {name: changed[name] for name in properties}
        if required:
            out["required"] = [name for name in required if name not in removable]
        for word in ("additionalProperties", "patternProperties"):
            if word in out:
                out[word] = self._unnamed(out[word], word, withheld, keeps, seen)

    def _unnamed(
        self, value: Any, word: str, withheld: States, keeps: tuple[States, ...], seen: tuple[Any, ...]
    ) -> Any:
        """Properties without a name of their own: any path may go through them."""
        if isinstance(value, bool):
            return value
        below = advance_any(withheld)
        left = tuple(advance(keep, UNNAMED) for keep in keeps)
        if any(set(advance_any(keep)) != set(exact) for keep, exact in zip(keeps, left, strict=True)):
            return {}  # which of these properties a path keeps depends on names that the schema does not say
        left = tuple(keep for keep in left if not ended(keep))
        if word == "patternProperties" and isinstance(value, Mapping):
            return {pattern: self.node(child, below, left, seen) for pattern, child in value.items()}
        return self.node(value, below, left, seen)

    def _array(self, out: dict[str, Any], withheld: States, keeps: tuple[States, ...], seen: tuple[Any, ...]) -> None:
        if any(_names_items(keep) for keep in keeps):
            out.pop("prefixItems", None)
            out.pop("items", None)  # which items a path keeps depends on their positions
        elif isinstance(out.get("prefixItems"), list):
            out.pop("prefixItems")  # items may go and the rest move up, so positions mean nothing any more
            out.pop("items", None)
        elif isinstance(out.get("items"), Mapping):
            out["items"] = self.node(out["items"], withheld + advance_any(withheld), keeps, seen)

    def _untouched(self, schema: Any, seen: tuple[Any, ...]) -> Any:
        """A part that nothing leaves, as it is but for its references."""
        return self.node(schema, (), (), seen) if _refers(schema) else schema


def _names_items(states: States) -> bool:
    """Whether a path may go on through the position of an item, not only through what the item holds."""
    steps = (path[at] for path, at in states if at < len(path))
    return any(step is Wild.ONE or (isinstance(step, str) and step.isdigit()) for step in steps)


def _refers(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return any(key in ("$ref", "$dynamicRef") or _refers(value) for key, value in schema.items())
    return isinstance(schema, list) and any(_refers(item) for item in schema)
