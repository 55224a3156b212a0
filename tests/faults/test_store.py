"""A whole guarded server whose store ends, hangs, forgets or is cut off at the worst moment: nothing opens, nothing
runs twice, every request has one end, and service returns by itself."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import Person
from fastmcp import Client, FastMCP
from guarded import Guarded, guarded
from redis_server import BINARIES, RedisServer, running
from redis_wire import Shears, served
from several import answered, client, fleet, outcome, question

USED = ("grant_used", "approval_stale")
RULES: list[Any] = [
    "bf:send:tool_access:elicit",
    "bf:send:rate_limit:allow:100/hour",
    "bf:user:tool_access:allow",
    "bf:user:rate_limit:allow:100/hour",
    "af:user:field_access:elicit:email",
    "bf:never:tool_access:deny",
    "bf:plain:tool_access:allow",
    "bf:free:tool_access:allow",
    "bf:free:rate_limit:allow:1000/hour",
    "bf:work:tool_access:allow",
    "bf:work:rate_limit:allow:2/hour",
]


@pytest.fixture(params=sorted(BINARIES))
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for one test."""
    with running(request.param) as made:
        yield made


class Office:
    """A guarded server, what its tools did, and what they do beside their work."""

    def __init__(self, store: str, **config: Any) -> None:
        self.done: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        server: FastMCP[Any] = FastMCP("office")

        @server.tool
        def send(to: str) -> str:
            self.done.append(f"send-{to}")
            return f"sent to {to}"

        @server.tool
        def user(id: int) -> dict[str, Any]:
            self.done.append(f"user-{id}")
            self.meanwhile()
            return {"id": id, "email": "bob@example.com"}

        @server.tool
        def work() -> str:
            self.done.append("work")
            return "done"

        @server.tool
        def free() -> str:
            return "free"

        @server.tool
        def plain() -> str:
            return "plain"

        @server.tool
        def never() -> str:
            self.done.append("never")
            return "never"

        settings = {"store": store, "audience": secrets.token_hex(8), **config}
        self.guarded: Guarded = guarded(server, RULES, config=settings, redis={"timeout": TIMEOUT})

    @asynccontextmanager
    async def client(self, era: str = "auto") -> AsyncIterator[Client[Any]]:
        """A client in memory."""
        async with Client(self.guarded.server, mode=era, elicitation_handler=Person()) as made:
            yield made
        await self.guarded.guard.runtime.close()


async def until(works: Callable[[], Awaitable[str]], expected: str, seconds: float = 10.0) -> None:
    """Returns once `works` says what is expected."""
    end = time.monotonic() + seconds
    while (said := await works()) != expected:
        assert said == "store_unavailable", said
        assert time.monotonic() < end, "it does not return"
        await asyncio.sleep(0.05)


# --- cut off at every point -------------------------------------------------------------------------------------------


@pytest.mark.threat("FI2", "FI8", "FI1", "N02")
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before the answer"])
async def test_wherever_the_store_is_cut_off_while_an_approval_is_used_the_tool_runs_once_at_most(
    redis: RedisServer, before: bool
) -> None:
    seen: list[tuple[str, int, str]] = []
    for number in range(1, 30):
        shears = Shears(redis.port)
        async with served(shears.carry) as address:
            office = await asyncio.to_thread(Office, address)  # a start waits for its store
            async with office.client() as caller:
                asked = await question(caller)
                shears.arm(number, before=before)
                first = await answered(caller, asked)
                ran, triggered = len(office.done), shears.broken
                shears.mend()
                if not triggered:
                    assert first == "ok"
                    break
                assert (first, ran) in (("store_unavailable", 0), ("ok", 1)), first
                await until(lambda caller=caller: outcome(caller, "work"), "ok")  # type: ignore[misc]
                again = await answered(caller, asked)
                assert office.done.count("send-bob") <= 1
                assert again == "ok" if office.done.count("send-bob") > ran else again in USED
                fresh = await question(caller)
                assert await answered(caller, fresh) == "ok", "whoever asks again is asked again"
                assert office.guarded.exactly_one_end_each()
                seen.append((first, ran, again))
    assert len(seen) >= 2, "the store was never needed"
    lost = [again for first, ran, again in seen if first == "store_unavailable" and again in USED]
    assert lost, "what is used counts as used, though its call never ran"


