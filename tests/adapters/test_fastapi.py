"""The policy inside a FastAPI application: callers, named actions, permits, honest answers."""

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Body, Depends, FastAPI, Request
from guarded import runtime, tokens

from mcp_macaroon_middleware.adapters.callers import Identity
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.tokens import attenuate, mint

RULES: list[Any] = [
    "bf:transfer:tool_access:allow",
    "bf:transfer:argument_range:allow:amount:0:100",
    "bf:transfer:rate_limit:allow:3/minute",
    "bf:customer:tool_access:allow",
    "af:customer:field_access:deny:national_id",
    "bf:pay:tool_access:elicit",
    "bf:fails:tool_access:allow",
]


def bank(auth: Any = None) -> tuple[FastAPI, Macaroon, Any]:
    made, records = runtime(RULES, config={"audience": "bank", "tokens": {}})
    macaroon = Macaroon(made, auth=auth or tokens(alice={}, bob={}))
    app = FastAPI()
    macaroon.install(app)
    app.state.ran = []

    @app.get("/me")
    async def me(caller: Annotated[Identity, Depends(macaroon.caller)]) -> dict[str, str]:
        return {"subject": caller.principal.subject}

    @app.post("/transfers")
    async def transfer(
        amount: Annotated[int, Body(embed=True)], permit: Annotated[Permit, Depends(macaroon.requires("transfer"))]
    ) -> dict[str, Any]:
        app.state.ran.append(amount)
        return {"booked": amount, "by": permit.caller.principal.subject}

    @app.get("/customers/{number}")
    async def customer(
        number: int, permit: Annotated[Permit, Depends(macaroon.requires("customer", releases=True))]
    ) -> Any:
        return await permit.release({"number": number, "national_id": "120-55-0199"})

    @app.get("/careless/{number}")
    async def careless(number: int, permit: Annotated[Permit, Depends(macaroon.requires("customer"))]) -> Any:
        raise AssertionError("it must not run")

    @app.post("/pay")
    async def pay(
        amount: Annotated[int, Body(embed=True)], permit: Annotated[Permit, Depends(macaroon.requires("pay"))]
    ) -> dict[str, int]:
        app.state.ran.append(amount)
        return {"paid": amount}

    @app.get("/wipe")
    async def wipe(permit: Annotated[Permit, Depends(macaroon.requires("wipe"))]) -> None:
        raise AssertionError("it must not run")

    @app.get("/fails")
    async def fails(permit: Annotated[Permit, Depends(macaroon.requires("fails"))]) -> None:
        raise RuntimeError("the cause")

    @app.post("/approvals/{challenge}")
    async def approve(request: Request, challenge: str, choices: Annotated[list[str], Body(embed=True)]) -> Any:
        return {"allowed": await macaroon.answer(request, challenge, *choices)}

    return app, macaroon, records


def client_of(app: FastAPI, user: str | None = "alice") -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {user}"} if user is not None else {}
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://bank", headers=headers)


async def test_the_caller_is_known_or_gets_401() -> None:
    app, macaroon, _ = bank()
    async with client_of(app) as client:
        assert (await client.get("/me")).json() == {"subject": "alice"}
    async with client_of(app, mint(macaroon.runtime.keys, subject="carol", audience="bank")) as client:
        assert (await client.get("/me")).json() == {"subject": "carol"}
    for user in (None, "nobody", "mm_nonsense"):
        async with client_of(app, user) as client:
            answer = await client.get("/me")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_an_action_is_judged_before_its_endpoint_with_its_arguments() -> None:
    app, _, records = bank()
    async with client_of(app) as client:
        assert (await client.post("/transfers", json={"amount": 40})).json() == {"booked": 40, "by": "alice"}
        refused = await client.post("/transfers", json={"amount": 400})
        assert (refused.status_code, refused.json()["code"]) == (403, "argument_out_of_range")
        assert (await client.post("/transfers?amount=1", json={"amount": 2})).status_code == 400
        assert (await client.get("/wipe")).status_code == 404
        for _ in range(2):
            assert (await client.post("/transfers", json={"amount": 1})).status_code == 200
        limited = await client.post("/transfers", json={"amount": 1})
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) > 0
    assert app.state.ran == [40, 1, 1]
    ends = [record["request"] for record in records.finals()]
    assert len(ends) == len(set(ends)) == 7


