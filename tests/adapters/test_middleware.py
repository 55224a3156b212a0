"""Tools, prompts and resources behind a guard, as a real client sees them in both protocol eras."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import AuthorizationError
from fastmcp.prompts import Message
from fastmcp.server.middleware import Middleware
from guarded import ERAS, code_of, guarded, policy, runtime, text_of
from mcp.shared.exceptions import MCPError
from mcp_types import EmbeddedResource, PromptReference, TextResourceContents

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonMiddleware
from mcp_macaroon_middleware.core.policy_engine import RequestContext
from mcp_macaroon_middleware.errors import ConfigError, PolicyViolationError
from mcp_macaroon_middleware.plugin import policy_enforcer

RAN: list[str] = []


def mail() -> FastMCP[Any]:
    """A small server that notes what ran."""
    RAN.clear()
    server: FastMCP[Any] = FastMCP("mail")

    @server.tool
    def read(id: int) -> dict[str, Any]:
        RAN.append(f"read {id!r}")
        return {"id": id, "ssn": "123-45-6789", "name": "Carol"}

    @server.tool
    def pay(amount: int, to: str = "nobody") -> str:
        RAN.append(f"pay {amount!r} {to}")
        return f"paid {amount}"

    @server.tool
    def wipe() -> str:
        RAN.append("wipe")
        return "gone"

    @server.tool
    def fails() -> str:
        RAN.append("fails")
        raise ValueError("ssn 123-45-6789")

    @server.tool
    async def outer(name: str, ctx: Context) -> str:
        result = await ctx.fastmcp.call_tool(name, {})
        return f"outer got {result.content[0].text}"

    @server.prompt
    def greet(name: str) -> str:
        return f"Say hello to {name}"

    @server.prompt
    def secret(name: str) -> str:
        return f"secret of {name}"

    return server


READ = "bf:read:tool_access:allow"
PAY = "bf:pay:tool_access:allow"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("Q02", "H10")
async def test_a_denied_tool_does_not_run_and_answers_exactly_as_an_unknown_one(era: str) -> None:
    made = guarded(mail(), [READ])
    async with Client(made.server, mode=era) as client:
        hidden, unknown = await text_of(client, "wipe"), await text_of(client, "wipf")
    assert hidden == "Unknown tool: 'wipe'"
    assert unknown == "Unknown tool: 'wipf'"
    assert RAN == []
    assert made.ends[-2:] == [("wipe", "denied", "not_allowed"), ("wipf", "denied", "unknown_component")]


async def test_with_hide_denied_off_a_denied_tool_says_that_it_is_denied() -> None:
    made = guarded(mail(), ["bf:wipe:tool_access:deny"], config={"hide_denied": False})
    async with Client(made.server) as client:
        assert await code_of(client, "wipe") is not None
        assert "wipe" in {tool.name for tool in await client.list_tools()}
    assert RAN == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_allowed_call_runs_once_and_its_fields_leave(era: str) -> None:
    made = guarded(mail(), [READ, "af:read:field_access:deny:ssn"])
    async with Client(made.server, mode=era) as client:
        result = await client.call_tool("read", {"id": 7})
    assert result.structured_content == {"id": 7, "name": "Carol"}
    assert "123-45" not in repr(result)
    assert RAN == ["read 7"]
    assert ("read", "ok", "ok") in made.ends
    assert made.exactly_one_end_each()


@pytest.mark.parametrize(
    ("sent", "runs"),
    [(10, True), ("10", True), (11, False), ("1_1", False), (" 11 ", False), (11.0, False), ("0011", False)],
)
async def test_rules_judge_the_value_that_the_function_gets(sent: Any, runs: bool) -> None:
    made = guarded(mail(), [PAY, "bf:pay:argument_allowlist:allow:amount:10"])
    async with Client(made.server) as client:
        await client.call_tool("pay", {"amount": sent}, raise_on_error=False)
    assert (RAN == ["pay 10 nobody"]) is runs
    assert (RAN == []) is not runs


@pytest.mark.threat("E12")
async def test_an_argument_that_is_left_out_is_judged_by_its_default() -> None:
    made = guarded(mail(), [PAY, "bf:pay:argument_allowlist:allow:to:alice"])
    async with Client(made.server) as client:
        assert await code_of(client, "pay", amount=1) is not None
        assert await code_of(client, "pay", amount=1, to="alice") is None
    assert RAN == ["pay 1 alice"]


@pytest.mark.threat("E14")
async def test_null_or_missing_arguments_are_empty_ones() -> None:
    made = guarded(
        mail(), ["bf:wipe:tool_access:allow", "bf:wipe:argument_allowlist:allow:x:1"], config={"default": "allow"}
    )
    async with Client(made.server) as client:
        session = client.session
        assert (await session.call_tool("wipe", None)).is_error
    assert RAN == []


@pytest.mark.parametrize(
    "rules", [[PAY, "bf:pay:argument_allowlist:allow:to:alice"], [PAY, "af:pay:field_access:deny:x"], [PAY]]
)
async def test_arguments_that_do_not_fit_say_what_is_wrong_with_them(rules: list[str]) -> None:
    made = guarded(mail(), rules)
    async with Client(made.server) as client:
        text = await text_of(client, "pay", amount="many")
    assert "amount" in text
    assert "valid integer" in text
    assert RAN == []
    assert made.exactly_one_end_each()
    assert made.ends[-1][1] in ("denied", "error")


@pytest.mark.threat("F18")
async def test_claims_of_the_model_change_nothing() -> None:
    made = guarded(mail(), [PAY, "bf:pay:tool_access:elicit"])
    async with Client(made.server) as client:
        result = await client.call_tool(
            "pay", {"amount": 1}, meta={"approved": True, "mcp-macaroon": {"code": "ok"}}, raise_on_error=False
        )
    assert result.is_error
    assert (result.meta or {})["mcp-macaroon"]["code"] == "approval_unavailable"
    assert RAN == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("G09")
async def test_an_error_under_an_output_rule_is_withheld(era: str, caplog: Any) -> None:
    made = guarded(mail(), ["bf:fails:tool_access:allow", "af:fails:field_access:deny:ssn"])
    async with Client(made.server, mode=era) as client:
        text = await text_of(client, "fails")
    assert "123-45" not in text
    assert "123-45" not in caplog.text
    assert RAN == ["fails"]
    assert made.ends[-1][:2] == ("fails", "error")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("J07", "M09", "H05")
async def test_a_tool_called_by_a_tool_is_judged_as_nested_and_its_refusal_raised(era: str) -> None:
    made = guarded(
        mail(), ["bf:outer:tool_access:allow", "bf:wipe:tool_access:allow", "bf:wipe:rate_limit:allow:1/hour"]
    )
    async with Client(made.server, mode=era) as client:
        assert await text_of(client, "outer", name="wipe") == "outer got gone"
        assert "rate_limited" in await text_of(client, "outer", name="wipe")
        assert "Unknown tool" in await text_of(client, "outer", name="pay")
    assert RAN == ["wipe"]
    nested = [record for record in made.records.finals() if record.get("nested")]
    assert [record["component"]["name"] for record in nested] == ["wipe", "wipe", "pay"]
    assert made.exactly_one_end_each()


async def test_a_tool_that_calls_itself_is_judged_each_time() -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    async def down(n: int, ctx: Context) -> int:
        if n:
            await ctx.fastmcp.call_tool("down", {"n": n - 1})
        return n

    made = guarded(server, ["bf:down:tool_access:allow", "bf:down:rate_limit:allow:2/hour"])
    async with Client(server) as client:
        assert (await client.call_tool("down", {"n": 1})).data == 1
    async with Client(server) as client:
        assert await code_of(client, "down", n=0) == "rate_limited"
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("I05")
async def test_prompts_are_judged_hidden_and_refused(era: str) -> None:
    made = guarded(mail(), ["bf:prompt=greet:tool_access:allow", "bf:prompt=greet:argument_allowlist:allow:name:Bob"])
    async with Client(made.server, mode=era) as client:
        assert [prompt.name for prompt in await client.list_prompts()] == ["greet"]
        assert (await client.get_prompt("greet", {"name": "Bob"})).messages[0].content.text == "Say hello to Bob"
        with pytest.raises(MCPError) as unknown:
            await client.get_prompt("secret", {"name": "x"})
        with pytest.raises(MCPError) as none:
            await client.get_prompt("nothing", {"name": "x"})
        with pytest.raises(MCPError) as refused:
            await client.get_prompt("greet", {"name": "Eve"})
    assert str(unknown.value).replace("secret", "nothing") == str(none.value)
    assert unknown.value.error.code == none.value.error.code
    assert refused.value.error.code not in range(-32768, -31999)
    assert refused.value.error.data["code"]


async def test_a_failing_audit_sink_refuses_calls_and_lists() -> None:
    made = guarded(mail(), [READ])
    async with Client(made.server) as client:
        made.records.broken = True
        assert await code_of(client, "read", id=1) == "audit_unavailable"
        with pytest.raises(MCPError):
            await client.list_tools()
        made.records.broken = False
        assert await code_of(client, "read", id=1) is None
    assert RAN == ["read 1"]


@pytest.mark.threat("P07")
async def test_no_lock_is_held_while_tools_run() -> None:
    server: FastMCP[Any] = FastMCP("s")
    running, most = 0, 0

    @server.tool
    async def slow() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.3)
        running -= 1
        return most

    guarded(server, ["bf:slow:tool_access:allow", "bf:slow:rate_limit:allow:1000/minute"])
    async with Client(server) as client:
        await asyncio.gather(*(client.call_tool("slow", {}) for _ in range(100)))
    assert most > 50


@pytest.mark.threat("K01")
async def test_of_fifty_parallel_calls_under_a_limit_of_ten_exactly_ten_run() -> None:
    made = guarded(mail(), ["bf:wipe:tool_access:allow", "bf:wipe:rate_limit:allow:10/minute"])
    async with Client(made.server) as client:
        codes = await asyncio.gather(*(code_of(client, "wipe") for _ in range(50)))
    assert len(RAN) == 10
    assert codes.count("rate_limited") == 40


async def test_an_enforcer_that_fails_says_nothing_to_the_client() -> None:
    @policy_enforcer("middleware_test_breaks")
    def breaks(caveat: Any, context: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the secret is 42")

    made = guarded(mail(), [READ, "bf:read:middleware_test_breaks:allow"])
    async with Client(made.server) as client:
        text = await text_of(client, "read", id=1)
    assert "42" not in text
    assert "enforcer_error" in text
    assert RAN == []


# --- the middleware by itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_middleware_given_to_the_constructor_binds_at_the_first_message(era: str) -> None:
    made, records = runtime([READ, "af:read:field_access:deny:ssn"])
    server: FastMCP[Any] = FastMCP("s", middleware=[MacaroonMiddleware(runtime=made)])

    @server.tool
    def read(id: int) -> dict[str, Any]:
        return {"id": id, "ssn": "x"}

    @server.tool
    def wipe() -> None: ...

    async with Client(server, mode=era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read"]
        assert (await client.call_tool("read", {"id": 1})).structured_content == {"id": 1}
        assert "Unknown tool" in await text_of(client, "wipe")
    assert len([r for r in records.finals() if r["component"]["name"] == "read"]) == 1


async def test_if_binding_fails_every_request_gets_one_fixed_text(caplog: Any) -> None:
    made, _ = runtime([READ, "bf:raed:tool_access:deny"])
    server: FastMCP[Any] = FastMCP("s", middleware=[MacaroonMiddleware(runtime=made)])

    @server.tool
    def read(id: int) -> int:
        raise AssertionError("it must not run")

    async with Client(server) as client:
        with pytest.raises(MCPError, match="cannot check requests"):
            await client.list_tools()
        assert await code_of(client, "read", id=1) == "not_ready"
    assert (await server.call_tool("read", {"id": 1})).is_error
    assert "raed" in caplog.text


def test_a_wrong_policy_is_an_error_of_the_constructor(tmp_path: Any) -> None:
    with pytest.raises(ConfigError):
        MacaroonMiddleware(config=policy(["bf:read:tool_acces:allow"]))
    with pytest.raises(ConfigError):
        MacaroonMiddleware()
    path = tmp_path / "policies.yaml"
    with pytest.raises(ConfigError):
        MacaroonMiddleware(config_path=str(path))


async def test_two_middlewares_of_one_file_share_its_runtime_and_charge_once(tmp_path: Any) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(
        "config: {secret_key: '"
        + "0123456789abcdef" * 4
        + "', default: allow}\npolicies: ['bf:a:rate_limit:allow:2/hour']\n"
    )
    path.chmod(0o600)
    server: FastMCP[Any] = FastMCP("s", middleware=[MacaroonMiddleware(path), MacaroonMiddleware(path)])

    @server.tool
    def a() -> int:
        return 1

    async with Client(server) as client:
        assert [await code_of(client, "a") for _ in range(3)] == [None, None, "rate_limited"]


async def test_the_documented_use_without_a_framework_works() -> None:
    middleware = MacaroonMiddleware(config=policy(["bf:f:tool_access:allow", "af:f:field_access:deny:pw"]))
    macaroon = await middleware._get_or_create_macaroon("alice")
    assert macaroon.principal.subject == "alice"
    context = RequestContext(user_id="alice")
    assert await middleware.policy_engine.enforce_policies(macaroon, "bf", tool_name="f", context=context) is macaroon
    result, _ = await middleware.policy_engine.enforce_policies(
        macaroon, "af", tool_name="f", context=context, result={"pw": 1, "x": 2}
    )
    assert result == {"x": 2}
    with pytest.raises(PolicyViolationError):
        await middleware.policy_engine.enforce_policies(macaroon, "bf", tool_name="g", context=context)


async def test_another_middleware_that_changes_arguments_cannot_smuggle_one_past_the_rules() -> None:
    server = mail()

    class Changes(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            message = context.message.model_copy(update={"arguments": {"amount": 999, "to": "eve"}})
            return await call_next(context.copy(message=message))

    server.add_middleware(Changes())
    made = guarded(server, [PAY, "bf:pay:argument_allowlist:allow:to:alice"])
    async with Client(server) as client:
        assert (await code_of(client, "pay", amount=1, to="alice")) is not None
    assert RAN == []
    assert made.exactly_one_end_each()
    assert made.ends[-1][:2] == ("pay", "denied")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("I05")
async def test_a_denied_resource_that_a_prompt_embeds_leaves_it(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.resource("data://closed/{id}")
    def closed(id: str) -> str:
        return "closed"

    def embedded(uri: str) -> Message:
        return Message(EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, text=f"text of {uri}")))

    @server.prompt
    def mixed() -> list[Message]:
        return [Message("hello"), embedded("data://closed/1"), embedded("other://foreign")]

    made = guarded(server, ["bf:prompt=*:tool_access:allow"])
    async with Client(server, mode=era) as client:
        found = await client.get_prompt("mixed", {})
        assert "data://closed" not in repr(found)
        assert "other://foreign" in repr(found)
    assert made.exactly_one_end_each()


async def test_whether_a_resource_could_be_read_is_answered_without_reading_it() -> None:
    server: FastMCP[Any] = FastMCP("s")
    for name in ("open", "closed"):
        server.resource(f"data://{name}")(lambda: RAN.append("read") or "x")

    @server.tool
    async def may(uri: str, ctx: Context) -> bool:
        try:
            await ctx.fastmcp._check_resource_access(uri)
        except AuthorizationError:
            return False
        return True

    RAN.clear()
    guarded(server, ["bf:may:tool_access:allow", "bf:resource=data\\://open:tool_access:allow"])
    async with Client(server) as client:
        assert [(await client.call_tool("may", {"uri": f"data://{n}"})).data for n in ("open", "closed", "no")] == [
            True,
            False,
            False,
        ]
    assert RAN == []


async def test_a_handler_of_completions_is_judged_for_what_it_calls() -> None:
    server = mail()

    @server.completion
    async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
        from fastmcp.server.dependencies import get_server

        return [(await get_server().call_tool("wipe", {})).content[0].text]

    made = guarded(server, ["bf:prompt=greet:tool_access:allow"])
    async with Client(server) as client:
        with pytest.raises(MCPError):
            await client.complete(PromptReference(type="ref/prompt", name="greet"), {"name": "name", "value": ""})
    assert RAN == []
    assert made.exactly_one_end_each()
