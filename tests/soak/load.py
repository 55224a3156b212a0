"""The load of a soak: clients in both eras that call, answer questions, replay answers and delegate, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import mcp_types
from asking import Person
from fastmcp import Client
from guarded import ERAS
from several import client

from mcp_macaroon_middleware.tokens import KeyRing, mint

from .calls import ASKED, LOST, REFUSED, Call, Leg, Story
from .place import Place
from .server import EMAIL, PEOPLE

CLIENTS: Final = 8
PATIENCE: Final = 15.0
"""Seconds after which a request counts as lost."""

MIX: Final = {"free": 20, "never": 8, "work": 25, "scarce": 4, "send": 16, "user": 12, "card": 8, "turn": 4, "token": 3}
"""How often each kind of call is made, of a hundred."""


class Load:
    """Clients at work. `pause` and `go` hold them all between two calls."""

    def __init__(self, place: Place, story: Story, keys: KeyRing, *, pause: float = 0.06) -> None:
        self.place, self.story, self.keys, self._think = place, story, keys, pause
        self._gate, self._busy, self._stopped = asyncio.Event(), 0, False
        self._gate.set()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Puts the clients to work."""
        self._tasks = [asyncio.create_task(Worker(self, number).work()) for number in range(CLIENTS)]

    async def pause(self) -> None:
        """Returns when no call is under way; the clients stay connected."""
        self._gate.clear()
        while self._busy:
            await asyncio.sleep(0.02)

    def go(self) -> None:
        """Lets the clients go on."""
        self._gate.set()

    async def end(self) -> None:
        """Lets the clients leave. Raises what ended one of them."""
        self._stopped = True
        self._gate.set()
        await asyncio.gather(*self._tasks)

    @property
    def broken(self) -> bool:
        """Whether a client ended by itself, which none should."""
        return any(task.done() for task in self._tasks) and not self._stopped

    @property
    def stopped(self) -> bool:
        """Whether the clients should leave."""
        return self._stopped

    @contextlib.asynccontextmanager
    async def turn(self) -> Any:
        """One call's time, which a pause waits for."""
        await self._gate.wait()
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1


