"""Copies of objects of FastMCP and the SDK with other parts, of the same kind and without side effects."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from fastmcp.tools import base
from fastmcp.tools.base import ToolResult

T = TypeVar("T")

RAW: Final[type[ToolResult]] = getattr(base, "RawStructuredToolResult", ToolResult)
"""From FastMCP 4.2 on, the result of a remote tool whose structured content need not be an object."""
ORIGIN: Final = "_macaroon_session"
"""Where a copy of a session keeps the session that it is a copy of."""


def twin(thing: T, **changes: Any) -> T:
    """A shallow copy with other values for some attributes; no constructor runs."""
    same = object.__new__(type(thing))
    vars(same).update(vars(thing), **changes)
    return same


def tool_result(like: ToolResult, content: list[Any], structured: Any, meta: dict[str, Any] | None) -> ToolResult:
    """A new tool result that goes on the wire as `like` does, of parts that are what a wire takes already."""
    kind = RAW if isinstance(like, RAW) else ToolResult
    return kind.model_construct(content=content, structured_content=structured, meta=meta, is_error=like.is_error)
