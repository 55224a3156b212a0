"""Lists: what a caller could not reach is absent, and nothing else changes."""

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.utilities.tests import asgi_client
from guarded import ERAS, code_of, guarded, http, policy, text_of, tokens
from mcp.shared.exceptions import MCPError
from mcp_types import InitializedNotification, PaginatedRequestParams
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A typed result."""

    id: int
    age: int


def many(count: int = 12, **options: Any) -> FastMCP[Any]:
    """A server with numbered tools."""
    server: FastMCP[Any] = FastMCP("many", **options)
    for number in range(count):

        def tool(a: int = number) -> int:
            return a

        server.tool(tool, name=f"tool_{number:03}")
    return server


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("H01")
async def test_a_denied_tool_is_absent_for_one_principal_and_present_for_another(era: str) -> None:
    server = many(auth=tokens(alice={"groups": ["ops"]}, bob={}))
    made = guarded(
        server,
        [
            "bf:tool_001:tool_access:allow",
            {"before": "tool_002", "policy": "tool_access", "action": "allow", "for": {"claim": {"groups": "ops"}}},
        ],
    )
    async with http(server, "alice", era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["tool_001", "tool_002"]
        assert await code_of(client, "tool_002") is None
    async with http(server, "bob", era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["tool_001"]
        assert "Unknown tool" in await text_of(client, "tool_002")
    assert made.exactly_one_end_each()


@pytest.mark.threat("H02", "H03")
async def test_a_tool_that_is_refused_for_arguments_rate_or_approval_is_listed() -> None:
    server = many(3)
    guarded(
        server,
        [
            "bf:*:tool_access:allow",
            "bf:tool_000:argument_allowlist:allow:a:5",
            "bf:tool_001:tool_access:elicit",
            "bf:tool_002:rate_limit:allow:1/hour",
        ],
    )
    async with Client(server) as client:
        before = [tool.name for tool in await client.list_tools()]
        for name in ("tool_000", "tool_001", "tool_002", "tool_002"):
            await client.call_tool(name, {}, raise_on_error=False)
        assert [tool.name for tool in await client.list_tools()] == before == ["tool_000", "tool_001", "tool_002"]


@pytest.mark.threat("H06")
async def test_pages_of_a_filtered_list_are_full_and_in_order() -> None:
    server = many(40, list_page_size=5)
    guarded(server, [f"bf:tool_{number:03}:tool_access:allow" for number in range(0, 40, 3)])
    async with Client(server) as client:
        pages, cursor = [], None
        while True:
            page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            pages.append([tool.name for tool in page.tools])
            cursor = page.next_cursor
            if not cursor:
                break
    assert [len(page) for page in pages] == [5, 5, 4]
    assert [name for page in pages for name in page] == [f"tool_{number:03}" for number in range(0, 40, 3)]


@pytest.mark.threat("H07")
async def test_a_filtered_list_is_private() -> None:
    server = many(2, cache_ttl=60)
    guarded(server, ["bf:*:tool_access:allow"])
    async with Client(server) as client:
        page = await client.session.list_tools()
    assert page.cache_scope == "private"


@pytest.mark.threat("H08", "I08")
async def test_one_callers_calls_change_nothing_in_anothers_list_and_notifications_change_nothing() -> None:
    server = many(2, auth=tokens(alice={}, bob={}))
    made = guarded(server, ["bf:*:tool_access:allow", "bf:*:rate_limit:allow:1/hour"])
    async with http(server, "alice", "legacy") as client:
        await client.call_tool("tool_000", {})
        await client.session.send_notification(InitializedNotification(method="notifications/initialized"))
    async with http(server, "bob") as client:
        assert len(await client.list_tools()) == 2
        assert await code_of(client, "tool_000") is None
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_the_published_output_schema_is_that_of_what_may_come(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    def person(id: int) -> dict[str, int]:
        return {"id": id, "age": 7}

    @server.tool
    def typed(id: int) -> Person:
        return Person(id=id, age=7)

    guarded(server, ["bf:*:tool_access:allow", "af:*:field_access:deny:age"])
    async with Client(server, mode=era) as client:
        listed = {tool.name: tool for tool in await client.list_tools()}
        assert "age" not in (listed["typed"].output_schema or {}).get("required", [])
        assert (await client.call_tool("typed", {"id": 1})).structured_content == {"id": 1}
        assert (await client.call_tool("person", {"id": 1})).structured_content == {"id": 1}


@pytest.mark.threat("H05")
async def test_a_tool_that_lists_sees_only_what_its_caller_may() -> None:
    server = many(3)

    @server.tool
    async def find(ctx: Context) -> list[str]:
        return [tool.name for tool in await ctx.fastmcp.list_tools()]

    made = guarded(server, ["bf:find:tool_access:allow", "bf:tool_001:tool_access:allow"])
    async with Client(server) as client:
        assert sorted((await client.call_tool("find", {})).data) == ["find", "tool_001"]
    assert made.exactly_one_end_each()


async def test_a_mounted_servers_list_is_filtered_by_the_root_alone_and_recorded_once() -> None:
    root: FastMCP[Any] = FastMCP("root")
    child = many(3)
    root.mount(child, namespace="c")
    made = guarded(root, ["bf:c_tool_001:tool_access:allow"])
    async with Client(root) as client:
        assert [tool.name for tool in await client.list_tools()] == ["c_tool_001"]
    assert [end for end in made.ends if end[0] == "tools/list"] == [("tools/list", "ok", "ok")]


@pytest.mark.parametrize("era", ERAS)
async def test_resources_templates_and_prompts_are_filtered(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s")
    for name in ("open", "closed"):
        server.resource(f"data://{name}")(lambda: "x")
        server.resource(f"{name}://{{id}}", name=name)(lambda id: id)
        server.prompt(name=name)(lambda: "x")
    guarded(
        server,
        [
            "bf:resource=data\\://open:tool_access:allow",
            "bf:resource=open\\://{id}:tool_access:allow",
            "bf:prompt=open:tool_access:allow",
        ],
    )
    async with Client(server, mode=era) as client:
        assert [str(resource.uri) for resource in await client.list_resources()] == ["data://open"]
        assert [template.uri_template for template in await client.list_resource_templates()] == ["open://{id}"]
        assert [prompt.name for prompt in await client.list_prompts()] == ["open"]


# --- the list before every modern HTTP call -------------------------------------------------------------------------


async def test_the_list_before_a_modern_call_names_one_tool_is_not_charged_and_not_recorded() -> None:
    server = many(30, auth=tokens(alice={}))
    seen: list[int] = []
    original = type(server.local_provider)._list_tools

    async def counting(self: Any) -> Any:
        found = await original(self)
        seen.append(len(found))
        return found

    made = guarded(server, ["bf:tool_001:tool_access:allow"])
    type(server.local_provider)._list_tools = counting  # type: ignore[method-assign]
    try:
        async with http(server, "alice") as client:
            client._tool_output_schemas = {}  # type: ignore[attr-defined]
            await client.session.call_tool("tool_001", {"a": 1})
            made.records.clear()
            seen.clear()
            await client.session.call_tool("tool_001", {"a": 1})
            assert seen == []
            result = await client.session.call_tool("tool_002", {"a": 1})
            assert result.is_error
    finally:
        type(server.local_provider)._list_tools = original  # type: ignore[method-assign]
    assert [end[0] for end in made.ends] == ["tool_001", "tool_002"]


async def test_a_legacy_client_cannot_imitate_it() -> None:
    server = many(3, auth=tokens(alice={}))
    made = guarded(server, ["bf:*:tool_access:allow"])
    headers = {"mcp-method": "tools/call", "mcp-name": "tool_001"}
    async with asgi_client(server, auth="alice", headers=headers, mode="legacy") as client:
        assert len(await client.list_tools()) == 3
    assert ("tools/list", "ok", "ok") in made.ends


@pytest.mark.threat("J10")
async def test_the_body_decides_and_not_a_header() -> None:
    server = many(3, auth=tokens(alice={}))
    made = guarded(server, ["bf:tool_001:tool_access:allow"])
    async with asgi_client(server, auth="alice", headers={"mcp-name": "tool_001"}, mode="legacy") as client:
        assert "Unknown tool" in await text_of(client, "tool_002")
    assert made.exactly_one_end_each()


async def test_a_list_without_a_credential_is_refused() -> None:
    server = many(3)
    made = guarded(server, ["bf:*:tool_access:allow"])
    async with http(server) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_tools()
    assert refused.value.error.data["code"] == "unauthenticated"
    assert ("tools/list", "denied", "unauthenticated") in made.ends


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("G13")
async def test_a_client_with_an_older_schema_is_refused_until_it_lists_again(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    def typed(id: int) -> Person:
        return Person(id=id, age=7)

    made = guarded(server, ["bf:*:tool_access:allow"])
    async with Client(server, mode=era) as client:
        await client.list_tools()
        assert (await client.call_tool("typed", {"id": 1})).structured_content == {"id": 1, "age": 7}
        assert await made.guard.runtime.reload(policy(["bf:*:tool_access:allow", "af:*:field_access:deny:age"]))
        assert await code_of(client, "typed", id=1) == "schema_changed"
        await client.list_tools()
        assert (await client.call_tool("typed", {"id": 1})).structured_content == {"id": 1}
    assert made.exactly_one_end_each()


def regional() -> FastMCP[Any]:
    """A server of which one tool mirrors an argument in a header."""
    server: FastMCP[Any] = FastMCP("s", auth=tokens(alice={"groups": ["ops"]}, bob={}))

    @server.tool
    def wipe(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return f"wiped {region}"

    return server


async def posted(server: FastMCP[Any], user: str, tool: str, **headers: str) -> httpx2.Response:
    """A modern call over HTTP by hand, with these headers beside its own."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": {"region": "eu"}, "_meta": meta}
    sent = {
        "accept": "application/json, text/event-stream",
        "authorization": f"Bearer {user}",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    app = server.http_app(json_response=True, stateless_http=True)
    transport = httpx2.ASGITransport(app=app)
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return await client.post("/mcp", json=body, headers=sent)


@pytest.mark.threat("Q02", "H10")
async def test_a_header_that_does_not_fit_tells_nobody_that_a_hidden_tool_exists() -> None:
    server = regional()
    made = guarded(
        server,
        [{"before": "wipe", "policy": "tool_access", "action": "allow", "for": {"claim": {"groups": "ops"}}}],
    )
    for _ in range(2):  # before and after somebody was shown the tool
        hidden = await posted(server, "bob", "wipe", mcp_param_region="us")
        unknown = await posted(server, "bob", "wine", mcp_param_region="us")
        assert hidden.status_code == unknown.status_code == 200
        assert hidden.text.replace("wipe", "wine") == unknown.text
        assert (await posted(server, "alice", "wipe", mcp_param_region="eu")).status_code == 200
        async with http(server, "alice") as client:
            assert [tool.name for tool in await client.list_tools()] == ["wipe"]
    assert (await posted(server, "alice", "wipe", mcp_param_region="us")).status_code == 400
    assert made.exactly_one_end_each()
