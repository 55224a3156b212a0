"""Binding a guard: what it stands on, what it refuses to stand on, and what it reports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.server import create_proxy
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.middleware.logging import LoggingMiddleware
from fastmcp.server.transforms import ResourcesAsTools
from guarded import code_of, guarded, policy, runtime, text_of
from mcp.shared.exceptions import MCPError

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonMiddleware, bind, guard
from mcp_macaroon_middleware.adapters.fastmcp.gate import LastGate
from mcp_macaroon_middleware.errors import BindError, ConfigError

ALLOW = "bf:*:tool_access:allow"


def small(**options: Any) -> FastMCP[Any]:
    """A server with one tool."""
    server: FastMCP[Any] = FastMCP("small", **options)

    @server.tool
    def delete_user(id: int) -> int:
        return id

    return server


@pytest.mark.threat("J02", "L04")
def test_a_literal_target_that_nothing_bears_is_an_error_with_its_place_and_near_names(tmp_path: Any) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(
        "config: {secret_key: '" + "0123456789abcdef" * 4 + "', default: deny}\n"
        "policies:\n  - 'bf:*:tool_access:allow'\n  - 'bf:delete_usr:tool_access:deny'\n"
    )
    path.chmod(0o600)
    with pytest.raises(BindError) as error:
        guard(small(), path)
    assert f"{path}:4:" in str(error.value)
    assert "did you mean 'delete_user'" in str(error.value)


def test_a_rule_that_says_dynamic_may_name_what_is_not_there_yet() -> None:
    guarded(small(), [{"before": "later", "policy": "tool_access", "action": "deny", "dynamic": True}])
    with pytest.raises(BindError, match="later"):
        guarded(small(), [{"before": "later", "policy": "tool_access", "action": "deny"}])


def test_a_granting_rule_that_names_an_inner_name_is_told_the_public_one() -> None:
    root: FastMCP[Any] = FastMCP("root")
    root.mount(small(), namespace="ns")
    guarded(root, ["bf:delete_user:tool_access:deny"])
    root = FastMCP("root")
    root.mount(small(), namespace="ns")
    with pytest.raises(BindError, match="public name: 'ns_delete_user'"):
        guarded(root, ["bf:delete_user:tool_access:allow"])


@pytest.mark.threat("H07", "FI27")
def test_a_public_cache_hint_is_refused() -> None:
    with pytest.raises(BindError, match="cache_scope"):
        guarded(small(cache_scope="public", cache_ttl=60), [ALLOW])
    guarded(small(cache_scope="private", cache_ttl=60), [ALLOW])


@pytest.mark.threat("H07", "FI27")
async def test_a_response_cache_outside_the_guard_is_refused_naming_both() -> None:
    made, _ = runtime([ALLOW])
    server = small(middleware=[ResponseCachingMiddleware(), MacaroonMiddleware(runtime=made)])
    with pytest.raises(BindError) as error:
        guard(server, made)
    assert "ResponseCachingMiddleware" in str(error.value)
    assert "MacaroonMiddleware" in str(error.value)
    async with Client(server) as client:
        assert await code_of(client, "delete_user", id=1) == "not_ready"


async def test_a_response_cache_inside_the_guard_serves_nothing_that_is_refused() -> None:
    server = small(middleware=[ResponseCachingMiddleware()])
    made = guarded(server, ["bf:delete_user:tool_access:allow", "bf:delete_user:rate_limit:allow:1/hour"])
    assert isinstance(server.middleware[0], MacaroonMiddleware)
    async with Client(server) as client:
        assert [await code_of(client, "delete_user", id=1) for _ in range(2)] == [None, "rate_limited"]
    assert made.exactly_one_end_each()


async def test_a_cache_put_outside_later_closes_the_server(caplog: Any) -> None:
    server = small()
    guarded(server, [ALLOW])
    server.middleware.insert(0, ResponseCachingMiddleware())
    async with Client(server) as client:
        assert await code_of(client, "delete_user", id=1) == "not_ready"
    assert "ResponseCachingMiddleware" in caplog.text


async def test_a_guard_that_cannot_be_bound_leaves_the_server_closed() -> None:
    server = small()
    with pytest.raises(BindError):
        guarded(server, ["bf:nothing:tool_access:allow"])
    async with Client(server) as client:
        assert await code_of(client, "delete_user", id=1) == "not_ready"
        with pytest.raises(MCPError, match="not_ready"):
            await client.list_tools()


def test_what_is_no_server_is_told() -> None:
    with pytest.raises(BindError, match="FastMCP"):
        guard("server.py", policy([ALLOW]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        guard(small(), policy(["bf:x:tool_acces:allow"]))


async def test_it_binds_in_a_running_loop_and_outside_one_and_twice() -> None:
    server = small()
    made, _ = runtime([ALLOW])
    guard(server, made)
    guard(server, made)
    assert len([t for t in server._transforms if isinstance(t, LastGate)]) == 1
    assert len([m for m in server.middleware if isinstance(m, MacaroonMiddleware)]) == 1
    async with Client(server) as client:
        assert await code_of(client, "delete_user", id=1) is None


@pytest.mark.threat("H11", "I09")
def test_the_report_says_what_is_covered_and_what_cannot_be() -> None:
    server = small(instructions="use delete_user")
    child = small()
    server.mount(child, namespace="c")

    @server.custom_route("/health", methods=["GET"])
    async def health(request: Any) -> Any: ...

    @server.completion
    def complete(ref: Any, argument: Any, context: Any) -> list[str]:
        return []

    @server.tool
    def text() -> str:
        return ""

    made = guarded(server, ["bf:*delete_user:tool_access:allow", "af:*:field_access:deny:x"])
    lines = str(made.guard.report)
    for expected in (
        "small: 3 tools",
        "c_delete_user",
        "/health",
        "instructions",
        "Python code",
        "completions",
        "withheld: text",
        "no rule allows a resource",
    ):
        assert expected in lines, lines
    document = made.guard.report.as_json()
    assert document["default"] == "deny"
    assert "tool text" in document["components"]


def test_the_report_says_that_everything_is_open_by_default() -> None:
    made = guarded(small(), [], config={"default": "allow"})
    assert "default is allow" in str(made.guard.report)


async def test_a_transform_added_after_the_guard_is_inside_the_gate() -> None:
    server = small()

    @server.resource("data://x")
    def x() -> str:
        return "x"

    guarded(server, [])
    server.add_transform(ResourcesAsTools(server))
    async with Client(server) as client:
        assert "Unknown tool" in await text_of(client, "read_resource", uri="data://x")
    assert isinstance(server._transforms[-1], LastGate)
    tool = await server.get_tool("read_resource")
    assert tool is not None
    with pytest.raises(Exception, match="no_identity"):
        await tool.run({"uri": "data://x"})


async def test_bind_lists_a_proxied_server_at_once_and_guard_on_the_first_request() -> None:
    made, _ = runtime(["bf:delete_user:tool_access:allow", "bf:delete_usr:tool_access:deny"])
    with pytest.raises(BindError, match="delete_usr"):
        await bind(create_proxy(small()), made)
    lazy = create_proxy(small())
    bound = guard(lazy, made)
    assert "first request" in str(bound.report)
    async with Client(lazy) as client:
        assert await code_of(client, "delete_user", id=1) == "not_ready"
    fine, _ = runtime(["bf:delete_user:tool_access:allow"])
    good = create_proxy(small())
    bound = await bind(good, fine)
    assert "delete_user" in str(bound.report)
    async with Client(good) as client:
        assert await code_of(client, "delete_user", id=1) is None


async def test_a_reload_is_followed_by_the_next_request() -> None:
    made = guarded(small(), ["bf:delete_user:tool_access:allow"])
    async with Client(made.server) as client:
        assert await code_of(client, "delete_user", id=1) is None
        assert await made.guard.runtime.reload(policy(["bf:delete_user:tool_access:deny"]))
        assert "Unknown tool" in await text_of(client, "delete_user", id=1)


def test_a_mounted_circle_ends() -> None:
    one, two = small(), FastMCP("two")
    one.mount(two, namespace="a")
    two.mount(one, namespace="b")
    made = guarded(one, [ALLOW])
    assert len(made.guard.servers) == 2


async def test_other_middlewares_stay_and_see_only_what_is_let_in() -> None:
    server = small(middleware=[LoggingMiddleware()])
    made = guarded(server, [ALLOW])
    async with Client(server) as client:
        assert await code_of(client, "delete_user", id=1) is None
    assert made.exactly_one_end_each()


# --- the last gate --------------------------------------------------------------------------------------------------


async def test_what_passes_by_the_middleware_is_decided_at_the_gate() -> None:
    server: FastMCP[Any] = FastMCP("s")
    ran: list[str] = []

    @server.tool
    def closed() -> str:
        ran.append("closed")
        return "closed"

    @server.tool
    def fields() -> dict[str, int]:
        ran.append("fields")
        return {"a": 1, "ssn": 2}

    @server.resource("data://{id}")
    def item(id: str) -> dict[str, Any]:
        ran.append("item")
        return {"id": id, "ssn": 1}

    @server.tool
    async def by(how: str, ctx: Context) -> str:
        if how == "flag":
            return str((await ctx.fastmcp.call_tool("closed", {}, run_middleware=False)).content)
        if how == "run":
            tool = await ctx.fastmcp.get_tool("closed")
            assert tool is not None
            return str((await tool.run({})).content)
        if how == "fields":
            return str((await ctx.fastmcp.call_tool("fields", {}, run_middleware=False)).structured_content)
        result = await ctx.fastmcp.read_resource("data://7", run_middleware=False)
        return str(result.contents[0].content)

    made = guarded(
        server,
        [
            "bf:by:tool_access:allow",
            "bf:fields:tool_access:allow",
            "af:fields:field_access:deny:ssn",
            "bf:resource=data*:tool_access:allow",
            "af:resource=data*:field_access:deny:ssn",
        ],
    )
    async with Client(server) as client:
        assert "Unknown tool" in await text_of(client, "by", how="flag")
        assert "Unknown tool" in await text_of(client, "by", how="run")
        assert ran == []
        assert await text_of(client, "by", how="fields") == "{'a': 1}"
        assert await text_of(client, "by", how="read") == '{"id": "7"}'
    assert ran == ["fields", "item"]
    assert made.exactly_one_end_each()
    assert sum(bool(record.get("nested")) for record in made.records.finals()) == 4


async def test_a_mounted_tool_run_without_middleware_is_decided_at_its_own_gate() -> None:
    root: FastMCP[Any] = FastMCP("root")
    child = small()
    root.mount(child, namespace="ns")

    @root.tool
    async def by(ctx: Context) -> str:
        return str((await ctx.fastmcp.call_tool("ns_delete_user", {"id": 1}, run_middleware=False)).content)

    made = guarded(root, ["bf:by:tool_access:allow"])
    async with Client(root) as client:
        assert "Unknown tool" in await text_of(client, "by")
    assert made.exactly_one_end_each()


async def test_a_guarded_copy_keeps_the_class_and_fields_of_its_tool() -> None:
    server = small()
    before = await server.get_tool("delete_user")
    guarded(server, [ALLOW])
    after = await server.get_tool("delete_user")
    assert before is not None
    assert after is not None
    assert isinstance(after, type(before))
    assert type(after).__name__ == type(before).__name__
    assert after.model_dump() == before.model_dump()
    assert after is await server.get_tool("delete_user")


@pytest.mark.threat("J11")
async def test_a_tool_that_runs_only_as_a_background_task_is_refused() -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    async def job() -> int:
        raise AssertionError("it must not run")

    tool = await server.get_tool("job")
    assert tool is not None
    from fastmcp.utilities.tasks import TaskConfig

    server.local_provider._components.clear()
    server.add_tool(tool.model_copy(update={"task_config": TaskConfig(mode="required")}))
    made = guarded(server, [ALLOW])
    assert "background tasks of job" in str(made.guard.report)
    guarded_tool = await server.get_tool("job")
    assert guarded_tool is not None
    assert not guarded_tool.task_config.supports_tasks()
    async with Client(server) as client:
        assert await code_of(client, "job") == "task_not_supported"
    assert made.ends[-1][:2] == ("job", "denied") or ("job", "denied", "task_not_supported") in made.ends


async def test_concurrent_first_messages_bind_once() -> None:
    made, _ = runtime([ALLOW])
    server = small(middleware=[MacaroonMiddleware(runtime=made)])
    async with Client(server) as client:
        codes = await asyncio.gather(*(code_of(client, "delete_user", id=n) for n in range(10)))
    assert set(codes) == {None}
    assert len([t for t in server._transforms if isinstance(t, LastGate)]) == 1


async def test_a_reloaded_rule_that_fits_nothing_is_said_in_the_log(caplog: Any) -> None:
    made = guarded(small(), ["bf:delete_user:tool_access:allow"])
    assert await made.guard.runtime.reload(
        policy(["bf:delete_usr:tool_access:deny", "bf:delete_user:tool_access:allow"])
    )
    async with Client(made.server) as client:
        assert await code_of(client, "delete_user", id=1) is None
    assert "after the reload" in caplog.text
    assert "delete_usr" in caplog.text


async def test_a_decision_about_one_tool_lets_no_other_run() -> None:
    server = small()
    ran: list[str] = []

    @server.tool
    def other() -> str:
        ran.append("other")
        return "x"

    class Sly(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            await server.call_tool("other", {}, run_middleware=False)
            return await call_next(context)

    server.add_middleware(Sly())
    made = guarded(server, ["bf:delete_user:tool_access:allow"])
    async with Client(server) as client:
        assert "Unknown tool" in await text_of(client, "delete_user", id=1)
    assert ran == []
    assert made.exactly_one_end_each()
