"""Which route a request is for: whatever its spelling, wherever the application is mounted, whatever stands around."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI
from guarded import runtime, tokens
from lab import Records
from serving import listening
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.staticfiles import StaticFiles

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware

OPEN = {"audience": "bank", "tokens": {}, "default": "allow"}
SHUT = {**OPEN, "default": "deny"}


def guarded(app: Any, rules: list[Any], config: dict[str, Any] = OPEN, **more: Any) -> tuple[Any, Records]:
    made, records = runtime(rules, config=config)
    return MacaroonASGIMiddleware(app, made, auth=tokens(alice={}), **more), records


def client_of(app: Any, root: str = "") -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, root_path=root, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://bank", headers={"authorization": "Bearer alice"})


async def customer(request: Request) -> JSONResponse:
    return JSONResponse({"number": str(request.path_params["number"]), "ssn": "120-55-0199"})


def bank() -> Starlette:
    return Starlette(
        routes=[Route("/customers/{number}", customer), Route("/typed/{number:int}", customer)],
    )


RULES = [
    "bf:GET /customers/{number}:tool_access:allow",
    "bf:GET /customers/7:tool_access:deny",
    "af:GET /customers/{number}:field_access:deny:ssn",
]

# --- where the application stands -------------------------------------------------------------------------------------


class Plain:
    """A middleware that shows what it wraps."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Hiding:
    """A middleware that does not show what it wraps."""

    def __init__(self, app: Any) -> None:
        self._inner = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)


def mounted(app: Any) -> Any:
    return Starlette(routes=[Mount("/bank", app=app), Route("/customers/{another}", customer)])


@pytest.mark.parametrize("config", [OPEN, SHUT], ids=["allow", "deny"])
@pytest.mark.parametrize(
    ("around", "path", "root"),
    [
        (lambda app: app, "/customers", ""),
        (mounted, "/bank/customers", ""),
        (lambda app: mounted(mounted(app)), "/bank/bank/customers", ""),
        (lambda app: app, "/api/customers", "/api"),
        (mounted, "/api/bank/customers", "/api"),
    ],
    ids=["alone", "mounted", "mounted twice", "root path", "root path and mounted"],
)
async def test_rules_hold_wherever_the_application_is_mounted(
    around: Callable[[Any], Any], path: str, root: str, config: dict[str, Any]
) -> None:
    guard, records = guarded(bank(), RULES, config)
    async with client_of(around(guard), root) as client:
        assert (await client.get(f"{path}/7")).status_code == 404
        assert (await client.get(f"{path}/8")).json() == {"number": "8"}
    assert {record["component"]["name"] for record in records.finals()} == {"GET /customers/{number}"}


@pytest.mark.parametrize("config", [OPEN, SHUT], ids=["allow", "deny"])
async def test_a_mounted_application_that_guards_itself_is_judged_by_its_own_routes(config: dict[str, Any]) -> None:
    made, _ = runtime(RULES, config=config)
    sub = FastAPI()
    sub.add_middleware(Plain)
    sub.add_middleware(MacaroonASGIMiddleware, source=made, auth=tokens(alice={}))
    sub.add_route("/customers/{number}", customer)
    outer = FastAPI()
    outer.add_middleware(Plain)
    outer.mount("/bank", sub)
    async with client_of(outer) as client:
        assert (await client.get("/bank/customers/7")).status_code == 404
        assert (await client.get("/bank/customers/8")).json() == {"number": "8"}


async def test_routes_are_found_through_a_middleware_that_hides_them_where_the_application_is_ours() -> None:
    made, _ = runtime(RULES, config=OPEN)
    guard = Middleware(MacaroonASGIMiddleware, source=made, auth=tokens(alice={}))
    app = Starlette(routes=bank().routes, middleware=[guard, Middleware(Hiding)])
    async with client_of(app) as client:
        assert (await client.get("/customers/7")).status_code == 404
        assert (await client.get("/customers/8")).json() == {"number": "8"}


@pytest.mark.parametrize("inside", [False, True])
async def test_where_routes_cannot_be_told_nothing_passes_that_a_rule_may_be_about(inside: bool) -> None:
    app = Starlette(routes=[Mount("/bank", app=Hiding(bank()))]) if inside else Hiding(bank())
    prefix = "/bank" if inside else ""
    rules = [f"af:GET {prefix}/customers/{{number}}:field_access:deny:ssn"]
    guard, records = guarded(app, rules)
    async with client_of(guard) as client:
        assert (await client.get(f"{prefix}/customers/8")).status_code == 404
    assert records.finals()[0]["detail"] == "the path holds a route that cannot be told"
    guard, _ = guarded(app, [f"bf:GET {prefix}/customers/7:tool_access:deny"])
    async with client_of(guard) as client:
        assert (await client.get(f"{prefix}/customers/7")).status_code == 404
        assert (await client.get(f"{prefix}/customers/8")).status_code == 200


