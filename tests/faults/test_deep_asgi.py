"""The same depth at the door of an ASGI application: a body, and an answer under an output rule."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from guarded import runtime
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware

pytestmark = pytest.mark.threat("P01")

DEEP = 100_000
RULES: list[Any] = [
    "bf:POST /take:tool_access:allow",
    "bf:POST /take:argument_range:allow:amount:0:100",
    "bf:GET /give:tool_access:allow",
    "af:GET /give:field_access:deny:ssn",
]
NESTED = ["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP]


@pytest.mark.parametrize("nested", NESTED, ids=["lists", "objects", "never-closed"])
async def test_a_body_and_an_answer_of_an_application(nested: str) -> None:
    ran: list[str] = []

    async def take(request: Request) -> Response:
        ran.append("take")
        return Response("{}", media_type="application/json")

    async def give(request: Request) -> Response:
        return Response(nested, media_type="application/json")

    made, records = runtime(RULES, config={"identity": {"anonymous": "anyone"}})
    app = Starlette(routes=[Route("/take", take, methods=["POST"]), Route("/give", give)])
    guarded = MacaroonASGIMiddleware(app, made)
    transport = httpx2.ASGITransport(app=guarded)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for body in (nested, f'{{"amount": {nested}}}', f'{{"amount": 1, "more": {nested}}}'):
            refused = await client.post("/take", content=body, headers={"content-type": "application/json"})
            assert 400 <= refused.status_code < 500
            assert len(refused.text) < 2_000
        withheld = await client.get("/give")
        assert withheld.status_code >= 400
        assert len(withheld.text) < 2_000
        fine = await client.post("/take", json={"amount": 7})
        assert fine.status_code == 200
    assert ran == ["take"]
    ends = [record["request"] for record in records.finals()]
    assert len(ends) == len(set(ends)) == 5
    assert "internal" not in [record.get("code") for record in records]
