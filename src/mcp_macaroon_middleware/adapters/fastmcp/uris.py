"""Spellings of resources: what a templated read really asks for, and which spellings are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from fastmcp.resources.template import ResourceTemplate, expand_uri_template, extract_query_params

from ...rules import normal_uri

_HIDDEN: Final = re.compile(r"%(2[eEfF]|5[cC]|00)")
_ENCODED_SLASH: Final = re.compile(r"%(2[fF]|5[cC])")


def canonical(template: ResourceTemplate, params: Mapping[str, Any]) -> str:
    """The one spelling of what a template and its parameters name: no undeclared query, no needless escapes."""
    return normal_uri(expand_uri_template(template.uri_template, dict(params)))


def spellings(template: ResourceTemplate, params: Mapping[str, Any], uri: str) -> tuple[str, ...]:
    """Every form in which a restricting rule may name the same read: canonical, without a query, decoded, as sent."""
    one = canonical(template, params)
    bare = normal_uri(uri.partition("#")[0].partition("?")[0])
    forms = (one, one.partition("?")[0], bare, unquote(one), unquote(bare))
    return tuple(dict.fromkeys(forms))


def objection(template: ResourceTemplate, params: Mapping[str, Any], uri: str, *, remote: bool) -> str | None:
    """Why a templated read is refused whatever the rules say, or None.

    A parameter that holds dot segments, backslashes or encoded slashes names something else to whoever resolves it
    than to whoever judges it. A remote server gets the query as it was sent, so there it may hold nothing that the
    template does not declare, and nothing twice.
    """
    path = uri.partition("#")[0].partition("?")[0]
    if _ENCODED_SLASH.search(path):
        return "an encoded slash"
    for value in _texts(params.values()):
        if "\\" in value or "\0" in value:
            return "a backslash or a null byte"
        if any(segment in (".", "..") for segment in value.split("/")):
            return "a dot segment"
        if _HIDDEN.search(value):
            return "an escape within an escape"
    return _query_objection(template, uri) if remote else None


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


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)
