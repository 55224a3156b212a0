"""Data that is nested a hundred thousand levels deep, wherever it can come in: refused, in a few words, and nothing
crashes. Where it arrived as a request, that has its one record.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ValidationError
from fastmcp.server.auth import AccessToken
from fastmcp.tools.base import ToolResult
from guarded import ERAS, Guarded, guarded, tokens
from lab import call as lab_call
from lab import lab
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp_types import TextContent
from pymacaroons import MACAROON_V2, Macaroon

from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import ConfigError, RuleError, TokenInvalid
from mcp_macaroon_middleware.model import Result
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint, verify
from mcp_macaroon_middleware.tokens.macaroons import append

pytestmark = pytest.mark.threat("P01")

DEEP = 100_000


def lists(levels: int = DEEP) -> Any:
    """A list in a list, and so on."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def objects(levels: int = DEEP) -> Any:
    """An object in an object, and so on."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def texts(levels: int = DEEP) -> Any:
    """The same as a text that is JSON."""
    return "[" * levels + "]" * levels


SHAPES: list[Callable[..., Any]] = [lists, objects]
LOOKS = "bf:take:argument_allowlist:allow:value:1"
RULES: list[list[Any]] = [
    ["bf:*:tool_access:allow"],
    ["bf:*:tool_access:allow", LOOKS],
    ["bf:*:tool_access:allow", "af:take:field_access:deny:ssn"],
    ["bf:take:tool_access:elicit", "bf:fine:tool_access:allow"],
    [{"before": "*", "policy": "tool_access", "action": "allow", "for": {"subject": "alice"}}],
]


class Desk:
    """A guarded server whose tools take anything and give anything."""

    def __init__(self, rules: list[Any]) -> None:
        self.ran = 0
        server: FastMCP[Any] = FastMCP("desk", auth=tokens(alice={}))

        @server.tool
        def take(value: Any = None) -> dict[str, Any]:
            self.ran += 1
            return {"id": 1}

        @server.tool
        def fine() -> dict[str, Any]:
            return {"id": 2}

        @server.tool(output_schema=None)
        def give(shape: str) -> Any:
            return {"lists": lists, "objects": objects, "texts": texts}[shape]()

        @server.tool
        def give_structured() -> dict[str, Any]:
            return {"id": 1, "ssn": objects()}

        @server.tool
        def give_texts() -> ToolResult:
            return ToolResult(content=[TextContent(type="text", text='{"a":' * DEEP + "1" + "}" * DEEP)])

        self.guarded: Guarded = guarded(server, rules)

    def finals(self, name: str) -> list[tuple[str, str]]:
        """How the requests for a tool ended."""
        return [end[1:] for end in self.guarded.ends if end[0] == name]


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: str(len(str(rules))))
async def test_arguments_of_a_program_that_calls_the_server_itself(rules: list[Any], shape: Any) -> None:
    desk = Desk(rules)
    for number, levels in enumerate((3_000, 20_000, DEEP), 1):
        with as_alice(), pytest.raises(ValidationError) as refused:
            await desk.guarded.server.call_tool("take", {"value": shape(levels)})
        assert len(str(refused.value)) < 200
        assert desk.finals("take") == [("denied", "arguments_invalid")] * number
    with as_alice():
        assert (await desk.guarded.server.call_tool("fine", {})).structured_content == {"id": 2}
    assert desk.ran == 0
    assert desk.guarded.exactly_one_end_each()


class as_alice:
    """The block is a request of Alice's."""

    def __enter__(self) -> None:
        token = AccessToken(token="t", client_id="c", scopes=[], subject="alice")
        self._mark = auth_context_var.set(AuthenticatedUser(token))

    def __exit__(self, *_: object) -> None:
        auth_context_var.reset(self._mark)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("shape", SHAPES)
