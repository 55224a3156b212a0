"""Bad credentials: one event a second and address for each fault, slower answers, and nobody else is kept waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastmcp import FastMCP
from guarded import runtime
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastmcp import guard
from mcp_macaroon_middleware.adapters.fastmcp.auth import MacaroonAuth
from mcp_macaroon_middleware.core import floods
from mcp_macaroon_middleware.core.floods import BadCredentials
from mcp_macaroon_middleware.tokens import mint


class Told(list[dict[str, Any]]):
    """Events, and the time that they happen at."""

    at = 0.0

    def event(self, name: str, facts: Any) -> None:
        assert name == "token_refused"
        self.append(dict(facts))

    def folding(self) -> BadCredentials:
        return BadCredentials(self.event, lambda: self.at)


@pytest.mark.threat("R16")
def test_a_flood_is_one_event_a_second_and_says_how_many_there_were() -> None:
    told = Told()
    bad = told.folding()
    for number in range(5_000):
        told.at = number / 1000
        bad.note("token_malformed", "10.0.0.1")
    assert len(told) == 5 * floods.SINGLE
    bad.close()
    assert sum(each.get("repeated", 1) for each in told) == 5_000


@pytest.mark.threat("R16")
def test_another_address_and_another_fault_are_told_apart_and_one_network_is_one() -> None:
    told = Told()
    bad = told.folding()
    for address in ("10.0.0.1", "10.0.0.2", None, "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"):
        for code in ("token_malformed", "token_expired"):
            bad.note(code, address)
    assert len(told) == 2 * (4 + floods.SINGLE)


@pytest.mark.threat("R16")
def test_any_number_of_addresses_takes_no_more_room() -> None:
    told = Told()
    bad = told.folding()
    for number in range(20_000):
        bad.note("token_malformed", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(told) == floods.MOST + floods.SINGLE
    assert len(bad._sources) == floods.MOST + 1
    bad.close()
    assert told[-1] == {
        "code": "token_malformed",
        "client_address": "others",
        "repeated": 20_000 - floods.MOST - floods.SINGLE,
    }


async def test_only_what_comes_too_often_is_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(floods.asyncio, "sleep", sleep)
    bad = Told().folding()
    for number in range(floods.QUICK + 3):
        bad.note("token_malformed", "10.0.0.1")
        await bad.slow("token_malformed", "10.0.0.1")
        assert len(slept) == max(number + 1 - floods.QUICK, 0)
    await bad.slow("token_malformed", "10.0.0.2")
    assert slept == [floods.DELAY] * 3


async def served(host: str) -> tuple[Any, Any, Any]:
    made, records = runtime(["bf:*:tool_access:allow"], config={"audience": "a", "tokens": {}})
    if host == "web":

        async def contact(request: Request) -> JSONResponse:
            return JSONResponse({})

        return MacaroonASGIMiddleware(Starlette(routes=[Route("/mcp", contact, methods=["POST"])]), made), made, records
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))
    guard(server, made)
    return server.http_app(stateless_http=True), made, records


@pytest.mark.threat("R16")
@pytest.mark.parametrize("host", ["web", "fastmcp"])
async def test_a_flood_of_bad_bearers_hardly_grows_the_record_and_refuses_nobody_else(host: str) -> None:
    """attacks, the flood of 137-byte records."""
    app, made, records = await served(host)
    transport = httpx2.ASGITransport(app=app)
    good = mint(made.keys, subject="alice", audience="a") if hasattr(made, "keys") else None
    async with httpx2.AsyncClient(transport=transport, base_url="http://b") as client:

        async def send(token: str) -> int:
            return (await client.post("/mcp", json={}, headers={"authorization": f"Bearer {token}"})).status_code

        before = len(records)
        ends = await asyncio.gather(*(send(f"mm_{number}") for number in range(200)))
        assert set(ends) == {401}
        assert len(records) - before <= 4 * floods.SINGLE
        if good is not None and host == "web":
            assert await send(good) == 200
    made.bad_credentials.close()
    refused = [record for record in records if record["event"] == "token_refused"]
    assert sum(record.get("repeated", 1) for record in refused) == 200
