"""A holder's client: a token on every request, narrower ones for single calls, discharges from named services."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport
from guarded import ERAS, runtime, text_of
from serving import serving

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, MacaroonClientAuth, guard
from mcp_macaroon_middleware.adapters.holder import via_http
from mcp_macaroon_middleware.config.runtime import Runtime
from mcp_macaroon_middleware.errors import DischargeRefused, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, ThirdParty, discharge, inspect, mint, require

AUDIENCE = "mail"
PLACE = "https://approve.example"


def mail(**config: Any) -> tuple[FastMCP[Any], Runtime]:
    made, _ = runtime(["bf:*:tool_access:allow"], config={"audience": AUDIENCE, "tokens": {}, **config})
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))

    @server.tool
    def read_mail(id: int) -> dict[str, Any]:
        return {"id": id, "body": "secret"}

    @server.tool
    def send_mail(to: str) -> str:
        return f"sent to {to}"

    @server.resource("mail://{id}")
    def message(id: str) -> str:
        return f"mail {id}"

    @server.prompt
    def write(to: str) -> str:
        return f"write to {to}"

    guard(server, made)
    return server, made


def token_of(made: Runtime) -> str:
    return mint(made.keys, subject="alice", audience=AUDIENCE)


async def everything(client: Client[Any]) -> None:
    """Every kind of request brings the token."""
    assert {tool.name for tool in await client.list_tools()} == {"read_mail", "send_mail"}
    assert (await client.call_tool("read_mail", {"id": 1})).data == {"id": 1, "body": "secret"}
    assert (await client.read_resource("mail://1"))[0].text == "mail 1"
    assert (await client.get_prompt("write", {"to": "bob"})).messages
    assert len(await client.list_resource_templates()) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_over_http_the_token_is_the_clients_auth(era: str) -> None:
    server, made = mail()
    auth = MacaroonClientAuth(token_of(made))
    async with serving(server) as url:
        async with Client(url, auth=auth, mode=era) as client:
            await everything(client)
            meta = await auth.meta("bf:send_mail:tool_access:deny")
            result = await client.call_tool("send_mail", {"to": "bob"}, meta=meta, raise_on_error=False)
            assert result.is_error
            assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        async with Client(auth.over(url), mode=era) as client:
            await everything(client)
            with auth.narrowed("bf:send_mail:tool_access:deny", expires=timedelta(minutes=1)):
                assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
                assert [tool.name for tool in await client.list_tools()] == ["read_mail"]
            assert await text_of(client, "send_mail", to="bob") == "sent to bob"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("B01")
async def test_a_plain_client_over_http_is_narrow_inside_narrowed_and_nested_ones_narrow_further(era: str) -> None:
    server, made = mail()
    auth = MacaroonClientAuth(token_of(made))
    async with serving(server) as url, Client(url, auth=auth, mode=era) as client:
        with auth.narrowed("bf:send_mail:tool_access:deny"):
            assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
            assert [tool.name for tool in await client.list_tools()] == ["read_mail"]
            with auth.narrowed("af:read_mail:field_access:deny:body") as inner:
                assert (await client.call_tool("read_mail", {"id": 1})).structured_content == {"id": 1}
                assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
                assert auth.current == inner
            sub_agent = inspect(auth.narrow("bf:read_mail:tool_access:deny"))
            assert "bf:send_mail:tool_access:deny" in sub_agent.rules
            assert (await auth.meta())["mcp-macaroon/token"] == auth.current != auth.token
            meta = await auth.meta("bf:read_mail:tool_access:deny")
            assert "bf:send_mail:tool_access:deny" in inspect(meta["mcp-macaroon/token"]).rules
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"


@pytest.mark.parametrize("era", ERAS)
async def test_a_session_that_began_narrow_is_wide_again_outside(era: str) -> None:
    server, made = mail()
    auth = MacaroonClientAuth(token_of(made))
    async with serving(server) as url, contextlib.AsyncExitStack() as stack:
        with auth.narrowed("bf:send_mail:tool_access:deny"):
            client = await stack.enter_async_context(Client(url, auth=auth, mode=era))
            assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"


@pytest.mark.parametrize("over_http", [True, False])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("A17")
async def test_what_one_auth_object_lends_no_other_one_brings(era: str, over_http: bool) -> None:
    server, made = mail()
    elsewhere = MacaroonClientAuth(mint(made.keys, subject="alice", audience="elsewhere"))
    auth = MacaroonClientAuth(token_of(made))
    reach = serving(server) if over_http else contextlib.nullcontext(server)
    async with reach as place, Client(auth.over(place), mode=era) as client:
        with elsewhere.narrowed("bf:*:tool_access:deny") as lent:
            assert await text_of(client, "send_mail", to="bob") == "sent to bob"
            assert (auth.current, elsewhere.current) == (auth.token, lent)
            assert (await auth.meta())["mcp-macaroon/token"] == auth.token
            with auth.narrowed("bf:send_mail:tool_access:deny"):
                assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
                assert elsewhere.current == lent


async def test_tasks_that_start_inside_narrowed_stay_narrow_and_those_beside_it_stay_wide() -> None:
    server, made = mail()
    auth = MacaroonClientAuth(token_of(made))
    async with serving(server) as url, Client(url, auth=auth) as client:

        async def send() -> str:
            return await text_of(client, "send_mail", to="bob")

        beside = asyncio.create_task(send())
        with auth.narrowed("bf:send_mail:tool_access:deny"):
            inside = asyncio.create_task(send())
        assert await asyncio.gather(beside, inside) == ["sent to bob", "Unknown tool: 'send_mail'"]


@pytest.mark.parametrize("era", ERAS)
async def test_in_memory_each_request_brings_the_token(era: str) -> None:
    server, made = mail()
    auth = MacaroonClientAuth(token_of(made))
    async with Client(auth.over(server), mode=era) as client:
        await everything(client)
        with auth.narrowed("af:read_mail:field_access:deny:body"):
            assert (await client.call_tool("read_mail", {"id": 1})).structured_content == {"id": 1}
    sub_agent = MacaroonClientAuth(auth.narrow("bf:*:tool_access:only:read_mail"))
    async with Client(sub_agent.over(server), mode=era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read_mail"]


SCRIPT = """
import sys
from fastmcp import FastMCP
from mcp_macaroon_middleware import guard
server = FastMCP("mail")

