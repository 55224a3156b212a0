"""Publishes output schemas that redacted results are valid against, and holds results against them.

A published schema says what operator's rules and the caller's caveats can produce, so a client that validates accepts
every result. It never says more than the tool's own schema, and it reads nothing from a network.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
from fastmcp.tools.base import Tool
from jsonschema.protocols import Validator  # type: ignore[import-untyped]
from referencing.jsonschema import EMPTY_REGISTRY

from ...fields import is_large, relax_schema
from ...model import Redaction

WRAPPED: Final = "x-fastmcp-wrap-result"
REMEMBERED: Final = 1024
AT_ONCE: Final = 20_000
"""The most characters of a schema that are worked on before another request has its turn: some milliseconds."""

Schema = Mapping[str, Any]


class Memory:
    """What was made of a schema, by the identity of its object, which it holds so that no other can take its place."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, Any], tuple[Schema, Any]] = OrderedDict()

    def get(self, schema: Schema, mark: Any) -> Any | None:
        found = self._known.get((id(schema), mark))
        return found[1] if found is not None and found[0] is schema else None

    def keep(self, schema: Schema, mark: Any, made: Any) -> None:
        self._known[id(schema), mark] = (schema, made)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


_published: Final = Memory()
_validators: Final = Memory()


async def publish_tool(tool: Tool, redaction: Redaction | None, never: Redaction | None = None) -> Tool:
    """The same as `published_tool`; a schema longer than `AT_ONCE` is worked on in a thread, so that it holds up
    nobody else.
    """
    schema = tool.output_schema
    if schema is None or _published.get(schema, (redaction, never)) is not None or not is_large(schema, AT_ONCE):
        return published_tool(tool, redaction, never)
    return await asyncio.to_thread(published_tool, tool, redaction, never)


def published_tool(tool: Tool, redaction: Redaction | None, never: Redaction | None = None) -> Tool:
    """The tool as a list shows it: its output schema admits every result that `redaction` can leave.

    None: anything may leave. What `never` withholds is in no result, and is not named. The same object comes back where
    nothing changes.
    """
    schema = tool.output_schema
    if schema is None or (redaction is not None and redaction.is_empty):
        return tool
    return tool.model_copy(update={"output_schema": published_schema(schema, redaction, never)})


def published_schema(schema: Schema, redaction: Redaction | None, never: Redaction | None = None) -> dict[str, Any]:
    """The schema, widened for the redaction. The same object for the same schema object.

    Other servers than FastMCP wrap results as well, and do not say so: a lone `result` may be a wrapper or a field.
    """
    known: dict[str, Any] | None = _published.get(schema, (redaction, never))
    if known is None:
        known = relax_schema(schema, redaction, never, twofold=not is_wrapped(schema))
        _published.keep(schema, (redaction, never), known)
    return known


def is_wrapped(schema: Schema | None) -> bool:
    """Whether FastMCP wraps this tool's results as `{"result": …}`."""
    return bool(schema and schema.get(WRAPPED))


def conforms(structured: Any, schema: Schema) -> bool:
    """Whether a client that validates would accept the structured content. A schema that cannot be used accepts none.

    References to other documents are not fetched. Patterns are left to the client: what only loses parts cannot break
    one, and a foreign one can take for ever.
    """
    try:
        return bool(_validator(schema).is_valid(structured))
    except (Exception, RecursionError):  # a broken schema, a reference elsewhere: the client would refuse it as well
        return False


def _validator(schema: Schema) -> Validator:
    known: Validator | None = _validators.get(schema, None)
    if known is None:
        draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        known = patient(draft)(undated(schema), registry=EMPTY_REGISTRY)
        _validators.keep(schema, None, known)
    return known


@cache
def patient(draft: Any) -> Any:
    """A draft's validator class without what evaluates foreign patterns."""
    named = draft.VALIDATORS.get("additionalProperties")

    def additional(validator: Any, value: Any, instance: Any, schema: Schema) -> Any:
        return () if "patternProperties" in schema else named(validator, value, instance, schema)

    without = dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties"), lambda *_: ())
    return jsonschema.validators.extend(draft, validators={**without, "additionalProperties": additional})


def undated(schema: Any) -> Any:
    """The schema without `$schema` anywhere: inside, it would bring back the validator that it names."""
    if isinstance(schema, Mapping):
        return {
            name: undated(inner) for name, inner in schema.items() if name != "$schema" or not isinstance(inner, str)
        }
    return [undated(inner) for inner in schema] if isinstance(schema, list) else schema
