"""What a foreign component's input schema says of a call. It is read, held against what came, and never applied.

A schema may come from anybody: it is read in the dialect that it names, without a network, without its patterns, and
within a bound of work. What cannot be read so says nothing, and its arguments are called untyped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
from referencing.jsonschema import EMPTY_REGISTRY

from ...core.wording import Unsent
from ...errors import ArgumentsInvalid
from ...model import ArgumentFacts, Published
from .schemas import Memory

STEPS: Final = 50_000
"""How many keywords of a schema are evaluated for one call, or nodes looked at."""
DEEPEST: Final = 24
READINGS: Final = 16
NAMES: Final = 5_000
LONGEST: Final = 300

APPLICATORS: Final = ("allOf", "anyOf", "oneOf")
BRANCHES: Final = ("if", "then", "else", "not")
MAPS: Final = ("dependentSchemas", "dependencies")
REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef", "extends")
SKIPPED: Final = (
    *("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "uniqueItems", "multipleOf"),
    *("divisibleBy", "format", "propertyNames"),
)
"""Keywords whose work no bound of steps limits, or that need the others to be complete. They restrict no name."""
NAMED: Final = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
NESTED: Final = frozenset(
    (*APPLICATORS, *BRANCHES, "items", "prefixItems", "additionalItems", "additionalProperties", "contains")
)
LISTS: Final = frozenset((*APPLICATORS, "prefixItems", "enum"))

Schema = Mapping[str, Any]


class Unread(Exception):
    """A schema, or a part of one, that cannot be evaluated within its bounds."""


OPEN: Final = ("additionalProperties", "patternProperties", "unevaluatedProperties")

# --- facts ------------------------------------------------------------------------------------------------------------


def facts_of(schema: Schema, given: Mapping[str, Any]) -> ArgumentFacts:
    """What is known of a call of a foreign component. Raises `ArgumentsInvalid` for what its schema does not take."""
    untyped = _held(schema, given)
    try:
        readings = tuple(_readings(schema, given))
    except (Unread, RecursionError):
        readings, untyped = (given,), untyped | {path[0] for path in published_of(schema).names}
    return ArgumentFacts(given=given, readings=readings, published=published_of(schema), untyped=untyped, foreign=True)


# --- is it taken ------------------------------------------------------------------------------------------------------


def _held(schema: Schema, given: Mapping[str, Any]) -> frozenset[str]:
    """The arguments whose schemas cannot be evaluated. Raises `ArgumentsInvalid` for what the schema does not take."""
    budget = _Budget()
    token = _budget.set(budget)
    try:
        validator = _validator(schema)
        error = next(iter(validator.iter_errors(given)), None)
    except (Exception, RecursionError):
        return _each(schema, given)
    finally:
        _budget.reset(token)
    if error is not None:
        raise _unfit(error)
    return frozenset()


def _each(schema: Schema, given: Mapping[str, Any]) -> frozenset[str]:
    """Each argument by itself, where the schema as a whole cannot be evaluated."""
    untyped = set()
    properties = schema.get("properties")
    listed: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    if listed and _is_closed(schema):
        unknown = sorted(str(name)[:60] for name in given if name not in listed)
        if unknown:
            raise ArgumentsInvalid(f"unexpected argument(s): {', '.join(unknown[:8])}")
    token = _budget.set(_Budget())
    try:
        for name, value in given.items():
            try:
                root = _validator(schema)
                inner = root.schema.get("properties", {}).get(name, True) if isinstance(root.schema, Mapping) else True
                error = next(iter(root.descend(value, inner)), None)
            except (Exception, RecursionError):
                untyped.add(name)
                continue
            if error is not None:
                error.path.appendleft(name)
                raise _unfit(error)
            if name not in listed:
                untyped.add(name)
    finally:
        _budget.reset(token)
    return frozenset(untyped)


def _unfit(error: Any) -> ArgumentsInvalid:
    where = "/".join(str(part) for part in error.absolute_path) or "arguments"
    text = f"{where}: {error.message}"
    return ArgumentsInvalid(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


class _Budget:
    """How much work is left."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = STEPS

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise Unread


_budget: ContextVar[_Budget] = ContextVar("mcp_macaroon_schema_budget")
_validators: Final = Memory()


def _validator(schema: Schema) -> Any:
    known = _validators.get(schema, None)
    if known is None:
        readable = _readable(schema, _Budget(), legacy="$schema" not in schema)
        if _is_closed(schema):
            readable["additionalProperties"] = False
        draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        known = _bounded(draft)(readable, registry=EMPTY_REGISTRY)
        _validators.keep(schema, None, known)
    return known