@pytest.mark.threat("FI8")
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before the answer"])
async def test_wherever_the_store_is_cut_off_while_a_result_is_held_it_is_given_out_once_at_most(
    redis: RedisServer, before: bool
) -> None:
    for number in range(1, 30):
        shears = Shears(redis.port)
        async with served(shears.carry) as address:
            office = await asyncio.to_thread(Office, address)  # a start waits for its store
            async with office.client() as caller:
                asked = await question(caller, "user", id=7)
                shears.arm(number, before=before)
                first = await answered(caller, asked, "user", id=7)
                triggered = shears.broken
                shears.mend()
                if not triggered:
                    assert first == "ok"
                    break
                await until(lambda caller=caller: outcome(caller, "work"), "ok")  # type: ignore[misc]
                again = await answered(caller, asked, "user", id=7)
                assert [first, again].count("ok") <= 1
                assert office.done.count("user-7") == 1
                assert office.guarded.exactly_one_end_each()
    assert number > 2


# --- ended ------------------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI3", "N02")
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_store_that_dies_while_the_tool_runs_keeps_back_what_must_be_asked_about(
    redis: RedisServer, era: str
) -> None:
    office = Office(redis.url())
    async with office.client(era) as caller:
        office.meanwhile = redis.kill
        result = await caller.call_tool("user", {"id": 7}, raise_on_error=False)
        assert "bob@example.com" not in repr(result)
        assert result.is_error
        assert office.done == ["user-7"]
        (name, how, code) = office.guarded.ends[-1]
        assert (name, how, code) == ("user", "withheld", "store_unavailable")
        assert office.guarded.exactly_one_end_each()
        office.meanwhile = lambda: None
        await asyncio.to_thread(redis.start)
        await until(lambda: outcome(caller, "work"), "ok")


@pytest.mark.threat("FI1")
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_store_that_dies_refuses_calls_soon_and_returns_without_a_restart(redis: RedisServer, era: str) -> None:
    office = Office(redis.url())
    async with office.client(era) as caller:
        assert await outcome(caller, "work") == "ok"
        redis.kill()
        began = time.monotonic()
        assert await outcome(caller, "work") == "store_unavailable"
        assert await outcome(caller, "send", to="bob") == "store_unavailable"
        assert time.monotonic() - began < 3
        assert office.done == ["work"]
        assert office.guarded.ends[-1][1:] == ("denied", "store_unavailable")
        await asyncio.to_thread(redis.start)
        await until(lambda: outcome(caller, "work"), "ok")


TIMEOUT = 1.0
PAUSE = 3.0
"""Seconds. The threat list says ten; three are three times the store's own timeout, which is what matters."""


class Beats:
    """Calls that need no store, one after another, for as long as the block runs: how long each took."""

    def __init__(self, *clients: Client[Any]) -> None:
        self._clients = clients
        self.took: list[float] = []

    async def __aenter__(self) -> Beats:
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.seconds = time.monotonic() - self._began

    async def _beat(self) -> None:
        while True:
            for each in self._clients:
                began = time.monotonic()
                assert await outcome(each, "plain") == "ok"
                self.took.append(time.monotonic() - began)
            await asyncio.sleep(0.005)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.took) / self.seconds


