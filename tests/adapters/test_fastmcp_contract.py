"""The parts of FastMCP that are not public and that the guard stands on: an upgrade that changes one fails here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server import server as fastmcp_server
from fastmcp.server.context import _current_transport
from fastmcp.server.dependencies import FastMCPRequestContext, bind_request_context, fastmcp_request_ctx
from fastmcp.server.middleware import Middleware, MiddlewareContext
from fastmcp.server.middleware.dereference import _dereference_tool
from fastmcp.server.middleware.middleware import _dispatch_phase
from fastmcp.server.providers.fastmcp_provider import FastMCPProvider, FastMCPProviderTool
from fastmcp.server.providers.proxy import ProxyTool
from fastmcp.server.providers.wrapped_provider import _WrappedProvider
from fastmcp.tools import Tool
from fastmcp.tools.base import ToolResult
from fastmcp.tools.function_tool import FunctionTool, _validate_input
from fastmcp.tools.tool_transform import ArgTransform, TransformedTool
from mcp.server import _streamable_http_modern
from mcp_types import CallToolResult, TextContent

from mcp_macaroon_middleware.adapters.fastmcp import compat, guard
from mcp_macaroon_middleware.errors import BindError

pytestmark = pytest.mark.threat("FI26")


def test_the_self_test_passes_here() -> None:
    compat.self_test()


@pytest.mark.parametrize("part", [name for name, _ in compat._EXPECTED])
def test_the_start_refuses_when_a_part_is_gone(part: str, monkeypatch: Any) -> None:
    changed = tuple((name, (lambda: False) if name == part else there) for name, there in compat._EXPECTED)
    monkeypatch.setattr(compat, "_EXPECTED", changed)
    with pytest.raises(BindError, match="lacks") as error:
        guard(FastMCP("s"), {})
    assert part in str(error.value)
    assert error.value.code == "fastmcp_changed"


def test_a_transform_that_keeps_its_parent_elsewhere_is_noticed() -> None:
    tool: Any = Tool.from_tool(Tool.from_function(lambda a: a, name="f"), name="g")

    async def other(**kwargs: Any) -> None: ...

    tool.forwarding_fn = other
    with pytest.raises(BindError):
        compat.with_parent(tool, tool.parent_tool)


def test_the_dispatch_tells_its_phase_by_a_context_variable() -> None:
    assert _dispatch_phase.get() == "all"
    source = inspect.getsource(FastMCP._run_middleware)
    assert "_dispatch_phase.set(phase)" in source
    assert list(inspect.signature(Middleware.__call__).parameters) == ["self", "context", "call_next"]
    assert {"message", "method", "type", "fastmcp_context"} <= set(MiddlewareContext.__dataclass_fields__)


def test_the_constructors_middleware_comes_first() -> None:
    mine = Middleware()
    server: FastMCP[Any] = FastMCP("s", middleware=[mine])
    assert server.middleware[0] is mine


def test_mounts_lead_to_their_server() -> None:
    root, child = FastMCP("root"), FastMCP("child")
    root.mount(child, namespace="ns", tool_names={"a": "b"})
    provider = root.providers[-1]
    assert isinstance(provider, _WrappedProvider)
    assert compat.mounted_server(provider) is child
    assert isinstance(provider._inner._inner, FastMCPProvider)  # type: ignore[attr-defined]


async def test_a_mounted_tool_names_its_server_and_its_name_there() -> None:
    root, child = FastMCP("root"), FastMCP("child")
    child.tool(lambda: 1, name="t")
    root.mount(child, namespace="ns")
    tool = await root.get_tool("ns_t")
    assert isinstance(tool, FastMCPProviderTool)
    assert compat.mount_target(tool) == (child, "t")


async def test_transforms_apply_in_order_and_the_last_is_outermost() -> None:
    source = inspect.getsource(
        FastMCP.get_tool.__wrapped__ if hasattr(FastMCP.get_tool, "__wrapped__") else FastMCP.get_tool
    )
    assert "super().get_tool" in source
    server: FastMCP[Any] = FastMCP("s")
    assert server.transforms is not server._transforms
    assert server.transforms == server._transforms


def test_the_core_runs_components_by_these_methods() -> None:
    source = inspect.getsource(fastmcp_server.FastMCP)
    for call in ("tool._run(", "resource._read()", "template._read(uri, params)", "prompt._render("):
        assert call in source


def test_a_tools_class_can_be_replaced_by_a_subclass_of_its_name() -> None:
    tool = Tool.from_function(lambda a: a, name="f")
    copy = tool.model_copy()
    copy.__class__ = type(type(tool).__name__, (type(tool),), {"__module__": __name__})
    assert isinstance(copy, FunctionTool)
    assert copy.fn is tool.fn


def test_a_transformed_tool_keeps_what_the_guard_follows() -> None:
    parent = Tool.from_function(lambda a, b=1: a, name="f")
    tool: Any = Tool.from_tool(parent, name="g", transform_args={"a": ArgTransform(name="x")})
    assert isinstance(tool, TransformedTool)
    assert tool.parent_tool is parent
    assert compat.is_pure(tool)
    assert tool.transform_args["a"].name == "x"
    assert "parent_tool" in tool.forwarding_fn.__code__.co_freevars


def test_arguments_are_validated_by_one_function() -> None:
    assert list(inspect.signature(_validate_input).parameters) == ["type_adapter", "value", "strict"]


def test_the_request_context_can_be_bound_again() -> None:
    assert fastmcp_request_ctx.get() is None
    assert {"request", "session", "protocol_version", "_srctx", "meta"} <= set(
        FastMCPRequestContext.__dataclass_fields__
    )
    assert callable(bind_request_context)
    assert _current_transport.get() is None


def test_a_raw_result_travels_beside_a_tool_result() -> None:
    raw = CallToolResult(content=[TextContent(type="text", text="x")])
    result = ToolResult.from_mcp_result(raw)
    assert result.to_mcp_result() == raw
    assert "_raw_mcp_result" in ToolResult.__private_attributes__


def test_a_modern_http_call_lists_tools_before_it() -> None:
    source = inspect.getsource(_streamable_http_modern)
    assert '"tools/list"' in source
    assert "get_tool_input_schema" in source
    assert callable(_dereference_tool)


def test_a_proxied_tool_keeps_its_real_name() -> None:
    assert "_backend_name" in ProxyTool.__private_attributes__


def test_extensions_methods_routes_and_completions_can_be_counted() -> None:
    server: FastMCP[Any] = FastMCP("s")
    assert server._extension_methods == {}
    assert server._additional_http_routes == []
    assert server._completion_handler is None
    assert list(server._injected_tools()) == []
    assert server._mcp_server.cache_hints == {}
    assert server.local_provider._components == {}