async def test_arguments_of_a_client_in_memory(shape: Any, era: str) -> None:
    desk = Desk(["bf:*:tool_access:allow", LOOKS])
    async with Client(desk.guarded.server, mode=era) as client:
        with pytest.raises(Exception, match="depth") as refused:  # its own library does not send them
            await client.call_tool("take", {"value": shape()})
        assert len(str(refused.value)) < 200
        assert (await client.call_tool("fine", {})).structured_content == {"id": 2}
    assert desk.ran == 0
    assert desk.finals("take") == []


NESTED = {
    "lists": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "never closed": "[" * DEEP,
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("where", ["arguments", "meta", "params", "id"])
@pytest.mark.parametrize("nested", NESTED)
async def test_a_request_over_http(nested: str, where: str, era: str) -> None:
    desk = Desk(["bf:*:tool_access:allow", LOOKS])
    async with posting(desk, era) as post:
        refused = await post(call("take", **{where: NESTED[nested]}))
        assert 400 <= refused.status_code < 500, refused.text[:500]
        assert len(refused.text) < 2_000
        assert '"id":2' in (await post(call("fine"))).text.replace("\\", "")
    assert desk.ran == 0
    assert desk.finals("take") == [], "it never became a request"
    assert desk.finals("fine") == [("ok", "ok")]
    assert desk.guarded.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_a_request_over_http_that_is_as_deep_as_can_arrive_has_its_one_record(era: str) -> None:
    desk = Desk(["bf:*:tool_access:allow", LOOKS])
    async with posting(desk, era) as post:
        for levels in range(20, 260, 20):
            await post(call("take", arguments=json.dumps(objects(levels))))
            await post(call("take", arguments=json.dumps({"value": lists(levels)})))
    arrived = desk.finals("take")
    assert len(arrived) > 4
    assert {outcome for outcome, _ in arrived} <= {"ok", "denied"}
    assert "internal" not in {code for _, code in arrived}
    assert desk.guarded.exactly_one_end_each()


def call(tool: str, arguments: str = "{}", meta: str = "1", params: str = "1", id: str = "7") -> str:
    """A call as text, since no library writes what is nested this deep."""
    protocol = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    extra = json.dumps(protocol)[:-1] + f', "odd": {meta}}}'
    inside = f'{{"name": "{tool}", "arguments": {arguments}, "_meta": {extra}, "odd": {params}}}'
    return f'{{"jsonrpc": "2.0", "id": {id}, "method": "tools/call", "params": {inside}}}'


@asynccontextmanager
async def posting(desk: Desk, era: str) -> AsyncIterator[Callable[[str], Any]]:
    """Posts a body to the server over HTTP, in the protocol of an era."""
    version = "2026-07-28" if era == "auto" else "2025-11-25"
    app = desk.guarded.server.http_app(json_response=True, stateless_http=True)
    transport = httpx2.ASGITransport(app=app)
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def post(body: str) -> httpx2.Response:
            name = "fine" if '"name": "fine"' in body else "take"
            headers = {
                "accept": "application/json, text/event-stream",
                "content-type": "application/json",
                "authorization": "Bearer alice",
                "mcp-protocol-version": version,
                **({"mcp-method": "tools/call", "mcp-name": name} if era == "auto" else {}),
            }
            return await client.post("/mcp", content=body.encode(), headers=headers)

        yield post


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("rule", ["af:*:field_access:deny:ssn", "af:*:field_access:elicit:**.ssn"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        *[("give", {"shape": shape}) for shape in ("lists", "objects", "texts")],
        ("give_structured", {}),
        ("give_texts", {}),
    ],
)
async def test_results_under_an_output_rule(tool: str, arguments: dict[str, Any], rule: str, era: str) -> None:
    desk = Desk(["bf:*:tool_access:allow", rule])
    async with Client(desk.guarded.server, mode=era) as client:
        result = await client.call_tool_mcp(tool, arguments)
        assert result.is_error
        assert len(repr(result)) < 2_000
        assert (await client.call_tool("fine", {})).structured_content == {"id": 2}
    ((outcome, _),) = desk.finals(tool)
    assert outcome in ("withheld", "error")
    assert desk.guarded.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_results_without_a_rule_do_not_crash_the_server(era: str) -> None:
    desk = Desk(["bf:*:tool_access:allow"])
    async with Client(desk.guarded.server, mode=era) as client:
        for tool, arguments in (("give", {"shape": "objects"}), ("give_structured", {})):
            assert (await client.call_tool_mcp(tool, arguments)).is_error
        assert (await client.call_tool("fine", {})).structured_content == {"id": 2}
    assert desk.guarded.exactly_one_end_each()


# --- the file -------------------------------------------------------------------------------------------------------

FILES = {
    "lists": "policies: " + "[" * DEEP + "]" * DEEP,
    "never closed": "policies: " + "[" * DEEP,
    "objects": "policies: " + "{a: " * DEEP + "1" + "}" * DEEP,
    "dashes": "policies:\n  " + "- " * DEEP + "x",
    "indents": "policies:\n" + "".join(" " * level + "a:\n" for level in range(1, 900)),
    "in a rule": "policies: [{before: t, policy: tool_access, action: only, params: " + "[" * DEEP + "]" * DEEP + "}]",
    "in a plugin's section": "plugins: {field_access: " + "{a: " * DEEP + "1" + "}" * DEEP + "}",
    "a field path": "policies: ['af:t:field_access:deny:" + ".".join("a" * DEEP) + "']",
    "a glob": "policies: ['bf:" + "*a" * DEEP + ":tool_access:allow']",
}


@pytest.mark.parametrize("text", FILES)
def test_a_policy_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(f"config: {{secret_key: {secrets.token_hex(32)}}}\n{FILES[text]}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        load_runtime(path)
    assert len(str(refused.value)) < 5_000, "a person is to read it"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_policy_that_is_a_mapping(shape: Any) -> None:
    config = {"secret_key": secrets.token_hex(32)}
    rule = {"before": "t", "policy": "tool_access", "action": "only", "params": shape()}
    for given in (
        {"config": config, "policies": shape()},
        {"config": config, "policies": [rule]},
        {"config": {**config, "roles": shape()}, "policies": []},
        {"config": config, "policies": [], "plugins": {"field_access": shape()}},
    ):
        with pytest.raises(ConfigError) as refused:
            load_runtime(given)
        assert len(str(refused.value)) < 5_000, "a person is to read it"


# --- tokens ---------------------------------------------------------------------------------------------------------

KEYS = KeyRing.from_secret(secrets.token_hex(32))


@pytest.mark.parametrize("text", ["[" * DEEP, "[" * 5_000, '{"k":' * 1_200, '{"v":1,"t":"token","k":' + "[" * 4_000])
def test_a_tokens_identifier(text: str) -> None:
    macaroon = Macaroon(version=MACAROON_V2, location="mail", identifier=text.encode(), key="x" * 32)
    with pytest.raises(TokenInvalid) as refused:
        verify(KEYS, "mm_" + macaroon.serialize(), audience="mail")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "caveat",
    [
        "[" * 4_000,
        "bf:t:tool_access:only:" + "(" * 3_000,
        "bf:" + "*a" * 1_500 + ":tool_access:deny",
        "af:t:field_access:deny:" + ".".join("a" * 1_900),
        "af:t:field_access:deny:" + "**." * 1_200 + "a",
        '{"a":' * 900,
        "bf:t:argument_allowlist:allow:value:" + "[" * 3_500,
    ],
    ids=lambda caveat: caveat[:24],
)
async def test_a_tokens_caveat(caveat: str) -> None:
    token = mint(KEYS, subject="alice", audience="mail", expires=timedelta(hours=1))
    with contextlib.suppress(RuleError):  # some of them may be written: they are long, and not wrong
        attenuate(token, caveat)
    verified = verify(KEYS, append(token, caveat), audience="mail")
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(lab_call("t", {"value": "x"}), token=verified)
    if decision.allowed:
        await room.engine.finish(decision, Result.of(objects(50)), lambda redaction: redaction)
    (final,) = room.records.finals()
    assert final["outcome"] in ("ok", "denied", "withheld")
    assert final.get("code") not in ("internal", None)