@pytest.mark.threat("FI4", "N03")
async def test_a_store_that_hangs_holds_up_only_who_needs_it(redis: RedisServer) -> None:
    office, bare = Office(redis.url()), FastMCP[Any]("bare")

    @bare.tool
    def plain() -> str:
        return "plain"

    async with office.client() as caller, Client(bare) as unguarded:
        assert await outcome(caller, "free") == "ok"
        async with Beats(caller, unguarded) as control:
            await asyncio.gather(*(outcome(caller, "free") for _ in range(30)))
            await asyncio.sleep(PAUSE / 3)
        redis.pause()
        async with Beats(caller, unguarded) as paused:
            waiting = []
            for _ in range(6):
                waiting += [asyncio.create_task(outcome(caller, "free")) for _ in range(10)]
                await asyncio.sleep((PAUSE - TIMEOUT) / 10)
            refused = await asyncio.wait_for(asyncio.gather(*waiting), PAUSE)
            await asyncio.sleep(PAUSE - TIMEOUT)
            assert await asyncio.wait_for(outcome(caller, "free"), 2 * TIMEOUT) == "store_unavailable"
        assert set(refused) == {"store_unavailable"}, "each ended by its own timeout, while the store still stood"
        assert paused.rate > control.rate / 4, "who needs no store was held up"
        assert max(paused.took) < max(TIMEOUT / 2, 3 * max(control.took)), "the event loop stood still"
        redis.resume()
        await until(lambda: outcome(caller, "free"), "ok")
        assert office.guarded.exactly_one_end_each()
        ends = [end[1:] for end in office.guarded.ends if end[0] == "free" and end[1] != "ok"]
        assert set(ends) == {("denied", "store_unavailable")}


@pytest.mark.threat("FI5")
async def test_a_store_that_forgets_everything_opens_nothing(redis: RedisServer) -> None:
    office = Office(redis.url())
    async with office.client() as caller:
        asked, used = await question(caller, to="bob"), await question(caller, to="dave")
        assert await answered(caller, used, to="dave") == "ok"
        period = await question(caller, to="carol")
        assert await answered(caller, period, says="period", to="carol") == "ok"
        assert [await outcome(caller, "work") for _ in range(3)] == ["ok", "ok", "rate_limited"]
        redis.ask("FLUSHALL")
        assert await answered(caller, asked) in USED, "what was asked is asked again"
        assert await answered(caller, used, to="dave") in USED
        await question(caller, to="carol")
        assert await outcome(caller, "never") != "ok"
        assert office.done.count("send-bob") == 0
        assert office.done.count("send-dave") == 1
        assert await outcome(caller, "work") == "ok", "limits count anew"


# --- questions that are open ------------------------------------------------------------------------------------------


@pytest.mark.threat("FI14")
@pytest.mark.parametrize("store", ["sqlite", *BINARIES, "memory"])
async def test_a_question_that_was_open_at_a_crash_is_answered_once_or_not_at_all(store: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store, 1) as made:
        (server,) = made.servers
        async with client(made.urls[0], elicitation_handler=Person()) as caller:
            asked, held = await question(caller), await question(caller, "user", id=7)
        server.kill()
        server.start()
        async with client(made.urls[0], elicitation_handler=Person()) as caller:
            first = await answered(caller, asked)
            second = await answered(caller, asked)
            given = await answered(caller, held, "user", id=7)
        if store == "memory":
            assert first in USED
            assert "send-bob" not in made.done
        else:
            assert first == given == "ok"
            assert made.done["send-bob"] == 1
        assert second in USED
        assert made.done["user-7"] == 1, "what ran before the crash does not run again"


@pytest.mark.threat("FI14", "P04")
@pytest.mark.parametrize("store", ["sqlite", "memory"])
async def test_questions_that_nobody_answers_end_and_are_never_too_many(store: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store, 1, approvals={"max_pending": 3, "timeout": 2}) as made:
        async with client(made.urls[0], elicitation_handler=Person()) as caller:
            asked = [await question(caller, to=f"p{number}") for number in range(3)]
            for number in range(20):
                assert await outcome(caller, "send", to=f"q{number}") == "too_many_pending"
            await asyncio.sleep(2.3)
            late = await answered(caller, asked[0], to="p0")
            assert late != "ok"
            fresh = await question(caller, to="fresh")
            assert await answered(caller, fresh, to="fresh") == "ok"
    assert set(made.done) == {"send-fresh"}
    with contextlib.suppress(FileNotFoundError):
        assert (tmp_path / "state.db").stat().st_size < 1 << 20
