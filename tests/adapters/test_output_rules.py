"""Output rules on a whole guarded server: the policy file at one end, what the client hears at the other."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import mcp_types
import pytest
import wire
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.prompts.base import Message
from fastmcp.resources.base import ResourceContent
from fastmcp.tools.base import ToolResult
from guarded import Guarded, guarded
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, TextContent, TextResourceContents
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, NoOpTracer, use_span
from pydantic import BaseModel

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
ERAS = pytest.mark.parametrize("era", wire.ERAS)
SECRET = "123-45-6789"
ROW = {"id": 1, "ssn": SECRET}
RULES = ["bf:*:tool_access:allow", "af:tool:field_access:deny:ssn:**.ssn"]


class Person(BaseModel):
    id: int
    ssn: str


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def model() -> Person:
    return Person(id=1, ssn=SECRET)


def models() -> list[Person]:
    return [model(), model()]


def nested() -> dict[str, Any]:
    return {"a": [{"b": {"ssn": SECRET, "rows": [[ROW]]}}]}


def prose() -> str:
    return f"The ssn is {SECRET}"


def blocks() -> list[Any]:
    return [
        text(prose()),
        ImageContent(type="image", data=base64.b64encode(SECRET.encode()).decode(), mime_type="image/png"),
        text(json.dumps(ROW)),
        EmbeddedResource(
            type="resource", resource=TextResourceContents(uri=f"data://x?ssn={SECRET}", text=json.dumps(ROW))
        ),
    ]


def raw() -> CallToolResult:
    return CallToolResult(content=[text(json.dumps(ROW))], structured_content=dict(ROW), _meta={"ssn": SECRET})


def error_result() -> ToolResult:
    return ToolResult(content=[text(prose())], is_error=True)


def raises() -> None:
    raise ValueError(prose())


def raises_tool_error() -> None:
    raise ToolError(json.dumps(ROW))


def raises_protocol_error() -> None:
    raise MCPError(code=-32000, message=prose(), data=ROW)


async def speaks(ctx: Context) -> dict[str, Any]:
    await ctx.info(prose())
    await ctx.error("x", extra=ROW)
    await ctx.report_progress(1, 2, prose())
    await ctx.session.send_log_message("error", ROW, related_request_id=ctx.request_id)
    return dict(ROW)


async def asks(ctx: Context) -> Any:
    return repr(await ctx.elicit(prose(), str))


async def asks_by_result(ctx: Context) -> mcp_types.InputRequiredResult:
    schema: Any = {"type": "object", "properties": {}}
    params = mcp_types.ElicitRequestFormParams(message=prose(), requested_schema=schema)
    return mcp_types.InputRequiredResult(input_requests={"q": mcp_types.ElicitRequest(params=params)})


def half_way() -> Any:
    yield ROW
    raise ValueError(prose())


async def half_way_async() -> Any:
    yield prose()
    raise ValueError(prose())


def odd() -> Any:
    class Odd:
        def __str__(self) -> str:
            return prose()

    return Odd()


def unserialisable() -> Person:
    return ToolResult(content=[], structured_content={"a": object(), "ssn": SECRET})  # type: ignore[return-value]


def speaks_from_a_thread(ctx: Context) -> dict[str, Any]:
    anyio.from_thread.run(ctx.info, prose())
    return dict(ROW)


async def speaks_when_it_is_done(ctx: Context) -> dict[str, Any]:
    async def later() -> None:
        await asyncio.sleep(0.01)
        await ctx.info(prose())

    LATER.append(asyncio.create_task(later()))
    return dict(ROW)


LATER: list[Any] = []
BODIES = [
    half_way,
    half_way_async,
    odd,
    unserialisable,
    speaks_from_a_thread,
    speaks_when_it_is_done,
    model,
    models,
    nested,
    prose,
    blocks,
    raw,
    error_result,
    raises,
    raises_tool_error,
    raises_protocol_error,
    speaks,
    asks,
    asks_by_result,
]


def server(body: Callable[..., Any], rules: Any = RULES, **more: Any) -> Guarded:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.tool(body, name="tool")
    return guarded(mcp, rules, **more)


async def hear(mcp: FastMCP[Any], era: str, tool: str = "tool") -> wire.Heard:
    """Everything that a client hears when it lists the tools and calls one."""
    found = wire.Heard()
    LATER.clear()
    async with wire.client_of(mcp, era, found) as client:
        try:
            found.answers.append(repr(await client.list_tools()))
            options = {"meta": {"io.modelcontextprotocol/logLevel": "debug"}}
            found.answers.append(repr(await client.call_tool(tool, {}, raise_on_error=False, **options)))
            await asyncio.gather(*LATER, return_exceptions=True)
        except Exception as error:
            found.answers.append(f"{error!r} {getattr(error, 'error', None)!r}")
    return found


def shows(found: str) -> bool:
    return SECRET in found or base64.b64encode(SECRET.encode()).decode() in found


@ERAS
@pytest.mark.threat("G01", "G02", "G04", "G05", "G06", "G08", "G09", "G10", "G15", "G20", "FI25")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("rule", ["af:tool:field_access:deny:ssn:**.ssn", "af:tool:field_access:only:id"])
async def test_L3_a_withheld_value_leaves_a_guarded_server_by_no_door(
    era: str, body: Any, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("fastmcp").addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "fastmcp")
    try:
        lab = server(body, ["bf:*:tool_access:allow", rule])
        found = await hear(lab.server, era)
    finally:
        logging.getLogger("fastmcp").removeHandler(caplog.handler)
    assert not shows(found.all)
    assert not shows(caplog.text)
    assert not shows(json.dumps(lab.records, default=str))
    assert lab.exactly_one_end_each()


@ERAS
@pytest.mark.parametrize("body", [model, models, nested, speaks, raw])
async def test_without_the_rule_the_value_is_there(era: str, body: Any) -> None:
    lab = server(body, RULES[:1])
    assert shows((await hear(lab.server, era)).all)


@ERAS
@pytest.mark.threat("G13")
@pytest.mark.parametrize(("body", "left"), [(model, {"id": 1}), (models, {"result": [{"id": 1}, {"id": 1}]})])
async def test_what_is_left_is_valid_for_a_client_that_validates(era: str, body: Any, left: Any) -> None:
    assert await wire.validated(server(body).server, era) == left
    only = server(body, ["bf:*:tool_access:allow", "af:tool:field_access:only:id"])
    assert await wire.validated(only.server, era) == left


@ERAS
@pytest.mark.threat("G05")
async def test_plain_text_under_a_field_rule_is_refused_unless_the_file_lets_it_pass(era: str) -> None:
    refused = await wire.called(server(prose).server, era)
    assert refused["isError"] is True
    assert refused["_meta"]["mcp-macaroon"]["code"] == "no_fields"
    passed = await wire.called(server(prose, field_access={"unstructured": "pass"}).server, era)
    assert passed["content"][0]["text"] == prose()


@ERAS
@pytest.mark.threat("G05", "G09", "G10")
async def test_with_pass_prose_leaves_by_every_door_and_data_by_none(era: str) -> None:
    async def tool(ctx: Context, fails: bool = False) -> Any:
        await ctx.info("prose")
        await ctx.info(json.dumps(ROW))
        await ctx.info("more", extra=ROW)
        await ctx.report_progress(3, 4, "three of four")
        if fails:
            raise ToolError("no such row")
        return [text("a summary"), text(json.dumps(ROW))]

    lab = server(tool, field_access={"unstructured": "pass"})
    found = wire.Heard()
    async with wire.client_of(lab.server, era, found) as client:
        options = {"meta": {"io.modelcontextprotocol/logLevel": "debug"}, "raise_on_error": False}
        for fails in (False, True):
            found.answers.append(repr(await client.call_tool("tool", {"fails": fails}, **options)))
    assert not shows(found.all)
    for said in ("prose", "three of four", "a summary", '{"id": 1}', "no such row"):
        assert said in found.all


class Span(NonRecordingSpan):
    """A span that keeps everything it is told."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.told = told

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: Any) -> None:
        self.told.append(f"{key}={value!r}")

    def set_attributes(self, attributes: Any) -> None:
        self.told.append(repr(attributes))

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.told.append(f"{getattr(status, 'description', status)} {description}")

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        self.told.extend(traceback.format_exception(exception))
        self.told.append(repr([exception, exception.__cause__, exception.__context__]))


