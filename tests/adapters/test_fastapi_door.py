"""Nothing leaves a FastAPI application under an output rule but what `permit.release` gave, however it is answered."""

import asyncio
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from guarded import runtime, tokens
from starlette.middleware.base import BaseHTTPMiddleware

from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit, Refused
from mcp_macaroon_middleware.errors import PolicyViolationError

SECRET = "120-55-0199"
RULES: list[Any] = [
    "bf:customer:tool_access:allow",
    "af:customer:field_access:deny:ssn",
    "bf:other:tool_access:allow",
    "af:other:field_access:deny:ssn",
    "bf:plain:tool_access:allow",
]


class Ours(Exception):
    """An exception that the application answers itself."""


def careless(macaroon: Macaroon, app: FastAPI) -> None:
    """Endpoints that try to answer with what they must not."""
    held = Annotated[Permit, Depends(macaroon.requires("customer", releases=True))]
    other = Annotated[Permit, Depends(macaroon.requires("other", releases=True))]
    whole = {"name": "Carol", "ssn": SECRET}

    @app.get("/forgets")
    async def forgets(permit: held) -> Any:
        return whole

    @app.get("/response")
    async def response(permit: held) -> Any:
        return JSONResponse(whole, headers={"x-ssn": SECRET})

    @app.get("/text")
    async def text(permit: held) -> Any:
        return PlainTextResponse(SECRET)

    @app.get("/stream")
    async def stream(permit: held) -> Any:
        async def parts() -> Any:
            yield SECRET

        return StreamingResponse(parts())

    @app.get("/conflict")
    async def conflict(permit: held) -> Any:
        raise HTTPException(409, detail=f"conflict with {SECRET}", headers={"x-ssn": SECRET})

    @app.get("/late")
    async def late(permit: held) -> Any:
        await permit.release(whole)
        raise HTTPException(409, detail=f"conflict with {SECRET}")

    @app.get("/ours")
    async def ours(permit: held) -> Any:
        raise Ours(SECRET)

    @app.get("/policy")
    async def policy(permit: held) -> Any:
        raise PolicyViolationError(f"no {SECRET}")

    @app.get("/fails")
    async def fails(permit: held) -> Any:
        raise RuntimeError(SECRET)

    @app.get("/half")
    async def half(permit: held, second: other) -> Any:
        await permit.release(whole)
        return whole

    @app.get("/twice")
    async def twice(permit: held) -> Any:
        await permit.release(whole)
        return await permit.release(whole)

    @app.get("/hides")
    async def hides(permit: held) -> Any:
        try:
            return await permit.release(object())
        except Refused:
            return whole


def guarded(*, install: bool = True, debug: bool = True, around: Any = None) -> tuple[FastAPI, Macaroon, Any]:
    made, records = runtime(RULES, config={"audience": "b", "tokens": {}})
    macaroon, app = Macaroon(made, auth=tokens(alice={})), FastAPI(debug=debug)
    if around is not None:
        app.add_middleware(BaseHTTPMiddleware, dispatch=around)
    if install:
        macaroon.install(app)
    if around is not None:
        app.add_middleware(BaseHTTPMiddleware, dispatch=around)

    @app.exception_handler(Ours)
    async def answer(request: Request, error: Ours) -> Any:
        return JSONResponse({"detail": str(error)}, 418)

    careless(macaroon, app)

    @app.get("/good")
    async def good(permit: Annotated[Permit, Depends(macaroon.requires("customer", releases=True))]) -> Any:
        return await permit.release({"name": "Carol", "ssn": SECRET})

    @app.get("/both")
    async def both(
        permit: Annotated[Permit, Depends(macaroon.requires("customer", releases=True))],
        second: Annotated[Permit, Depends(macaroon.requires("other", releases=True))],
    ) -> Any:
        await second.release(None)
        return await permit.release({"name": "Carol", "ssn": SECRET})

    @app.get("/nothing")
    async def nothing(permit: Annotated[Permit, Depends(macaroon.requires("customer", releases=True))]) -> Any:
        await permit.release(None)
        return JSONResponse(None, 204)

    @app.get("/unfit")
    async def unfit(permit: Annotated[Permit, Depends(macaroon.requires("customer", releases=True))]) -> Any:
        return await permit.release(object())

    @app.get("/plain")
    async def plain(permit: Annotated[Permit, Depends(macaroon.requires("plain"))], status: int = 200) -> Any:
        if status != 200:
            raise HTTPException(status, detail="as it is")
        return {"who": permit.caller.principal.subject}

    return app, macaroon, records