@server.tool
def read_mail(id: int) -> dict:
    return {"id": id, "body": "secret"}

@server.tool
def send_mail(to: str) -> str:
    return "sent to " + to

guard(server, sys.argv[1])
server.run(transport="stdio", show_banner=False)
"""


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("process", [True, False])
async def test_on_stdio_the_token_comes_with_requests_or_from_the_process(
    era: str, process: bool, tmp_path: Path
) -> None:
    secret = secrets.token_hex(32)
    (tmp_path / "server.py").write_text(SCRIPT)
    file = tmp_path / "policies.yaml"
    file.write_text(
        "config: {secret_key: '${KEY_HERE}', audience: mail, default: deny, tokens: {}}\n"
        "policies: ['bf:*:tool_access:allow']\n"
    )
    file.chmod(0o600)
    token = mint(KeyRing.from_secret(secret), subject="alice", audience=AUDIENCE)
    env = {"KEY_HERE": secret} | ({"MACAROON_TOKEN": token} if process else {})
    transport = StdioTransport(sys.executable, [str(tmp_path / "server.py"), str(file)], env=env, keep_alive=False)
    auth = MacaroonClientAuth(token)
    async with Client(transport if process else auth.over(transport), mode=era) as client:
        assert len(await client.list_tools()) == 2
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        meta = await auth.meta("bf:send_mail:tool_access:deny")
        result = await client.call_tool("send_mail", {"to": "bob"}, meta=meta, raise_on_error=False)
        assert result.is_error


# --- discharges -------------------------------------------------------------------------------------------------------


def service(party: ThirdParty, asked: list[str], *, status: int = 200, wrong: bool = False) -> httpx2.AsyncClient:
    """A discharge service, reached without sockets."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> JSONResponse:
        text = (await request.json())["ticket"]
        asked.append(text)
        ticket = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if status != 200:
            return JSONResponse({"code": "denied"}, status)
        return JSONResponse({"discharge": discharge(party.open(ticket), b"another" if wrong else ticket)})

    app = Starlette(routes=[Route("/discharge", answer, methods=["POST"])])
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://approve")


@pytest.fixture
def party(monkeypatch: pytest.MonkeyPatch) -> ThirdParty:
    shared = secrets.token_hex(32)
    monkeypatch.setenv("PARTY_KEY", shared)
    return ThirdParty(location=PLACE, key=KeyRing.from_secret(shared), condition="is on duty")


