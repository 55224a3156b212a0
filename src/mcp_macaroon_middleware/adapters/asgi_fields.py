"""What a FastAPI route really takes: every value as its endpoint gets it, under all of the names that it has.

The values are made by FastAPI's own readers, so that what is judged cannot drift from what runs. No dependency and no
endpoint is called. Routes of other frameworks declare nothing but their path. It imports no framework by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final, get_args

from pydantic import AliasChoices, AliasPath, BaseModel, Json
from pydantic_core import PydanticSerializationError, to_jsonable_python
from starlette.requests import Request

from ..errors import ArgumentsInvalid

SCALARS = (str, int, float, bool)
PARTS: Final = ("query_params", "header_params", "cookie_params")
OURS: Final = "mcp_macaroon_middleware.adapters.fastapi"
"""The module of the dependencies that read a request to judge it, and hand nothing of it to the endpoint."""

Values = dict[str, Any]


class Unreadable(Exception):
    """A value that has no form as plain data."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What a route and everything that it depends on declare; empty for a route of another framework.

    `of_path` are the parameters of its path, `dependants` all that FastAPI fills in for one request.
    """

    dependants: Sequence[Any] = ()

    @classmethod
    def of(cls, route: Any) -> Fields:
        """The fields of a route of FastAPI; none for any other."""
        provider = getattr(route, "dependency_overrides_provider", None)
        overrides = getattr(provider, "dependency_overrides", None) or {}
        return cls(tuple(_dependants(getattr(route, "dependant", None), overrides)))

    @property
    def of_path(self) -> list[Any]:
        return [field for each in self.dependants for field in each.path_params]

    @property
    def of_body(self) -> list[Any]:
        return [field for each in self.dependants for field in each.body_params]

    @property
    def reads_request(self) -> bool:
        """Whether code of the application gets the request itself, so that it may take what is declared nowhere."""
        return any(map(_reads_request, self.dependants))

    @property
    def takes_form(self) -> bool:
        """Whether the body is read as a form."""
        return any(type(each.field_info).__name__ in ("Form", "File") for each in self.of_body)

    def taken(self, params: Mapping[str, Any]) -> list[Values]:
        """Each way in which the route takes its path's parameters: one, unless two of its parts disagree."""
        ways = {name: _distinct(_ways(self.of_path, name, raw)) for name, raw in params.items()}
        most = max((len(some) for some in ways.values()), default=1)
        return [{name: some[min(number, len(some) - 1)] for name, some in ways.items()} for number in range(most)]

    def params(self, request: Request) -> Iterator[Values]:
        """What is taken from the query, the headers and the cookies, part by part; of each, its values by name."""
        read = _readers().request_params_to_args
        given = {
            "query_params": request.query_params,
            "header_params": request.headers,
            "cookie_params": request.cookies,
        }
        claimed = self._claimed()
        for each in self.dependants:
            for part in PARTS:
                fields = getattr(each, part)
                values, _ = read(fields, given[part])
                for field in fields:
                    if field.name in values:
                        whole = _param_model(field) is not None
                        yield from _named(field, values[field.name], given[part], claimed, whole=whole)

    async def body(self, document: Any) -> list[Values]:
        """What is taken from a body: JSON as parsed, a form, or None for no body, which leaves the defaults.

        Raises `ArgumentsInvalid` for two keys of one field.
        """
        readers, claimed = _readers(), self._claimed()
        found: list[Values] = []
        embeds = readers._should_embed_body_fields(self.of_body)
        if document is None:
            document = getattr(readers, "Undefined", None)
        raw = document if isinstance(document, Mapping) else {}
        self._refuse_twins(raw, embeds)
        for each in self.dependants:
            if each.body_params:
                values, _ = await readers.request_body_to_args(each.body_params, document, embeds)
                for field in each.body_params:
                    if field.name in values:
                        found += _named(
                            field, values[field.name], raw, claimed, whole=not embeds or _is_form_model(field)
                        )
        return found

    def names(self, part: str) -> set[str]:
        """Every name that one part of the request (`query_params`, `body_params`) is declared to have."""
        return {key for each in self.dependants for field in getattr(each, part) for key in _field_keys(field)}

    def _claimed(self) -> set[str]:
        """The keys under which requests give a declared value: none of them is another field's second name."""
        parts = (*PARTS, "body_params", "path_params")
        return {
            key for each in self.dependants for part in parts for f in getattr(each, part) for key in _field_keys(f)
        }

    def _refuse_twins(self, document: Mapping[str, Any], embeds: bool) -> None:
        for field in self.of_body:
            value: Any = document
            if embeds:
                key = _given(document, _keys(field.field_info, field.name))
                value = document[key] if key is not None else None
            _refuse_twins(field.field_info.annotation, value)


