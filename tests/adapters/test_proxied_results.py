"""Results of remote tools that are no objects (FastMCP 4.2 and later) under output rules, held and released."""

from __future__ import annotations

import json
from typing import Any

import mcp_types
import pytest
from asking import Person
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from fastmcp.tools.base import Tool, ToolResult
from guarded import ERAS, guarded

from mcp_macaroon_middleware.adapters.fastmcp.copies import RAW
from mcp_macaroon_middleware.adapters.fastmcp.freezing import freeze, thaw

SECRET = "a@b.example"
ROWS = [{"id": 1, "email": SECRET}, {"id": 2, "email": SECRET}]

pytestmark = pytest.mark.skipif(RAW is ToolResult, reason="this FastMCP passes no results on that are no objects")


class Rows(Tool):
    """A tool that says in its schema that it returns a list, and does."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        text = mcp_types.TextContent(type="text", text=json.dumps(ROWS))
        return RAW(content=[text], structured_content=ROWS)


def front() -> FastMCP[Any]:
    """A server before the one that has the tool."""
    row = {"type": "object", "properties": {"id": {"type": "integer"}, "email": {"type": "string"}}}
    backend: FastMCP[Any] = FastMCP("remote")
    backend.add_tool(Rows(name="rows", parameters={"type": "object"}, output_schema={"type": "array", "items": row}))
    return create_proxy(backend, name="front")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("action", ["deny", "elicit"])
@pytest.mark.threat("G01", "G02", "G13")
async def test_a_remote_list_loses_its_fields_and_stays_a_list(action: str, era: str) -> None:
    server: FastMCP[Any] = front()
    made = guarded(server, ["bf:*:tool_access:allow", f"af:rows:field_access:{action}:email"])
    async with Client(server, mode=era, elicitation_handler=Person("deny")) as client:
        await client.list_tools()
        result = await client.call_tool("rows", {})
    assert SECRET not in repr(result)
    left = [{"id": 1}, {"id": 2}]
    assert result.structured_content == ({"result": left} if era == "legacy" else left)
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_a_held_remote_list_is_released_as_it_was(era: str) -> None:
    server: FastMCP[Any] = front()
    guarded(server, ["bf:*:tool_access:allow", "af:rows:field_access:elicit:email"])
    async with Client(server, mode=era, elicitation_handler=Person("once")) as client:
        result = await client.call_tool("rows", {})
    assert result.structured_content == ({"result": ROWS} if era == "legacy" else ROWS)


def test_a_held_result_keeps_what_stood_further_in_has_changed() -> None:
    given = mcp_types.CallToolResult(content=[], structured_content={"id": 1, "email": SECRET})
    result = ToolResult.from_mcp_result(given)
    result.structured_content = {"id": 1}
    assert SECRET not in repr(thaw(freeze(result)).to_mcp_result())
