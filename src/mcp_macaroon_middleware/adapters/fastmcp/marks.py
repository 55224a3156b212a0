"""What bears our name: taken off whatever a component returns, so that nobody but the guard speaks as the guard.

Our own refusals keep it: they are objects of this process that no wire can bring. It withholds nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastmcp.prompts.base import Message, PromptResult
from fastmcp.resources.base import ResourceContent, ResourceResult
from fastmcp.tools.base import ToolResult
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from .copies import tool_result
from .refusals import META, REFUSED, FixedText, RefusedResult

INNER: Final = "_meta"


def bears(meta: Any) -> bool:
    """Whether a `_meta` has a key of ours."""
    return isinstance(meta, Mapping) and any(_is_ours(key) for key in meta)


def without(meta: Any) -> Any:
    """A `_meta` without our keys; None where nothing is left."""
    return {key: value for key, value in meta.items() if not _is_ours(key)} or None if bears(meta) else meta


def unmarked_tool(result: ToolResult) -> ToolResult:
    """A tool's result without our marks; the very result where it has none, or is a refusal of ours."""
    if isinstance(result, RefusedResult):
        return result
    inner = result.structured_content
    marked = inner is not None and isinstance(inner, Mapping) and bears(inner.get(INNER))
    if not (marked or bears(result.meta) or any(map(_bears_block, result.content))):
        return result
    structured = {**inner, INNER: without(inner[INNER]) or {}} if marked and inner is not None else inner
    return tool_result(result, [_block(each) for each in result.content], structured, without(result.meta))


def unmarked_prompt(result: PromptResult) -> PromptResult:
    """A prompt without our marks; the very result where it has none."""
    if not bears(result.meta) and not any(_bears_block(each.content) for each in result.messages):
        return result
    messages = [Message(_block(each.content), role=each.role) for each in result.messages]
    return PromptResult(messages=messages, description=result.description, meta=without(result.meta))


def unmarked_resource(result: ResourceResult) -> ResourceResult:
    """A read without our marks; the very result where it has none."""
    if not bears(result.meta) and not any(bears(each.meta) for each in result.contents):
        return result
    contents = [
        ResourceContent(each.content, mime_type=each.mime_type, meta=without(each.meta)) for each in result.contents
    ]
    return ResourceResult(contents=contents, meta=without(result.meta))


def unmarked_listed(component: Any) -> Any:
    """A component of a list without our marks."""
    return component.model_copy(update={"meta": without(component.meta)}) if bears(component.meta) else component


def unmarked_wire(result: Any) -> Any:
    """The result of a protocol method without our marks, in its wire form or as a model."""
    if isinstance(result, dict):
        return {**result, INNER: without(result[INNER]) or {}} if bears(result.get(INNER)) else result
    meta = getattr(result, "meta", None)
    return result.model_copy(update={"meta": without(meta)}) if bears(meta) else result


def unmarked_error(error: MCPError) -> MCPError:
    """A component's protocol error without our marks; its code is another where it is ours. Our own stay."""
    if isinstance(error, FixedText):
        return error
    poses = error.error.code == REFUSED
    data = None if poses else without(error.error.data)
    if not poses and data is error.error.data:
        return error
    return MCPError(code=INTERNAL_ERROR if poses else error.error.code, message=error.error.message, data=data)


def _is_ours(key: object) -> bool:
    return isinstance(key, str) and (key == META or key.startswith(f"{META}/"))


def _bears_block(block: Any) -> bool:
    return bears(getattr(block, "meta", None)) or bears(getattr(getattr(block, "resource", None), "meta", None))


def _block(block: Any) -> Any:
    if not _bears_block(block):
        return block
    changes: dict[str, Any] = {"meta": without(block.meta)}
    resource = getattr(block, "resource", None)
    if resource is not None:
        changes["resource"] = resource.model_copy(update={"meta": without(resource.meta)})
    return block.model_copy(update=changes)
