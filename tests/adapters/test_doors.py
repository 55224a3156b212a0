from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import wire
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import PromptError, ResourceError, ToolError
from fastmcp.prompts.function_prompt import FunctionPrompt
from fastmcp.resources.function_resource import FunctionResource
from fastmcp.server import create_proxy
from fastmcp.server.providers.proxy import FastMCPProxy, ProxyClient, StatefulProxyClient
from fastmcp.server.transforms import Transform
from fastmcp.tools.base import ToolResult
from fastmcp.tools.function_tool import FunctionTool
from mcp.shared.exceptions import MCPError
from mcp_types import LoggingMessageNotification, LoggingMessageNotificationParams, ToolListChangedNotification

from mcp_macaroon_middleware.adapters.fastmcp import doors, refusals
from mcp_macaroon_middleware.adapters.fastmcp.results import ERROR_WITHHELD
from mcp_macaroon_middleware.model import Refusal

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
ERAS = pytest.mark.parametrize("era", wire.ERAS)
SECRET = "123-45-6789"


class HeldTool(FunctionTool):
    """A tool in the gate."""

    passes: bool = False

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        with doors.held("tool", passes=self.passes):
            return await super().run(arguments)


class HeldResource(FunctionResource):
    """A resource in the gate."""

    async def read(self) -> Any:
        with doors.held("resource"):
            return await super().read()


class HeldPrompt(FunctionPrompt):
    """A prompt in the gate."""

    async def render(self, arguments: dict[str, Any] | None = None) -> Any:
        with doors.held("prompt"):
            return await super().render(arguments)


def with_tool(body: Callable[..., Any], *, passes: bool = False, **options: Any) -> FastMCP[Any]:
    mcp: FastMCP[Any] = FastMCP("lab", **options)
    tool = HeldTool.from_function(body, name="tool")
    tool.passes = passes
    mcp.add_tool(tool)
    return mcp


