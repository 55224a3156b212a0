"""The digest of a component's definition: what a grant is bound to, and what tells a component from its successor."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastmcp.prompts.base import Prompt
from fastmcp.resources.base import Resource
from fastmcp.resources.template import ResourceTemplate
from fastmcp.tools.base import Tool
from pydantic_core import to_jsonable_python

from .compat import AnyComponent

_DIGESTS: dict[int, tuple[AnyComponent, str]] = {}
MOST: Final = 4096


def digest_of(component: AnyComponent) -> str:
    """SHA-256 over name, version, description, schemas and, where it can be told, the code. Kept by object."""
    kept = _DIGESTS.get(id(component))
    if kept is not None and kept[0] is component:
        return kept[1]
    digest = hashlib.sha256(json.dumps(_facts(component), sort_keys=True).encode()).hexdigest()
    if len(_DIGESTS) >= MOST:
        _DIGESTS.clear()
    _DIGESTS[id(component)] = (component, digest)
    return digest


def _facts(component: AnyComponent) -> Mapping[str, Any]:
    facts: dict[str, Any] = {
        "name": component.name,
        "version": component.version,
        "description": component.description,
        "code": code_of(getattr(component, "fn", None)),
    }
    if isinstance(component, Tool):
        facts |= {"input": component.parameters, "output": component.output_schema}
    elif isinstance(component, Resource):
        facts |= {"uri": str(component.uri), "type": component.mime_type}
    elif isinstance(component, ResourceTemplate):
        facts |= {"uri": component.uri_template, "input": component.parameters, "type": component.mime_type}
    elif isinstance(component, Prompt):
        facts |= {"input": [argument.model_dump(mode="json") for argument in component.arguments or ()]}
    plain: Mapping[str, Any] = to_jsonable_python(facts, fallback=lambda value: type(value).__name__)
    return plain


def code_of(function: Callable[..., Any] | None) -> str | None:
    """A digest of a Python function's own code, through its wrappers; None where there is none to be seen."""
    for _ in range(16):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)
        inner = inner or getattr(function, "func", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    return _code_digest(code) if isinstance(code, types.CodeType) else None


def _code_digest(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code)
    for const in code.co_consts:
        text = _code_digest(const) if isinstance(const, types.CodeType) else _constant(const)
        digest.update(text.encode())
    digest.update(repr(code.co_names).encode())
    return digest.hexdigest()


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
