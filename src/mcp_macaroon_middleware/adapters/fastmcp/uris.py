"""Spellings of resources: what a templated read really asks for, and which spellings are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, Final
from urllib.parse import unquote

import fastmcp.resources.template
from fastmcp.resources.template import (
    ResourceTemplate,
    expand_uri_template,
    extract_query_params,
    forward_uri,
)
from fastmcp.server.providers.skills.skill_provider import SkillFileTemplate

from ...model import EMPTY
from ...rules import escape_objection, normal_uri, path_objection, value_objection, without_query

_param_key: Final[Callable[[str], str]] = getattr(
    fastmcp.resources.template, "template_param_key", lambda name: re.sub(r"\W", "_", name)
)
"""A template's variable as its parameter; before 4.2 FastMCP knew variables with hyphens alone, and has no function."""

_WILDCARD: Final = re.compile(r"\{([^?&{}][^{}]*)\*\}")
_FILES: Final = "file"
MOST_WAYS: Final = 64
FLAGS: Final = {
    True: ("true", "1", "yes", "on", "t", "y"),
    False: ("false", "0", "no", "off", "f", "n"),
}
"""The texts that a flag may be written as. Source: pydantic, and FastMCP's templates."""


def canonical(template: ResourceTemplate, params: Mapping[str, Any]) -> str:
    """The one spelling of what a template and its parameters name: no undeclared query, no needless escapes.

    The parameters stand in it as the template gets them, letter by letter.
    """
    return _canonical(template.uri_template, params)


def _canonical(uri_template: str, params: Mapping[str, Any]) -> str:
    return expand_uri_template(normal_uri(uri_template), dict(params))


def spellings(
    template: ResourceTemplate, params: Mapping[str, Any], values: Mapping[str, Any] = EMPTY
) -> tuple[str, ...]:
    """Every name of what a templated read runs, for restricting rules: whole, without a query, decoded, and as the
    server behind calls it.

    `values` are the parameters as the function gets them, defaults among them: `row/01` and `row/1` are one row where
    that is a number.
    """
    backend = getattr(template, "_backend_uri_template", None)
    wholes = [canonical(template, params), *([_canonical(backend, params)] if isinstance(backend, str) else ())]
    wholes += [canonical(template, written) for written in _written(values)]
    forms = [form for whole in wholes for form in (whole, without_query(whole))]
    return tuple(dict.fromkeys((*forms, *map(unquote, forms))))


def _written(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts that stand for these values, at most `MOST_WAYS` ways to write them."""
    names = [name for name, value in values.items() if value is not None]
    for texts in islice(product(*(_texts_of(values[name]) for name in names)), MOST_WAYS if names else 0):
        yield dict(zip(names, texts, strict=True))


def _texts_of(value: Any) -> Sequence[Any]:
    if isinstance(value, bool):
        return FLAGS[value]
    if isinstance(value, float) and value.is_integer():
        return str(value), str(int(value))
    return (value,) if isinstance(value, str | list) else (str(value),)


def objection(template: ResourceTemplate, params: Mapping[str, Any], uri: str, *, remote: bool) -> str | None:
    """Why a templated read is refused whatever the rules say, or None.

    A parameter that holds dot segments, backslashes or encoded slashes names something else to whoever resolves it
    than to whoever judges it; so does a path with empty segments, or with names that end in dots or spaces. A remote
    server gets the query as it was sent, so there it may hold nothing that the template does not declare, and nothing
    twice.
    """
    if why := escape_objection(_bare(uri)):
        return why
    paths = _path_params(template)
    for name, value in params.items():
        judge = path_objection if paths is None or name in paths else value_objection
        for text in _texts(value):
            if why := judge(text):
                return why
    return _query_objection(template, uri) if remote and _sends_query(template, params, uri) else None


def _sends_query(template: ResourceTemplate, params: Mapping[str, Any], uri: str) -> bool:
    """Whether a server behind gets the query as it was sent: one that the template spells out is made from it anew."""
    inner = getattr(template, "_backend_uri_template", None) or template.uri_template
    return forward_uri(inner, dict(params), uri) != forward_uri(inner, dict(params), _bare(uri))


def file_objection(uri: str) -> str | None:
    """Why the URI of a resource that no list names is refused whatever the rules say, or None.

    Whatever found it has looked at the text of the URI, and may have taken it for the path of a file.
    """
    path = _bare(uri).partition(":")[2].removeprefix("//")
    return escape_objection(path) or path_objection(unquote(path)) or None


def _path_params(template: ResourceTemplate) -> frozenset[str] | None:
    """The parameters that hold paths: wildcards; None for all, where the template is one of files."""
    scheme = template.uri_template.partition(":")[0].lower()
    if scheme == _FILES or isinstance(template, SkillFileTemplate):
        return None
    return frozenset(_param_key(name) for name in _WILDCARD.findall(template.uri_template))


def _bare(uri: str) -> str:
    return uri.partition("#")[0].partition("?")[0]


def _query_objection(template: ResourceTemplate, uri: str) -> str | None:
    query = uri.partition("#")[0].partition("?")[2]
    declared = extract_query_params(template.uri_template)
    repeatable = {name.rstrip("*") for name in re.findall(r"[\w-]+\*", template.uri_template)}
    seen: set[str] = set()
    for pair in filter(None, query.split("&")):
        name = unquote(pair.partition("=")[0])
        if name not in declared:
            return "a query that the template does not declare"
        if name in seen and name not in repeatable:
            return "a query parameter given twice"
        seen.add(name)
    return None


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