async def test_output_rules_need_release_and_an_endpoint_that_does_not_promise_it_never_runs() -> None:
    app, macaroon, records = bank()
    async with client_of(app) as client:
        assert (await client.get("/customers/7")).json() == {"number": 7}
        careless = await client.get("/careless/7")
        assert (careless.status_code, careless.json()["code"]) == (403, "withheld")
    narrow = attenuate(
        mint(macaroon.runtime.keys, subject="alice", audience="bank"), "af:customer:field_access:deny:number"
    )
    async with client_of(app, narrow) as client:
        assert (await client.get("/customers/7")).json() == {}
    assert [record["outcome"] for record in records.finals()] == ["ok", "withheld", "ok"]


async def test_a_question_is_403_with_the_challenge_and_its_answer_counts_once() -> None:
    app, _, _ = bank()
    async with client_of(app) as client, client_of(app, "bob") as bob:
        asked = await client.post("/pay", json={"amount": 5})
        assert asked.status_code == 403
        (challenge,) = asked.json()["challenges"]
        place = f"/approvals/{challenge['id']}"
        assert (await bob.post(place, json={"choices": ["once"]})).status_code == 403
        assert (await client.post(place, json={"choices": ["once"]})).json() == {"allowed": True}
        assert (await client.post("/pay", json={"amount": 5})).json() == {"paid": 5}
        assert (await client.post("/pay", json={"amount": 5})).status_code == 403
    assert app.state.ran == [5]


@pytest.mark.parametrize("path", ["/fails"])
async def test_an_endpoint_that_fails_has_its_record(path: str) -> None:
    app, _, records = bank()
    async with client_of(app) as client:
        assert (await client.get(path)).status_code == 500
    assert [(r["outcome"], r.get("detail")) for r in records.finals()] == [("error", "RuntimeError")]


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_413_where_a_rule_looks_at_arguments() -> None:
    app, _, records = bank()
    large = b'{"amount": 4, "x": "' + b"a" * (2 << 20) + b'"}'

    async def parts() -> Any:
        yield large

    async with client_of(app) as client:
        for content in (large, parts()):
            answer = await client.post("/transfers", content=content, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (413, "arguments_invalid")
    assert app.state.ran == []
    assert [record["code"] for record in records.finals()] == ["arguments_invalid"] * 2


async def test_an_answer_has_one_record_and_is_503_while_the_store_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    app, macaroon, records = bank()

    async def down(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("down")

    async with client_of(app) as client:
        (challenge,) = (await client.post("/pay", json={"amount": 5})).json()["challenges"]
        place = f"/approvals/{challenge['id']}"
        assert (await client.post(place, json={"choices": ["once"]})).status_code == 200
        assert (await client.post(place, json={"choices": ["once"]})).status_code == 403
        (challenge,) = (await client.post("/pay", json={"amount": 6})).json()["challenges"]
        for name in ("get", "put", "swap", "take", "add"):
            monkeypatch.setattr(macaroon.runtime.store, name, down)
        answer = await client.post(f"/approvals/{challenge['id']}", json={"choices": ["once"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    ends = [(r["outcome"], r["code"]) for r in records.finals() if r["component"]["name"] == "answer"]
    assert ends == [("ok", "ok"), ("denied", "grant_used"), ("denied", "store_unavailable")]


async def test_a_provider_that_fails_is_503_with_one_record() -> None:
    class Failing:
        async def verify_token(self, token: str) -> Any:
            raise ConnectionError(token)

    app, _, records = bank(Failing())
    async with client_of(app, "a-credential") as client:
        answer = await client.get("/me")
        assert (answer.status_code, answer.json()["code"]) == (503, "internal")
    assert [(r["outcome"], r["code"]) for r in records.finals()] == [("denied", "internal")]
