"""The policy around an ASGI application: who calls what, with which arguments, and what leaves."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from guarded import runtime, tokens
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.tokens import KeyRing, ThirdParty, attenuate, bind, discharge, mint, require, unmet

RULES: list[Any] = [
    "bf:GET /customers/{number}:tool_access:allow",
    "af:GET /customers/{number}:field_access:deny:national_id",
    "bf:POST /transfers:tool_access:allow",
    "bf:POST /transfers:argument_range:allow:amount:0:100",
    "bf:GET /text:tool_access:allow",
    "af:GET /text:field_access:deny:x",
    "bf:GET /stream:tool_access:allow",
    "bf:POST /pay:tool_access:elicit",
    "bf:GET /contact:tool_access:allow",
    "af:GET /contact:field_access:elicit:email",
    "bf:GET /often:tool_access:allow",
    "bf:GET /often:rate_limit:allow:2/minute",
    "bf:GET /api/inner/{name}:tool_access:allow",
    "bf:GET /fails:tool_access:allow",
    "bf:GET /error:tool_access:allow",
    "af:GET /error:field_access:deny:detail.secret",
    "bf:GET /secret:tool_access:deny",
]
PLACE = "https://approve.example"
JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}


def application(ran: list[str]) -> Starlette:
    async def customer(request: Request) -> JSONResponse:
        ran.append("customer")
        facts = {"number": request.path_params["number"], "name": "Carol", "national_id": "120-55-0199"}
        return JSONResponse(facts, headers={"ETag": '"whole"', "X-Mine": "kept"})

    async def transfer(request: Request) -> JSONResponse:
        ran.append(f"transfer {await request.json()}")
        return JSONResponse({"booked": True})

    async def pay(request: Request) -> JSONResponse:
        ran.append(f"pay {(await request.json())['amount']}")
        return JSONResponse({"paid": True})

    async def contact(request: Request) -> JSONResponse:
        ran.append("contact")
        return JSONResponse({"name": "Carol", "email": "carol@example.org"})

    async def text(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x is secret")

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for part in (b"one ", b"two"):
                yield part

        return StreamingResponse(parts())

    async def fails(request: Request) -> JSONResponse:
        raise RuntimeError("a secret cause")

    async def error(request: Request) -> JSONResponse:
        return JSONResponse({"detail": {"secret": "1", "why": "bad"}}, 422)

    async def hello(request: Request) -> JSONResponse:
        ran.append(f"hello {request.url.path}")
        return JSONResponse({"hello": request.path_params.get("name", "")})

    async def socket(websocket: Any) -> None:
        raise AssertionError("it must not run")

    inner = Mount("/api", routes=[Route("/inner/{name}", hello)])
    return Starlette(
        routes=[
            Route("/customers/{number}", customer, methods=["GET"]),
            Route("/transfers", transfer, methods=["POST"]),
            Route("/pay", pay, methods=["POST"]),
            Route("/contact", contact),
            Route("/text", text),
            Route("/stream", stream),
            Route("/often", hello),
            Route("/fails", fails),
            Route("/error", error),
            Route("/secret", hello),
            Route("/health", hello),
            inner,
            WebSocketRoute("/ws", socket),
        ]
    )


class Bank:
    """The guarded application, its clients, and what was recorded."""

    def __init__(self, rules: list[Any] = RULES, **config: Any) -> None:
        self.ran: list[str] = []
        self.made, self.records = runtime(rules, config={"audience": "bank", "tokens": {}, **config})
        self.app = MacaroonASGIMiddleware(
            application(self.ran), self.made, auth=tokens(alice={"iss": "https://id"}, bob={}), public=["/health"]
        )

    @asynccontextmanager
    async def client(self, user: str | None = "alice", **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
        if user is not None:
            headers = {"authorization": f"Bearer {user}", **headers}
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://bank", headers=headers) as client:
            yield client

    def ends(self) -> list[tuple[str, str, str]]:
        return [(r["component"]["name"], r["outcome"], r.get("code", "")) for r in self.records.finals()]

    def one_end_each(self) -> bool:
        ends = [record["request"] for record in self.records.finals()]
        intents = {record["request"] for record in self.records if record["event"] == "intent"}
        return len(ends) == len(set(ends)) and intents <= set(ends)


async def test_a_route_is_named_by_its_template_and_its_answer_loses_what_must_not_leave() -> None:
    bank = Bank()
    async with bank.client() as client:
        answer = await client.get("/customers/7?x=1")
        assert answer.json() == {"number": "7", "name": "Carol"}
        assert answer.headers["x-mine"] == "kept"
        assert "etag" not in answer.headers
        assert int(answer.headers["content-length"]) == len(answer.content)
        head = await client.head("/customers/7")
        assert head.content == b""
        assert (await client.get("/api/inner/deep")).json() == {"hello": "deep"}
        assert (await client.get("/stream")).text == "one two"
    assert bank.ends()[0] == ("GET /customers/{number}", "ok", "ok")
    assert bank.one_end_each()


async def test_what_is_denied_or_unknown_answers_as_the_application_does_for_no_path_at_all() -> None:
    bank = Bank()
    async with bank.client() as client:
        answers = [await client.get(path) for path in ("/secret", "/not/there", "/customers", "/health/x")]
        answers.append(await client.post("/secret", json={}))
        answers.append(await client.delete("/customers/7"))
        assert {(answer.status_code, answer.text) for answer in answers} == {(404, "Not Found")}
        assert (await client.get("/health")).status_code == 200
    assert bank.ran == ["hello /health"]
    assert bank.one_end_each()


async def test_a_restricting_rule_for_one_path_holds_for_it_and_for_no_other() -> None:
    bank = Bank([*RULES, {"before": "GET /customers/13", "policy": "tool_access", "action": "deny", "dynamic": True}])
    async with bank.client() as client:
        assert (await client.get("/customers/13")).status_code == 404
        assert (await client.get("/customers/14")).status_code == 200


@pytest.mark.parametrize(
    ("path", "how", "status"),
    [
        ("/transfers", {"json": {"amount": 40}}, 200),
        ("/transfers?amount=40", {"json": {"amount": 40}}, 200),
        ("/transfers", {"json": {"amount": 400}}, 403),
        ("/transfers?amount=40", {"json": {"amount": 400}}, 400),
        (
            "/transfers",
            {"content": b'{"amount": 40, "amount": 400}', "headers": {"content-type": "application/json"}},
            400,
        ),
        ("/transfers", {"content": b'{"amount": NaN}', "headers": {"content-type": "application/json"}}, 400),
        ("/transfers", {"content": b"amount=40", "headers": {"content-type": "text/plain"}}, 400),
        ("/transfers", {"content": b"[40]", "headers": {"content-type": "application/json"}}, 400),
        ("/transfers", {"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ("/transfers", {"json": {}}, 403),
        ("/transfers", {"content": b" " * (2 << 20), "headers": JSON}, 413),
    ],
)
async def test_rules_see_path_query_and_body_as_one_and_what_is_uncertain_is_refused(
    path: str, how: dict[str, Any], status: int
) -> None:
    bank = Bank()
    async with bank.client() as client:
        assert (await client.post(path, **how)).status_code == status
    assert len(bank.ran) == (status == 200)
    assert bank.one_end_each()


async def test_what_is_no_json_or_too_large_or_encoded_is_withheld_under_an_output_rule() -> None:
    bank = Bank()
    async with bank.client() as client:
        answer = await client.get("/text")
        assert answer.status_code == 403
        assert answer.json()["code"] == "no_fields"
        assert "secret" not in answer.text
        answer = await client.get("/error")
        assert (answer.status_code, answer.json()) == (422, {"detail": {"why": "bad"}})
        answer = await client.get("/fails")
        assert answer.status_code == 500
        assert "cause" not in answer.text
    assert ("GET /fails", "error", "") in bank.ends()
    assert bank.one_end_each()


async def test_a_limit_answers_429_and_says_when_to_come_back() -> None:
    bank = Bank()
    async with bank.client() as client:
        answers = [await client.get("/often") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["code"] == "rate_limited"


# --- who calls ----------------------------------------------------------------------------------------------------


async def test_a_person_is_the_same_principal_by_oauth_and_by_token() -> None:
    bank = Bank(identity={"token_namespace": "https://id"})
    token = mint(bank.made.keys, subject="alice", audience="bank")
    for credential in ("alice", token):
        async with bank.client(credential) as client:
            assert (await client.get("/customers/7")).status_code == 200
    whom = [record["principal"] for record in bank.records.finals()]
    assert whom == [{"kind": "user", "namespace": "https://id", "subject": "alice"}] * 2


async def test_a_token_is_held_to_its_caveats_and_ends_when_it_is_revoked() -> None:
    bank = Bank()
    token = mint(bank.made.keys, subject="alice", audience="bank")
    narrow = attenuate(token, "bf:POST /transfers:tool_access:deny", "af:*:field_access:deny:name")
    async with bank.client(narrow) as client:
        assert (await client.get("/customers/7")).json() == {"number": "7"}
        assert (await client.post("/transfers", json={"amount": 1})).status_code == 404
        bearers = bank.made.bearers
        assert bearers is not None
        await bearers.revocations.revoke((await bearers.accept(token)).token.id)
        assert (await client.get("/customers/7")).status_code == 401


@pytest.mark.threat("A17")
async def test_a_credential_that_does_not_count_gets_401_and_nothing_more() -> None:
    bank = Bank()
    expired = mint(bank.made.keys, subject="alice", audience="bank", expires=timedelta(seconds=-1))
    other = mint(bank.made.keys, subject="alice", audience="mail")
    for credential in (expired, other, "mm_nonsense", "nobody"):
        async with bank.client(credential) as client:
            answer = await client.get("/customers/7")
            assert (answer.status_code, answer.json()) == (401, {"code": "unauthenticated"})
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    async with bank.client(None) as client:
        answer = await client.get("/customers/7")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    async with bank.client(None, authorization="Basic YTpi") as client:
        assert (await client.get("/customers/7")).status_code == 401
    codes = [record["code"] for record in bank.records if record["event"] == "token_refused"]
    assert codes[:2] == ["token_expired", "token_audience"]
    assert bank.ran == []
    assert bank.one_end_each()


async def test_anonymous_callers_are_served_where_the_file_names_them() -> None:
    bank = Bank(identity={"anonymous": "guest"})
    async with bank.client(None) as client:
        assert (await client.get("/customers/7")).status_code == 200
    assert bank.records.finals()[0]["principal"]["kind"] == "anonymous"


async def test_discharges_come_in_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = secrets.token_hex(32)
    monkeypatch.setenv("PARTY_KEY", shared)
    bank = Bank(third_party=[{"location": PLACE, "key": "${PARTY_KEY}"}])
    party = ThirdParty(location=PLACE, key=KeyRing.from_secret(shared))
    token = require(mint(bank.made.keys, subject="alice", audience="bank"), party, subject="alice", audience="bank")
    found = bind(token, [discharge(party.open(ticket), ticket) for _, ticket in unmet(token)])
    async with bank.client(token, **{"Macaroon-Discharge": ", ".join(found)}) as client:
        assert (await client.get("/customers/7")).status_code == 200
    async with bank.client(token) as client:
        assert (await client.get("/customers/7")).status_code == 401


async def test_a_store_that_cannot_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank()
    token = mint(bank.made.keys, subject="alice", audience="bank")

    async def fails(*_: Any) -> Any:
        raise StoreUnavailable("down")

    monkeypatch.setattr(bank.made.store, "get", fails)
    monkeypatch.setattr(bank.made.store, "add", fails)
    async with bank.client(token) as client:
        assert (await client.get("/customers/7")).status_code == 503
    async with bank.client() as client:
        assert (await client.get("/often")).status_code == 503
    assert bank.ran == []


# --- questions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["oauth", "token"])
async def test_a_question_before_the_request_is_answered_once_by_who_was_asked(by: str) -> None:
    bank = Bank()
    user = "alice" if by == "oauth" else mint(bank.made.keys, subject="alice", audience="bank")
    async with bank.client(user) as client, bank.client("bob") as bob:
        answer = await client.post("/pay", json={"amount": 400})
        assert answer.status_code == 403
        facts = answer.json()
        assert facts["code"] == "approval_required"
        (challenge,) = facts["challenges"]
        assert "amount: 400" in challenge["message"]
        assert list(challenge["choices"][0]) == ["deny", "once", "period"]
        assert bank.ran == []
        place = f"/approvals/{challenge['id']}"
        assert (await bob.post(place, json={"choices": ["once"]})).status_code == 403
        assert (await client.post(place, content=b"choices=once")).status_code == 400
        assert (await client.post(place, content=b'{"choices": ["once"]}', headers=TEXT)).status_code == 400
        assert (await client.post(place, json={"choices": "once"})).status_code == 400
        assert (await client.post(place, json={"choices": ["once"]})).json() == {"allowed": True}
        assert (await client.post(place, json={"choices": ["once"]})).status_code == 403
        assert (await client.post("/pay", json={"amount": 4_000})).status_code == 403
        at_once = await asyncio.gather(*(client.post("/pay", json={"amount": 400}) for _ in range(4)))
        assert sorted(each.status_code for each in at_once) == [200, 403, 403, 403]
    assert bank.ran == ["pay 400"]
    assert bank.one_end_each()


@pytest.mark.parametrize(
    ("says", "shown"), [("once", {"name": "Carol", "email": "carol@example.org"}), ("deny", {"name": "Carol"})]
)
async def test_an_answer_of_the_application_waits_for_a_person_and_its_request_runs_once(
    says: str, shown: dict[str, str]
) -> None:
    bank = Bank()
    async with bank.client() as client, bank.client("bob") as bob:
        facts = (await client.get("/contact")).json()
        assert facts["code"] == "approval_required"
        assert "carol@" not in json.dumps(facts)
        place = f"/approvals/{facts['challenges'][0]['id']}"
        assert (await bob.post(place, json={"choices": ["once"]})).status_code == 403
        answer = await client.post(place, json={"choices": [says]})
        assert (answer.status_code, answer.json()) == (200, shown)
        assert (await client.post(place, json={"choices": ["once"]})).status_code == 403
    assert bank.ran == ["contact"]
    assert bank.one_end_each()


# --- the rest -----------------------------------------------------------------------------------------------------


async def test_websockets_are_refused_and_preflights_pass() -> None:
    bank = Bank()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await bank.app({"type": "websocket", "path": "/ws", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "not allowed"}]
    async with bank.client(None) as client:
        preflight = {"origin": "https://x.example", "access-control-request-method": "GET"}
        assert (await client.options("/customers/7", headers=preflight)).status_code == 404
        assert (await client.options("/customers/7")).status_code == 401


async def test_a_request_that_is_cancelled_has_its_record() -> None:
    started = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await asyncio.sleep(60)

    made, records = runtime(["bf:GET /slow:tool_access:allow"], config={"identity": {"anonymous": "guest"}})
    app = MacaroonASGIMiddleware(slow, made)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        call = asyncio.create_task(client.get("/slow"))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [record["outcome"] for record in records.finals()] == ["cancelled"]


async def test_it_stands_in_a_fastapi_application_as_any_middleware() -> None:
    made, _ = runtime(["bf:GET /items/{id}:tool_access:allow", "af:*:field_access:deny:secret"])
    app = FastAPI()
    app.add_middleware(MacaroonASGIMiddleware, source=made, auth=tokens(alice={}))

    @app.get("/items/{id}")
    def item(id: int) -> dict[str, Any]:
        return {"id": id, "secret": "s"}

    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/items/3", headers={"authorization": "Bearer alice"})
        assert answer.json() == {"id": 3}
        assert (await client.get("/nothing", headers={"authorization": "Bearer alice"})).json() == {
            "detail": "Not Found"
        }