async def test_a_route_whose_name_cannot_be_told_is_refused_and_so_is_one_that_cannot_be_matched() -> None:
    class Strange(Route):
        def matches(self, scope: Any) -> Any:
            found = super().matches(scope)
            self.path = None  # type: ignore[assignment]
            return found

    guard, records = guarded(Starlette(routes=[Strange("/a", customer), *bank().routes]), [])
    async with client_of(guard) as client:
        assert (await client.get("/a")).status_code == 404
        assert (await client.get(f"/typed/{'9' * 5000}")).status_code == 404
    assert [record["code"] for record in records.finals()] == ["unknown_component"] * 2


async def test_routes_of_included_routers_hosts_and_nested_mounts_have_their_whole_template() -> None:
    router, inner = APIRouter(), APIRouter(prefix="/deep")

    @router.get("/{number}")
    @inner.get("/{number}")
    def read(number: int) -> dict[str, Any]:
        return {"number": number, "ssn": "1"}

    router.include_router(inner)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    app.mount("/sub/{tenant}", Plain(bank()))
    app.router.routes.append(Host("other", app=bank()))
    rules = [
        "af:GET /v1/{number}:field_access:deny:ssn",
        "af:GET /v1/deep/{number}:field_access:deny:ssn",
        "af:GET /sub/{tenant}/customers/{number}:field_access:deny:ssn",
        "bf:GET /sub/a/customers/7:tool_access:deny",
        "bf:GET /v1/7:tool_access:deny",
    ]
    guard, records = guarded(app, rules)
    async with client_of(guard) as client:
        for path in ("/v1/7", "/v1/07", "/sub/a/customers/7"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/v1/8")).json() == {"number": 8}
        assert (await client.get("/v1/deep/8")).json() == {"number": 8}
        assert (await client.get("/sub/b/customers/7")).json() == {"number": "7"}
        host = {"host": "other"}
        assert (await client.get("/typed/1", headers=host)).json()["number"] == "1"
    assert records.finals()[-1]["component"]["name"] == "GET /typed/{number:int}"


# --- spellings --------------------------------------------------------------------------------------------------------


def shop(folder: Path) -> FastAPI:
    (folder / "secret.txt").write_text("TOPSECRET")
    (folder / "pub.txt").write_text("pub")
    app = FastAPI()
    app.mount("/files", StaticFiles(directory=folder))
    app.router.routes.append(Route("/typed/{number:int}", customer))
    app.router.routes.append(Route("/price/{number:float}", customer))
    app.router.routes.append(Route("/key/{number:uuid}", customer))
    app.router.routes.append(Route("/texts/{number}", customer))

    @app.get("/customers/{number}")
    async def read(number: int) -> dict[str, Any]:
        return {"number": number}

    @app.get("/items/{item:path}")
    async def item(item: str) -> dict[str, Any]:
        return {"item": item}

    return app


KEY = "0b9a2f4e-1c3d-4e5f-8a7b-6c5d4e3f2a1b"
DENIED = [
    "bf:GET /files/secret.txt:tool_access:deny",
    "bf:GET /customers/7:tool_access:deny",
    "bf:GET /typed/7:tool_access:deny",
    "bf:GET /price/7:tool_access:deny",
    rf"bf:GET /key/{KEY}:tool_access:deny",
    "bf:GET /items/docs/a:tool_access:deny",
]


@pytest.mark.parametrize(
    "path",
    [
        "/files/secret.txt",
        "/files//secret.txt",
        "//files/secret.txt",
        "/files/secret.txt/",
        "/files/x/%2e%2e/secret.txt",
        "/files/%2e/secret.txt",
        "/files/x%2f%2e%2e%2fsecret.txt",
        "/files/%73ecret.txt",
        "/files/.%5csecret.txt",
        "/customers/7",
        "/customers/07",
        "/customers/+7",
        "/customers/%2B7",
        "/customers/%207",
        "/customers/7.0",
        "/customers/7%0A",
        "/typed/7",
        "/typed/007",
        "/typed/7%0a",
        "/price/7.0",
        "/price/7.00",
        f"/key/{KEY.upper()}",
        f"/key/{KEY.replace('-', '')}",
        "/items/docs/a",
        "/items/docs//a",
        "/items/docs/b/../a",
        "/items/docs%2Fa",
        "/items/docs/%2e/a",
        "/items/docs/%252e/a",
        "/items/docs/a/",
    ],
)
async def test_a_rule_for_one_path_holds_for_every_spelling_of_it(path: str, tmp_path: Path) -> None:
    guard, records = guarded(shop(tmp_path), DENIED)
    async with client_of(guard) as client:
        request = client.build_request("GET", "http://bank/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await client.send(request)
        assert answer.status_code in (404, 422)
        assert "TOPSECRET" not in answer.text
    assert [record["outcome"] for record in records.finals()] == ["denied"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/files/pub.txt", 200),
        ("/customers/70", 200),
        ("/customers/x", 422),
        ("/typed/8", 200),
        ("/price/7.5", 200),
        ("/texts/caf%C3%A9%20au%20lait", 200),
        ("/texts/a%40b", 200),
        ("/items/docs/b.c/x", 200),
        ("/texts/7", 200),
    ],
)
async def test_other_paths_pass(path: str, status: int, tmp_path: Path) -> None:
    guard, _ = guarded(shop(tmp_path), DENIED)
    async with client_of(guard) as client:
        assert (await client.get(path)).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/items/x%2Fb",
        "/items/x%5cb",
        "/items/%2e%2e/b",
        "/items/%2E/b",
        "/items/%252e",
        "/items/docs/b.c/...",
        "/items/docs./b",
        "/items/docs%20/b",
        "/items/b%20",
        "/items/x%252fb",
        "/items/x%0ab",
        "/items/x%00b",
        "/texts/x%7f",
    ],
)
async def test_a_path_that_could_mean_two_things_is_unknown_whatever_the_rules_say(path: str, tmp_path: Path) -> None:
    guard, records = guarded(shop(tmp_path), ["bf:*:tool_access:allow"])
    async with client_of(guard) as client:
        request = client.build_request("GET", "http://bank/")
        request.url = request.url.copy_with(raw_path=path.encode())
        assert (await client.send(request)).status_code == 404
    (end,) = records.finals()
    assert (end["code"], end["detail"].startswith("the path holds ")) == ("unknown_component", True)


