"""Responses that wait for a person: decided anew when they leave, bounded while they wait, recorded when they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from guarded import KEY, runtime, tokens
from lab import Records
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters import asgi_held
from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.core.audit import SinkSlot
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.tokens import attenuate, mint

ALLOW = "bf:GET /contact:tool_access:allow"
ASK = "af:GET /contact:field_access:elicit:email"
FACTS = {"name": "Carol", "email": "carol@example.org", "ssn": "120-55-0199"}


class Book:
    """An application with one contact, guarded."""

    def __init__(self, made: Runtime, records: Records) -> None:
        self.ran = 0
        self.made, self.records = made, records
        app = Starlette(routes=[Route("/contact", self.contact), Route("/contact", self.contact, methods=["POST"])])
        self.app = MacaroonASGIMiddleware(app, made, auth=tokens(alice={}, bob={}))

    @classmethod
    def of(cls, *rules: Any, **config: Any) -> Book:
        return cls(*runtime([ALLOW, ASK, *rules], config={"audience": "book", "tokens": {}, **config}))

    async def contact(self, request: Request) -> JSONResponse:
        self.ran += 1
        return JSONResponse(FACTS | {"pad": "x" * int(request.query_params.get("pad", 0))})

    def client(self, user: str = "alice") -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://b", headers={"authorization": f"Bearer {user}"})

    def ends(self) -> list[tuple[str, str]]:
        return [(record["component"]["name"], record["outcome"]) for record in self.records.finals()]

    def let_go(self) -> list[str]:
        return [record["why"] for record in self.records if record["event"] == "held_ended"]


async def asked(client: httpx2.AsyncClient, path: str = "/contact") -> str:
    answer = await client.get(path)
    assert answer.json()["code"] == "approval_required", answer.text
    (challenge,) = answer.json()["challenges"]
    return f"/approvals/{challenge['id']}"


ONCE = {"choices": ["once"]}

# --- decided again ----------------------------------------------------------------------------------------------------


@pytest.mark.threat("F15")
@pytest.mark.parametrize(
    ("change", "status", "left"),
    [
        ("", 200, FACTS),
        ("af:GET /contact:field_access:deny:ssn", 200, {"name": "Carol", "email": "carol@example.org"}),
        ("bf:GET /contact:tool_access:deny", 404, None),
        ("bf:GET /contact:argument_range:allow:number:0:1", 403, None),
        ("bf:GET /contact:tool_access:elicit", 403, None),
    ],
)
async def test_a_held_response_leaves_as_the_rules_in_force_say(
    change: str, status: int, left: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", KEY)
    file = tmp_path / "policies.yaml"
    head = "config: {audience: book, default: deny, tokens: {}}\npolicies:\n"
    file.write_text(head + f"  - '{ALLOW}'\n  - '{ASK}'\n")
    made, records = load_runtime(file), Records()
    made.audit._slots = (SinkSlot(name="list", sink=records, required=True),)
    book = Book(made, records)
    async with book.client() as client:
        place = await asked(client)
        file.write_text(head + f"  - '{ALLOW}'\n  - '{ASK}'\n" + (f"  - '{change}'\n" if change else ""))
        assert await made.reload()
        answer = await client.post(place, json=ONCE)
        assert answer.status_code == status
        if left is not None:
            assert answer.json() == left | {"pad": ""}
        else:
            assert "carol" not in answer.text.lower()
    assert book.ran == 1
    assert book.ends() == [
        ("GET /contact", "held"),
        ("GET /contact", "ok" if left is not None else "denied"),
    ]
    assert book.records.finals()[-1]["revision"] == made.revision
    await made.close()


@pytest.mark.threat("F15")
async def test_a_question_whose_rule_has_changed_is_asked_anew_and_nothing_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", KEY)
    file = tmp_path / "policies.yaml"
    head = f"config: {{audience: book, default: deny, tokens: {{}}}}\npolicies:\n  - '{ALLOW}'\n"
    file.write_text(head + f"  - '{ASK}'\n")
    made, records = load_runtime(file), Records()
    made.audit._slots = (SinkSlot(name="list", sink=records, required=True),)
    book = Book(made, records)
    async with book.client() as client:
        place = await asked(client)
        file.write_text(head + f"  - '{ASK}:ssn'\n")
        assert await made.reload()
        answer = await client.post(place, json=ONCE)
        assert answer.json()["code"] == "approval_required"
        (challenge,) = answer.json()["challenges"]
        assert (await client.post(f"/approvals/{challenge['id']}", json=ONCE)).json()["ssn"] == FACTS["ssn"]
    assert book.ran == 1
    assert book.ends() == [("GET /contact", "held"), ("GET /contact", "held"), ("GET /contact", "ok")]
    await made.close()


async def test_a_release_is_approved_and_charged_no_second_time() -> None:
    book = Book.of("bf:GET /contact:rate_limit:allow:1/minute", "bf:GET /contact:tool_access:elicit")
    async with book.client() as client:
        before = await asked(client)
        assert (await client.post(before, json=ONCE)).json() == {"allowed": True}
        place = await asked(client)
        answer = await client.post(place, json=ONCE)
        assert (answer.status_code, answer.json()["email"]) == (200, FACTS["email"])
    assert book.ran == 1


async def test_a_revoked_token_releases_nothing_and_a_narrower_one_is_another_caller() -> None:
    book = Book.of()
    token = mint(book.made.keys, subject="alice", audience="book")
    async with book.client(token) as client:
        place = await asked(client)
        async with book.client(attenuate(token, "af:*:field_access:deny:name")) as narrow:
            assert (await narrow.post(place, json=ONCE)).status_code == 403
        assert (await client.post(place, json=ONCE)).json()["email"] == FACTS["email"]
        place = await asked(client)
        bearers = book.made.bearers
        assert bearers is not None
        await bearers.revocations.revoke((await bearers.accept(token)).token.id)
        assert (await client.post(place, json=ONCE)).status_code == 401
    assert book.ran == 2


async def test_two_answers_at_once_release_a_response_once() -> None:
    book = Book.of()
    async with book.client() as client:
        place = await asked(client)
        answers = await asyncio.gather(*(client.post(place, json=ONCE) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    assert [answer.json().get("email") for answer in answers].count(FACTS["email"]) == 1


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("F14")
async def test_what_waits_too_long_is_let_go_by_itself_with_one_record_each() -> None:
    book = Book.of(approvals={"timeout": 1, "max_pending": 5})
    async with book.client() as client:
        places = [await asked(client, f"/contact?n={n}") for n in range(3)]
        assert len(book.app._waiting) == 3
        assert book.ends() == [("GET /contact", "held")] * 3
        await asyncio.sleep(1.3)
        assert len(book.app._waiting) == 0
        assert book.let_go() == ["expired"] * 3
        assert (await client.post(places[0], json=ONCE)).json()["code"] == "approval_stale"
    assert len(book.records.finals()) == 4


@pytest.mark.threat("F14")
async def test_a_caller_pushes_out_his_own_responses_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_held, "MOST_BYTES", 40_000)
    monkeypatch.setattr(asgi_held, "OWN_BYTES", 45_000)
    book = Book.of(approvals={"max_pending": 50})
    async with book.client("bob") as bob, book.client() as client:
        waits = await asked(bob, "/contact?pad=8000")
        places = [await asked(client, f"/contact?pad=10000&n={n}") for n in range(12)]
        held = sum(len(held.answer.body) for held in book.app._waiting._held)
        assert held <= 40_000
        assert set(book.let_go()) == {"evicted"}
        assert (await bob.post(waits, json=ONCE)).json()["email"] == FACTS["email"]
        assert (await client.post(places[0], json=ONCE)).json() == {"allowed": True}
        assert (await client.post(places[-1], json=ONCE)).json()["email"] == FACTS["email"]
    assert book.ran == 13


@pytest.mark.parametrize(("bound", "most"), [("OWN", 3), ("OWN_BYTES", 40_000), ("MOST", 3), ("MOST_BYTES", 40_000)])
async def test_every_bound_holds(bound: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_held, bound, most)
    book = Book.of(approvals={"max_pending": 50})
    async with book.client() as client:
        for number in range(6):
            await asked(client, f"/contact?pad=10000&n={number}")
    assert len(book.app._waiting) == 3
    assert book.let_go() == ["evicted"] * 3
    assert len(book.records.finals()) == 6


async def test_what_still_waits_when_the_application_ends_is_let_go() -> None:
    book = Book.of()
    inbox: list[Any] = [{"type": "lifespan.startup"}]
    started = asyncio.Event()

    async def receive() -> Any:
        if not inbox:
            started.set()
            await stop.wait()
            return {"type": "lifespan.shutdown"}
        return inbox.pop()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    stop = asyncio.Event()
    life = asyncio.create_task(book.app({"type": "lifespan", "state": {}}, receive, send))
    await started.wait()
    async with book.client() as client:
        await asked(client)
    stop.set()
    await life
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert book.let_go() == ["closed"]
    assert len(book.app._waiting) == 0


async def test_an_answer_that_chooses_nothing_offered_uses_the_question_up() -> None:
    book = Book.of()
    async with book.client() as client, book.client("bob") as bob:
        place = await asked(client)
        assert (await bob.post(place, json={"choices": ["never"]})).json()["code"] == "approval_stale"
        assert len(book.app._waiting) == 1
        assert (await client.post(place, json={"choices": ["never"]})).json()["code"] == "approval_invalid"
        assert book.let_go() == ["unanswered"]
        assert (await client.post(place, json=ONCE)).status_code == 403


async def test_a_response_that_cannot_be_held_leaves_without_what_would_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book = Book.of("bf:GET /contact:rate_limit:allow:9/minute")

    async def down(_: Any) -> Any:
        raise StoreUnavailable("down")

    monkeypatch.setattr(book.made.engine.consent, "park", down)
    async with book.client() as client:
        answer = await client.get("/contact")
        assert (answer.status_code, "email" in answer.json()) == (200, False)
    assert book.ends() == [("GET /contact", "ok")]