class Lines(logging.Handler):
    """Every line that any logger wrote, with its traceback and all that hangs on it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(name)s %(message)s").format(record) + repr(vars(record)))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def lines() -> Any:
    handler = Lines()
    loggers = [logging.getLogger(), logging.getLogger("fastmcp"), logging.getLogger("mcp")]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in before:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def heard(server: FastMCP[Any], era: str, request: Callable[[Client[Any]], Any] | None = None) -> wire.Heard:
    """Everything that a client learns from one request."""
    found = wire.Heard()
    async with wire.client_of(server, era, found) as client:
        try:
            if request is None:
                answer = await client.call_tool_mcp("tool", {}, meta={"io.modelcontextprotocol/logLevel": "debug"})
            else:
                answer = await request(client)
            found.answers.append(repr(answer))
        except MCPError as error:
            found.answers.append(error.error.model_dump_json())
        except Exception as error:
            found.answers.append(repr(error))
    return found


# --- errors ---------------------------------------------------------------------------------------------------------


def failing(error: Callable[[], BaseException]) -> Callable[[], None]:
    def body() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise error() from cause

    return body


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(f"ssn {SECRET}"),
    "ToolError": lambda: ToolError(f"ssn {SECRET}"),
    "R9 ToolError with JSON": lambda: ToolError(json.dumps({"ssn": SECRET})),
    "MCPError": lambda: MCPError(code=-32000, message=f"ssn {SECRET}", data={"ssn": SECRET}),
    "missing capability": lambda: MCPError(code=-32021, message=SECRET, data={"requiredCapabilities": {SECRET: {}}}),
    "TimeoutError": lambda: TimeoutError(SECRET),
    "group": lambda: ExceptionGroup(SECRET, [ValueError(SECRET)]),
    "RecursionError": lambda: RecursionError(SECRET),
}


@ERAS
@pytest.mark.threat("G09", "G20")
@pytest.mark.parametrize("error", ERRORS)
async def test_a_tools_error_leaves_neither_to_the_client_nor_to_the_servers_log(
    era: str, error: str, lines: Lines
) -> None:
    found = await heard(with_tool(failing(ERRORS[error])), era)
    assert SECRET not in found.all
    assert SECRET not in lines.text
    assert "error_withheld" in found.all or error == "missing capability"


@ERAS
@pytest.mark.threat("G09", "G20")
@pytest.mark.parametrize("error", ["ValueError", "MCPError"])
async def test_a_resources_and_a_prompts_errors_leave_nowhere(era: str, error: str, lines: Lines) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.add_resource(HeldResource.from_function(failing(ERRORS[error]), uri="data://x", name="x"))
    mcp.add_prompt(HeldPrompt.from_function(failing(ERRORS[error]), name="p"))
    for request in (lambda client: client.read_resource("data://x"), lambda client: client.get_prompt("p")):
        found = await heard(mcp, era, request)
        assert SECRET not in found.all
        assert "error_withheld" in found.all
    assert SECRET not in lines.text


@pytest.mark.threat("G20")
@pytest.mark.parametrize("error", ERRORS)
async def test_no_chain_and_no_frame_of_the_error_leads_to_the_value(error: str) -> None:
    from contextlib import AsyncExitStack

    async def run() -> None:
        async with AsyncExitStack():
            with doors.held("tool"):
                failing(ERRORS[error])()

    with pytest.raises(Exception, match=r"withheld|capability") as caught:
        await run()
    failure: Any = caught.value
    assert (failure.__cause__, failure.__context__) == (None, None)
    assert SECRET not in repr(failure) + repr(failure.args)
    frames, trace = [], failure.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    ours = [
        frame
        for frame in frames
        if "/adapters/" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename
    ]
    assert ours
    assert SECRET not in repr([frame.f_locals for frame in ours])


def test_each_kind_of_component_has_its_kind_of_error_with_one_fixed_text() -> None:
    for kind, expected in (("tool", ToolError), ("resource", ResourceError), ("prompt", PromptError)):
        failure = doors.guarded_error(kind, ValueError(SECRET))
        assert isinstance(failure, expected)
        assert str(failure) == ERROR_WITHHELD


def test_a_methods_error_is_a_protocol_error_with_a_code_of_our_own() -> None:
    failure: Any = doors.guarded_error("method", MCPError(code=-32603, message=SECRET, data=SECRET))
    assert (failure.error.code, failure.error.message) == (refusals.REFUSED, ERROR_WITHHELD)
    assert failure.error.data == {"code": "error_withheld"}


def test_our_own_refusals_pass_as_they_are() -> None:
    refusal = Refusal(code="rate_limited", reason="Too many calls.")
    for error in (refusals.nested_refusal(refusal), refusals.protocol_refusal(refusal)):
        assert doors.guarded_error("tool", error) is error


def test_a_missing_capability_keeps_its_code_and_the_names_of_known_capabilities() -> None:
    data = {"requiredCapabilities": {"elicitation": {"ssn": SECRET}, SECRET: {}}, "ssn": SECRET}
    failure: Any = doors.guarded_error("tool", MCPError(code=-32021, message=SECRET, data=data))
    assert failure.error.model_dump(exclude_none=True) == {
        "code": -32021,
        "message": doors.LACKS,
        "data": {"requiredCapabilities": {"elicitation": {}}},
    }


def test_with_pass_an_error_in_prose_leaves_and_one_with_fields_does_not() -> None:
    prose = ToolError("no such user")
    assert doors.guarded_error("tool", prose, passes=True) is prose
    hidden = ToolError("no such user")
    hidden.__cause__ = ValueError(json.dumps({"ssn": SECRET}))
    for error in (hidden, ToolError('{"ssn":1}'), ToolError("[" * 100_000), KeyError('{"ssn":1}')):
        assert str(doors.guarded_error("tool", error, passes=True)) == ERROR_WITHHELD


async def test_cancellation_passes_and_the_doors_close_behind_it() -> None:
    import asyncio

    from fastmcp.server.dependencies import fastmcp_request_ctx

    with pytest.raises(asyncio.CancelledError), doors.held("tool"):
        raise asyncio.CancelledError
    assert fastmcp_request_ctx.get() is None


# --- what a component sends while it runs ---------------------------------------------------------------------------


async def logs(ctx: Context) -> str:
    await ctx.info(SECRET)
    await ctx.error("x", extra={"ssn": SECRET, "name": SECRET})
    await ctx.log(SECRET, level="debug", logger_name=SECRET)
    await ctx.session.send_log_message("error", {"ssn": SECRET})
    await ctx.session._connection.log("error", SECRET)
    return "done"


async def progresses(ctx: Context) -> str:
    await ctx.report_progress(1, 2, SECRET)
    await ctx.report_progress(123456789, 2)
    await ctx.session.report_progress(123456789, 123456789, SECRET)
    await ctx.session.send_progress_notification(SECRET, 1, 2, SECRET)
    return "done"


async def notifies(ctx: Context) -> str:
    params = LoggingMessageNotificationParams(level="error", data=SECRET)
    await ctx.send_notification(LoggingMessageNotification(params=params))
    await ctx.session.send_resource_updated(f"data://{SECRET}")
    await ctx.session.send_elicit_complete(SECRET)
    await ctx.session._connection.notify("notifications/message", {"level": "error", "data": SECRET})
    await ctx.session._request_outbound.notify("notifications/message", {"level": "error", "data": SECRET})
    await ctx.session._connection.outbound.notify("notifications/x", {"ssn": SECRET})
    await ctx.send_notification(ToolListChangedNotification(params={"_meta": {"ssn": SECRET}}))
    return "done"


async def elicits(ctx: Context) -> str:
    return repr(await ctx.elicit(SECRET, str))


async def elicits_by_session(ctx: Context) -> str:
    schema: Any = {"type": "object", "properties": {"a": {"type": "string", "default": SECRET}}}
    return repr(await ctx.session.elicit_form("x", schema, ctx.request_id))


async def elicits_by_url(ctx: Context) -> str:
    return repr(await ctx.session.elicit_url("x", f"https://x/{SECRET}", "1", ctx.request_id))


async def samples(ctx: Context) -> str:
    from mcp_types import SamplingMessage, TextContent

    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=SECRET))]
    return repr(await ctx.session.create_message(messages, max_tokens=5))


async def logs_from_a_thread_and_a_task(ctx: Context) -> str:
    import asyncio

    async def later() -> None:
        await ctx.info(SECRET)

    await asyncio.create_task(later())
    await asyncio.to_thread(lambda: asyncio.run(_nothing()))
    return "done"


async def _nothing() -> None:
    """Runs."""


def logs_by_a_sync_tool(ctx: Context) -> str:
    logging.getLogger("fastmcp.tools.base").error("%s", SECRET, exc_info=ValueError(SECRET))
    return "done"


SENDING = [logs, progresses, notifies, elicits, elicits_by_session, elicits_by_url, samples]
SENDING += [logs_from_a_thread_and_a_task, logs_by_a_sync_tool]  # type: ignore[list-item]


@ERAS
@pytest.mark.threat("G10", "G20")
@pytest.mark.parametrize("body", SENDING)
async def test_nothing_that_a_tool_sends_while_it_runs_shows_the_value(era: str, body: Any, lines: Lines) -> None:
    found = await heard(with_tool(body), era)
    assert SECRET not in found.all
    assert "123456789" not in found.all
    assert SECRET not in lines.text
    if body not in (elicits, elicits_by_session, elicits_by_url, samples):
        assert "done" in found.all


@ERAS
@pytest.mark.threat("G10")
async def test_without_an_output_rule_the_same_messages_arrive(era: str) -> None:
    mcp: FastMCP[Any] = FastMCP("lab")
    mcp.tool(logs, name="tool")
    assert SECRET in (await heard(mcp, era)).all


@ERAS
@pytest.mark.threat("G10")
async def test_progress_becomes_a_count_so_that_the_client_sees_life(era: str) -> None:
    async def body(ctx: Context) -> str:
        for step in (70.0, 80.0, 90.0):
            await ctx.report_progress(step, 100, SECRET)
        return "done"

    found = wire.Heard()
    async with wire.client_of(with_tool(body), era, found) as client:
        await client.call_tool("tool", {})
    counted = [json.loads(text)[1:] for text in found.unasked if text.startswith('["progress"')]
    assert [step for step, total, message in counted] == [1, 2, 3]
    assert all((total, message) == (None, None) for _, total, message in counted)


@pytest.mark.threat("G10", "H08")
async def test_that_a_list_has_changed_may_be_said_without_a_word_more() -> None:
    found = await heard(with_tool(notifies), "legacy")
    assert "tools/list_changed" in found.all
    assert SECRET not in found.all


@pytest.mark.threat("G10")
async def test_a_question_by_a_tool_under_an_output_rule_ends_in_a_fixed_text() -> None:
    found = await heard(with_tool(elicits), "legacy")
    assert "question_withheld" in found.all
    assert not [text for text in found.unasked if "elicit" in text]


async def test_with_pass_prose_leaves_and_data_does_not() -> None:
    async def body(ctx: Context) -> str:
        await ctx.info("prose")
        await ctx.info(json.dumps({"ssn": SECRET}))
        await ctx.info("more", extra={"ssn": SECRET})
        await ctx.session.send_log_message("error", {"ssn": SECRET}, related_request_id=ctx.request_id)
        await ctx.session.send_log_message("error", [SECRET], related_request_id=ctx.request_id)
        await ctx.report_progress(7, 9, "half")
        await ctx.report_progress(8, 9, json.dumps({"ssn": SECRET}))
        return repr(await ctx.elicit("Go on?", str))

    found = await heard(with_tool(body, passes=True), "legacy")
    assert SECRET not in found.all
    assert "prose" in found.all
    assert "Go on?" in found.all
    assert '"half"' in found.all
    assert "more" not in found.all


def test_a_session_that_keeps_its_channels_elsewhere_is_not_let_through() -> None:
    with pytest.raises(AttributeError):
        doors.quiet_session(object())


class Part:
    """A session or a connection."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def test_a_quiet_session_is_quiet_once_and_leaves_the_session_itself_alone() -> None:
    connection = Part(outbound=None)
    session = doors.quiet_session(Part(_request_outbound=None, _connection=connection))
    assert doors.quiet_session(session) is session
    assert connection.outbound is None


