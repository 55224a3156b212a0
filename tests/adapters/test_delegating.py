"""`macaroon_delegate`: an agent gets a narrower token of its own, and never a wider or a longer one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from guarded import ERAS, http, runtime, text_of, tokens

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, MacaroonClientAuth, guard
from mcp_macaroon_middleware.config.runtime import Runtime
from mcp_macaroon_middleware.errors import BindError
from mcp_macaroon_middleware.tokens import attenuate, mint, verify

RULES = ["bf:read:tool_access:allow", "bf:send:tool_access:allow", "bf:macaroon_delegate:tool_access:allow"]


def office(rules: list[str] = RULES, *, own: bool = False, **tokens_: Any) -> tuple[FastMCP[Any], Runtime]:
    config = {"audience": "office", "tokens": {"delegate": True, **tokens_}}
    made, _ = runtime(rules, config=config)
    server: FastMCP[Any] = FastMCP("office", auth=MacaroonAuth(made, tokens(bob={})))

    @server.tool
    def read(id: int) -> str:
        return f"read {id}"

    @server.tool
    def send(to: str) -> str:
        return f"sent to {to}"

    if own:
        server.tool(send, name="macaroon_delegate")
    guard(server, made)
    return server, made


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", ["http", "memory"])
async def test_an_agent_gets_a_narrower_token_that_a_sub_agent_is_held_to(way: str, era: str) -> None:
    server, made = office()
    agent = mint(made.keys, subject="alice", audience="office", client="agent")
    transport = MacaroonClientAuth(agent).over(server)
    rules = ["bf:*:tool_access:only:read"]
    async with http(server, agent, era) if way == "http" else Client(transport, mode=era) as client:
        result = await client.call_tool("macaroon_delegate", {"rules": rules, "expires_in": 60})
    narrow = result.structured_content or {}
    assert narrow["rules"] == rules
    verified = verify(made.keys, narrow["token"], audience="office")
    assert verified.id == verify(made.keys, agent, audience="office").id
    assert len(verified.branches) == 1
    async with http(server, narrow["token"], era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read"]
        assert await text_of(client, "send", to="bob") == "Unknown tool: 'send'"
        assert await text_of(client, "macaroon_delegate", rules=[]) == "Unknown tool: 'macaroon_delegate'"


async def test_what_is_delegated_never_lasts_longer_nor_gives_more() -> None:
    server, made = office()
    agent = mint(made.keys, subject="alice", audience="office", expires=timedelta(minutes=1))
    held = attenuate(agent, "bf:send:tool_access:deny")
    async with http(server, held) as client:
        found = (await client.call_tool("macaroon_delegate", {"rules": [], "expires_in": 86_400})).structured_content
        with pytest.raises(ToolError):
            await client.call_tool("macaroon_delegate", {"rules": [], "expires_in": 86_401})
        with pytest.raises(ToolError, match="cannot be narrowed so"):
            await client.call_tool("macaroon_delegate", {"rules": ["bf:*:tool_access:allow"]})
        with pytest.raises(ToolError, match="cannot be narrowed so"):
            await client.call_tool("macaroon_delegate", {"rules": ["nonsense"]})
    assert found is not None
    made_of = verify(made.keys, found["token"], audience="office")
    assert made_of.expires <= verify(made.keys, held, audience="office").expires
    assert "bf:send:tool_access:deny" in made_of.caveats


async def test_a_caller_without_a_token_gets_none() -> None:
    server, _ = office()
    async with http(server, "bob") as client:
        with pytest.raises(ToolError, match="hold no token"):
            await client.call_tool("macaroon_delegate", {"rules": []})


async def test_it_is_off_unless_the_file_turns_it_on_and_ruled_like_any_tool() -> None:
    server, made = office(RULES[:2], delegate=False)
    agent = mint(made.keys, subject="alice", audience="office")
    async with http(server, agent) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read", "send"]
    server, made = office(RULES[:2])
    agent = mint(made.keys, subject="alice", audience="office")
    async with http(server, agent) as client:
        assert await text_of(client, "macaroon_delegate", rules=[]) == "Unknown tool: 'macaroon_delegate'"


def test_a_tool_of_that_name_is_not_replaced() -> None:
    with pytest.raises(BindError, match="rename it"):
        office(own=True)
