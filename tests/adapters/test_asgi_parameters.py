"""What a web route takes is what is judged: headers, cookies, forms, paths and bodies, as the route declares them.

The endpoints say what they got; an independent reading of the rule decides what should have happened.
"""

import asyncio
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Body, Cookie, Depends, FastAPI, File, Form, Header, Path, Query, Request, UploadFile
from fastapi.security import APIKeyHeader
from guarded import runtime, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit

RULE = "bf:POST *:argument_range:allow:amount:0:100"
BIG, SMALL = 5000, 5
KEY = APIKeyHeader(name="x-key", auto_error=False)
SIDES = pytest.mark.parametrize("inside", [True, False], ids=["dependency", "middleware"])


class Order(BaseModel):
    amount: int = 7
    note: str = ""


class Strict(BaseModel):
    model_config = ConfigDict(extra="allow")
    note: str = ""


class Filters(BaseModel):
    amount: int = Field(SMALL, validation_alias=AliasChoices("amount", "sum"))


@dataclass
class Plain:
    amount: int


def by_header(amount: Annotated[int, Header()]) -> int:
    return amount


def endpoints(app: FastAPI | APIRouter, permit: Any, ran: list[Any]) -> None:
    """Every way to declare an amount, and some that declare none."""

    @app.post("/header")
    def header(permit: permit, amount: Annotated[int, Header()] = SMALL) -> None:
        ran.append(amount)

    @app.post("/header-alias")
    def header_alias(permit: permit, x: Annotated[int, Header(alias="amount")]) -> None:
        ran.append(x)

    @app.post("/cookie")
    def cookie(permit: permit, amount: Annotated[int, Cookie()] = SMALL) -> None:
        ran.append(amount)

    @app.post("/query")
    def query(permit: permit, amount: Annotated[int, Query()] = BIG) -> None:
        ran.append(amount)

    @app.post("/queries")
    def queries(permit: permit, amount: Annotated[list[int], Query()]) -> None:
        ran.append(max(amount))

    @app.post("/model-query")
    def model_query(permit: permit, filters: Annotated[Filters, Query()]) -> None:
        ran.append(filters.amount)

    @app.post("/model-header")
    def model_header(permit: permit, filters: Annotated[Filters, Header()]) -> None:
        ran.append(filters.amount)

    @app.post("/form")
    def form(permit: permit, amount: Annotated[int, Form()]) -> None:
        ran.append(amount)

    @app.post("/model-form")
    def model_form(permit: permit, order: Annotated[Order, Form()]) -> None:
        ran.append(order.amount)

    @app.post("/file")
    def file(permit: permit, amount: Annotated[UploadFile, File()]) -> None:
        ran.append(amount.filename)

    @app.post("/path/{amount}")
    def path(permit: permit, amount: Annotated[int, Path()]) -> None:
        ran.append(amount)

    @app.post("/body")
    def body(permit: permit, amount: Annotated[int, Body(embed=True)] = BIG) -> None:
        ran.append(amount)

    @app.post("/model")
    def model(permit: permit, order: Order) -> None:
        ran.append(order.amount)

    @app.post("/dataclass")
    def plain(permit: permit, order: Plain) -> None:
        ran.append(order.amount)

    @app.post("/decimal")
    def decimal(permit: permit, amount: Annotated[Decimal, Body(embed=True)]) -> None:
        ran.append(amount)

    @app.post("/extra")
    def extra(permit: permit, order: Strict) -> None:
        ran.append((order.model_extra or {}).get("amount"))

    @app.post("/free")
    def free(permit: permit, order: dict[str, Any]) -> None:
        ran.append(order.get("amount"))

    @app.post("/both")
    def both(permit: permit, amount: Annotated[int, Header()], sum: Annotated[int, Query(alias="amount")]) -> None:
        ran.append(max(amount, sum))

    @app.post("/depends")
    def depends(permit: permit, amount: Annotated[int, Depends(by_header)]) -> None:
        ran.append(amount)

    @app.post("/none")
    def none(permit: permit, note: Annotated[str, Query()] = "") -> None:
        ran.append(note)

    @app.post("/key")
    def key(permit: permit, key: Annotated[str | None, Depends(KEY)], amount: Annotated[int, Header()] = BIG) -> None:
        ran.append(amount)

    @app.post("/request")
    async def request(permit: permit, request: Request) -> None:
        ran.append((await request.json())["amount"])

    @app.post("/request-header")
    async def request_header(permit: permit, request: Request, amount: Annotated[int, Header()] = BIG) -> None:
        ran.append(amount)


def nobody() -> None:
    """In place of a permit."""