def test_the_connection_of_a_quiet_session_counts_as_the_same() -> None:
    connection, other = Part(outbound=None), Part(outbound=None)
    first = doors.quiet_session(Part(_request_outbound=None, _connection=connection))._connection
    second = doors.quiet_session(Part(_request_outbound=None, _connection=connection))._connection
    assert {connection: 1}[first] == {first: 1}[connection] == {first: 1}[second] == 1
    assert other not in {first: 1}
    assert first != other


async def test_a_stateful_proxy_keeps_its_one_session_behind_a_held_tool() -> None:
    seen: list[str] = []
    backend: FastMCP[Any] = FastMCP("backend")

    @backend.tool
    async def tool(ctx: Context) -> str:
        await ctx.info(SECRET)
        seen.append(ctx.session_id)
        return "done"

    client = StatefulProxyClient(backend)
    front: FastMCP[Any] = FastMCPProxy(client_factory=client.new_stateful)
    front.add_transform(Held())
    found = wire.Heard()
    async with wire.client_of(front, "legacy", found) as caller:
        for _ in range(3):
            await caller.call_tool("tool", {})
    await client.clear()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert SECRET not in found.all


class Held(Transform):
    """Puts every tool in the gate."""

    async def get_tool(self, name: str, call_next: Any, *, version: Any = None) -> Any:
        tool = await call_next(name, version=version)
        base = type(tool)

        async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            with doors.held("tool"):
                return await base.run(self, *args, **kwargs)

        guarded = tool.model_copy()
        guarded.__class__ = type(base.__name__, (base,), {"run": run, "__module__": __name__})
        return guarded


