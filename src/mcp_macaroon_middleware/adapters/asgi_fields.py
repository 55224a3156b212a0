"""What a FastAPI route really takes: every value as its endpoint gets it, every key of a body under all of its names.

Routes of other frameworks take what was sent. It imports no framework and runs nothing but the route's own validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..errors import ArgumentsInvalid

SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a route and of everything that it depends on; empty for a route that declares none."""

    of_path: Sequence[Any] = ()
    of_query: Sequence[Any] = ()
    of_body: Sequence[Any] = ()

    @classmethod
    def of(cls, route: Any) -> Fields:
        """The fields of a route of FastAPI; none for any other."""
        found = list(_dependants(getattr(route, "dependant", None)))
        return cls(
            [field for each in found for field in each.path_params],
            [field for each in found for field in each.query_params],
            [field for each in found for field in each.body_params],
        )

    def taken(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each way in which the route takes its path's parameters: one, unless two of its parts disagree."""
        ways = {name: _distinct(_ways(self.of_path, name, raw)) for name, raw in params.items()}
        most = max((len(some) for some in ways.values()), default=1)
        return [{name: some[min(number, len(some) - 1)] for name, some in ways.items()} for number in range(most)]

    def query(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The query as the route takes it. Raises `ArgumentsInvalid` where two of its parts disagree."""
        return {name: _one(name, _ways(self.of_query, name, raw)) for name, raw in given.items()}

    def body(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The body as the route takes it. Raises `ArgumentsInvalid` for two keys that name one field."""
        if not self.of_body:
            return dict(document)
        if not self._embeds:
            return _whole(self.of_body[0], document)
        found: dict[str, Any] = dict(document)
        for field in self.of_body:
            keys = _keys(field.field_info, field.name)
            key = _given(document, keys)
            if key is not None:
                ways = [_taken(each, document[key]) for each in self.of_body if each.name == field.name]
                value = _spread(field.field_info.annotation, _one(key, ways))
                found.update(dict.fromkeys(_free((*keys, field.name), document, key), value))
        return found

    @property
    def _embeds(self) -> bool:
        """Whether the body is an object of several fields, not one model."""
        first = self.of_body[0]
        return len({field.name for field in self.of_body}) > 1 or bool(getattr(first.field_info, "embed", None))


def _dependants(dependant: Any) -> Iterator[Any]:
    if dependant is not None:
        yield dependant
        for each in dependant.dependencies:
            yield from _dependants(each)


# --- values -----------------------------------------------------------------------------------------------------------


def _ways(fields: Iterable[Any], name: str, raw: Any) -> list[Any]:
    return [_taken(field, raw) for field in fields if field.alias == name] or [_plain(raw, raw)]


def _taken(field: Any, raw: Any) -> Any:
    """The value that a field makes of what was sent; the latter where it is no single one, or where nothing comes."""
    if isinstance(raw, list | dict):
        return raw
    try:
        value, errors = field.validate(raw, {}, loc=())
    except Exception:
        return raw
    return raw if errors else _plain(value, raw)


def _plain(value: Any, raw: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    if value is None or isinstance(value, SCALARS):
        return value
    if hasattr(value, "get_secret_value"):
        return raw
    try:
        made = to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return raw
    return made if isinstance(made, str) and not isinstance(raw, int | float) else raw


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The values that differ as texts; of equal ones that which is no text."""
    found: dict[str, Any] = {}
    for value in values:
        if str(value) not in found or isinstance(found[str(value)], str):
            found[str(value)] = value
    return list(found.values())


def _one(name: str, values: Iterable[Any]) -> Any:
    distinct = _distinct(values)
    if len(distinct) > 1:
        raise ArgumentsInvalid(f"{name!r} is taken as different values")
    return distinct[0]


# --- keys -------------------------------------------------------------------------------------------------------------


def _whole(field: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """A body that is one model, with its single values as the model has them."""
    found: dict[str, Any] = _spread(field.field_info.annotation, dict(document))
    try:
        model, errors = field.validate(dict(document), {}, loc=())
    except Exception:
        return found
    if errors or not isinstance(model, BaseModel):
        return found
    for name, key, names in _standing(type(model), document):
        if not isinstance(document[key], list | dict):
            found.update(dict.fromkeys(names, _plain(getattr(model, name), document[key])))
    return found


def _spread(annotation: Any, value: Any) -> Any:
    """A value with every key of its models under all of the names that it has. Raises `ArgumentsInvalid`."""
    models = _models(annotation) if isinstance(value, list | dict) else []
    if not models:
        return value
    if isinstance(value, list):
        return [_spread(annotation, item) for item in value]
    found = dict(value)
    for model in models:
        for name, key, names in _standing(model, value):
            found.update(dict.fromkeys(names, _spread(model.model_fields[name].annotation, value[key])))
    return found


def _standing(model: type[BaseModel], document: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """The fields of a model that a document gives: name, key, and every name that is the field's alone.

    Raises `ArgumentsInvalid` for two keys of one field.
    """
    fields = {name: _keys(info, name, model) for name, info in model.model_fields.items()}
    for name, keys in fields.items():
        key = _given(document, keys)
        if key is not None:
            others = {each for other, some in fields.items() if other != name for each in some}
            yield name, key, [each for each in _free((*keys, name), document, key) if each not in others]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in _models(each)]


def _keys(info: Any, name: str, model: type[BaseModel] | None = None) -> tuple[str, ...]:
    """The keys that a field is read from."""
    config: Mapping[str, Any] = model.model_config if model is not None else {}
    alias = info.validation_alias or info.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias] if alias is not None else [name]
    keys = [str(choice.path[0]) if isinstance(choice, AliasPath) else choice for choice in choices]
    if config.get("validate_by_alias") is False:
        keys = []
    by_name = config.get("populate_by_name") or config.get("validate_by_name") or not keys
    return tuple(dict.fromkeys((*keys, name) if by_name else keys))


def _given(document: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The one key of a field that stands in a document. Raises `ArgumentsInvalid` for two."""
    given = [key for key in keys if key in document]
    if len(given) > 1:
        raise ArgumentsInvalid(f"{given[0]!r} and {given[1]!r} name the same field")
    return given[0] if given else None


def _free(names: Iterable[str], document: Mapping[str, Any], key: str) -> list[str]:
    """The names under which a field's value may stand: its key, and those that the document does not use."""
    return [name for name in names if name == key or name not in document]