def guarded_app(rules: list[Any], *, inside: bool, routed: bool = False) -> tuple[Any, list[Any]]:
    """The endpoints, guarded by the dependency or by the middleware; what they got."""
    ran: list[Any] = []
    app = FastAPI()
    into: FastAPI | APIRouter = APIRouter() if routed else app
    named = [rule.replace("POST *", "act") for rule in rules] if inside else rules
    allow = "bf:act:tool_access:allow" if inside else "bf:POST *:tool_access:allow"
    made, _ = runtime([allow, *named], config={"audience": "b", "tokens": {}})
    if inside:
        macaroon = Macaroon(made, auth=tokens(alice={}))
        macaroon.install(app)
        endpoints(into, Annotated[Permit, Depends(macaroon.requires("act"))], ran)
    else:
        endpoints(into, Annotated[None, Depends(nobody)], ran)
    if isinstance(into, APIRouter):
        app.include_router(into)
    return app if inside else MacaroonASGIMiddleware(app, made, auth=tokens(alice={})), ran


def client_of(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://b", headers={"authorization": "Bearer alice"})


# --- attacks H8 -------------------------------------------------------------------------------------------------------


@SIDES
@pytest.mark.threat("R20")
@pytest.mark.parametrize(
    ("path", "sent", "got"),
    [
        # attacks H8: the rule saw the body's 5, the endpoint got the header's 5000
        ("/header", {"headers": {"amount": "5000"}, "json": {"amount": 5}}, None),
        ("/header", {"headers": {"amount": "5"}, "json": {"amount": 5000}}, 5),
        ("/header", {"headers": {"Amount": "50"}}, 50),
        ("/header", {}, SMALL),
        ("/header", {"params": {"amount": "5"}, "headers": {"amount": "5000"}}, None),
        ("/header-alias", {"headers": {"amount": "5000"}}, None),
        ("/header-alias", {"headers": {"amount": "50"}}, 50),
        ("/cookie", {"cookies": {"amount": "5000"}, "json": {"amount": 5}}, None),
        ("/cookie", {"cookies": {"amount": "50"}}, 50),
        ("/query", {"json": {"amount": 5}}, None),  # the default is 5000
        ("/query", {"params": {"amount": "50"}}, 50),
        ("/query", {"params": [("amount", "5000"), ("amount", "5")]}, 5),
        ("/query", {"params": [("amount", "5"), ("amount", "5000")]}, None),
        ("/queries", {"params": [("amount", "5"), ("amount", "5000")]}, None),
        ("/model-query", {"params": {"sum": "5000"}}, None),
        ("/model-query", {"params": {"sum": "50"}}, 50),
        ("/model-query", {}, SMALL),
        ("/model-query", {"params": {"sum": "5000"}, "json": {"amount": 5}}, None),
        ("/model-header", {"headers": {"amount": "5000"}, "json": {"amount": 5}}, None),
        ("/model-header", {"headers": {"amount": "50"}}, 50),
        ("/form", {"data": {"amount": "5000"}}, None),
        ("/form", {"data": {"amount": "50"}}, 50),
        ("/form", {"data": {"amount": ["5", "5000"]}}, None),
        ("/form", {"files": {"amount": (None, "5000")}}, None),
        ("/form", {"files": {"amount": (None, "50")}}, 50),
        ("/model-form", {"data": {"amount": "5000"}}, None),
        ("/model-form", {"data": {"amount": "50"}}, 50),
        ("/model-form", {"data": {"note": "x"}}, 7),
        ("/file", {"files": {"amount": ("5", b"x")}}, None),
        ("/path/5000", {"json": {"amount": 5}}, None),
        ("/path/50", {}, 50),
        ("/body", {"json": {"amount": 5000}}, None),
        ("/body", {"json": {"amount": 50}}, 50),
        ("/body", {"json": {"amount": "50"}}, 50),
        ("/body", {}, None),  # the default is 5000
        ("/body", {"json": {}, "headers": {"amount": "5"}}, None),
        ("/model", {"json": {"amount": 5000}}, None),
        ("/model", {"json": {"note": "x"}}, 7),
        ("/dataclass", {"json": {"amount": 5000}}, None),
        ("/dataclass", {"json": {"amount": "50"}}, 50),
        ("/decimal", {"json": {"amount": "99.5"}}, Decimal("99.5")),
        ("/decimal", {"json": {"amount": "100.00000000000000000001"}}, None),
        ("/extra", {"json": {"amount": 5000}}, None),
        ("/extra", {"json": {"amount": 50}}, 50),
        ("/free", {"json": {"amount": 5000}}, None),
        ("/free", {"json": {"amount": 50}}, 50),
        ("/both", {"headers": {"amount": "5"}, "params": {"amount": "5000"}}, None),
        ("/both", {"headers": {"amount": "50"}, "params": {"amount": "50"}}, 50),
        ("/depends", {"headers": {"amount": "5000"}, "json": {"amount": 5}}, None),
        ("/depends", {"headers": {"amount": "50"}}, 50),
        ("/none", {"json": {"amount": 5}, "params": {"amount": "5"}}, None),  # an undeclared name satisfies no rule
        ("/key", {"json": {"amount": 5}}, None),
        ("/key", {"headers": {"amount": "50"}}, 50),
        ("/request", {"json": {"amount": 5000}}, None),
        ("/request", {"json": {"amount": 50}}, 50),
        ("/request-header", {"json": {"amount": 5}}, None),
        ("/request-header", {"json": {"amount": 5}, "headers": {"amount": "5000"}}, None),
        ("/request-header", {"headers": {"amount": "50"}}, 50),
    ],
)
async def test_what_a_route_takes_is_what_is_judged(path: str, sent: dict[str, Any], got: Any, inside: bool) -> None:
    app, ran = guarded_app([RULE], inside=inside)
    async with client_of(app) as client:
        client.cookies.update(sent.get("cookies", {}))
        answer = await client.post(path, **{name: each for name, each in sent.items() if name != "cookies"})
    assert ran == ([] if got is None else [got])
    assert answer.status_code in ((200,) if got is not None else (400, 403))


@SIDES
async def test_routes_of_an_included_router_are_read_as_their_own(inside: bool) -> None:
    app, ran = guarded_app([RULE], inside=inside, routed=True)
    async with client_of(app) as client:
        refused = await client.post("/header", headers={"amount": "5000"}, json={"amount": 5})
        assert refused.status_code == 403
        assert (await client.post("/header", headers={"amount": "50"}, json={"amount": 5})).status_code in (200, 400)
    assert all(amount <= 100 for amount in ran)


async def test_a_dependency_that_the_application_replaced_is_read_as_it_is_now() -> None:
    ran: list[int] = []
    app = FastAPI()

    def original() -> int:
        return 1

    @app.post("/replaced")
    def replaced(amount: Annotated[int, Depends(original)]) -> None:
        ran.append(amount)

    app.dependency_overrides[original] = by_header
    made, _ = runtime(["bf:POST *:tool_access:allow", RULE], config={"audience": "b", "tokens": {}})
    async with client_of(MacaroonASGIMiddleware(app, made, auth=tokens(alice={}))) as client:
        assert (await client.post("/replaced", headers={"amount": "5000"})).status_code == 403
        assert (await client.post("/replaced", headers={"amount": "50"})).status_code == 200
    assert ran == [50]


# --- the kind ---------------------------------------------------------------------------------------------------------

PLACES = ("header", "cookie", "query", "document", "form")
VALUES = st.sampled_from(["5", "50", "5000", "-1", "x", "", "0050"])
SENT = st.dictionaries(st.sampled_from(PLACES), st.lists(VALUES, min_size=1, max_size=2), max_size=4)
DECLARED = st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True)


