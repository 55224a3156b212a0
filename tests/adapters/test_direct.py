"""Who calls from the program itself: nobody, unless the file names him; and never whoever a request already names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import NotFoundError
from fastmcp.utilities.tests import asgi_client
from guarded import ERAS, Guarded, guarded, runtime, tokens
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon

NAMED: Mapping[str, Any] = {"default": "allow", "identity": {"direct": "tests"}}


def server(**options: Any) -> FastMCP[Any]:
    """A server whose parts can be used by plain code, with a tool that uses another."""
    made: FastMCP[Any] = FastMCP("plain", **options)

    @made.tool
    def inner() -> str:
        return "inner"

    @made.tool
    async def outer(ctx: Context) -> str:
        return str((await ctx.fastmcp.call_tool("inner", {})).content[0].text)

    @made.resource("data://one")
    def one() -> str:
        return "one"

    @made.prompt
    def ask() -> str:
        return "ask"

    return made


def callers(made: Guarded) -> list[tuple[str, str, str]]:
    """Who called what, by the final records."""
    return [
        (end["principal"]["kind"], end["principal"]["subject"], end["component"]["name"])
        for end in made.records.finals()
        if end["component"]["name"] in ("inner", "outer", "data://one", "ask")
    ]


def code(result: Any) -> str:
    """The code of a refusal, or nothing."""
    return str(((result.meta or {}).get("mcp-macaroon") or {}).get("code", ""))


async def test_plain_code_is_the_local_principal_that_the_file_names() -> None:
    made = guarded(server(), [], config=NAMED)
    for _ in range(2):  # found anew, and recalled
        assert (await made.server.call_tool("outer", {})).content[0].text == "inner"
    assert (await made.server.read_resource("data://one")).contents[0].content == "one"
    assert (await made.server.render_prompt("ask")).messages[0].content.text == "ask"
    assert {tool.name for tool in await made.server.list_tools()} == {"inner", "outer"}
    assert {caller[:2] for caller in callers(made)} == {("local", "tests")}


async def test_rules_are_for_him_as_for_anybody() -> None:
    rules = [{"before": "inner", "policy": "tool_access", "action": "deny", "for": {"subject": "tests"}}]
    made = guarded(server(), ["bf:*:tool_access:allow", *rules], config={**NAMED, "default": "deny"})
    with pytest.raises(NotFoundError, match="Unknown tool"):
        await made.server.call_tool("inner", {})
    async with Client(made.server) as client:
        assert (await client.call_tool("inner")).data == "inner"


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_that_calls_another_is_its_own_caller(era: str) -> None:
    made = guarded(server(auth=tokens(alice={})), [], config=NAMED)
    async with asgi_client(made.server, auth="alice", mode=era) as client:
        assert (await client.call_tool("outer")).data == "inner"
    assert {caller[:2] for caller in callers(made)} == {("user", "alice")}
    made = guarded(server(), [], config=NAMED)
    async with Client(made.server, mode=era) as client:
        assert (await client.call_tool("outer")).data == "inner"
    assert {caller[:2] for caller in callers(made)} == {("local", "local")}


@pytest.mark.parametrize("config", [{}, {"identity": {"direct": "tests"}}])
async def test_a_web_route_that_calls_the_server_is_never_him(config: dict[str, Any]) -> None:
    """The route's caller is whoever the web request names, and plain code after it is itself again."""
    made = guarded(server(), [], config={"default": "allow", **config})

    async def route(request: Request) -> JSONResponse:
        return JSONResponse({"code": code(await made.server.call_tool("inner", {}))})

    app = MacaroonASGIMiddleware(Starlette(routes=[Route("/use", route)]), _web())
    assert await _got(app, "/use") == {"code": "no_identity"}
    assert code(await made.server.call_tool("inner", {})) == ("" if config else "no_identity")


async def test_an_endpoint_with_a_permit_is_never_him() -> None:
    made = guarded(server(), [], config=NAMED)
    app = FastAPI()
    macaroon = Macaroon(_web())
    macaroon.install(app)

    @app.get("/use", dependencies=[Depends(macaroon.requires("use"))])
    async def use() -> dict[str, str]:
        return {"code": code(await made.server.call_tool("inner", {}))}

    assert await _got(app, "/use") == {"code": "no_identity"}


async def test_a_route_of_the_server_itself_is_called_by_its_request() -> None:
    made = guarded(server(), [], config={**NAMED, "identity": {"direct": "tests", "anonymous": "guest"}})

    @made.server.custom_route("/use", methods=["GET"])
    async def use(request: Request) -> PlainTextResponse:
        return JSONResponse({"code": code(await made.server.call_tool("inner", {}))})

    assert await _got(made.server.http_app(), "/use") == {"code": ""}
    assert {caller[:2] for caller in callers(made)} == {("anonymous", "guest")}


def _web() -> Any:
    """A runtime of a web application, which lets everybody in."""
    return runtime([], config={"default": "allow", "identity": {"anonymous": "guest"}})[0]


async def _got(app: Any, path: str) -> Any:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.get(path)).json()
