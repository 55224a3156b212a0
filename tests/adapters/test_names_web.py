"""Hidden web routes answer as absent paths, and one thing has one verdict: ASGI and FastAPI, mounts and routers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI
from guarded import runtime, tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE")
PREFLIGHT = {"origin": "https://x.example", "access-control-request-method": "GET"}


def client_of(app: Any, user: str | None = "alice") -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {user}"} if user else {}
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://bank", headers=headers)


async def answers(client: httpx2.AsyncClient, path: str) -> list[tuple[Any, ...]]:
    """Everything that can be told of a path: each method, with and without a slash, as a browser's question."""
    found: list[tuple[Any, ...]] = []
    for place in (path, path + "/"):
        for method in METHODS:
            for headers in ({}, PREFLIGHT):
                answer = await client.request(method, place, headers=headers)
                facts = {name: value for name, value in answer.headers.items() if name != "date"}
                found.append((method, place == path, answer.status_code, answer.content, facts))
    return found


async def seen(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path})


class Thing(HTTPEndpoint):
    async def get(self, request: Request) -> JSONResponse:
        return await seen(request)


async def missing(request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse("nothing like that here", 404)


def starlette(**options: Any) -> Starlette:
    routes = [
        Route("/hidden/{number}", seen),
        Route("/both", seen),
        Route("/both", seen, methods=["POST"]),
        Route("/slashed/{number}/", seen),
        Route("/class/{number}", Thing),
        Route("/open/{number}", seen),
    ]
    return Starlette(routes=[*routes, Mount("/sub", app=Starlette(routes=routes))], **options)


def fastapi() -> FastAPI:
    app, router, sub = FastAPI(), APIRouter(prefix="/v1"), FastAPI()
    for each in (app, router, sub):
        each.get("/hidden/{number}")(number)
        each.get("/slashed/{number}/")(number)
        each.get("/open/{number}")(number)
    app.include_router(router)
    app.mount("/sub", sub)
    app.mount("/star", starlette())
    return app


def number(number: int) -> dict[str, int]:
    return {"number": number}


APPS: Mapping[str, tuple[Callable[[], Any], Sequence[str]]] = {
    "starlette": (
        starlette,
        ["/hidden/7", "/slashed/7", "/class/7", "/both", "/sub/hidden/7", "/sub/slashed/7", "/sub/class/7"],
    ),
    "own-404": (lambda: starlette(exception_handlers={404: missing}), ["/hidden/7", "/slashed/7", "/sub/hidden/7"]),
    "fastapi": (
        fastapi,
        [
            "/hidden/7",
            "/slashed/7",
            "/v1/hidden/7",
            "/v1/slashed/7",
            "/sub/hidden/7",
            "/sub/slashed/7",
            "/star/hidden/7",
            "/star/class/7",
            "/star/slashed/7",
        ],
    ),
}


@pytest.mark.threat("R03")
@pytest.mark.parametrize("default", ["allow", "deny"])
@pytest.mark.parametrize("name", APPS)
async def test_a_hidden_route_answers_as_an_absent_path_does(name: str, default: str) -> None:
    """attacks H9: 405 with Allow and 307 told of routes that the policy hides."""
    make, hidden = APPS[name]
    rules = [f"bf:GET {path}{tail}:tool_access:deny" for path in hidden for tail in ("", "/")]
    rules += ["bf:POST *:tool_access:allow"] if default == "deny" else []
    rules = ["bf:GET *open/{number}:tool_access:allow", *rules]
    made, _ = runtime(rules, config={"audience": "bank", "tokens": {}, "default": default})
    guard = MacaroonASGIMiddleware(make(), made, auth=tokens(alice={}))
    async with client_of(guard) as client:
        for path in hidden:
            if path == "/both":
                continue
            head, _, tail = path.rpartition("/")
            nowhere = f"{head.rpartition('/')[0]}/nothing/{tail}"
            assert await answers(client, path) == await answers(client, nowhere), path
        assert (await client.get("/open/7")).status_code == 200
        assert (await client.post("/open/7")).status_code == 405


@pytest.mark.threat("R03")
async def test_what_is_allowed_beside_a_hidden_method_still_runs() -> None:
    made, _ = runtime(["bf:GET /both:tool_access:deny"], config={"audience": "b", "tokens": {}, "default": "allow"})
    guard = MacaroonASGIMiddleware(starlette(), made, auth=tokens(alice={}))
    async with client_of(guard) as client:
        assert (await client.get("/both")).status_code == 404
        assert (await client.delete("/both")).status_code == 404
        assert (await client.post("/both")).status_code == 200


@pytest.mark.threat("R03")
@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("default", ["allow", "deny"])
async def test_a_hidden_endpoint_of_fastapi_answers_as_an_absent_path_does(default: str, handled: bool) -> None:
    """attacks H9, for `Depends(macaroon.requires(...))`."""
    rules = ["bf:secret:tool_access:deny", "bf:plain:tool_access:allow"]
    made, _ = runtime(rules, config={"audience": "bank", "tokens": {}, "default": default})
    macaroon = Macaroon(made, auth=tokens(alice={}))
    app, sub, router = FastAPI(), FastAPI(), APIRouter(dependencies=[Depends(macaroon.requires("secret"))])
    if handled:
        app.add_exception_handler(404, missing)
    macaroon.install(app)
    macaroon.install(sub)
    held = Annotated[Permit, Depends(macaroon.requires("secret"))]
    plain = Annotated[Permit, Depends(macaroon.requires("plain"))]

    @router.get("/hidden/{number}")
    def inside(number: int) -> int:
        return number

    for each in (app, sub):

        @each.get("/hidden/{number}")
        def secret(number: int, permit: held) -> int:
            return number

        @each.get("/slashed/{number}/")
        def slashed(number: int, permit: held) -> int:
            return number

        @each.get("/open/{number}")
        def public(number: int, permit: plain) -> int:
            return number

    app.include_router(router, prefix="/v1")
    app.mount("/sub", sub)
    async with client_of(app) as client:
        for path in ("/hidden/7", "/slashed/7", "/v1/hidden/7", "/sub/hidden/7", "/sub/slashed/7"):
            nowhere = path.replace("hidden", "nothing").replace("slashed", "nothing")
            assert await answers(client, path) == await answers(client, nowhere), path
        assert (await client.get("/open/7")).status_code == 200
        assert (await client.post("/open/7")).status_code == 405


@pytest.mark.threat("R03")
async def test_an_exception_frees_the_path_that_the_rule_names_with_its_slash_and_no_other() -> None:
    rule = {"before": "GET /open/7/", "policy": "tool_access", "action": "deny", "except": {"claim": {"sub": "alice"}}}
    made, _ = runtime([rule], config={"audience": "b", "tokens": {}, "default": "allow"})
    app = Starlette(routes=[Route("/open/{name}", seen)])
    guard = MacaroonASGIMiddleware(app, made, auth=tokens(alice={}, bob={}))
    async with client_of(guard) as client, client_of(guard, "bob") as other:
        assert [(await each.get("/open/7")).status_code for each in (client, other)] == [200, 404]
        assert [(await each.get("/open/%EF%BC%97")).status_code for each in (client, other)] == [404, 404]


# --- any spelling -----------------------------------------------------------------------------------------------------

THINGS = (
    "/files/sub/secret.md",
    "/static/sub/secret.md",
    "/rows/7",
    "/texts/acme",
    "/sub/files/secret.md",
    "/api/f/a.md",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("web")
    (base / "sub").mkdir()
    for name in ("secret.md", "sub/secret.md", "a.md", "sub/a.md"):
        (base / name).write_text(f"contents of {name}")
    return base


def shelves(folder: Path) -> Starlette:
    async def file(request: Request) -> PlainTextResponse:
        place = folder / request.path_params["path"].strip("/")
        if not place.is_file():
            raise HTTPException(404)
        return PlainTextResponse(place.read_text())

    async def value(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.scope['path_params']}")

    routes = [Route("/files/{path:path}", file), Route("/rows/{id:int}", value), Route("/texts/{name}", value)]
    api = FastAPI()

    @api.get("/f/{path:path}")
    def read(path: str) -> str:
        return (folder / path.strip("/")).read_text()

    return Starlette(
        routes=[
            *routes,
            Mount("/static", app=StaticFiles(directory=folder)),
            Mount("/sub", app=Starlette(routes=routes)),
            Mount("/api", app=api),
        ]
    )


EDITS: Sequence[Callable[[str, int], str]] = (
    lambda path, at: path[:at] + path[at : at + 1].swapcase() + path[at + 1 :],
    lambda path, at: path[:at] + "".join(f"%{byte:02x}" for byte in path[at : at + 1].encode()) + path[at + 1 :],
    lambda path, at: path[:at] + "".join(f"%25{byte:02x}" for byte in path[at : at + 1].encode()) + path[at + 1 :],
    lambda path, at: path[:at] + path[at:].replace("/", "//", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/./", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/x/../", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/sub/%2e%2e/", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "%2F", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "%5C", 1),
    lambda path, at: path[:at] + path[at:].replace("/", ".%2f", 1),
    lambda path, _: path + "/",
    lambda path, _: path + ".",
    lambda path, _: path + "%20",
    lambda path, _: path + "%00",
    lambda path, _: path + "?x=1",
    lambda path, at: path[:at] + "%E2%80%8B" + path[at:],
    lambda path, at: path.replace("/7", "/07"),
    lambda path, at: path.replace("/7", "/%EF%BC%97"),
)
edits = st.lists(st.tuples(st.sampled_from(EDITS), st.integers(1, 24)), min_size=1, max_size=3)


async def got(app: Any, paths: Sequence[str]) -> list[str | None]:
    found: list[str | None] = []
    async with client_of(app) as client:
        for path in paths:
            request = client.build_request("GET", "http://bank/")
            request.url = request.url.copy_with(raw_path=path.encode())
            answer = await client.send(request)
            found.append(answer.text if answer.status_code == 200 else None)
    return found


@pytest.mark.threat("R03", "R04")
@given(spellings=st.lists(st.tuples(st.sampled_from(THINGS), edits), min_size=24, max_size=24))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_bare_application_takes_for_one_thing_has_one_verdict(
    folder: Path, spellings: list[tuple[str, Any]]
) -> None:
    """A denied path is read by no spelling, and an allowed one serves nothing but itself."""
    paths = []
    for path, changes in spellings:
        for change, at in changes:
            path = change(path, min(at, len(path)))
        paths.append(path)

    def guarded(action: str, default: str) -> Any:
        rules = [f"bf:GET {thing}:tool_access:{action}" for thing in THINGS]
        made, _ = runtime(rules, config={"audience": "b", "tokens": {}, "default": default})
        return MacaroonASGIMiddleware(shelves(folder), made, auth=tokens(alice={}))

    async def run() -> None:
        things = await got(shelves(folder), THINGS)
        assert None not in things
        bare = await got(shelves(folder), paths)
        shut, narrow = await got(guarded("deny", "allow"), paths), await got(guarded("allow", "deny"), paths)
        for path, thing, closed, granted in zip(paths, bare, shut, narrow, strict=True):
            assert thing not in things or closed is None, path
            assert granted is None or granted in things, path

    asyncio.run(run())
