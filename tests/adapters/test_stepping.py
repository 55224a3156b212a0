"""HTTP 403 for a token that lacks authority: only before anything has run for the request."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import NotFoundError, ToolError
from guarded import runtime
from serving import serving

from mcp_macaroon_middleware import attenuate, mint
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, guard


@pytest.mark.threat("J07")
async def test_what_a_running_tool_may_not_call_never_replaces_its_own_answer() -> None:
    made, records = runtime(["bf:*:tool_access:allow"], config={"audience": "mail", "tokens": {"step_up": True}})
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))
    done: list[str] = []

    @server.tool
    async def outer(ctx: Context) -> str:
        done.append("outer")
        try:
            await ctx.fastmcp.call_tool("inner", {})
        except (ToolError, NotFoundError):
            return "without inner"
        return "with inner"

    @server.tool
    def inner() -> str:
        done.append("inner")
        return "inner"

    guard(server, made)
    narrow = attenuate(mint(made.keys, subject="alice", audience="mail"), "bf:*:tool_access:only:outer")
    async with serving(server) as url, Client(StreamableHttpTransport(url, auth=narrow)) as client:
        result = await client.call_tool("outer", {})
    assert result.content[0].text == "without inner"  # type: ignore[union-attr]
    assert done == ["outer"]
    ends = [(r["component"]["name"], r["outcome"]) for r in records.finals() if r["component"]["kind"] == "tool"]
    assert ends == [("inner", "denied"), ("outer", "ok")]
