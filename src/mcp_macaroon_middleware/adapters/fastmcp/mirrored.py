"""Arguments that HTTP headers repeat (SEP-2243): held against their tool as each caller sees it, never as others do.

From FastMCP 4.2 on, the SDK looks a called tool's schema up by its name alone, among what any caller was ever shown,
and answers a header that does not fit before the call is decided: whoever guesses a hidden name would learn of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastmcp import FastMCP
from mcp.shared.inbound import x_mcp_header_map

Schema = Mapping[str, Any]


def follow(server: FastMCP[Any]) -> None:
    """Has the SDK ask for the list, which each caller gets as his own, from the first tool on that mirrors arguments.

    Until then nothing is held against headers, since nothing declares any. Again does no harm.
    """
    low = server._mcp_server
    lookup = getattr(low, "get_tool_input_schema", None)
    if lookup is None or isinstance(lookup, _Unseen):
        return
    low.get_tool_input_schema = _Unseen(low, lookup)


class _Unseen:
    """A lookup that gives no schema away, and itself up once one declares headers."""

    def __init__(self, low: Any, lookup: Any) -> None:
        self._low = low
        self._lookup = lookup
        self._plain: dict[str, Schema] = {}

    def __call__(self, name: str) -> None:
        schema = self._lookup(name)
        if schema is None or self._plain.get(name) is schema:
            return
        if x_mcp_header_map(schema):
            self._low.get_tool_input_schema = None
        self._plain[name] = schema
