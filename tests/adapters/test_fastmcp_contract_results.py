"""What results, refusals and doors rely on in FastMCP and the SDK beyond their documented interfaces."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any

import mcp_types
import pytest
import wire
from fastmcp import Context, FastMCP
from fastmcp.server.context import to_client_logger
from fastmcp.server.dependencies import bind_request_context, fastmcp_request_ctx
from fastmcp.tools.base import InputRequiredToolResult, Tool, ToolResult
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession

from mcp_macaroon_middleware.adapters.fastmcp import compat, doors, logs
from mcp_macaroon_middleware.errors import BindError

ERAS = pytest.mark.parametrize("era", wire.ERAS)


@pytest.mark.threat("FI26", "G08")
def test_a_raw_result_outlives_copies_and_not_a_new_object() -> None:
    class Given(mcp_types.CallToolResult):
        pass

    result = ToolResult.from_mcp_result(Given(content=[], structured_content={"a": 1}))
    result.structured_content = {}
    for same in (result, result.model_copy()):
        assert isinstance(same.to_mcp_result(), Given)
    assert ToolResult(content=[], structured_content={})._raw_mcp_result is None
    assert "_raw_mcp_result" in ToolResult.__private_attributes__


@pytest.mark.threat("FI26")
def test_a_result_that_is_no_object_is_wrapped_under_result_and_marked_in_schema_and_meta() -> None:
    def tool() -> list[int]:
        return [1]

    made = Tool.from_function(tool)
    assert made.output_schema is not None
    assert made.output_schema["x-fastmcp-wrap-result"] is True
    result = made.convert_result([1])
    assert result.structured_content == {"result": [1]}
    assert result.meta == {"fastmcp": {"wrap_result": True}}


@pytest.mark.threat("FI26")
def test_a_question_is_a_tool_result_without_content() -> None:
    result = InputRequiredToolResult(mcp_types.InputRequiredResult(request_state="s"))
    assert isinstance(result, ToolResult)
    assert (result.content, result.structured_content, result.meta) == ([], None, None)


@pytest.mark.threat("FI26")
def test_content_blocks_are_the_five_kinds_that_are_known_here() -> None:
    import typing

    assert {kind.__name__ for kind in typing.get_args(mcp_types.ContentBlock)} == {
        "TextContent",
        "ImageContent",
        "AudioContent",
        "ResourceLink",
        "EmbeddedResource",
    }


@pytest.mark.threat("FI26")
@pytest.mark.parametrize(
    ("model", "known"),
    [
        (mcp_types.TextContent, {"type", "text", "annotations", "meta"}),
        (mcp_types.EmbeddedResource, {"type", "resource", "annotations", "meta"}),
        (mcp_types.TextResourceContents, {"uri", "mime_type", "meta", "text"}),
        (mcp_types.BlobResourceContents, {"uri", "mime_type", "meta", "blob"}),
        (mcp_types.Annotations, {"audience", "priority", "last_modified"}),
        (ToolResult, {"content", "structured_content", "meta", "is_error"}),
    ],
)
def test_a_part_that_is_rebuilt_has_no_field_that_is_not_known_here(model: Any, known: set[str]) -> None:
    assert set(model.model_fields) == known


@pytest.mark.threat("FI26", "G10")
def test_all_that_a_session_sends_goes_through_its_two_channels() -> None:
    source = inspect.getsource(ServerSession)
    assert "self._request_outbound = request_outbound" in source
    assert "self._connection = connection" in source
    for line in source.splitlines():
        if ".send_raw_request(" in line or ".notify(" in line or ".progress(" in line:
            assert "channel." in line or "self._request_outbound." in line, line
        if "channel =" in line:
            assert "self._request_outbound" in line
            assert "self._connection.outbound" in line
    for line in inspect.getsource(Connection).splitlines():
        if ".send_raw_request(" in line or ".notify(" in line:
            assert "self.outbound." in line or "self.notify(" in line or "self.send_raw_request(" in line, line


@pytest.mark.threat("FI26", "G10")
def test_the_start_notices_a_session_that_keeps_its_channels_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doors.works()
    compat.self_test()

    class Moved(ServerSession):
        def __init__(self, *args: Any) -> None:
            self._outbound, self._connection = args

    monkeypatch.setattr(doors, "ServerSession", Moved)
    assert not doors.works()
    with pytest.raises(BindError, match="the doors of a running component"):
        compat.self_test()


@pytest.mark.threat("FI26", "G10")
async def test_a_request_context_can_be_bound_again_with_another_session() -> None:
    fields = ServerRequestContext.__dataclass_fields__
    assert {"session", "meta", "params", "request_id"} <= set(fields)
    context = ServerRequestContext(
        session="s",
        lifespan_context={},
        protocol_version="2026-07-28",
        method="tools/call",  # type: ignore[arg-type]
    )
    with bind_request_context(context) as bound:
        assert fastmcp_request_ctx.get() is bound
        assert (bound.session, bound._srctx) == ("s", context)
    assert fastmcp_request_ctx.get() is None


@ERAS
@pytest.mark.threat("FI26", "G10")
async def test_a_contexts_session_is_the_one_that_is_bound(era: str) -> None:
    seen = []

    async def tool(ctx: Context) -> None:
        bound = fastmcp_request_ctx.get()
        assert bound is not None
        seen.append(ctx.session is bound.session is bound._srctx.session)

    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.tool(tool)
    await wire.called(mcp, era)
    assert seen == [True]


@pytest.mark.threat("FI26", "G20")
def test_what_a_tool_sends_is_logged_by_a_logger_that_the_filter_reaches() -> None:
    assert to_client_logger.name == "fastmcp.server.context.to_client"
    logs.quiet_logs()
    assert any(type(found).__name__ == "_Hush" for found in to_client_logger.filters)
    operations = logging.getLogger("fastmcp.server.mixins.mcp_operations")
    assert any(type(found).__name__ == "_Arguments" for found in operations.filters)
    logs.quiet_logs()
    assert len([found for found in to_client_logger.filters if type(found).__name__ == "_Hush"]) == 1


@pytest.mark.threat("FI26", "G20")
def test_the_loggers_that_are_not_hushed_say_nothing_of_results() -> None:
    from fastmcp.server import server
    from fastmcp.server.mixins import mcp_operations

    assert {server.logger.name, mcp_operations.logger.name} == set(logs.OURS)
    for line in inspect.getsource(mcp_operations).splitlines():
        assert "logger." not in line or "logger.debug" in line


@ERAS
@pytest.mark.threat("FI26", "H01")
async def test_an_unknown_component_is_answered_from_the_name_alone(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.resource("data://x", name="x")(lambda: "x")
    mcp.prompt(lambda: "x", name="p")
    tool = await wire.called(mcp, era, "absent")
    assert (tool["isError"], tool["content"][0]["text"]) == (True, "Unknown tool: 'absent'")
    resource = await wire.failed(mcp, era, lambda client: client.read_resource("data://absent"))
    message = "Resource not found: 'data://absent'"
    assert resource == {"code": -32602, "message": message, "data": {"uri": "data://absent"}}
    prompt = await wire.failed(mcp, era, lambda client: client.get_prompt("absent"))
    assert json.dumps(prompt) == json.dumps({"code": -32602, "message": "Unknown prompt: 'absent'", "data": None})


@ERAS
@pytest.mark.threat("FI26", "G13")
async def test_clients_validate_results_and_skip_error_results(era: str) -> None:
    def tool() -> dict[str, int]:
        return {"a": 1}

    for is_error in (False, True):
        answer = ToolResult(content=[], structured_content={"a": "x"}, is_error=is_error)
        mcp: FastMCP[Any] = FastMCP("lab", middleware=[wire.Answering(lambda result, answer=answer: answer)])
        mcp.tool(tool)
        async with wire.client_of(mcp, era) as client:
            await client.list_tools()
            if is_error:
                await client.call_tool("tool", {}, raise_on_error=False)
            else:
                with pytest.raises(RuntimeError, match="Invalid structured content"):
                    await client.call_tool("tool", {})