def declaring(places: list[str], ran: list[int]) -> FastAPI:
    """An endpoint that declares an amount in each place, as parameters of its own."""
    kinds: dict[str, Any] = {
        "header": Header(default=SMALL, alias="amount"),
        "cookie": Cookie(default=SMALL, alias="amount"),
        "query": Query(default=SMALL, alias="amount"),
        "document": Body(default=SMALL, alias="amount", embed=True),
        "form": Form(default=SMALL, alias="amount"),
    }
    app = FastAPI()

    def act(**values: int) -> None:
        ran.extend(values.values())

    act.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(place, inspect.Parameter.KEYWORD_ONLY, default=kinds[place], annotation=int)
            for place in places
        ]
    )
    app.post("/act")(act)
    return app


def as_request(sent: dict[str, list[str]]) -> dict[str, Any]:
    """A request that says an amount in these places."""
    asked: dict[str, Any] = {"headers": [], "params": []}
    for place, values in sent.items():
        if place == "header":
            asked["headers"] += [("amount", value) for value in values]
        elif place == "cookie":
            asked["headers"].append(("cookie", "; ".join(f"amount={value}" for value in values)))
        elif place == "query":
            asked["params"] += [("amount", value) for value in values]
        elif place == "document":
            asked["json"] = {"amount": values[0]}
    if "form" in sent and "document" not in sent:
        asked["data"] = {"amount": sent["form"]}
    return asked


def number_of_kinds(places: list[str]) -> Iterator[str]:
    return (place for place in places if place in ("document", "form"))


@pytest.mark.threat("R20")
@given(places=DECLARED.filter(lambda some: len(list(number_of_kinds(some))) < 2), sent=SENT)
@settings(max_examples=150, deadline=None)
def test_no_endpoint_ever_gets_what_a_rule_refuses_however_requests_say_it(
    places: list[str], sent: dict[str, list[str]]
) -> None:
    asyncio.run(is_judged_as_it_is_taken(places, sent))


async def is_judged_as_it_is_taken(places: list[str], sent: dict[str, list[str]]) -> None:
    ran: list[int] = []
    made, _ = runtime(["bf:POST *:tool_access:allow", RULE], config={"audience": "b", "tokens": {}})
    bare: list[int] = []
    async with client_of(declaring(places, bare)) as client:
        await client.post("/act", **as_request(sent))
    app = MacaroonASGIMiddleware(declaring(places, ran), made, auth=tokens(alice={}))
    async with client_of(app) as client:
        answer = await client.post("/act", **as_request(sent))
    assert all(0 <= amount <= 100 for amount in ran), json.dumps(sent)
    assert ran in ([], bare)
    if bare and all(0 <= amount <= 100 for amount in bare) and len(set(bare)) == 1:
        alone = {place for place in sent if place not in places}
        assert answer.status_code == 200 or alone, answer.text