def client_of(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://b", headers={"authorization": "Bearer alice"})


async def through(request: Request, call_next: Any) -> Any:
    return await call_next(request)


PATHS = {
    "/forgets": 403,
    "/response": 403,
    "/text": 403,
    "/stream": 403,
    "/conflict": 409,
    "/late": 409,
    "/ours": 418,
    "/policy": 403,
    "/fails": 500,
    "/half": 403,
    "/twice": 500,
    "/hides": 403,
}


@pytest.mark.parametrize("around", [None, through], ids=["alone", "among middleware"])
@pytest.mark.parametrize(("path", "status"), PATHS.items())
async def test_what_was_not_released_does_not_leave(path: str, status: int, around: Any) -> None:
    app, _, records = guarded(around=around)
    async with client_of(app) as client:
        answer = await client.get(path)
        assert SECRET not in answer.text
        assert SECRET not in str(answer.headers)
        assert answer.status_code == status
        assert answer.json() == {"code": "withheld", "message": "The answer cannot be shown."}
    ends = [record["request"] for record in records.finals()]
    assert len(ends) == len(set(ends)) == (2 if path == "/half" else 1)
    assert {record["request"] for record in records if record["event"] == "intent"} == set(ends)


@pytest.mark.parametrize(
    ("path", "status", "left"),
    [
        ("/good", 200, {"name": "Carol"}),
        ("/both", 200, {"name": "Carol"}),
        ("/plain", 200, {"who": "alice"}),
        ("/plain?status=409", 409, {"detail": "as it is"}),
        ("/unfit", 403, {"code": "redaction_failed", "message": "The call ran, and its result cannot be shown."}),
    ],
)
async def test_what_was_released_leaves_and_so_does_what_no_output_rule_is_about(
    path: str, status: int, left: Any
) -> None:
    app, _, records = guarded(around=through)
    async with client_of(app) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (status, left)
        assert (await client.get("/nothing")).status_code == 204
    ends = [record["request"] for record in records.finals()]
    assert len(ends) == len(set(ends))


async def test_an_application_without_a_door_runs_no_endpoint_under_an_output_rule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _, records = guarded(install=False, debug=False)
    async with client_of(app) as client:
        for path in (*PATHS, "/good"):
            assert SECRET not in (await client.get(path)).text
        assert (await client.get("/plain")).json() == {"who": "alice"}
    assert {record["outcome"] for record in records.finals()} == {"withheld", "ok"}
    assert "it needs macaroon.install(app)" in caplog.text


async def test_the_door_of_an_application_holds_for_one_that_is_mounted_in_it() -> None:
    app, macaroon, _ = guarded()
    sub = FastAPI()
    macaroon.install(sub)
    careless(macaroon, sub)
    app.mount("/sub", sub)
    outer = FastAPI()
    outer.mount("/alone", sub)
    for whole, prefix in ((app, "/sub"), (outer, "/alone")):
        async with client_of(whole) as client:
            for path, status in PATHS.items():
                answer = await client.get(prefix + path)
                assert SECRET not in answer.text
                assert answer.status_code in (status, 500)


async def test_requests_at_the_same_time_have_each_their_own_door() -> None:
    app, _, _ = guarded()
    async with client_of(app) as client:
        paths = ["/good", "/forgets", "/plain", "/conflict"] * 5
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert [answer.status_code for answer in answers] == [200, 403, 200, 409] * 5
    assert not any(SECRET in answer.text for answer in answers)
