"""What is no tool, prompt, resource or list: completions, unknown and extension methods, notifications."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server.extensions import MethodBinding, ServerExtension
from guarded import ERAS, guarded
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation, PromptReference, Request, RequestParams, ResourceTemplateReference
from pydantic import BaseModel

RAN: list[str] = []


class Peek(BaseModel):
    """The answer of an extension's method."""

    value: str
    ssn: str


class Extension(ServerExtension):
    """An extension with a method that gives something away."""

    identifier = "org.example/peek"

    def methods(self) -> list[MethodBinding]:
        return [MethodBinding(method="peek/get", params_type=RequestParams, handler=self._get)]

    async def _get(self, ctx: Any, params: Any) -> Peek:
        RAN.append("peek")
        return Peek(value="v", ssn="123-45-6789")


def extended() -> FastMCP[Any]:
    """A server with the extension."""
    RAN.clear()
    server: FastMCP[Any] = FastMCP("s")
    server.add_extension(Extension())

    @server.prompt
    def greet(name: str) -> str:
        return name

    @server.prompt
    def closed(name: str) -> str:
        return name

    @server.resource("db://{id}")
    def row(id: str) -> str:
        return id

    @server.completion
    def complete(ref: Any, argument: Any, context: Any) -> list[str]:
        RAN.append("complete")
        return ["alice", "bob"]

    return server


async def ask(client: Client[Any], method: str, **params: Any) -> Any:
    """A raw request."""
    request: Any = Request[RequestParams, str](method=method, params=RequestParams(**params))
    return await client.session.send_request(request, Peek)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", ["peek/get", "no/such", "tasks/get", "skills/list", "resources/subscribe"])
@pytest.mark.threat("I06", "I07")
async def test_a_method_that_nobody_named_is_answered_as_an_unknown_one(era: str, method: str) -> None:
    made = guarded(extended(), ["bf:*:tool_access:allow"])
    async with Client(made.server, mode=era) as client:
        with pytest.raises(MCPError) as refused:
            await ask(client, method, uri="db://1") if method == "resources/subscribe" else await ask(client, method)
    assert refused.value.error.code in (-32601, -32602)
    assert RAN == []
    assert made.exactly_one_end_each()


@pytest.mark.threat("I07")
async def test_a_method_that_is_named_and_allowed_runs_and_its_fields_leave() -> None:
    made = guarded(
        extended(),
        [
            "bf:method=peek/get:tool_access:allow",
            "af:method=peek/get:field_access:deny:ssn",
            "bf:method=peek/get:rate_limit:allow:1/hour",
        ],
        config={"methods": ["peek/get"]},
    )

    class Left(BaseModel):
        value: str
        ssn: str | None = None

    request: Any = Request[RequestParams, str](method="peek/get", params=RequestParams())
    async with Client(made.server) as client:
        left = await client.session.send_request(request, Left)
        with pytest.raises(MCPError) as limited:
            await client.session.send_request(request, Left)
    assert left == Left(value="v", ssn=None)
    assert limited.value.error.data["code"] == "rate_limited"
    assert RAN == ["peek"]
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("R03", "I01")
async def test_a_method_that_names_a_resource_is_closed_where_that_is_in_every_spelling(era: str) -> None:
    class Named(RequestParams):
        uri: str

    made = guarded(
        extended(),
        [
            "bf:method=peek/get:tool_access:allow",
            "bf:resource=*:tool_access:allow",
            r"bf:resource=db\://1:tool_access:deny",
        ],
        config={"methods": ["peek/get"]},
    )
    async with Client(made.server, mode=era) as client:
        for uri in ("db://1", "db://%31", "db://1?x=1", "db://1#f", "db://1%20", "db://a%2fb"):
            request: Any = Request[Named, str](method="peek/get", params=Named(uri=uri))
            with pytest.raises(MCPError, match="no such resource"):
                await client.session.send_request(request, Peek)
        assert RAN == []
        request = Request[Named, str](method="peek/get", params=Named(uri="db://2"))
        assert (await client.session.send_request(request, Peek)).value == "v"
    assert made.exactly_one_end_each()


async def test_a_method_that_is_named_and_not_allowed_is_still_refused() -> None:
    made = guarded(extended(), ["bf:prompt=*:tool_access:allow"], config={"methods": ["peek/get"]})
    async with Client(made.server) as client:
        with pytest.raises(MCPError) as refused:
            await ask(client, "peek/get")
    assert refused.value.error.code == -32601
    assert RAN == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("G19")
async def test_a_completion_follows_its_prompt_or_template(era: str) -> None:
    made = guarded(
        extended(),
        [
            "bf:prompt=greet:tool_access:allow",
            "bf:resource=db*:tool_access:allow",
            "af:resource=db*:field_access:deny:x",
        ],
    )
    argument = {"name": "name", "value": "a"}
    async with Client(made.server, mode=era) as client:
        allowed = await client.complete(PromptReference(type="ref/prompt", name="greet"), argument)
        assert allowed.values == ["alice", "bob"]
        for name in ("closed", "nothing"):
            assert (await client.complete(PromptReference(type="ref/prompt", name=name), argument)).values == []
        with pytest.raises(MCPError) as refused:
            await client.complete(ResourceTemplateReference(type="ref/resource", uri="db://{id}"), argument)
    assert refused.value.error.data["code"] == "completion_refused"
    assert RAN == ["complete"]
    assert made.exactly_one_end_each()


async def test_completions_stay_closed_where_denied_components_are_shown() -> None:
    made = guarded(extended(), ["bf:prompt=greet:tool_access:allow"], config={"hide_denied": False})
    async with Client(made.server) as client:
        found = await client.complete(PromptReference(type="ref/prompt", name="closed"), {"name": "name", "value": ""})
    assert found.values == []
    assert RAN == []


@pytest.mark.parametrize("era", ERAS)
async def test_the_handshake_and_ping_stand_outside_rules_and_are_recorded(era: str) -> None:
    made = guarded(extended(), [])
    async with Client(made.server, mode=era, client_info=Implementation(name="c", version="1")) as client:
        if era == "legacy":
            assert await client.ping()
    names = [record["component"]["name"] for record in made.records.finals()]
    assert ("server/discover" in names) is (era == "auto")
    assert ("initialize" in names) is (era == "legacy")
    assert made.exactly_one_end_each()


@pytest.mark.threat("O09")
async def test_a_malformed_request_has_one_record() -> None:
    made = guarded(extended(), [])
    async with Client(made.server) as client:
        with pytest.raises(MCPError):
            await client.session.send_request(
                Request[RequestParams, str](method="tools/call", params=RequestParams()),  # type: ignore[arg-type]
                Peek,
            )
    assert [end for end in made.ends if end[0] == "tools/call"] == [("tools/call", "error", "malformed")]
