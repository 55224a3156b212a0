"""Every request that reaches the adapter ends in exactly one final record, wherever it is cut off (law L6)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server.auth import AccessToken
from fastmcp.server.middleware import Middleware
from guarded import ERAS, guarded, http, tokens
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser

from mcp_macaroon_middleware.plugin import Check, NoParams, Verdict, enforcer


class Steps:
    """Drives a coroutine from await point to await point, and cancels it at one of them."""

    def __init__(self, awaitable: Any, cut: int) -> None:
        self._coroutine, self._cut, self.reached = awaitable, cut, False

    def __await__(self) -> Generator[Any, Any, Any]:
        generator = self._coroutine.__await__()
        step, value, error = 0, None, None
        while True:
            try:
                if step and step == self._cut:
                    self.reached = True
                    error = asyncio.CancelledError()
                waited = generator.throw(error) if error is not None else generator.send(value)
                error = None
            except StopIteration as done:
                return done.value
            step += 1
            try:
                value = yield waited
            except BaseException as raised:
                error = raised


@enforcer("records_test_waits", params=NoParams)
async def waits(check: Check[NoParams]) -> Verdict:
    await asyncio.sleep(0)
    return Verdict.allow()


def slow() -> FastMCP[Any]:
    """A server whose components wait."""
    server: FastMCP[Any] = FastMCP("slow")

    @server.tool
    async def tool(n: int = 1) -> dict[str, int]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return {"n": n, "ssn": 1}

    @server.resource("data://{id}")
    async def item(id: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": id, "ssn": "1"}

    @server.prompt
    async def ask() -> str:
        await asyncio.sleep(0)
        return '{"ssn": 1, "q": 2}'

    return server


RULES = [
    "bf:*:tool_access:allow",
    "bf:*:records_test_waits:allow",
    "bf:tool:rate_limit:allow:1000/hour",
    "bf:tool:argument_allowlist:allow:n:1",
    "af:*:field_access:deny:ssn",
]


@pytest.mark.parametrize("what", ["tool", "resource", "prompt", "list"])
@pytest.mark.threat("FI16", "FI15")
async def test_L6_a_request_that_is_cancelled_at_any_await_has_one_final_record(what: str) -> None:
    made = guarded(slow(), RULES, application=[waits])
    async with Client(made.server) as client:
        await client.list_tools()
    entered: list[str] = []

    class Before(Middleware):
        async def __call__(self, context: Any, call_next: Any) -> Any:
            entered.append(context.method)
            return await call_next(context)

    made.server.middleware.insert(0, Before())
    cut = 1
    while True:
        made.records.clear()
        entered.clear()
        made.guard.resolver._kept.clear()
        steps = Steps(direct(made.server, what), cut)
        with contextlib.suppress(asyncio.CancelledError):
            await steps
        finals = made.records.finals()
        assert len(finals) == len(entered), (cut, [dict(record) for record in made.records])
        assert made.exactly_one_end_each()
        if not steps.reached:
            break
        cut += 1
    assert cut > 1


async def direct(server: FastMCP[Any], what: str) -> Any:
    """A request through the server's whole middleware, in this task, by a caller that has a credential."""
    token = AccessToken(token="t", client_id="c", scopes=[], subject="alice")
    mark = auth_context_var.set(AuthenticatedUser(token))
    try:
        if what == "tool":
            return await server.call_tool("tool", {"n": 1})
        if what == "resource":
            return await server.read_resource("data://7")
        if what == "prompt":
            return await server.render_prompt("ask", {})
        return await server.list_tools()
    finally:
        auth_context_var.reset(mark)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("FI15", "O09")
async def test_a_client_that_goes_away_leaves_a_cancelled_record_and_no_lock(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s", auth=tokens(alice={}))
    started, gone = asyncio.Event(), asyncio.Event()

    @server.tool
    async def tool() -> int:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()
        return 1

    made = guarded(server, ["bf:tool:tool_access:allow", "bf:tool:rate_limit:allow:2/hour"])
    async with http(server, "alice", era) as client:
        task = asyncio.create_task(client.call_tool("tool", {}))
        await asyncio.wait_for(started.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if era == "auto":
            await asyncio.wait_for(gone.wait(), 5)
    await asyncio.wait_for(gone.wait(), 5)
    await asyncio.sleep(0)
    assert [end[:2] for end in made.ends if end[0] == "tool"] == [("tool", "cancelled")]
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("O09")
async def test_every_sort_of_end_has_its_one_record(era: str) -> None:
    server = slow()

    @server.tool
    def fails() -> int:
        raise ValueError("no")

    made = guarded(server, [*RULES, "bf:fails:tool_access:allow"], application=[waits])
    async with Client(server, mode=era) as client:
        for name, arguments in (("tool", {}), ("tool", {"n": 2}), ("tool", {"n": "x"}), ("fails", {}), ("none", {})):
            await client.call_tool(name, arguments, raise_on_error=False)
    ends = [end[:2] for end in made.ends if end[0] in ("tool", "fails", "none")]
    assert ends == [("tool", "ok"), ("tool", "denied"), ("tool", "denied"), ("fails", "error"), ("none", "denied")]
    assert made.exactly_one_end_each()


@pytest.mark.threat("G20", "O07")
async def test_L7_no_record_and_no_log_line_holds_an_argument_or_a_result(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp_macaroon_middleware")
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    def tool(password: str) -> dict[str, str]:
        return {"ssn": "123-45-6789", "password": password}

    made = guarded(
        server,
        [
            "bf:tool:tool_access:allow",
            "bf:tool:argument_allowlist:allow:password:hunter2",
            "af:tool:field_access:deny:ssn",
        ],
    )
    async with Client(server) as client:
        await client.call_tool("tool", {"password": "hunter2"})
        await client.call_tool("tool", {"password": "hunter3"}, raise_on_error=False)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("mcp_macaroon"))
    written = repr(list(made.records)) + ours
    assert "hunter3" not in written
    assert "123-45" not in written