async def test_a_granting_rule_may_name_one_path_and_grants_no_other_spelled_like_it(tmp_path: Path) -> None:
    guard, _ = guarded(shop(tmp_path), ["bf:GET /files/pub.txt:tool_access:allow"], SHUT)
    async with client_of(guard) as client:
        assert (await client.get("/files/pub.txt")).text == "pub"
        for path in ("/files/secret.txt", "/files/pub.txt/", "/files/pub.txt/../secret.txt", "/files"):
            assert (await client.get(path)).status_code == 404


async def test_a_limit_counts_a_route_whatever_its_parameters() -> None:
    guard, _ = guarded(bank(), ["bf:GET /customers/{number}:rate_limit:allow:2/minute"])
    async with client_of(guard) as client:
        assert [(await client.get(f"/customers/{n}")).status_code for n in (1, 2, 3, "03")] == [200, 200, 429, 429]


async def test_a_real_server_hands_on_no_spelling_that_a_rule_misses(tmp_path: Path) -> None:
    guard, _ = guarded(shop(tmp_path), DENIED)
    async with listening(guard) as origin:
        for path in ("/files/secret.txt", "//files/secret.txt", "/files/x/%2e%2e/secret.txt", "/files%2Fsecret.txt"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(origin.rpartition(":")[2]))
            head = f"GET {path} HTTP/1.1\r\nHost: bank\r\nAuthorization: Bearer alice\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"TOPSECRET" not in answer


# --- what is refused never runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [OPEN, SHUT], ids=["allow", "deny"])
async def test_an_application_that_answers_every_path_answers_none_that_is_denied(config: dict[str, Any]) -> None:
    ran: list[str] = []

    async def everything(request: Request) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse("secret")

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await (await everything(Request(scope)))(scope, receive, send)

    for app in (Starlette(routes=[Route("/{path:path}", everything)]), bare):
        guard, _ = guarded(app, ["bf:GET /a:tool_access:deny"], config)
        async with client_of(guard) as client:
            answer = await client.get("/a")
            assert (answer.status_code, answer.text) == (404, "Not Found")
    assert ran == []


def as_text(number: str) -> str:
    return number


async def test_what_looks_like_a_preflight_runs_no_route() -> None:
    ran: list[str] = []

    async def anything(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])
        await PlainTextResponse("secret")(scope, receive, send)

    async def options(request: Request) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse("secret")

    app = Starlette(
        routes=[Mount("/any", app=anything), Route("/a", options, methods=["OPTIONS"]), Route("/b", customer)]
    )
    preflight = {"origin": "https://x.example", "access-control-request-method": "GET", "authorization": ""}
    for whole in (app, Starlette(routes=[Mount("", app=app)]), anything):
        guard, _ = guarded(whole, [])
        async with client_of(guard) as client:
            for path in ("/any/x", "/a"):
                assert (await client.options(path, headers=preflight)).status_code == 401
            status = (await client.options("/b", headers=preflight)).status_code
            assert status == (401 if whole is anything else 404)
    assert ran == []


async def test_typed_parameters_are_judged_by_their_values_and_two_readings_of_one_are_refused() -> None:
    app = FastAPI()

    @app.get("/rows/{number}")
    def row(number: int, text: Annotated[str, Depends(as_text)]) -> dict[str, Any]:
        return {"number": number, "text": text}

    @app.get("/kinds/{number}")
    def kind(number: int) -> dict[str, Any]:
        return {"number": number}

    app.router.routes.append(Route("/typed/{number:int}", customer))
    rules = [f"bf:GET /{name}:argument_range:allow:number:0:10" for name in ("rows/{number}", "kinds/{number}")]
    guard, _ = guarded(app, [*rules, r"bf:GET /typed/{number\:int}:argument_range:allow:number:0:10"])
    async with client_of(guard) as client:
        for path, status in (
            ("/typed/7", 200),
            ("/typed/70", 403),
            ("/kinds/7", 200),
            ("/kinds/70", 403),
            ("/rows/7", 200),
            ("/rows/07", 400),
        ):
            assert (await client.get(path)).status_code == status, path
