"""Two credentials in one request are refused by every adapter, whichever of the two would have counted."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastmcp import FastMCP
from guarded import runtime, tokens
from hypothesis import given
from hypothesis import strategies as st
from serving import listening
from sessions import CLIENT, HEAD, rpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.credentials import has_several
from mcp_macaroon_middleware.adapters.discharging import discharge_service
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, guard
from mcp_macaroon_middleware.config.runtime import Runtime
from mcp_macaroon_middleware.tokens import mint

Lines = list[tuple[str, str]]
Host = Callable[[Runtime, list[str]], Awaitable[tuple[Any, str]]]

CALL = rpc(1, "tools/call", name="ping", arguments={})
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
MODERN = CALL | {"params": CALL["params"] | {"_meta": META}}
MODERN_HEAD = HEAD | {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "ping"}


def fast(made: Runtime, ran: list[str], auth: Any) -> FastMCP[Any]:
    server: FastMCP[Any] = FastMCP("bank", auth=auth)

    @server.tool
    def ping() -> str:
        ran.append("ping")
        return "pong"

    guard(server, made)
    return server


async def fastmcp_tokens(made: Runtime, ran: list[str]) -> tuple[Any, str]:
    return fast(made, ran, MacaroonAuth(made, tokens(alice={}))).http_app(), "/mcp"


async def fastmcp_plain(made: Runtime, ran: list[str]) -> tuple[Any, str]:
    return fast(made, ran, tokens(alice={})).http_app(), "/mcp"


async def fastmcp_stateless(made: Runtime, ran: list[str]) -> tuple[Any, str]:
    app = fast(made, ran, MacaroonAuth(made, tokens(alice={}))).http_app(stateless_http=True, json_response=True)
    return app, "/mcp"


async def asgi(made: Runtime, ran: list[str]) -> tuple[Any, str]:
    async def ping(request: Request) -> JSONResponse:
        ran.append("ping")
        return JSONResponse("pong")

    app = Starlette(routes=[Route("/mcp", ping, methods=["POST"])])
    return MacaroonASGIMiddleware(app, made, auth=tokens(alice={})), "/mcp"


async def fastapi(made: Runtime, ran: list[str]) -> tuple[Any, str]:
    app, macaroon = FastAPI(), Macaroon(made, auth=tokens(alice={}))
    macaroon.install(app)
    asks = Depends(macaroon.requires("ping"))

    @app.post("/mcp")
    async def ping(permit: Permit = asks) -> str:
        ran.append("ping")
        return "pong"

    return app, "/mcp"


HOSTS: tuple[Host, ...] = (fastmcp_tokens, fastmcp_plain, fastmcp_stateless, asgi, fastapi)

CASES = [(host, kind) for host in HOSTS for kind in ("ours", "other") if (host, kind) != (fastmcp_plain, "ours")]
"""A plain provider takes no token of ours."""


def doubles(token: str) -> dict[str, tuple[Lines, str]]:
    """Every way to bring two, as header lines and a query."""
    one, bad = ("authorization", f"Bearer {token}"), ("authorization", "Bearer nobody")
    return {
        "good, bad": ([one, bad], ""),
        "bad, good": ([bad, one], ""),
        "the same twice": ([one, one], ""),
        "another scheme": ([one, ("Authorization", "Basic YTpi")], ""),
        "an empty one": ([one, ("authorization", "")], ""),
        "joined": ([("authorization", f"Bearer {token}, Bearer nobody")], ""),
        "joined without a scheme": ([("authorization", f"Bearer {token},{token}")], ""),
        "the query too": ([one], "?access_token=nobody"),
        "an escaped query": ([one], "?x=1&access%5Ftoken=nobody"),
    }


@pytest.mark.threat("R02")
@pytest.mark.parametrize("way", [None, *doubles("x")])
@pytest.mark.parametrize(("host", "kind"), CASES, ids=lambda each: getattr(each, "__name__", each))
async def test_two_credentials_run_nothing_attacks_h11(host: Host, way: str | None, kind: str) -> None:
    """attacks H11, reports-policy B12: which of two counts differs from server to server."""
    made, _ = runtime(["bf:*:tool_access:allow"], config={"tokens": {}, "audience": "bank"})
    if host is fastmcp_plain:
        made, _ = runtime(["bf:*:tool_access:allow"])
    ran: list[str] = []
    token = mint(made.keys, subject="alice", audience="bank") if kind == "ours" else "alice"
    lines, query = doubles(token)[way] if way is not None else ([("authorization", f"Bearer {token}")], "")
    app, path = await host(made, ran)
    async with listening(app) as origin, httpx2.AsyncClient(base_url=origin) as http:
        got = await http.post(path + query, json=MODERN, headers=[*MODERN_HEAD.items(), *lines])
    if way is None:
        assert (got.status_code, ran) == (200, ["ping"]), got.text
        return
    assert ran == []
    assert "pong" not in got.text
    assert got.status_code == 401 or "[token_invalid]" in got.text


@pytest.mark.threat("R02")
@pytest.mark.parametrize("way", list(doubles("x")))
async def test_two_credentials_open_no_session_of_either_transport(way: str) -> None:
    made, records = runtime(["bf:*:tool_access:allow"], config={"tokens": {}, "audience": "bank"})
    server = fast(made, [], MacaroonAuth(made))
    lines, query = doubles(mint(made.keys, subject="alice", audience="bank"))[way]
    for transport, method, path in (("sse", "GET", "/sse"), ("http", "POST", "/mcp")):
        async with (
            listening(server.http_app(transport=transport)) as origin,  # type: ignore[arg-type]
            httpx2.AsyncClient(base_url=origin) as http,
        ):
            headers = [*HEAD.items(), *lines]
            body = rpc(0, "initialize", **CLIENT) if method == "POST" else None
            async with http.stream(method, path + query, headers=headers, json=body) as got:
                assert got.status_code == 401
                missing = await http.request(method, path, headers=HEAD, json=body)
                assert await got.aread() == missing.content, "as without a credential"
    assert [each["code"] for each in records if each["event"] == "token_refused"] == ["credential_repeated"] * 2


@pytest.mark.threat("R02")
@pytest.mark.parametrize("way", list(doubles("x")))
async def test_a_discharge_service_gives_nothing_for_two(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTY_KEY", secrets.token_hex(32))
    discharges = {"location": "https://duty.example", "key": "${PARTY_KEY}"}
    made, _ = runtime(["bf:*:tool_access:allow"], config={"audience": "duty", "tokens": {}, "discharges": discharges})
    app = Starlette(routes=[Mount("/duty", discharge_service(made, auth=tokens(alice={})))])
    lines, query = doubles("alice")[way]
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://duty") as http:
        alone = await http.post("/duty/", json={"ticket": "AAAA"}, headers={"authorization": "Bearer alice"})
        got = await http.post("/duty/" + query, json={"ticket": "AAAA"}, headers=lines)
    assert alone.status_code == 400
    assert got.status_code == 401


WORD = st.text("abcXYZ019-._~+/=", min_size=1, max_size=12)


@pytest.mark.threat("R02")
@given(st.sampled_from(["Bearer", "bearer", "BASIC", "Basic"]), WORD, WORD, st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_one_is_one_and_two_are_two(scheme: str, one: str, other: str, comma: str) -> None:
    line = f"{scheme} {one}".encode()
    assert not has_several([(b"authorization", line), (b"accept", b"a, b")], b"q=access_tokens")
    assert has_several([(b"authorization", line + comma.encode() + other.encode())])
    assert has_several([(b"authorization", line), (b"authorization", f"{scheme} {other}".encode())])
    assert has_several([(b"authorization", line)], f"a=b&access_token={other}".encode())
    digest = f'Digest username="{one}", realm="{other}"'.encode()
    assert not has_several([(b"authorization", digest)])
