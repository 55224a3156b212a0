"""One component behind every host (FastMCP in both protocols, ASGI, FastAPI, plain `enforce_policies`), for tests that
hold all of them to the same expectations.

`on(NAME, rules, …)` gives a `Host`. Its component is `pay`, whose answer has a card number; rules say `{pay}` for it.
`await host.pay(amount)` is one call as a client makes it, with every question that the client is asked answered by
`host.person`, and the call repeated where the host's way is to repeat it.
The approver out of band is `pager`. Everything that can be waited for passes `host.points`, where a test can stop it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
from fastapi import Body, Depends, FastAPI, Request
from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from guarded import policy, runtime, tokens
from lab import ALICE, Records
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon, Permit
from mcp_macaroon_middleware.adapters.fastmcp import guard
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import ApprovalRequired, PolicyViolationError, StoreUnavailable
from mcp_macaroon_middleware.model import Answer, Challenge, Component, Kind, Reply, RequestContext
from mcp_macaroon_middleware.plugin import ApproverType, Assurance

CARD = "4000-1234"
REPEATS = 5
STORE = ("get", "put", "swap", "take", "add")


class Points:
    """Places that a call waits at. `stop` is the number of the one to act at: to wait for ever, or to fail.

    `opened` is how many questions were counted against `max_pending`; `paged` is set once the pager was asked.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.opened = 0
        self.stop = 0
        self.fails = False
        self.reached = asyncio.Event()
        self.paged = asyncio.Event()

    async def at(self, name: str) -> None:
        """One such place. Raises `StoreUnavailable` at a store's place where it is to fail."""
        self.passed.append(name)
        number = len(self.passed)
        await asyncio.sleep(0)
        if number != self.stop:
            return
        self.reached.set()
        if not self.fails:
            await asyncio.Event().wait()
        elif name in STORE:
            raise StoreUnavailable("it fails here")


async def _nothing() -> None:
    return None


@dataclass
class Person:
    """Who answers. `says` is a choice, `cancel`, or None for nobody; `before` happens before an answer is given."""

    says: str | None = "once"
    asked: int = 0
    before: Callable[[], Awaitable[None]] = _nothing


class Pager:
    """An approver out of band that says what its person says."""

    def __init__(self, person: Person, points: Points) -> None:
        self.person = person
        self.points = points

    def available(self) -> bool:
        """It always is."""
        return True

    async def ask(self, challenge: Challenge) -> Answer:
        """Waits for its person; for ever where there is nobody."""
        self.person.asked += 1
        self.points.paged.set()
        await self.points.at("pager")
        await self.person.before()
        if self.person.says is None:
            await asyncio.Event().wait()
        return Answer.chosen(*(str(self.person.says) for _ in challenge.choices))

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """Nobody replies in band."""
        return Answer(ending="invalid")

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Said:
    """What a caller gets: a result, or the code of a refusal (`error` where the component failed)."""

    value: Any = None
    code: str | None = None


