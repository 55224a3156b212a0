"""Clients that call without end, in both protocols, repeat what was approved, and remember what they were told.

They never judge it. All times are seconds of `time.monotonic()`, which every process of a machine shares.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types
from asking import Person
from fastmcp import Client
from several import Fleet, Process, client, outcome

PEOPLE = ("alice", "bob", "carol")
ACTS = ("free", "free", "free", "work", "work", "send", "user", "slow", "slow", "nothing", "legs", "legs", "replay")
TIMEOUT = 20.0
TURNS = 100
"""How much a client does over its connections before it makes new ones."""
LONGEST = 1.5
"""Seconds that a tool takes at most."""
KEPT = 200
"""How many answered legs of a person are kept, to be sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call or leg: its tool and number, who sent it, what was said of it, when, and how long it took."""

    tool: str
    number: int
    person: str
    said: str
    leg: bool
    began: float
    took: float


@dataclass(slots=True, kw_only=True)
class Order:
    """One thing that needs approvals: how often it was called anew, and approved; what was said of calls and legs."""

    tool: str
    number: int
    calls: int = 0
    approved: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def mark(self) -> str:
        """What a run of it leaves in the ledger."""
        return f"{self.tool}-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """An answered question that can be sent again: by the same person, to any server, at any time."""

    order: Order
    arguments: dict[str, Any]
    state: str | None
    answers: dict[str, Any]


class Load:
    """So many clients at once. `said` is `ok`, `asked`, the code of a refusal, or `lost` if no answer came."""

    def __init__(self, made: Fleet, clients: int) -> None:
        self.made, self.calls, self.stopped = made, list[Call](), False
        self.orders: list[Order] = []
        self.legs: dict[str, deque[Leg]] = {person: deque(maxlen=KEPT) for person in PEOPLE}
        self.numbers = itertools.count(1)
        self.going, self._still = asyncio.Event(), asyncio.Event()
        self._clients, self._busy = clients, 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins to call."""
        self.going.set()
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(self._clients)]

    async def pause(self) -> None:
        """Lets every call end and every connection close; returns once all is still."""
        self.going.clear()
        await self._still.wait()
        await asyncio.sleep(2)

    def resume(self) -> None:
        """Goes on after `pause`."""
        self.going.set()

    async def stop(self) -> None:
        """Lets every call end."""
        self.stopped = True
        self.going.set()
        await asyncio.gather(*self._tasks)

    @property
    def outcomes(self) -> Counter[str]:
        """What was said, and how often."""
        return Counter(call.said for call in self.calls)

    async def _caller(self, number: int) -> None:
        """Connects again and again, in one of the protocols, as one person or another."""
        chance, era = random.Random(number), ("auto", "legacy")[number % 2]
        while not self.stopped:
            await self.going.wait()
            self._busy += 1
            self._still.clear()
            try:
                await self._connected(era, chance)
            except Exception:  # a server is away; soon it is back
                await asyncio.sleep(0.1)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._still.set()

    async def _connected(self, era: str, chance: random.Random) -> None:
        """Some calls over a connection to each server, until one is lost; in the older protocol to one server."""
        human, name = Person("once"), chance.choice(PEOPLE)
        urls = chance.sample(self.made.urls, len(self.made.urls))
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(client(url, era, name, elicitation_handler=human, verify=False))
                for url in (urls if era == "auto" else urls[:1])
            ]
            caller = Caller(self, opened, human, name, chance, legs=era == "auto")
            for _ in range(TURNS):
                if self.stopped or not self.going.is_set() or caller.lost:
                    return
                await caller.act()


