"""One policy file on several servers of a process, and servers that reach themselves: each is judged and ends."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server import create_proxy
from guarded import ERAS, policy, runtime
from lab import Records

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonMiddleware, bind
from mcp_macaroon_middleware.config.runtime import Runtime
from mcp_macaroon_middleware.core.audit import SinkSlot

MOST = 1_500_000_000
"""Bytes of address space for a process that would take gigabytes without the defence."""

Build = Callable[[Callable[[FastMCP[Any]], FastMCP[Any]]], tuple[FastMCP[Any], int]]


def leaf(name: str = "back") -> FastMCP[Any]:
    """A server with one of everything."""
    server: FastMCP[Any] = FastMCP(name)

    @server.tool
    def ping() -> str:
        return "pong"

    @server.resource("data://one")
    def one() -> str:
        return "1"

    @server.prompt
    def greet() -> str:
        return "hello"

    return server


def proxied(stand: Callable[[FastMCP[Any]], FastMCP[Any]]) -> tuple[FastMCP[Any], int]:
    """A proxy before its backend."""
    return stand(create_proxy(stand(leaf()), name="front")), 2


def chain(stand: Callable[[FastMCP[Any]], FastMCP[Any]]) -> tuple[FastMCP[Any], int]:
    """Three in a row."""
    return stand(create_proxy(stand(create_proxy(stand(leaf()), name="middle")), name="front")), 3


def gap(stand: Callable[[FastMCP[Any]], FastMCP[Any]]) -> tuple[FastMCP[Any], int]:
    """An unguarded proxy between two guarded servers."""
    return stand(create_proxy(create_proxy(stand(leaf()), name="middle"), name="front")), 2


def mounts(stand: Callable[[FastMCP[Any]], FastMCP[Any]]) -> tuple[FastMCP[Any], int]:
    """A mount on both sides of the connection."""
    back: FastMCP[Any] = FastMCP("back")
    back.mount(leaf("child"))
    front: FastMCP[Any] = FastMCP("front")
    front.mount(create_proxy(stand(back), name="middle"))
    return stand(front), 2


def mounted_guard(stand: Callable[[FastMCP[Any]], FastMCP[Any]]) -> tuple[FastMCP[Any], int]:
    """One request that passes the same file on a root and on what is mounted there: one call, judged once."""
    root: FastMCP[Any] = FastMCP("root")
    root.mount(stand(leaf("child")))
    return stand(root), 1


ROADS: tuple[Build, ...] = (proxied, chain, gap, mounts, mounted_guard)


def standing(path: Path) -> tuple[Callable[[FastMCP[Any]], FastMCP[Any]], Callable[[], Records]]:
    """What puts the file on a server as its users do, and the records of all that share it."""
    records, seen = Records(), []

    def stand(server: FastMCP[Any]) -> FastMCP[Any]:
        middleware = MacaroonMiddleware(path)
        middleware.runtime.audit._slots = (SinkSlot(name="list", sink=records, required=True),)
        seen.append(middleware.runtime)
        server.add_middleware(middleware)
        return server

    def found() -> Records:
        assert len({id(each) for each in seen}) == 1, "one file is one runtime"
        return records

    return stand, found


def written(folder: Path, *rules: Any) -> Path:
    path = folder / "policies.yaml"
    path.write_text(json.dumps(policy(rules)), encoding="utf-8")
    return path


def ends(records: Records, name: str) -> list[tuple[str, str]]:
    finals = [each for each in records.finals() if each["component"]["name"] == name]
    return [(each["outcome"], each.get("code", "")) for each in finals]


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("road", ROADS, ids=lambda road: str(road.__name__))
async def test_each_guard_on_the_way_judges_and_records_and_it_ends(road: Build, mode: str, tmp_path: Path) -> None:
    stand, found = standing(written(tmp_path, "bf:ping:tool_access:allow"))
    server, guards = road(stand)

    async with Client(server, mode=mode) as client:
        assert [tool.name for tool in await client.list_tools()] == ["ping"]
        assert (await client.call_tool("ping")).data == "pong"
        assert (await client.call_tool("ping")).data == "pong"

    assert ends(found(), "ping") == [("ok", "ok")] * (2 * guards)
    assert len(found()) < 300


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
async def test_resources_and_prompts_pass_both_guards_too(mode: str, tmp_path: Path) -> None:
    rules = (
        {"before": {"resource": "data://one"}, "policy": "tool_access", "action": "allow"},
        {"before": {"prompt": "greet"}, "policy": "tool_access", "action": "allow"},
    )
    stand, found = standing(written(tmp_path, *rules))
    server, _ = proxied(stand)

    async with Client(server, mode=mode) as client:
        assert (await client.read_resource("data://one"))[0].text == "1"
        assert (await client.get_prompt("greet")).messages

    assert ends(found(), "data://one") == ends(found(), "greet") == [("ok", "ok")] * 2


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
async def test_what_the_backends_guard_refuses_is_refused_though_the_proxys_let_it_through(mode: str) -> None:
    shared, records = runtime(["bf:ping:tool_access:allow"])
    closed, behind = runtime(["bf:other:tool_access:allow"], config={})
    back = leaf()
    back.tool(lambda: "other", name="other")
    back.add_middleware(MacaroonMiddleware(runtime=closed))
    middle = create_proxy(back, name="middle")
    middle.add_middleware(MacaroonMiddleware(runtime=shared))
    outer = create_proxy(middle, name="front")
    outer.add_middleware(MacaroonMiddleware(runtime=shared))

    async with Client(outer, mode=mode) as client:
        with pytest.raises(ToolError):
            await client.call_tool("ping")

    assert ("ok", "ok") not in [*ends(records, "ping"), *ends(behind, "ping")]


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
async def test_two_roots_under_one_file_judge_each_their_own(mode: str, tmp_path: Path) -> None:
    stand, found = standing(written(tmp_path, "bf:*:tool_access:allow"))
    one, other = stand(leaf("one")), leaf("other")

    @other.tool
    async def both() -> str:
        async with Client(one, mode=mode) as client:
            return str((await client.call_tool("ping")).data)

    async with Client(stand(other), mode=mode) as client:
        assert (await client.call_tool("both")).data == "pong"

    assert ends(found(), "ping") == ends(found(), "both") == [("ok", "ok")]


# --- recursion ------------------------------------------------------------------------------------------------------


def itself(name: str = "me") -> FastMCP[Any]:
    """A server with every road to itself."""
    server = leaf(name)

    @server.tool
    async def by_client(mode: str) -> str:
        async with Client(server, mode=mode) as client:
            return str((await client.call_tool("by_client", {"mode": mode})).data)

    @server.tool
    async def by_context(ctx: Context) -> str:
        return str(await ctx.fastmcp.call_tool("by_context"))

    @server.tool
    async def past_middleware(ctx: Context) -> str:
        return str(await ctx.fastmcp.call_tool("past_middleware", run_middleware=False))

    @server.tool
    async def by_proxy(mode: str) -> str:
        async with Client(create_proxy(server, name="again"), mode=mode) as client:
            return str((await client.call_tool("by_proxy", {"mode": mode})).data)

    @server.resource("loop://here")
    async def loop(ctx: Context) -> str:
        return str(await ctx.read_resource("loop://here"))

    return server


def ruled() -> tuple[Runtime, Records]:
    return runtime(["bf:*:tool_access:allow"])


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("tool", ["by_client", "by_context", "past_middleware", "by_proxy"])
async def test_a_call_that_calls_itself_is_cut_with_one_record(tool: str, mode: str) -> None:
    made, records = ruled()
    server = itself()
    server.add_middleware(MacaroonMiddleware(runtime=made))
    arguments = {"mode": mode} if tool in ("by_client", "by_proxy") else {}

    async with Client(server, mode=mode) as client:
        with pytest.raises(ToolError, match=r"\[nested_too_deep\]|Unknown tool"):
            await client.call_tool(tool, arguments)
        assert (await client.call_tool("ping")).data == "pong", "the server goes on"

    cut = [each["component"]["name"] for each in records.finals() if each.get("code") == "nested_too_deep"]
    assert cut == [tool] if tool != "by_proxy" else set(cut) == {"tools/list"}  # a proxy lists before it calls
    assert len(ends(records, tool)) < 20
    requests = [each["request"] for each in records.finals()]
    assert len(requests) == len(set(requests)), "one request, one record"


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_read_that_reads_itself_is_cut(mode: str) -> None:
    made, records = ruled()
    server = itself()
    server.add_middleware(MacaroonMiddleware(runtime=made))

    async with Client(server, mode=mode) as client:
        with pytest.raises(Exception, match=r"loop://here|nested_too_deep|too deep"):
            await client.read_resource("loop://here")

    assert Counter(ends(records, "loop://here"))["denied", "nested_too_deep"] == 1


@pytest.mark.threat("R21")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("late", [True, False], ids=["middleware", "bind"])
@pytest.mark.parametrize("shape", ["self", "ring"])
async def test_a_proxy_to_itself_lists_calls_and_ends(shape: str, late: bool, mode: str) -> None:
    made, records = ruled()
    server = leaf("me")
    if shape == "self":
        server.mount(create_proxy(server, name="again"), namespace="again")
    else:
        other = leaf("other")
        other.mount(create_proxy(server, name="back"), namespace="again")
        other.add_middleware(MacaroonMiddleware(runtime=made))
        server.mount(create_proxy(other, name="there"), namespace="again")
    if late:
        server.add_middleware(MacaroonMiddleware(runtime=made))
    else:
        await bind(server, made)

    async with Client(server, mode=mode) as client:
        assert "ping" in [tool.name for tool in await client.list_tools()]
        assert (await client.call_tool("ping")).data == "pong"
        assert (await client.call_tool("again_ping")).data == "pong"
        with pytest.raises(ToolError):
            await client.call_tool("nothing")

    cut = [each for each in records.finals() if each.get("code") == "nested_too_deep"]
    assert cut
    assert len({each["request"] for each in cut}) == len(cut)
    assert len(records) < 1_000


@pytest.mark.threat("R21")
def test_the_reported_case_ends_within_its_memory(tmp_path: Path) -> None:
    path = written(tmp_path, "bf:ping:tool_access:allow")
    program = textwrap.dedent(
        f"""
        import asyncio, resource
        resource.setrlimit(resource.RLIMIT_AS, ({MOST}, {MOST}))
        from fastmcp import Client, FastMCP
        from fastmcp.server import create_proxy
        from mcp_macaroon_middleware import MacaroonMiddleware
        back = FastMCP("back")
        back.tool(lambda: "pong", name="ping", output_schema=None)
        back.add_middleware(MacaroonMiddleware({str(path)!r}))
        front = create_proxy(back)
        front.add_middleware(MacaroonMiddleware({str(path)!r}))
        async def main():
            async with Client(front) as client:
                print((await client.call_tool("ping")).content[0].text)
        asyncio.run(asyncio.wait_for(main(), 20))
        """
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert "pong" in done.stdout, done.stderr[-2000:]