class Worker:
    """One client of the load: one principal (shared by two), one era, one call at a time."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.number = load, number
        self.era, self.who = ERAS[number % 2], f"user{number // 2 % PEOPLE}"
        self.random, self.count = random.Random(number), 0  # noqa: S311 - a load, not a secret
        self.person = Person()
        self.token = mint(load.keys, subject=f"agent{number}", audience="fleet", expires=timedelta(hours=24))

    async def work(self) -> None:
        """Connects to one server after the other and calls, until the load ends."""
        while not self.load.stopped:
            at = self.random.randrange(len(self.load.place.servers))
            start = self.load.place.servers[at].starts
            with contextlib.suppress(Exception):  # a server that is away; what was called is in the story already
                async with self._client(at, self.who) as made:
                    await self._visit(made, at, start)
            await asyncio.sleep(0.05)

    async def _visit(self, made: Client[Any], at: int, start: int) -> None:
        """Some calls over one connection, which is left when the server was started anew or has lost a request."""
        for _ in range(self.random.randint(20, 60)):
            async with self.load.turn():
                if self.load.stopped or self.load.place.servers[at].starts != start:
                    return
                kind = self.random.choices(list(MIX), list(MIX.values()))[0]
                call = await self._one(made, at, kind)
            if call.lost:
                return
            await asyncio.sleep(self.random.uniform(0, 2 * self.load._think))

    async def _one(self, made: Client[Any], at: int, kind: str) -> Call:
        if kind == "token":
            return await self._delegated(at)
        call = self._call(kind, self.who)
        if kind not in ("send", "user"):
            await self._plain(made, at, call)
            return call
        self.person.says = self.random.choice(("once", "once", "deny"))
        call.approved = self.person.says == "once"
        self.person.seen.clear()
        if self.era == "legacy":
            await self._plain(made, at, call)
        else:
            await self._legs(made, at, call)
        return call

    # --- the kinds of calls -------------------------------------------------------------------------------------------

    async def _plain(self, made: Client[Any], at: int, call: Call) -> None:
        """One request; in the legacy era the question and its answer are inside of it."""
        await self._leg(at, call, lambda: made.call_tool(call.tool, {"call": call.id}, raise_on_error=False))

    async def _legs(self, made: Client[Any], at: int, call: Call) -> None:
        """Asks, answers, and now and then answers again; after a lost answer it goes to the other server."""
        asked = await self._leg(at, call, lambda: _send(made, call))
        if not isinstance(asked, mcp_types.InputRequiredResult):
            return
        given = _given(asked, str(self.person.says))
        await self._leg(at, call, lambda: _send(made, call, given, asked.request_state))
        if call.lost:
            other = (at + 1) % len(self.load.place.servers)
            with contextlib.suppress(Exception):
                async with self._client(other, self.who) as there:
                    await self._leg(other, call, lambda: _send(there, call, given, asked.request_state))
        elif self.random.random() < 0.3:
            await self._leg(at, call, lambda: _send(made, call, given, asked.request_state))

    async def _delegated(self, at: int) -> Call:
        """A narrower token is asked for, and used for what it allows and for what it does not."""
        call = self._call("macaroon_delegate", f"agent{self.number}")
        found = None
        arguments = {"rules": [f"bf:*:tool_access:only:free:{call.id}"], "expires_in": 60}
        with contextlib.suppress(Exception):
            async with self._client(at, self.token) as made:
                found = await self._leg(
                    at, call, lambda: made.call_tool("macaroon_delegate", arguments, raise_on_error=False)
                )
        if found is None or call.answers != ["ok"]:
            return call
        at = self.random.randrange(len(self.load.place.servers))
        with contextlib.suppress(Exception):
            async with self._client(at, found.structured_content["token"]) as made:
                for tool in ("free", "card"):
                    call = self._call(tool, call.who)
                    call.approved = tool == "free"
                    await self._plain(made, at, call)
        return call

    # --- one request --------------------------------------------------------------------------------------------------

    async def _leg(self, at: int, call: Call, send: Callable[[], Awaitable[Any]]) -> Any:
        """Sends one request and notes its answer; None where it got none."""
        leg = Leg(server=at, start=self.load.place.servers[at].starts, began=time.monotonic())
        call.legs.append(leg)
        try:
            result = await asyncio.wait_for(send(), PATIENCE)
        except Exception as error:
            leg.why = f"{type(error).__name__}: {error}"[:200]
            result = None
        finally:
            leg.ended = time.monotonic()
        leg.answer = LOST if result is None else _answer(result)
        call.email = call.email or EMAIL in str(result)
        return result

    def _call(self, tool: str, who: str) -> Call:
        self.count += 1
        made = Call(id=f"c-{self.number}-{self.count}", tool=tool, who=who, era=self.era)
        self.load.story.calls.append(made)
        return made

    @contextlib.asynccontextmanager
    async def _client(self, at: int, auth: str) -> Any:
        """A client at one server; neither coming nor going takes longer than a request."""
        options = {"elicitation_handler": self.person, "timeout": PATIENCE, "init_timeout": PATIENCE}
        async with client(self.load.place.servers[at].url, self.era, auth, **options) as made:
            yield made


async def _send(made: Client[Any], call: Call, given: Any = None, state: str | None = None) -> Any:
    more = {} if given is None else {"input_responses": given, "request_state": state}
    return await made.session.call_tool(call.tool, {"call": call.id}, allow_input_required=True, **more)


def _given(asked: mcp_types.InputRequiredResult, says: str) -> dict[str, Any]:
    """The same answer in every field."""
    return {
        key: mcp_types.ElicitResult(
            action="accept",
            content=dict.fromkeys(request.params.requested_schema["properties"], says),  # type: ignore[union-attr]
        )
        for key, request in (asked.input_requests or {}).items()
    }


def _answer(result: Any) -> str:
    """`ok`, `asked`, the code of the refusal, or `refused`."""
    if isinstance(result, mcp_types.InputRequiredResult):
        return ASKED
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return str(code) if code else REFUSED if result.is_error else "ok"