class Caller:
    """One person's client while its connections stand."""

    def __init__(
        self,
        load: Load,
        opened: Sequence[Client[Any]],
        human: Person,
        name: str,
        chance: random.Random,
        *,
        legs: bool,
    ) -> None:
        self.lost = False
        self._load, self._opened, self._human, self._name, self._chance = load, opened, human, name, chance
        self._acts = ACTS if legs else tuple(act for act in ACTS if act not in ("legs", "replay"))

    async def act(self) -> None:
        """Does one thing or another."""
        act = self._chance.choice(self._acts)
        if act == "legs":
            await self._leg_by_leg()
        elif act == "replay":
            await self._replayed()
        elif act in ("send", "user"):
            await self._asked(act)
        else:
            await self._plain(act)

    async def _plain(self, tool: str) -> None:
        number = next(self._load.numbers)
        given: dict[str, Any] = {} if tool == "nothing" else {"number": number}
        if tool == "slow":
            given["seconds"] = round(self._chance.uniform(0.05, LONGEST), 2)
        await self._told(tool, number, outcome(self._opened[0], tool, **given))

    async def _asked(self, tool: str) -> None:
        """A call that its person is asked about; often the same call again, which needs an approval of its own."""
        order, human = self._order(tool), self._human
        for at in self._chance.choices(self._opened, k=self._chance.choice((1, 1, 2, 3))):
            human.says = self._chance.choice(("once", "once", "once", "deny", "decline"))
            before = human.asked
            order.calls += 1
            order.said.append(await self._told(tool, order.number, outcome(at, tool, number=order.number)))
            order.approved += (human.asked - before) if human.says == "once" else 0

    async def _leg_by_leg(self) -> None:
        """A question and its answer: to the same server, to another, to several at once; kept to be sent again."""
        tool = self._chance.choice(("send", "pay", "pay", "user"))
        order = self._order(tool)
        given: dict[str, Any] = {"number": order.number}
        if tool == "pay":
            given["seconds"] = round(self._chance.uniform(0.0, LONGEST), 2)
        asked: list[mcp_types.InputRequiredResult] = []
        order.calls += 1
        order.said.append(await self._told(tool, order.number, sent(self._opened[0], tool, given, asked)))
        if not asked:
            return
        says = self._chance.choice(("once", "once", "once", "deny"))
        leg = Leg(order=order, arguments=given, state=asked[0].request_state, answers=answers(asked[0], says))
        order.approved += says == "once"
        way = self._chance.choice(((0,), (-1,), (0, -1), (0, -1, 0, -1)))
        await asyncio.gather(*(self._send(self._opened[at], leg) for at in way))
        if says == "deny" and "declined" in order.said:  # what was refused is not allowed by another answer
            leg = Leg(order=order, arguments=given, state=leg.state, answers=answers(asked[0], "once"))
            await self._send(self._chance.choice(self._opened), leg)
        self._load.legs[self._name].append(leg)

    async def _replayed(self) -> None:
        """A leg from before, whatever came of it, to one server or to several at once."""
        if legs := self._load.legs[self._name]:
            leg = self._chance.choice(legs)
            to = self._chance.choices(self._opened, k=self._chance.choice((1, 2)))
            await asyncio.gather(*(self._send(at, leg) for at in to))

    async def _send(self, at: Client[Any], leg: Leg) -> None:
        order = leg.order
        work = sent(at, order.tool, leg.arguments, [], input_responses=leg.answers, request_state=leg.state)
        order.said.append(await self._told(order.tool, order.number, work, leg=True))

    def _order(self, tool: str) -> Order:
        order = Order(tool=tool, number=next(self._load.numbers))
        self._load.orders.append(order)
        return order

    async def _told(self, tool: str, number: int, work: Coroutine[Any, Any, str], *, leg: bool = False) -> str:
        """What is said of a call or leg; it is remembered."""
        began = time.monotonic()
        try:
            said = await asyncio.wait_for(work, TIMEOUT)
        except Exception:
            said, self.lost = "lost", True
        took = time.monotonic() - began
        self._load.calls.append(
            Call(tool=tool, number=number, person=self._name, said=said, leg=leg, began=began, took=took)
        )
        return said


async def sent(
    at: Client[Any], tool: str, given: dict[str, Any], asked: list[mcp_types.InputRequiredResult], **answer: Any
) -> str:
    """One leg of a call, in today's protocol: `ok`, `asked` (and the question), or the code of the refusal."""
    result = await at.session.call_tool(tool, given, allow_input_required=True, **answer)
    if isinstance(result, mcp_types.InputRequiredResult):
        asked.append(result)
        return "asked"
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return str(code) if code else "error" if result.is_error else "ok"


def answers(asked: mcp_types.InputRequiredResult, says: str) -> dict[str, Any]:
    """The same answer to everything that is asked."""
    return {
        key: mcp_types.ElicitResult(
            action="accept",
            content=dict.fromkeys(request.params.requested_schema["properties"], says),  # type: ignore[union-attr]
        )
        for key, request in (asked.input_requests or {}).items()
    }


@dataclass(frozen=True, slots=True)
class Idle:
    """A server that nobody calls: its process, its memory in kB and its open files."""

    process: int
    memory: int
    files: int


def idle(server: Process) -> Idle:
    """What a server takes now."""
    assert server.process is not None
    place = Path(f"/proc/{server.process.pid}")
    status = (place / "status").read_text("ascii")
    memory = int(status.partition("VmRSS:")[2].split()[0])
    return Idle(server.process.pid, memory, len(os.listdir(place / "fd")))
