"""What differs between tools, resources and prompts: how a result is looked at, rebuilt, and refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastmcp.exceptions import NotFoundError
from fastmcp.prompts.base import InputRequiredPromptResult, PromptResult
from fastmcp.resources.base import InputRequiredResourceResult, ResourceResult
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from mcp_types import InputRequiredResult

from ...model import Kind, Redaction, Refusal, Result
from .marks import unmarked_prompt, unmarked_resource, unmarked_tool
from .refusals import prompt_refusal, resource_refusal, tool_refusal
from .results import prompt_view, redact_prompt_result, redact_resource_result, redact_tool_result, resource_view
from .results import tool_view as view_tool

LONGEST_NAME: Final = 400
"""The most characters of an asked name that a record keeps."""

Rebuild = Callable[[Any, Redaction, Any, Mapping[str, Any] | None], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One sort of component. `name` is also what the doors are held as; `asking` are results that ask the client."""

    name: str
    kind: Kind
    result: type[Any]
    asking: type[Any]
    unmark: Callable[[Any], Any]
    view: Callable[[Any], Result]
    rebuild: Rebuild
    refuse: Callable[[str, Refusal, bool], Any]

    def asks(self, result: InputRequiredResult) -> Any:
        """A result that asks the client."""
        return self.asking(result)


def _refuse_tool(name: str, refusal: Refusal, nested: bool) -> Any:
    return tool_refusal(name, refusal, nested=nested)


def _refuse_resource(uri: str, refusal: Refusal, nested: bool) -> Any:
    raise resource_refusal(uri, refusal)


def _refuse_prompt(name: str, refusal: Refusal, nested: bool) -> Any:
    raise prompt_refusal(name, refusal)


def unknown(shape: Shape, asked: str) -> NotFoundError:
    """What FastMCP itself raises for a component that there is not."""
    return NotFoundError(f"Unknown {shape.name}: {asked!r}")


TOOL: Final = Shape(
    name="tool",
    kind=Kind.TOOL,
    result=ToolResult,
    asking=InputRequiredToolResult,
    unmark=unmarked_tool,
    view=view_tool,
    rebuild=lambda result, redaction, unstructured, schema: redact_tool_result(
        result, redaction, unstructured=unstructured, output_schema=schema
    ),
    refuse=_refuse_tool,
)
RESOURCE: Final = Shape(
    name="resource",
    kind=Kind.RESOURCE,
    result=ResourceResult,
    asking=InputRequiredResourceResult,
    unmark=unmarked_resource,
    view=resource_view,
    rebuild=lambda result, redaction, unstructured, _: redact_resource_result(
        result, redaction, unstructured=unstructured
    ),
    refuse=_refuse_resource,
)
PROMPT: Final = Shape(
    name="prompt",
    kind=Kind.PROMPT,
    result=PromptResult,
    asking=InputRequiredPromptResult,
    unmark=unmarked_prompt,
    view=prompt_view,
    rebuild=lambda result, redaction, unstructured, _: redact_prompt_result(
        result, redaction, unstructured=unstructured
    ),
    refuse=_refuse_prompt,
)
SHAPES: Final = {"tool": TOOL, "resource": RESOURCE, "template": RESOURCE, "prompt": PROMPT}
