"""What a FastAPI route really takes, in the middleware and in the dependency: converted values, keys by every name."""

import uuid
from datetime import date
from enum import Enum
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Body, Depends, FastAPI, Query
from guarded import runtime, tokens
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, SecretStr

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit


class Colour(Enum):
    RED = "red"


class Order(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    amount: int = Field(alias="Amount")
    note: str = ""


class Nested(BaseModel):
    order: Order
    others: list[Order] = []


class Choices(BaseModel):
    amount: int = Field(validation_alias=AliasChoices("sum", "total", AliasPath("deep", 0)))


class Swapped(BaseModel):
    amount: int = Field(alias="limit")
    limit: int = Field(alias="amount")


class Kinds(BaseModel):
    colour: Colour = Colour.RED
    day: date | None = None
    id: uuid.UUID | None = None
    pin: SecretStr | None = None
    amount: float | None = None


def routes(app: FastAPI, permit: Any, ran: list[Any]) -> None:
    """Endpoints that say what they got."""

    @app.post("/amount")
    def amount(amount: Annotated[int, Body(embed=True)], permit: permit) -> None:
        ran.append(amount)

    @app.post("/two")
    def two(amount: Annotated[int, Body()], other: Annotated[str, Body(alias="Other")], permit: permit) -> None:
        ran.append(amount)

    @app.post("/order")
    def order(order: Order, permit: permit) -> None:
        ran.append(order.amount)

    @app.post("/nested")
    def nested(nested: Nested, permit: permit) -> None:
        ran.append(nested.order.amount)

    @app.post("/choices")
    def choices(choices: Choices, permit: permit) -> None:
        ran.append(choices.amount)

    @app.post("/swapped")
    def swapped(swapped: Swapped, permit: permit) -> None:
        ran.append(swapped.amount)

    @app.post("/kinds")
    def kinds(kinds: Kinds, permit: permit) -> None:
        ran.append(kinds.id)

    @app.post("/query")
    def query(permit: permit, amount: Annotated[int, Query()] = 0) -> None:
        ran.append(amount)


def nobody() -> None:
    """In place of a permit."""


def application(rules: list[Any], *, inside: bool) -> tuple[Any, list[Any]]:
    """The endpoints, guarded by the dependency or by the middleware; what they got."""
    ran: list[Any] = []
    app = FastAPI()
    if inside:
        named = [rule.replace("POST *", "act") for rule in rules]
        made, _ = runtime(["bf:act:tool_access:allow", *named], config={"audience": "b", "tokens": {}})
        macaroon = Macaroon(made, auth=tokens(alice={}))
        macaroon.install(app)
        routes(app, Annotated[Permit, Depends(macaroon.requires("act"))], ran)
        return app, ran
    made, _ = runtime(["bf:POST *:tool_access:allow", *rules], config={"audience": "b", "tokens": {}})
    routes(app, Annotated[None, Depends(nobody)], ran)
    return MacaroonASGIMiddleware(app, made, auth=tokens(alice={})), ran


@pytest.mark.parametrize("inside", [True, False], ids=["dependency", "middleware"])
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/amount", {"amount": 40}, 200),
        ("/amount", {"amount": "40"}, 200),
        ("/amount", {"amount": "0400"}, 403),
        ("/amount", {"amount": 400.0}, 403),
        ("/amount", {"amount": [400]}, 403),
        ("/two", {"amount": 40, "Other": "x"}, 200),
        ("/two", {"amount": 400, "Other": "x"}, 403),
        ("/order", {"amount": 40}, 200),
        ("/order", {"Amount": 40}, 200),
        ("/order", {"Amount": 400}, 403),
        ("/order", {"amount": 4, "Amount": 400}, 400),
        ("/order", {"Amount": 4, "amount": 400}, 400),
        ("/choices", {"sum": 400}, 403),
        ("/choices", {"total": "400"}, 403),
        ("/choices", {"total": 40}, 200),
        ("/choices", {"sum": 4, "total": 400}, 400),
        ("/choices", {"sum": 4, "deep": [400]}, 400),
        ("/query?amount=40", None, 200),
        ("/query?amount=%20400", None, 403),
    ],
)
async def test_rules_judge_what_the_endpoint_gets(path: str, body: Any, status: int, inside: bool) -> None:
    app, ran = application(["bf:POST *:argument_range:allow:amount:0:100"], inside=inside)
    async with client_of(app) as client:
        assert (await client.post(path, json=body)).status_code == status
    assert ran == ([40] if status == 200 else [])


@pytest.mark.parametrize("inside", [True, False], ids=["dependency", "middleware"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"order": {"amount": 40}}, 200),
        ({"order": {"Amount": 40}}, 200),
        ({"order": {"Amount": 400}}, 403),
        ({"order": {"amount": 4, "Amount": 400}}, 400),
        ({"order": {"amount": 40}, "others": [{"amount": 4, "Amount": 400}]}, 400),
    ],
)
async def test_names_of_nested_fields_are_told_apart_too(body: Any, status: int, inside: bool) -> None:
    app, _ = application(["bf:POST *:argument_range:allow:order.amount:0:100"], inside=inside)
    async with client_of(app) as client:
        assert (await client.post("/nested", json=body)).status_code == status


async def test_a_name_that_is_another_fields_key_stays_that_fields() -> None:
    app, ran = application(["bf:POST *:argument_range:allow:limit:0:100"], inside=True)
    async with client_of(app) as client:
        assert (await client.post("/swapped", json={"limit": 4, "amount": 400})).status_code == 200
        assert (await client.post("/swapped", json={"limit": 400, "amount": 4})).status_code == 403
    assert ran == [4]


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("id", "0B9A2F4E-1C3D-4E5F-8A7B-6C5D4E3F2A1B", "0b9a2f4e-1c3d-4e5f-8a7b-6c5d4e3f2a1b"),
        ("colour", "red", "red"),
        ("day", "2026-07-28", "2026-07-28"),
        ("pin", "1234", "1234"),
    ],
)
async def test_texts_are_judged_in_the_form_that_the_endpoint_gets(name: str, value: str, form: str) -> None:
    app, ran = application([f"bf:POST *:argument_allowlist:allow:{name}:{form}"], inside=True)
    async with client_of(app) as client:
        assert (await client.post("/kinds", json={name: value})).status_code == 200
    assert len(ran) == 1


def client_of(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://b", headers={"authorization": "Bearer alice"})