@cache
def _bounded(draft: Any) -> Any:
    """A dialect's validator class whose work is counted, and that leaves patterns out."""
    counted = {name: _counting(function) for name, function in draft.VALIDATORS.items()}
    named: Callable[..., Any] = counted.get("additionalProperties", _nothing)

    def additional(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        # which names are additional is said by patterns, where there are some: a foreign one can take for ever
        return () if "patternProperties" in schema else named(validator, value, instance, schema)

    left_out = dict.fromkeys(SKIPPED, _nothing)
    return jsonschema.validators.extend(draft, validators=counted | left_out | {"additionalProperties": additional})


def _nothing(*_: Any) -> tuple[()]:
    return ()


def _counting(function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        sized = len(value) if isinstance(value, list | Mapping) else 0
        _budget.get().spend(1 + sized + (len(instance) if isinstance(instance, list | Mapping) else 0))
        yield from function(validator, value, instance, schema) or ()

    return counted


def _is_closed(schema: Schema) -> bool:
    """Whether the names that a schema lists are all that it can mean."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties or any(key in schema for key in OPEN):
        return False
    return not _may_add({key: value for key, value in schema.items() if key != "properties"}, 0)


def _may_add(schema: Any, depth: int) -> bool:
    """Whether a schema for the same value, or one of several, could list names."""
    if depth > DEEPEST:
        return True
    if isinstance(schema, list):
        return any(_may_add(item, depth + 1) for item in schema)
    if not isinstance(schema, Mapping):
        return False
    if any(key in schema for key in ("properties", *OPEN, *REFERENCES)):
        return True
    inner = [schema.get(key) for key in (*APPLICATORS, *BRANCHES)]
    inner += [list(schema[key].values()) for key in MAPS if isinstance(schema.get(key), Mapping)]
    return any(_may_add(item, depth + 1) for item in inner)


def _readable(schema: Any, budget: _Budget, *, legacy: bool, depth: int = 0) -> Any:
    """The schema as its dialect's validator reads it: without what other languages write for "not there".

    `legacy`: it names no dialect, so what only an older one says is read as that.
    """
    budget.spend()
    if depth > 64:
        raise Unread
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if (key == "$schema" and isinstance(value, str)) or (value is None and key not in ("const", "default")):
            continue
        if key in NAMED and isinstance(value, Mapping):
            made[key] = {
                name: _readable(inner, budget, legacy=legacy, depth=depth + 1) for name, inner in value.items()
            }
        elif key in NESTED and isinstance(value, list):
            made[key] = [_readable(inner, budget, legacy=legacy, depth=depth + 1) for inner in value]
        else:
            made[key] = _readable(value, budget, legacy=legacy, depth=depth + 1) if key in NESTED else value
    return _as_written(made, legacy=legacy)


def _as_written(schema: dict[str, Any], *, legacy: bool) -> dict[str, Any]:
    required, properties = schema.get("required"), schema.get("properties")
    if isinstance(required, bool):
        del schema["required"]
    elif isinstance(required, list) and isinstance(properties, Mapping):  # some generators require what has a default
        schema["required"] = [name for name in required if not _has_default(properties.get(str(name)))]
    if legacy:
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
                schema[exclusive] = schema.pop(bound)
        if isinstance(schema.get("items"), list):
            schema["prefixItems"] = schema.pop("items")
            if "additionalItems" in schema:
                schema["items"] = schema.pop("additionalItems")
    return _or_null(schema) if schema.get("nullable") is True else schema


def _has_default(schema: Any) -> bool:
    return isinstance(schema, Mapping) and "default" in schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type")
    if kinds is None:
        return {"anyOf": [{"type": "null"}, schema]}
    schema["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
    if isinstance(schema.get("enum"), list):
        schema["enum"] = [*schema["enum"], None]
    return schema


# --- what its defaults say --------------------------------------------------------------------------------------------


def _readings(schema: Schema, given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The arguments with the defaults of those that were left out; one reading for each of several defaults of one."""
    said = [json.dumps(given, sort_keys=True, default=str)]
    number, most = 0, 1
    while number < most:
        filler = _Filler(schema, number)
        reading = filler.filled(given, [schema], 0)
        most = filler.most
        if most > READINGS:
            raise Unread
        mark = json.dumps(reading, sort_keys=True, default=str)
        if number == 0 or mark not in said:
            said.append(mark)
            yield reading
        number += 1


def unsent(schema: Schema, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What came, with `Unsent` for each argument that was left out and has a default: how people are shown it."""
    try:
        return _Filler(schema, None).filled(given, [schema], 0)
    except (Unread, RecursionError):  # the rules refuse what they name of it; nothing more can be said
        return given


class _Filler:
    """Fills what was left out with the number-th of its defaults, or with all. `most` is how many one of them has."""

    def __init__(self, root: Schema, number: int | None) -> None:
        self._root = root
        self._number = number
        self._budget = _Budget()
        self.most = 1

    def filled(self, value: Mapping[str, Any], schemas: Sequence[Any], depth: int) -> dict[str, Any]:
        """An object with the defaults that any of its schemas says."""
        made = dict(value)
        for name, inner in _members(applying(schemas, self._root, self._budget), self._budget).items():
            if name in value:
                made[name] = self._within(value[name], inner, depth + 1)
                continue
            defaults = self._defaults(inner)
            if defaults:
                self.most = max(self.most, len(defaults))
                number = self._number
                made[name] = Unsent(defaults) if number is None else defaults[min(number, len(defaults) - 1)]
        return made

    def _within(self, value: Any, schemas: Sequence[Any], depth: int) -> Any:
        self._budget.spend()
        if depth > DEEPEST:
            raise Unread
        if isinstance(value, Mapping):
            return self.filled(value, schemas, depth)
        if isinstance(value, list | tuple):
            parts = applying(schemas, self._root, self._budget)
            return [self._within(item, _items(parts, number), depth + 1) for number, item in enumerate(value)]
        return value

    def _defaults(self, schemas: Sequence[Any]) -> list[Any]:
        found: dict[str, Any] = {}
        for part in applying(schemas, self._root, self._budget):
            if "default" in part:
                found.setdefault(json.dumps(part["default"], sort_keys=True, default=str), part["default"])
        return list(found.values())


def applying(schemas: Sequence[Any], root: Schema, budget: _Budget) -> list[Schema]:
    """Every schema that may speak of a value: those given, what they refer to and what they combine."""
    found: list[Schema] = []
    seen: set[int] = set()
    waiting = list(schemas)[::-1]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, Mapping) or id(schema) in seen:
            continue
        budget.spend()
        seen.add(id(schema))
        found.append(schema)
        for key in REFERENCES:
            waiting.append(target_of(root, schema.get(key)))
        for key in APPLICATORS:
            if isinstance(schema.get(key), list):
                waiting += schema[key][::-1]
        waiting += [schema.get(key) for key in ("else", "then", "if")]
        for key in MAPS:
            if isinstance(schema.get(key), Mapping):
                waiting += list(schema[key].values())
    return found


def target_of(root: Schema, reference: Any) -> Any:
    """What a reference within the document leads to; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    target: Any = root
    for part in reference[1:].split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping):
            target = target.get(part)
        elif isinstance(target, list) and part.isdigit() and int(part) < len(target):
            target = target[int(part)]
        else:
            return None
    return target if reference in ("#",) or reference.startswith("#/") else None


def _members(parts: Sequence[Schema], budget: _Budget) -> dict[str, list[Any]]:
    members: dict[str, list[Any]] = {}
    for part in parts:
        properties = part.get("properties")
        for name, inner in properties.items() if isinstance(properties, Mapping) else ():
            budget.spend()
            members.setdefault(name, []).append(inner)
    return members


def _items(parts: Sequence[Schema], number: int | None) -> list[Any]:
    """The schemas of one item of a list; without a number, of any."""
    found: list[Any] = []
    for part in parts:
        for key in ("prefixItems", "items"):
            value = part.get(key)
            if isinstance(value, list):
                found += value if number is None else value[number : number + 1]
            elif value is not None:
                found.append(value)
        found += [part[key] for key in ("additionalItems", "contains") if isinstance(part.get(key), Mapping)]
    return found


# --- what it publishes ------------------------------------------------------------------------------------------------

_published: Final = Memory()


def published_of(schema: Schema) -> Published:
    """The names that a schema lists, at any depth. The same object for the same schema object."""
    known: Published | None = _published.get(schema, None)
    if known is None:
        known = _listed(schema)
        _published.keep(schema, None, known)
    return known


def _listed(schema: Schema) -> Published:
    budget = _Budget()
    names: set[tuple[str, ...]] = set()
    free: set[tuple[str, ...]] = set()
    waiting: list[tuple[tuple[str, ...], list[Any], int]] = [((), [schema], 0)]
    try:
        while waiting:
            path, schemas, depth = waiting.pop()
            parts = applying(schemas, schema, budget)
            members = _members(parts, budget)
            if depth > DEEPEST // 2 or len(names) > NAMES or _is_free(parts, members):
                free.add(path)
            if depth > DEEPEST // 2 or len(names) > NAMES:
                continue
            for name, inner in members.items():
                if name in path and path.count(name) > 1:  # it refers to itself
                    free.add((*path, name))
                else:
                    names.add((*path, name))
                    waiting.append(((*path, name), inner, depth + 1))
            inside = _items(parts, None)
            if inside:
                waiting.append((path, inside, depth + 1))
    except (Unread, RecursionError):
        free.add(())
    return Published(names=frozenset(names), free=frozenset(free))


def _is_free(parts: Sequence[Schema], members: Mapping[str, Any]) -> bool:
    """Whether the caller chooses names here: an object of listed names is taken at its word."""
    if any(part.get("additionalProperties") not in (None, False) or "patternProperties" in part for part in parts):
        return True
    if members:
        return False
    kinds = [part["type"] for part in parts if "type" in part]
    return not kinds or any(kind == "object" or (isinstance(kind, list) and "object" in kind) for kind in kinds)