@pytest.mark.parametrize("era", ERAS)
async def test_discharges_are_fetched_once_while_they_last_and_bound_to_each_token(era: str, party: ThirdParty) -> None:
    server, made = mail(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    asked: list[str] = []
    async with service(party, asked) as http:
        auth = MacaroonClientAuth(token, services={PLACE: via_http("http://approve/discharge", client=http)})
        async with Client(auth.over(server), mode=era) as client:
            await everything(client)
            with auth.narrowed("bf:send_mail:tool_access:deny"):
                assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
        async with serving(server) as url, Client(url, auth=auth, mode=era) as client:
            await everything(client)
    assert len(asked) == 1


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("B03")
async def test_over_http_one_call_is_narrowed_however_the_token_needs_discharges(era: str, party: ThirdParty) -> None:
    server, made = mail(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    asked: list[str] = []
    async with service(party, asked) as http, serving(server) as url:
        auth = MacaroonClientAuth(token, services={PLACE: via_http("http://approve/discharge", client=http)})
        for transport in (url, auth.over(url)):
            async with Client(transport, auth=auth if transport is url else None, mode=era) as client:
                meta = await auth.meta("bf:send_mail:tool_access:deny")
                for more, said in ((meta, "Unknown tool: 'send_mail'"), ({}, "sent to bob")):
                    result = await client.call_tool("send_mail", {"to": "bob"}, meta=more, raise_on_error=False)
                    assert getattr(result.content[0], "text", "") == said
                with auth.narrowed("bf:send_mail:tool_access:deny"):
                    assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
                    assert (await client.call_tool("read_mail", {"id": 1})).data["id"] == 1
    assert len(asked) == 1


@pytest.mark.threat("A17")
async def test_a_redirect_to_another_origin_gets_neither_the_token_nor_its_discharges(party: ThirdParty) -> None:
    _, made = mail(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    seen: dict[str, dict[bytes, bytes]] = {}

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen[request.url.host] = {name.lower(): value for name, value in request.headers.raw}
        return httpx2.Response(307, headers={"location": "http://elsewhere/x"} if request.url.host == "here" else {})

    async with service(party, []) as http:
        auth = MacaroonClientAuth(token, services={PLACE: via_http("http://approve/discharge", client=http)})
        transport = httpx2.MockTransport(answer)
        async with httpx2.AsyncClient(transport=transport, auth=auth, follow_redirects=True) as client:
            await client.get("http://here/", headers={"X-Mine": "kept"})
    credentials = {b"authorization", b"macaroon-discharge"}
    assert credentials <= set(seen["here"])
    assert seen["here"][b"macaroon-discharge"].startswith(b"md_")
    assert not credentials & set(seen["elsewhere"])
    assert seen["elsewhere"][b"x-mine"] == b"kept"


async def test_a_service_that_the_holder_has_not_named_is_never_asked(party: ThirdParty) -> None:
    _, made = mail(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    with pytest.raises(DischargeRefused, match="not named"):
        await MacaroonClientAuth(token).discharges()


@pytest.mark.parametrize(("how", "words"), [({"status": 403}, "403 denied"), ({"wrong": True}, "no discharge of it")])
async def test_a_service_that_refuses_or_lies_is_told_from_one_that_answers(
    how: dict[str, Any], words: str, party: ThirdParty
) -> None:
    _, made = mail(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    async with service(party, [], **how) as http:
        auth = MacaroonClientAuth(token, services={PLACE: via_http("http://approve/discharge", client=http)})
        with pytest.raises(DischargeRefused, match=words):
            await auth.discharges()
    unreachable = MacaroonClientAuth(token, services={PLACE: "http://127.0.0.1:1/discharge"})
    with pytest.raises(DischargeRefused, match="cannot be reached"):
        await unreachable.discharges()


def test_a_text_that_is_no_token_is_told_at_once_and_nothing_shows_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenInvalid):
        MacaroonClientAuth("not a token")
    token = mint(KeyRing.from_secret(secrets.token_hex(32)), subject="alice", audience=AUDIENCE)
    auth = MacaroonClientAuth(token)
    assert repr(auth) == "MacaroonClientAuth(subject='alice')"
    assert token not in repr(auth.over(FastMCP("x")))
    monkeypatch.delenv("MACAROON_TOKEN", raising=False)
    with pytest.raises(TokenInvalid, match="MACAROON_TOKEN"):
        MacaroonClientAuth.from_environment()
    monkeypatch.setenv("MACAROON_TOKEN", token + "\n")
    assert MacaroonClientAuth.from_environment().token == token