@dataclass
class Host(ABC):
    """One host of the component, under a policy."""

    made: Runtime
    records: Records
    person: Person
    pager: Person
    points: Points
    plugins: Sequence[object]
    ran: int = 0
    breaks: bool = False
    target: str = "pay"
    carries_results: bool = True
    """Whether it can ask about a result."""
    pushes: bool = False
    """Whether it asks its client while the call waits."""
    name: str = field(default="", init=False)
    between: bool = False
    """Whether an answer is being taken outside of every request."""

    async def body(self, amount: int) -> dict[str, Any]:
        """The component."""
        self.ran += 1
        await self.points.at("running")
        if self.breaks:
            raise RuntimeError(f"the cause, with {CARD}")
        return {"paid": amount, "card": CARD}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The host serves."""
        yield

    @abstractmethod
    async def pay(self, amount: int = 1) -> Said:
        """One call, with its questions answered."""

    async def choice(self) -> str | None:
        """What the person in band says to the next question."""
        self.person.asked += 1
        await self.person.before()
        return self.person.says

    def ends(self) -> list[str]:
        """The outcomes of the component's requests, in order."""
        return [end["outcome"] for end in self.records.finals() if end["component"]["name"] in ("pay", "POST /pay")]

    def one_end_each(self) -> bool:
        """Whether every request that is over, or that ran, has exactly one final record."""
        ends = [record["request"] for record in self.records.finals()]
        intents = {record["request"] for record in self.records if record["event"] == "intent"}
        return len(ends) == len(set(ends)) and intents <= set(ends)

    async def open_questions(self) -> list[str]:
        """Questions that could still be answered."""
        return [name for name, _ in (await self.made.store.scan("", None, 10_000))[0] if "leg/" in name]

    def adopt(self, rules: Sequence[Any]) -> None:
        """Other rules are in force from now on."""
        other = policy(rules_for(self.target, rules), config={"hide_denied": False})
        self.made.engine.adopt(load_runtime(other, application=self.plugins).engine.plan)


class _Mcp(Host):
    era = "auto"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server: FastMCP[Any] = FastMCP("till")

        @server.tool(output_schema=None)
        async def pay(amount: int) -> dict[str, Any]:
            return await self.body(amount)

        guard(server, self.made)
        async with Client(server, mode=self.era, elicitation_handler=self._elicited) as self.client:
            yield

    async def _elicited(self, message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
        says = await self.choice()
        if says in (None, "cancel"):
            return ElicitResult(action="cancel")
        return ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], says))

    async def pay(self, amount: int = 1) -> Said:
        result = await self.client.call_tool("pay", {"amount": amount}, raise_on_error=False)
        code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
        if result.is_error:
            return Said(code=code or "error")
        return Said(value=result.structured_content)


class Modern(_Mcp):
    """FastMCP, protocol 2026-07-28: a question is an answer, and the client repeats its call."""


@dataclass
class Legacy(_Mcp):
    """FastMCP, protocol 2025-11-25: the client is asked while the call waits."""

    era = "legacy"
    pushes: bool = True