async def proxied(body: Any, era: str, *, holds: bool, client: Any = ProxyClient) -> wire.Heard:
    """What a client of a proxy hears of a tool behind it."""
    backend: FastMCP[Any] = FastMCP("backend")
    backend.tool(body, name="tool")
    tool: Any = await create_proxy(client(backend, mode=era)).get_tool("tool")

    async def run(self: Any, arguments: dict[str, Any], *rest: Any, **more: Any) -> Any:
        with doors.held("tool"):
            return await type(tool).run(self, arguments, *rest, **more)

    front: FastMCP[Any] = FastMCP("front")
    guarded = tool.model_copy()
    if holds:
        guarded.__class__ = type("Held", (type(tool),), {"run": run, "__module__": __name__})
    front.add_tool(guarded)
    return await heard(front, era)


@ERAS
@pytest.mark.threat("G10")
@pytest.mark.parametrize("client", [ProxyClient, Client])
@pytest.mark.parametrize("body", [logs, progresses, notifies, elicits])
async def test_what_a_proxied_tool_sends_is_held_as_well(era: str, body: Any, client: Any) -> None:
    found = await proxied(body, era, holds=True, client=client)
    assert SECRET not in found.all
    assert "123456789" not in found.all


async def test_a_proxy_that_is_not_held_forwards_what_its_tool_sends() -> None:
    assert SECRET in (await proxied(logs, "legacy", holds=False)).all


@pytest.mark.threat("G20")
async def test_the_lines_that_print_a_calls_arguments_lose_them(lines: Lines) -> None:
    def tool(password: str) -> str:
        return "done"

    doors.quiet_logs()
    mcp = with_tool(tool)
    mcp.prompt(lambda password: "done", name="p")
    async with Client(mcp) as client:
        await client.call_tool("tool", {"password": SECRET})
        await client.get_prompt("p", {"password": SECRET})
    handled = [line for line in lines.lines if "Handler called: call_tool" in line or "get_prompt" in line]
    assert len([line for line in handled if "[arguments]" in line]) >= 2
    assert SECRET not in "\n".join(handled)


@pytest.mark.threat("G20")
async def test_other_lines_and_other_calls_are_logged_as_before(lines: Lines) -> None:
    mcp = with_tool(logs)
    mcp.tool(logs, name="free")
    await heard(mcp, "legacy")
    assert SECRET not in lines.text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await heard(mcp, "legacy", lambda client: client.call_tool("free", {}))
    assert f"Sending INFO to client: {SECRET}" in lines.text