def _readers() -> Any:
    """FastAPI's readers of requests. A route that has fields was made by it, so that it is there."""
    from fastapi.dependencies import utils

    return utils


def _dependants(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    if dependant is not None:
        yield dependant
        for each in dependant.dependencies:
            yield from _dependants(_overridden(each, overrides), overrides)


def _overridden(dependant: Any, overrides: Mapping[Any, Any]) -> Any:
    """A dependency as the application has replaced it. Source: FastAPI, `dependency_overrides`."""
    call = overrides.get(dependant.call) if overrides else None
    return dependant if call is None else _readers().get_dependant(path=dependant.path, call=call, name=dependant.name)


def _reads_request(dependant: Any) -> bool:
    call = dependant.call
    known = type(call).__module__.startswith("fastapi.security") or getattr(call, "__module__", None) == OURS
    gets = dependant.request_param_name or getattr(dependant, "http_connection_param_name", None)
    return bool(gets) and not known


# --- names ------------------------------------------------------------------------------------------------------------


def _named(field: Any, value: Any, given: Mapping[str, Any], claimed: set[str], *, whole: bool) -> Iterator[Values]:
    """A field's value under each of its names; one that stands for a `whole` part of the request by its own fields.

    An omitted field has its default, as the endpoint gets it; one whose default is made anew each time is left out.
    """
    keys = _field_keys(field)
    if field.field_info.default_factory is not None and not any(key in given for key in keys):
        return
    try:
        if whole:
            plain = _plain(value, given)
            if isinstance(plain, dict):
                yield plain
            return
        raw = next((given[key] for key in keys if key in given), None)
        names = [*keys, *(name for name in (field.name,) if name not in claimed)]
        yield dict.fromkeys(names, _plain(value, raw))
    except Unreadable:
        return


def _is_form_model(field: Any) -> bool:
    """Whether a form's own entries are the fields of a model."""
    named = type(field.field_info).__name__ in ("Form", "File")
    return named and _model(field.field_info.annotation) is not None and not _is_embedded(field)


def _param_model(field: Any) -> type[BaseModel] | None:
    """The model whose fields are the parameters themselves, for one that is not read as JSON from one parameter."""
    kinds = [kind for kind in (field.field_info.annotation, *get_args(field.field_info.annotation)) if kind is not None]
    reads_json = any(type(each) is Json or each is Json for each in field.field_info.metadata)
    return None if reads_json else next((model for model in map(_model, kinds) if model is not None), None)


def _is_embedded(field: Any) -> bool:
    return bool(getattr(field.field_info, "embed", None))


def _field_keys(field: Any) -> list[str]:
    """The keys that requests give a field by, its own alias first; for headers with hyphens too."""
    info = field.field_info
    keys = [field.alias, *_keys(info, field.name)]
    if getattr(info, "convert_underscores", False):
        keys += [key.replace("_", "-") for key in keys if key == field.name]
    model = None if _is_embedded(field) else _param_model(field)
    if model is not None:
        keys += [key for name, some in model.model_fields.items() for key in _keys(some, name, model)]
    return list(dict.fromkeys(keys))


def _model(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _spread(model: BaseModel, raw: Any) -> Values:
    """A model's values under every name that is the field's alone, with what else it was allowed to take."""
    kind = type(model)
    given = raw if isinstance(raw, Mapping) else {}
    all_keys = {name: _keys(info, name, kind) for name, info in kind.model_fields.items()}
    found: Values = {}
    for key, value in (model.model_extra or {}).items():
        _keep(found, (key,), value, given.get(key))
    for name, info in kind.model_fields.items():
        if name not in model.model_fields_set and info.default_factory is not None:
            continue
        others = {key for other, keys in all_keys.items() if other != name for key in keys}
        raw_value = next((given[key] for key in all_keys[name] if key in given), None)
        names = [key for key in (*all_keys[name], name) if key not in others or key in all_keys[name]]
        _keep(found, names, getattr(model, name), raw_value)
    return found


def _keep(found: Values, names: Iterable[str], value: Any, raw: Any) -> None:
    try:
        found.update(dict.fromkeys(names, _plain(value, raw)))
    except Unreadable:
        return


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


# --- values -----------------------------------------------------------------------------------------------------------


def _ways(fields: Iterable[Any], name: str, raw: Any) -> list[Any]:
    return [_taken(field, raw) for field in fields if field.alias == name] or [raw]


def _taken(field: Any, raw: Any) -> Any:
    """The value that a field makes of a path's parameter; the latter where nothing comes of it."""
    try:
        value, errors = field.validate(raw, {}, loc=())
        return raw if errors else _plain(value, raw)
    except Exception:
        return raw


def _plain(value: Any, raw: Any) -> Any:
    """A value as plain data. Raises `Unreadable`. `raw` is what came for it, if anything did."""
    if value is None or (isinstance(value, SCALARS) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, raw)
    if hasattr(value, "get_secret_value"):
        return _plain(value.get_secret_value(), raw)
    if isinstance(value, BaseModel):
        return _spread(value, raw)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = raw if isinstance(raw, Mapping) else {}
        return {
            each.name: _plain(getattr(value, each.name), given.get(each.name)) for each in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        given = raw if isinstance(raw, Mapping) else {}
        return {str(key): _plain(each, given.get(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        items = raw if isinstance(raw, list) and len(raw) == len(value) else [None] * len(value)
        return [_plain(each, item) for each, item in zip(value, items, strict=True)]
    return _number(value) if isinstance(value, Decimal) else _text(value)


def _number(value: Decimal) -> Any:
    """A decimal as the number that it is exactly; as a text where no number is."""
    if value.is_finite():
        near = int(value) if value == value.to_integral_value() and abs(value.adjusted()) < 400 else float(value)
        if Decimal(str(near)) == value:
            return near
    return str(value)


def _text(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise Unreadable from None


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The values that differ as texts; of equal ones that which is no text."""
    found: dict[str, Any] = {}
    for value in values:
        if str(value) not in found or isinstance(found[str(value)], str):
            found[str(value)] = value
    return list(found.values())


# --- two keys of one field --------------------------------------------------------------------------------------------


def _refuse_twins(annotation: Any, value: Any) -> None:
    """Raises `ArgumentsInvalid` where two keys of a document name one field of a model, at any depth."""
    models = _models(annotation) if isinstance(value, list | dict) else []
    if isinstance(value, list):
        for item in value if models else ():
            _refuse_twins(annotation, item)
        return
    for model in models:
        for name, info in model.model_fields.items():
            key = _given(value, _keys(info, name, model))
            if key is not None:
                _refuse_twins(info.annotation, value[key])


def _models(annotation: Any) -> list[type[BaseModel]]:
    model = _model(annotation)
    return [model] if model is not None else [found for each in get_args(annotation) for found in _models(each)]


def _given(document: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The one key of a field that stands in a document. Raises `ArgumentsInvalid` for two."""
    given = [key for key in keys if key in document]
    if len(given) > 1:
        raise ArgumentsInvalid(f"{given[0]!r} and {given[1]!r} name the same field")
    return given[0] if given else None