class _Web(Host):
    @abstractmethod
    def app(self) -> Any:
        """The application."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        transport = httpx2.ASGITransport(app=self.app(), raise_app_exceptions=False)
        headers = {"authorization": "Bearer alice"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://till", headers=headers) as self.client:
            yield

    async def pay(self, amount: int = 1) -> Said:
        answer = await self.client.post("/pay", json={"amount": amount})
        for _ in range(REPEATS):
            facts = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
            if answer.status_code == 200:
                return Said(value=facts)
            if facts.get("code") != "approval_required" or not facts.get("challenges"):
                break
            ran = self.ran
            last = None
            for challenge in facts["challenges"]:
                says = await self.choice()
                if says in (None, "cancel"):
                    return Said(code=facts["code"])
                last = await self.client.post(f"/approvals/{challenge['id']}", json={"choices": [says]})
            waited = last is not None and "allowed" not in last.json()
            answer = last if waited and last is not None else await self.client.post("/pay", json={"amount": amount})
            assert waited or self.ran in (ran, ran + 1)
        return Said(code=facts.get("code") or "error")


class Asgi(_Web):
    """Any ASGI application, behind the middleware."""

    def app(self) -> Any:
        async def pay(request: Any) -> JSONResponse:
            return JSONResponse(await self.body((await request.json())["amount"]))

        inner = Starlette(routes=[Route("/pay", pay, methods=["POST"])])
        return MacaroonASGIMiddleware(inner, self.made, auth=tokens(alice={}))


@dataclass
class FastApi(_Web):
    """An endpoint of FastAPI, by `requires`; it asks nobody about a result."""

    carries_results: bool = False

    def app(self) -> Any:
        macaroon, app = Macaroon(self.made, auth=tokens(alice={})), FastAPI()
        macaroon.install(app)
        allowed = macaroon.requires("pay", releases=True)

        @app.post("/pay")
        async def pay(
            amount: Annotated[int, Body(embed=True)],
            permit: Permit = Depends(allowed),  # noqa: B008
        ) -> Any:
            return await permit.release(await self.body(amount))

        @app.post("/approvals/{challenge}")
        async def approve(request: Request, challenge: str, choices: Annotated[list[str], Body(embed=True)]) -> Any:
            return {"allowed": await macaroon.answer(request, challenge, *choices)}

        return app


class Plain(Host):
    """A program without a framework."""

    async def pay(self, amount: int = 1) -> Said:
        engine = self.made.engine
        component = Component(kind=Kind.TOOL, name="pay", names=("pay",))
        context = RequestContext(principal=ALICE, component=component, arguments={"amount": amount})
        try:
            await self._step(context, "bf", None)
            try:
                return Said(value=(await self._step(context, "af", await self.body(amount)))[0])
            except asyncio.CancelledError:
                await engine.call_failed(tool_name="pay", context=context, cancelled=True)
                raise
            except Exception as error:
                await engine.call_failed(tool_name="pay", context=context, detail=type(error).__name__)
                raise
        except (PolicyViolationError, StoreUnavailable) as refusal:
            return Said(code=refusal.code)
        except RuntimeError:
            return Said(code="error")

    async def _step(self, context: RequestContext, phase: str, result: Any) -> Any:
        engine = self.made.engine
        for _ in range(REPEATS):
            try:
                return await engine.enforce_policies(None, phase, tool_name="pay", context=context, result=result)
            except ApprovalRequired as required:
                for challenge in required.challenges:
                    says = await self.choice()
                    if says in (None, "cancel"):
                        raise
                    self.between = phase == "bf"  # an answer is no request of its own here, so it has no final record
                    await engine.answer(challenge.id, says, context=context)
                    self.between = False
        raise AssertionError("it asks without end")


HOSTS: dict[str, type[Host]] = {
    "fastmcp": Modern,
    "fastmcp-legacy": Legacy,
    "asgi": Asgi,
    "fastapi": FastApi,
    "plain": Plain,
}
"""Every host."""


def rules_for(target: str, rules: Sequence[Any]) -> list[Any]:
    """The rules with the host's own name for the component."""
    return [
        rule.replace("{pay}", target)
        if isinstance(rule, str)
        else {key: value.replace("{pay}", target) if isinstance(value, str) else value for key, value in rule.items()}
        for rule in rules
    ]


@asynccontextmanager
async def on(
    name: str,
    rules: Sequence[Any],
    *,
    says: str | None = "once",
    pager: str | None = "once",
    config: Mapping[str, Any] | None = None,
    application: Sequence[object] = (),
) -> AsyncIterator[Host]:
    """A host of that name, serving under these rules. `says` and `pager`: what the two people choose."""
    points, on_call, target = Points(), Person(pager), "POST /pay" if name == "asgi" else "pay"

    kind = ApproverType(
        name="pager", open=lambda _: Pager(on_call, points), assurance=Assurance.OPERATOR, summary="a pager"
    )
    settings = {"identity": {"local": "alice"}, **(config or {})}
    plugins = [kind, *application]
    made, records = runtime(rules_for(target, rules), config=settings, application=plugins)
    for each in STORE:
        setattr(made.store, each, _passing(points, each, getattr(made.store, each)))
    host = HOSTS[name](
        made=made, records=records, person=Person(says), pager=on_call, points=points, plugins=plugins, target=target
    )
    host.name = name
    async with host.open():
        points.passed.clear()
        yield host
    await made.close()


def _passing(points: Points, name: str, method: Any) -> Any:
    """A store's method, waiting before what it does, and after it has written."""

    async def passing(*args: Any) -> Any:
        points.opened += name == "add" and "asked/" in args[0][0].key
        await points.at(name)
        done = await method(*args)
        if name == "put":  # what is written may stand although nobody learns of it
            await points.at(name)
        return done

    return passing
