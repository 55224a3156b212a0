"""What goes wrong around an ASGI application: the store, a provider, a client, the application; and empty answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from guarded import runtime, tokens
from lab import Records
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.asgi_desk import Refused
from mcp_macaroon_middleware.config.runtime import Runtime
from mcp_macaroon_middleware.core.audit import SinkSlot
from mcp_macaroon_middleware.core.clock import SystemClock
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.model import Refusal
from mcp_macaroon_middleware.tokens import mint

SECRET = "120-55-0199"


async def contact(request: Request) -> JSONResponse:
    return JSONResponse({"name": "Carol", "ssn": SECRET}, headers={"ETag": '"whole"'})


async def pay(request: Request) -> JSONResponse:
    return JSONResponse({"paid": True})


async def fails(request: Request) -> JSONResponse:
    raise RuntimeError(f"no such {SECRET}")


async def nothing(request: Request) -> Response:
    status = int(request.path_params["status"])
    return Response(status_code=status, headers={"etag": '"whole"', "x-mine": "kept"})


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What `FileResponse` does for HEAD: the length of what it does not send."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"99"), (b"etag", b"x")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class Bare:
    """An endpoint that is an ASGI application."""

    def __init__(self) -> None:
        self.routes = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await bare(scope, receive, send)


async def moved(request: Request) -> Response:
    return RedirectResponse("/contact")


async def stream(request: Request) -> Response:
    async def parts() -> Any:
        yield SECRET

    return StreamingResponse(parts())


def guarded(rules: list[Any], *, auth: Any = None, **config: Any) -> tuple[MacaroonASGIMiddleware, Runtime, Records]:
    made, records = runtime(rules, config={"audience": "b", "tokens": {}, **config})
    routes = [
        Route("/contact", contact),
        Route("/pay", pay, methods=["POST"]),
        Route("/fails", fails),
        Route("/nothing/{status}", nothing, methods=["GET", "PUT"]),
        Route("/bare", Bare()),
        Route("/moved", moved),
        Route("/stream", stream),
    ]
    app = Starlette(routes=routes, debug=True)
    return MacaroonASGIMiddleware(app, made, auth=auth or tokens(alice={})), made, records


def client_of(app: Any, user: str = "alice") -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://b", headers={"authorization": f"Bearer {user}"})


def broken(made: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("down")

    for name in ("get", "put", "swap", "take", "add"):
        monkeypatch.setattr(made.store, name, down)


# --- 503 --------------------------------------------------------------------------------------------------------------


async def test_an_answer_that_the_store_cannot_take_is_503_with_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    app, made, records = guarded(["bf:POST /pay:tool_access:elicit"])
    async with client_of(app) as client:
        (challenge,) = (await client.post("/pay", json={})).json()["challenges"]
        broken(made, monkeypatch)
        answer = await client.post(f"/approvals/{challenge['id']}", json={"choices": ["once"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    ends = [(r["component"]["name"], r["outcome"], r["code"]) for r in records.finals()[1:]]
    assert ends == [("POST /approvals/{id}", "denied", "store_unavailable")]


class Failing:
    """A provider whose key server is down."""

    async def verify_token(self, token: str) -> Any:
        raise ConnectionError(f"no key for {token}")


@pytest.mark.threat("A17")
@pytest.mark.parametrize(("method", "path"), [("GET", "/contact"), ("POST", "/approvals/x")])
async def test_a_provider_that_fails_admits_nobody_with_503_and_one_record(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, _, records = guarded(["bf:*:tool_access:allow"], auth=Failing())
    async with client_of(app, "a-credential") as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "internal")
        assert "a-credential" not in answer.text
    assert [(r["outcome"], r["code"], r["detail"]) for r in records.finals()] == [
        ("denied", "internal", "ConnectionError")
    ]
    assert "a-credential" not in caplog.text


async def test_an_audit_log_that_fails_is_503_for_an_answer_too() -> None:
    app, made, records = guarded(["bf:POST /pay:tool_access:elicit"])
    async with client_of(app) as client:
        (challenge,) = (await client.post("/pay", json={})).json()["challenges"]
        made.audit._slots = (SinkSlot(name="list", sink=records, required=True),)
        records.broken = True
        answer = await client.post(f"/approvals/{challenge['id']}", json={"choices": ["once"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_that_ends_while_it_is_judged_is_401_with_its_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    app, made, records = guarded(["bf:GET /contact:tool_access:allow"])
    token = mint(made.keys, subject="alice", audience="b", expires=timedelta(seconds=60))

    class Later(SystemClock):
        def now(self) -> datetime:
            return datetime.now(UTC) + timedelta(seconds=120)

    monkeypatch.setattr(made.engine, "_clock", Later())
    async with client_of(app, token) as client:
        answer = await client.get("/contact")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert [record["code"] for record in records.finals()] == ["token_expired"]


# --- empty answers ----------------------------------------------------------------------------------------------------

FIELDS = ["bf:*:tool_access:allow", "af:*:field_access:deny:ssn"]


@pytest.mark.parametrize("rules", [FIELDS, ["bf:*:tool_access:allow", "af:*:field_access:only:name"]])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/nothing/204", 204),
        ("GET", "/nothing/304", 304),
        ("GET", "/nothing/200", 200),
        ("HEAD", "/bare", 200),
        ("GET", "/moved", 307),
    ],
)
async def test_an_empty_answer_has_nothing_to_withhold(method: str, path: str, status: int, rules: list[Any]) -> None:
    app, _, records = guarded(rules)
    async with client_of(app) as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert "etag" not in answer.headers
        assert answer.headers.get("content-length", "0") == "0"
        assert answer.headers.get("x-mine") == ("kept" if "nothing" in path else None)
    assert [record["outcome"] for record in records.finals()] == ["ok"]


async def test_an_answer_to_head_that_has_a_body_loses_its_fields() -> None:
    app, _, _ = guarded(FIELDS)
    got: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        got.append(message)

    headers = [(b"authorization", b"Bearer alice")]
    scope = {"type": "http", "method": "HEAD", "path": "/contact", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    assert SECRET not in repr(got)


async def test_what_cannot_be_looked_at_is_withheld_and_is_not_taken_for_empty() -> None:
    app, _, _ = guarded(FIELDS)

    async def never_ends(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/etc/passwd"})

    unended = MacaroonASGIMiddleware(never_ends, guarded(FIELDS)[1], auth=tokens(alice={}))
    for guard, path in ((app, "/stream"), (unended, "/x")):
        async with client_of(guard) as client:
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (403, "no_fields")


# --- the application fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stands", ["outside", "inside"])
async def test_what_an_exception_says_leaves_by_no_page_of_errors(stands: str) -> None:
    made, records = runtime(FIELDS, config={"audience": "b", "tokens": {}})
    app: Any = Starlette(routes=[Route("/fails", fails)], debug=True)
    if stands == "outside":
        app = MacaroonASGIMiddleware(app, made, auth=tokens(alice={}))
    else:
        app.add_middleware(MacaroonASGIMiddleware, source=made, auth=tokens(alice={}))
    async with client_of(app) as client:
        answer = await client.get("/fails")
    assert answer.status_code >= 400
    assert SECRET not in answer.text
    assert [(record["outcome"], record["detail"]) for record in records.finals()] == [("error", "RuntimeError")]


# --- the client fails -------------------------------------------------------------------------------------------------


async def ask(app: Any, receive: Any, path: str = "/pay") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer alice"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return sent


async def test_a_client_that_goes_away_within_its_body_runs_nothing_and_has_its_record() -> None:
    app, _, records = guarded(["bf:POST /pay:tool_access:allow"])
    inbox = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        return inbox.pop()

    assert await ask(app, receive) == []
    assert [record["outcome"] for record in records.finals()] == ["cancelled"]


class Slow:
    """A provider that takes its time."""

    async def verify_token(self, token: str) -> Any:
        await asyncio.sleep(60)


@pytest.mark.parametrize("slow", ["provider", "body"])
async def test_a_request_that_is_cancelled_before_it_is_judged_has_its_record(slow: str) -> None:
    app, _, records = guarded(["bf:POST /pay:tool_access:allow"], auth=Slow() if slow == "provider" else None)

    async def receive() -> Any:
        await asyncio.sleep(60)

    call = asyncio.create_task(ask(app, receive))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [record["outcome"] for record in records.finals()] == ["cancelled"]


async def test_a_request_that_is_cancelled_while_its_result_is_judged_has_its_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, made, records = guarded(FIELDS)
    judging = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> Any:
        judging.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(made.engine, "finish", slow)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    call = asyncio.create_task(ask(app, receive))
    await judging.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [record["outcome"] for record in records.finals()] == ["cancelled"]


async def test_an_application_that_uses_our_exceptions_itself_is_not_taken_for_us() -> None:
    async def raises(scope: Any, receive: Any, send: Any) -> None:
        raise Refused(JSONResponse({"mine": SECRET}), Refusal(code="x", reason="x"))

    app = MacaroonASGIMiddleware(raises, guarded(FIELDS)[1], auth=tokens(alice={}))
    async with client_of(app) as client:
        answer = await client.get("/x")
    assert (answer.status_code, answer.json()["code"]) == (500, "withheld")


async def test_a_scope_of_an_unknown_kind_reaches_nobody() -> None:
    app, _, _ = guarded(["bf:*:tool_access:allow"])

    async def unheard(*_: Any) -> Any:
        raise AssertionError("it must not run")

    app.app = unheard
    await app({"type": "webtransport", "path": "/contact", "headers": []}, unheard, unheard)
