"""What a session switches on and off is seen and used under a guard exactly as without one, at any depth of mounts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.server.providers.fastmcp_provider import FastMCPProvider
from guarded import ERAS, guarded

MOUNTED = pytest.mark.skipif(
    "Context" not in FastMCPProvider._get_tool.__code__.co_varnames,
    reason="this FastMCP looks mounted components up in another server's session",
)
STEPS = ("list", "use", "on", "list", "use", "other", "off", "list", "use", "other", "on", "use")


def offered() -> FastMCP[Any]:
    """A server with one component of each shape, all switched off, and two versions of a tool."""
    server: FastMCP[Any] = FastMCP("child")

    @server.tool(tags={"hidden"})
    def tool() -> str:
        return "a tool"

    @server.resource("data://one", tags={"hidden"})
    def resource() -> str:
        return "a resource"

    @server.resource("data://each/{name}", tags={"hidden"})
    def template(name: str) -> str:
        return f"a template, {name}"

    @server.prompt(tags={"hidden"})
    def prompt() -> str:
        return "a prompt"

    @server.tool(name="both", version="1")
    def old() -> str:
        return "version 1"

    @server.tool(name="both", version="2", tags={"new"})
    def new() -> str:
        return "version 2"

    server.disable(tags={"hidden"})

    @server.tool
    async def on(ctx: Context) -> str:
        await ctx.enable_components(tags={"hidden"})
        await ctx.enable_components(tags={"new"})
        return "on"

    @server.tool
    async def off(ctx: Context) -> str:
        await ctx.disable_components(tags={"hidden"})
        await ctx.disable_components(tags={"new"})
        return "off"

    return server


def mounted(depth: int) -> FastMCP[Any]:
    """It, below so many others."""
    server = offered()
    for _ in range(depth):
        above: FastMCP[Any] = FastMCP("above")
        above.mount(server)
        server = above
    return server


async def told(call: Callable[[], Awaitable[Any]]) -> str:
    """What a call gave or was refused with."""
    try:
        return str(await call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def use(client: Client[Any]) -> list[str]:
    """Every component, used by its name."""

    async def resource(uri: str) -> Any:
        return [(item.uri, getattr(item, "text", "")) for item in await client.read_resource(uri)]

    async def prompt() -> Any:
        return [message.content for message in (await client.get_prompt("prompt")).messages]

    async def tool(name: str) -> Any:
        return (await client.call_tool(name)).data

    calls = (lambda: tool("tool"), lambda: resource("data://one"), lambda: resource("data://each/x"), prompt)
    return [await told(call) for call in (*calls, lambda: tool("both"))]


async def listed(client: Client[Any]) -> list[str]:
    """The names of what is offered."""
    tools, prompts = await client.list_tools(), await client.list_prompts()
    resources, templates = await client.list_resources(), await client.list_resource_templates()
    return sorted([item.name for item in (*tools, *prompts, *resources, *templates)])


async def story(server: FastMCP[Any], era: str) -> list[list[str]]:
    """What two sessions see, of which the first switches components on and off."""
    seen: list[list[str]] = []
    async with Client(server, mode=era) as one, Client(server, mode=era) as other:
        for step in STEPS:
            if step in ("on", "off"):
                await one.call_tool(step)
            elif step == "list":
                seen.append(await listed(one))
            else:
                seen.append(await use(other if step == "other" else one))
    return seen


@pytest.mark.parametrize("depth", [0, *(pytest.param(depth, marks=MOUNTED) for depth in (1, 2))])
@pytest.mark.parametrize("era", ERAS)
async def test_a_session_sees_and_uses_the_same_with_and_without_a_guard(era: str, depth: int) -> None:
    """Kind 12: what a mounted server had switched on for a session was listed, and unknown when it was called."""
    bare = await story(mounted(depth), era)
    made = guarded(mounted(depth), [], config={"default": "allow"})
    assert await story(made.server, era) == bare
    assert any("a tool" in line for line in bare[3])
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_tool_of_a_mounted_server_sees_its_own_list_under_a_guard_on_every_server(era: str, depth: int) -> None:
    """Two policies filter one list: the second is not the list that asks for itself."""
    below: FastMCP[Any] = FastMCP("child")

    @below.tool
    async def names(ctx: Context) -> list[str]:
        return [tool.name for tool in await ctx.fastmcp.list_tools()]

    server = below
    guards = [guarded(server, [], config={"default": "allow"})]
    for _ in range(depth):
        above: FastMCP[Any] = FastMCP("above")
        above.mount(server)
        server = above
        guards.append(guarded(server, [], config={"default": "allow"}))
    async with Client(server, mode=era) as client:
        assert (await client.call_tool("names")).data == ["names"]
        assert [tool.name for tool in await client.list_tools()] == ["names"]
    assert all(each.exactly_one_end_each() for each in guards)
