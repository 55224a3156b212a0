"""Finished results as bytes and back, so that one can wait for an answer. It looks at nothing in them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastmcp.prompts.base import Message, PromptResult
from fastmcp.resources.base import ResourceContent, ResourceResult
from fastmcp.tools.base import ToolResult
from mcp_types import CallToolResult, ContentBlock
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ...errors import ResultWithheld
from .copies import RAW

_BLOCK: Final[TypeAdapter[Any]] = TypeAdapter(ContentBlock)


def freeze(result: Any) -> bytes:
    """The result's wire form. Raises `ResultWithheld` for what has none."""
    for kind, name, wire, _ in _KINDS:
        if type(result) is kind:
            try:
                return to_json({"kind": name, **wire(result)})
            except Exception:
                raise ResultWithheld("the result cannot be held", code="result_unserialisable") from None
    raise ResultWithheld("the result is of a kind that cannot be held", code="result_unknown")


def thaw(raw: bytes) -> Any:
    """The result that `freeze` wrote. Raises `ResultWithheld` for anything else."""
    try:
        facts = from_json(raw)
        made = next(made for _, name, _, made in _KINDS if name == facts["kind"])
        return made(facts)
    except Exception:
        raise ResultWithheld("the held result cannot be read", code="result_unknown") from None


def _dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _tool_wire(result: ToolResult) -> dict[str, Any]:
    given = result._raw_mcp_result
    return {
        "content": [_dumped(block) for block in result.content],
        "structured": result.structured_content,
        "meta": result.meta,
        "error": result.is_error,
        "given": None if given is None else _dumped(given),
    }


def _tool(facts: Mapping[str, Any]) -> ToolResult:
    public = {
        "content": [_BLOCK.validate_python(block) for block in facts["content"]],
        "structured_content": facts["structured"],
        "meta": facts["meta"],
        "is_error": facts["error"],
    }
    if facts["given"] is None:
        return (RAW if facts["kind"] == "raw" else ToolResult)(**public)
    made = ToolResult.from_mcp_result(CallToolResult.model_validate(facts["given"]))
    for name, value in public.items():  # what stands further in may have changed them
        setattr(made, name, value)
    return made


def _resource_wire(result: ResourceResult) -> dict[str, Any]:
    return {"contents": [_content_wire(content) for content in result.contents], "meta": result.meta}


def _content_wire(content: ResourceContent) -> dict[str, Any]:
    given = content.content
    key, value = ("text", given) if isinstance(given, str) else ("blob", base64.b64encode(given).decode())
    return {key: value, "mime_type": content.mime_type, "meta": content.meta}


def _resource(facts: Mapping[str, Any]) -> ResourceResult:
    contents = [
        ResourceContent(
            item["text"] if "text" in item else base64.b64decode(item["blob"]),
            mime_type=item["mime_type"],
            meta=item["meta"],
        )
        for item in facts["contents"]
    ]
    return ResourceResult(contents=contents, meta=facts["meta"])


def _prompt_wire(result: PromptResult) -> dict[str, Any]:
    messages = [{"role": message.role, "content": _dumped(message.content)} for message in result.messages]
    return {"messages": messages, "description": result.description, "meta": result.meta}


def _prompt(facts: Mapping[str, Any]) -> PromptResult:
    messages = [Message(_BLOCK.validate_python(item["content"]), role=item["role"]) for item in facts["messages"]]
    return PromptResult(messages=messages, description=facts["description"], meta=facts["meta"])


_KINDS: Final[tuple[tuple[type[Any], str, Callable[[Any], dict[str, Any]], Callable[[Any], Any]], ...]] = (
    (ToolResult, "tool", _tool_wire, _tool),
    (RAW, "raw", _tool_wire, _tool),
    (ResourceResult, "resource", _resource_wire, _resource),
    (PromptResult, "prompt", _prompt_wire, _prompt),
)