class Tracer(NoOpTracer):
    """Makes such spans."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Iterator[Span]:  # type: ignore[override]
        self.told.append(name)
        span = Span(self.told)
        with use_span(span, record_exception=kwargs.get("record_exception", True)):
            yield span


@ERAS
@pytest.mark.threat("G20")
@pytest.mark.parametrize("body", [raises, raises_tool_error, raises_protocol_error, error_result, speaks, half_way])
async def test_no_trace_shows_the_value(era: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer()
    monkeypatch.setattr("fastmcp.server.telemetry.get_tracer", lambda *args: tracer)
    found = await hear(server(body).server, era)
    assert not shows(found.all)
    assert len(tracer.told) > 3
    assert not shows("".join(tracer.told))


async def test_without_the_rule_the_trace_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer()
    monkeypatch.setattr("fastmcp.server.telemetry.get_tracer", lambda *args: tracer)
    await hear(server(raises, RULES[:1]).server, "auto")
    assert shows("".join(tracer.told))


@ERAS
@pytest.mark.threat("G09")
async def test_an_error_has_one_text_and_one_record(era: str) -> None:
    for body in (raises, raises_tool_error, raises_protocol_error):
        lab = server(body)
        refused = await wire.called(lab.server, era)
        assert refused["isError"] is True
        assert "[error_withheld]" in refused["content"][0]["text"]
        assert [end[1] for end in lab.ends] == ["error"]


@ERAS
@pytest.mark.threat("G16")
async def test_a_resource_and_a_prompt_under_a_field_rule_are_held_as_tools_are(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.resource("data://x", name="x")(lambda: [ResourceContent(ROW), ResourceContent(prose())])
    mcp.resource("item://{id}", name="t")(lambda id: json.dumps(ROW))
    mcp.resource("fail://x", name="f")(raises)
    mcp.prompt(lambda: [Message(ROW), Message(prose())], name="p")
    mcp.prompt(raises, name="q")
    rules = [
        "bf:*:tool_access:allow",
        *(f"af:resource={uri}:field_access:deny:ssn" for uri in (r"data\://x", r"item\://{id}", r"fail\://x")),
        "af:prompt=*:field_access:deny:ssn",
    ]
    lab = guarded(mcp, rules)
    found = wire.Heard()
    async with wire.client_of(lab.server, era, found) as client:
        for request in (
            lambda: client.read_resource("data://x"),
            lambda: client.read_resource("item://5"),
            lambda: client.read_resource("fail://x"),
            lambda: client.get_prompt("p"),
            lambda: client.get_prompt("q"),
        ):
            try:
                found.answers.append(repr(await request()))
            except MCPError as error:
                found.answers.append(repr(error.error))
    assert not shows(found.all)
    assert found.all.count("error_withheld") == 2
    assert len([answer for answer in found.answers if '{"id":1}' in answer.replace('"id": 1', '"id":1')]) == 3
    assert lab.exactly_one_end_each()


@ERAS
@pytest.mark.threat("G10", "J07")
async def test_what_a_tool_under_a_rule_calls_is_held_as_long_as_it_runs(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")

    @mcp.tool
    async def inner(ctx: Context) -> dict[str, Any]:
        await ctx.info(prose())
        return dict(ROW)

    @mcp.tool
    async def tool(ctx: Context) -> dict[str, Any]:
        found = await ctx.fastmcp.call_tool("inner", {})
        await ctx.info(repr(found.structured_content))
        return {"found": found.structured_content, "ssn": 1}

    lab = guarded(mcp, ["bf:*:tool_access:allow", "af:tool:field_access:deny:ssn:**.ssn"])
    assert not shows((await hear(lab.server, era)).all)
    assert shows((await hear(lab.server, era, "inner")).all)


@ERAS
@pytest.mark.threat("G10")
async def test_a_rule_for_the_inner_tool_alone_binds_what_the_outer_one_learns(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.tool(speaks, name="tool")

    @mcp.tool
    async def outer(ctx: Context) -> dict[str, Any]:
        found = await ctx.fastmcp.call_tool("tool", {})
        await ctx.info(repr(found.structured_content))
        return {"found": found.structured_content}

    lab = guarded(mcp, RULES)
    found = await hear(lab.server, era, "outer")
    assert not shows(found.all)
    assert "'found': {'id': 1}" in found.all


@ERAS
@pytest.mark.threat("G10", "J02")
async def test_a_mounted_tool_is_held_inside_its_own_server_too(era: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fastmcp").addHandler(caplog.handler)
    try:
        for body in (raises, speaks):
            child: FastMCP[Any] = FastMCP("child")
            child.tool(body, name="tool")
            root: FastMCP[Any] = FastMCP("root")
            root.mount(child, namespace="ns")
            lab = guarded(root, ["bf:*:tool_access:allow", "af:ns_tool:field_access:deny:ssn:**.ssn"])
            assert not shows((await hear(lab.server, era, "ns_tool")).all)
    finally:
        logging.getLogger("fastmcp").removeHandler(caplog.handler)
    assert not shows(caplog.text)


@ERAS
@pytest.mark.threat("G14", "J11")
async def test_a_result_that_middleware_beneath_makes_of_another_kind_is_refused(era: str) -> None:
    now = "2026-01-01T00:00:00Z"
    task = mcp_types.Task(task_id=SECRET, status="working", created_at=now, last_updated_at=now, ttl=None)
    answer = mcp_types.CreateTaskResult(task=task)
    mcp: FastMCP[Any] = FastMCP("lab", middleware=[wire.Answering(lambda result: answer)])
    mcp.tool(model, name="tool")
    found = await hear(guarded(mcp, RULES).server, era)
    assert not shows(found.all)
    assert "result_unknown" in found.all


@ERAS
@pytest.mark.threat("G20", "H10")
async def test_a_refusal_names_no_rule_and_no_component_that_is_hidden(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.tool(prose, name="tool")
    mcp.tool(prose, name="secret_tool")
    lab = guarded(mcp, ["bf:tool:tool_access:allow", "af:tool:field_access:deny:ssn"])
    found = await hear(lab.server, era)
    assert not any(word in found.all for word in ("secret_tool", "af:", "field_access:", "policies"))
