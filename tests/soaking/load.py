"""Clients that call without end, in both protocols, and remember what they were told. They never judge it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asking import Person
from several import Fleet, Process, client, outcome

PEOPLE = ("alice", "bob", "carol")
TOOLS = ("free", "free", "free", "work", "work", "send", "send", "user", "slow", "nothing")
TIMEOUT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: what it was to leave in the ledger, what was said of it, when, and how long it took, in seconds."""

    tool: str
    mark: str
    said: str
    began: float
    took: float


class Load:
    """So many clients at once. `said` is `ok`, the code of a refusal, or `lost` if no answer came."""

    def __init__(self, made: Fleet, clients: int) -> None:
        self.made, self.calls, self.stopped = made, list[Call](), False
        self._numbers = itertools.count(1)
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins to call."""
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(self._clients)]

    async def stop(self) -> None:
        """Lets every call end."""
        self.stopped = True
        await asyncio.gather(*self._tasks)

    @property
    def outcomes(self) -> Counter[str]:
        """What was said, and how often."""
        return Counter(call.said for call in self.calls)

    async def _caller(self, number: int) -> None:
        chance = random.Random(number)
        while not self.stopped:
            person = Person("once")
            era = ("auto", "legacy")[number % 2]
            url = chance.choice(self.made.urls)
            try:
                async with client(url, era, chance.choice(PEOPLE), elicitation_handler=person) as at:
                    for _ in range(50):
                        if self.stopped or not await self._call(at, person, chance):
                            break
            except Exception:  # the server is away; somebody else may be there
                await asyncio.sleep(0.1)

    async def _call(self, at: Any, person: Person, chance: random.Random) -> bool:
        """Whether the connection can be used again."""
        tool, number = chance.choice(TOOLS), next(self._numbers)
        person.says = chance.choice(("once", "once", "deny", "decline"))
        given: dict[str, dict[str, Any]] = {
            "send": {"to": f"n{number}"},
            "user": {"id": number},
            "slow": {"seconds": 0.0},
            "nothing": {},
        }
        began, wall = time.monotonic(), time.time()
        try:
            said = await asyncio.wait_for(outcome(at, tool, **given.get(tool, {"number": number})), TIMEOUT)
        except Exception:
            said = "lost"
        mark = {"send": f"send-n{number}", "slow": "slow-began"}.get(tool, f"{tool}-{number}")
        took = time.monotonic() - began
        self.calls.append(Call(tool=tool, mark=mark, said=said, began=wall, took=took))
        return said != "lost"


def idle(server: Process) -> tuple[int, int]:
    """A server's memory in kB and its open files."""
    assert server.process is not None
    place = Path(f"/proc/{server.process.pid}")
    status = (place / "status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]), len(os.listdir(place / "fd"))
