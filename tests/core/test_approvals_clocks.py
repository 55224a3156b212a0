"""Approvals go by the store's clock, tokens by the wall clock: setting a clock revives nothing and stops nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agreeing import agreed, answer, asked, code, emptied, on
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import RING, call
from redis_server import BINARIES, opened, running

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.core import epoch
from mcp_macaroon_middleware.core.clock import LEAST, MOST, STEP, SystemClock
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.plugin import Store
from mcp_macaroon_middleware.plugin.ticks import ticks
from mcp_macaroon_middleware.tokens import mint, verify

HOUR, DAY = 3600.0, 86_400.0
STORES = ("memory", "sqlite", *BINARIES)


class Wall:
    """A server's wall clock, so many seconds off."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def __call__(self) -> float:
        return time.time() + self.off


class Seconds:
    """A clock that goes on when a test says so."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[Store]:
    """A store of that kind; its owner closes it."""
    if kind == "memory":
        yield MemoryStore()
    elif kind == "sqlite":
        yield SQLiteStore(folder / "state.db", "clocks")
    else:
        with running(kind) as server:
            yield opened(server)


@asynccontextmanager
async def kept(kind: str, folder: Path) -> AsyncIterator[Store]:
    with stores(kind, folder) as store:
        yield store
        await store.close()


def engine_on(store: Store, rules: list[Any], wall: Any = time.time) -> PolicyEngine:
    return on(store, rules, wall).engine


ASKS: list[Any] = ["bf:t:tool_access:elicit", "bf:p:tool_access:elicit"]


# --- approvals --------------------------------------------------------------------------------------------------------


@pytest.mark.threat("K05", "K06", "FI10")
@pytest.mark.parametrize(
    "steps",
    [(600, 7200, 86_400), (600, 0, 86_400, 0), (-600, -7200), (-7200, 0, 7200, 0)],
    ids=["forward", "forward and right again", "back", "back and forth"],
)
@pytest.mark.parametrize("kind", STORES)
async def test_questions_are_answered_whatever_is_done_to_the_wall_clock(
    kind: str, steps: tuple[int, ...], tmp_path: Path
) -> None:
    async with kept(kind, tmp_path) as store:
        wall = Wall()
        engine = engine_on(store, ASKS, wall)
        assert code(await agreed(engine, "period", "p")) == "allowed"
        for off in steps:
            before = await asked(engine)
            wall.off = off
            assert code(await answer(engine, before)) == "allowed", "the question was open when the clock was set"
            assert code(await agreed(engine)) == "allowed"
            assert code(await engine.decide(call("p"))) == "allowed", "an approval for a period stands"
        again = engine_on(store, ASKS, wall)
        assert code(await agreed(again)) == "allowed", "a server that was started with this clock"


@pytest.mark.threat("K05")
@pytest.mark.parametrize("off", [300, -300, 90_000])
@pytest.mark.parametrize("kind", STORES)
async def test_a_server_with_another_clock_than_the_store_asks_and_answers_as_any(
    kind: str, off: float, tmp_path: Path
) -> None:
    async with kept(kind, tmp_path) as store:
        right, wrong = engine_on(store, ASKS), engine_on(store, ASKS, Wall(off))
        for one, other in ((right, wrong), (wrong, right), (wrong, wrong)):
            assert code(await answer(other, await asked(one))) == "allowed"
        assert code(await answer(wrong, await asked(right, "p"), "period", "p")) == "allowed"
        assert code(await right.decide(call("p"))) == "allowed"


@pytest.mark.threat("K06")
@pytest.mark.parametrize("kind", STORES)
async def test_no_wall_clock_refills_a_limit_or_locks_it(kind: str, tmp_path: Path) -> None:
    async with kept(kind, tmp_path) as store:
        wall = Wall()
        engine = engine_on(store, ["bf:t:tool_access:allow", "bf:t:rate_limit:allow:2/hour"], wall)
        assert [code(await engine.decide(call("t"))) for _ in range(3)] == ["allowed"] * 2 + ["rate_limited"]
        for off in (DAY, -HOUR, 0):
            wall.off = off
            refusal = (await engine.decide(call("t"))).refusal
            assert refusal is not None
            assert refusal.retry_after is not None
            assert 3000 < refusal.retry_after <= HOUR


@pytest.mark.threat("D07", "FI10")
async def test_what_was_approved_ends_by_the_stores_clock_even_if_its_record_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, wall = Seconds(), Wall()
    monkeypatch.setattr(epoch, "ticks", clock)
    store = MemoryStore(clock=clock)
    engine = engine_on(store, ASKS, wall)
    assert code(await agreed(engine, "period")) == "allowed"
    names = [name for name, _ in (await store.scan("", None, 99))[0] if "grant/" in name]
    (entry,) = await store.get(names)
    assert entry is not None
    clock.at += 899
    assert code(await engine.decide(call("t"))) == "allowed"
    clock.at += 1
    for off in (0, -HOUR, HOUR):
        wall.off = off
        await store.put(names[0], entry.value, 3600)
        assert code(await engine.decide(call("t"))) == "approval_unavailable"


@pytest.mark.threat("F21")
async def test_an_approval_lasts_as_long_as_it_says_from_when_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Seconds()
    monkeypatch.setattr(epoch, "ticks", clock)
    engine = engine_on(MemoryStore(clock=clock), ASKS)
    challenge = await asked(engine)
    clock.at += 100
    assert code(await answer(engine, challenge, "period")) == "allowed"
    clock.at += 899
    assert code(await engine.decide(call("t"))) == "allowed"
    clock.at += 1
    assert code(await engine.decide(call("t"))) == "approval_unavailable"


@pytest.mark.threat("D07", "FI10")
@pytest.mark.parametrize("late", [0, 1])
async def test_a_question_ends_by_the_stores_clock_even_if_its_record_is_put_back(late: int) -> None:
    clock, wall = Seconds(), Wall()
    store = MemoryStore(clock=clock)
    engine = engine_on(store, ASKS, wall)
    challenge = await asked(engine)
    (name,) = [name for name, _ in (await store.scan("", None, 99))[0] if "leg/" in name]
    (entry,) = await store.get([name])
    assert entry is not None
    clock.at += 119 + late
    await store.put(name, entry.value, 3600)
    wall.off = -HOUR
    other = engine_on(store, ASKS, wall)
    assert code(await answer(other, challenge)) == ("approval_stale" if late else "allowed")
    assert code(await answer(other, challenge)) == "grant_used"


class Hasty(MemoryStore):
    """A store whose clock can be wrong: `now` is so many seconds ahead."""

    ahead = 0.0

    async def now(self) -> float:
        return await super().now() + self.ahead


@pytest.mark.threat("FI10", "D09")
async def test_a_stores_clock_that_was_wrong_when_its_epoch_began_stops_nothing_once_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(epoch, "BEAT", 0.0)
    store = Hasty()
    store.ahead = DAY
    first = engine_on(store, ASKS)
    open_then = await asked(first)
    store.ahead = 0.0
    for engine in (first, engine_on(store, ASKS)):
        assert code(await agreed(engine)) == "allowed"
        assert code(await agreed(engine, "period", "p")) == "allowed"
        assert code(await engine.decide(call("p"))) == "allowed"
        await emptied(store)  # and a new epoch
    assert code(await answer(first, open_then)) == "approval_stale"


# --- tokens -----------------------------------------------------------------------------------------------------------


class Host:
    """A machine: the seconds since its start, and a wall clock that somebody may set."""

    def __init__(self) -> None:
        self.passed, self.off = 1000.0, 1_800_000_000.0

    def wall(self) -> float:
        return self.passed + self.off

    def clock(self) -> SystemClock:
        return SystemClock(read=self.wall, passed=lambda: self.passed)

    def goes_on(self, clock: SystemClock, seconds: float, every: float = 60.0) -> None:
        """Time passes, and somebody looks at the clock now and then."""
        end = self.passed + seconds
        while self.passed < end:
            self.passed = min(self.passed + every, end)
            clock.now()


def told(clock: SystemClock) -> float:
    return clock.now().timestamp()


@pytest.mark.threat("FI10")
@pytest.mark.parametrize("step", [600.0, 30 * DAY])
@pytest.mark.parametrize("uptime", [0.0, 10.0, 30 * DAY])
def test_a_clock_that_was_ahead_for_a_minute_is_right_when_it_is_put_right(step: float, uptime: float) -> None:
    host = Host()
    clock = host.clock()
    host.goes_on(clock, uptime, 600.0)
    right = host.off
    host.off += step
    assert told(clock) == pytest.approx(host.wall()), "what it says is believed at once, lest something end late"
    host.goes_on(clock, 60.0, 5.0)
    host.off = right
    assert told(clock) == pytest.approx(host.wall())


@pytest.mark.threat("D07", "FI10")
@pytest.mark.parametrize("uptime", [0.0, HOUR, DAY, 30 * DAY])
def test_nobody_takes_time_back_by_setting_a_clock_back(uptime: float) -> None:
    host = Host()
    clock = host.clock()
    host.goes_on(clock, uptime, 600.0)
    for back in (HOUR, 2 * HOUR, DAY):
        right, latest = host.off, told(clock)
        host.off -= back
        for _ in range(200):
            host.passed += 900.0
            assert told(clock) >= latest
            latest = told(clock)
        host.off = right
        host.goes_on(clock, 3 * DAY, 600.0)
        assert told(clock) == pytest.approx(host.wall())


@pytest.mark.threat("FI10")
def test_a_clock_that_was_wrong_when_the_server_started_is_right_within_an_hour() -> None:
    host = Host()
    host.off += 400 * DAY
    clock = host.clock()
    host.goes_on(clock, 60.0, 5.0)
    host.off -= 400 * DAY
    host.goes_on(clock, LEAST + 120.0)
    assert told(clock) == pytest.approx(host.wall())


@pytest.mark.threat("FI10")
def test_a_clock_that_was_set_back_for_good_is_believed_after_a_day_at_most() -> None:
    host = Host()
    clock = host.clock()
    host.goes_on(clock, 30 * DAY, 600.0)
    host.off -= 30 * DAY
    host.goes_on(clock, MOST - 600.0, 600.0)
    assert told(clock) == pytest.approx(host.wall() + 30 * DAY)
    host.goes_on(clock, 1800.0)
    assert told(clock) == pytest.approx(host.wall())


@pytest.mark.threat("FI10")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(-0.4, 0.4)), max_size=40))
def test_a_clock_that_drifts_never_goes_back_and_is_never_far_off(steps: list[tuple[float, float]]) -> None:
    host = Host()
    clock = host.clock()
    latest = told(clock)
    for seconds, drift in steps:
        host.passed += seconds
        host.off += drift
        assert told(clock) >= latest or latest - host.wall() > STEP
        assert -1e-3 <= told(clock) - host.wall() <= 2 * STEP
        latest = told(clock)


@pytest.mark.threat("FI10", "D07")
async def test_a_token_is_good_again_after_a_wrong_minute_and_never_after_its_end() -> None:
    host = Host()
    clock = host.clock()
    engine = engine_on(MemoryStore(), ["bf:t:tool_access:allow"], clock)
    at = datetime.fromtimestamp(host.wall(), UTC)
    token = verify(
        RING, mint(RING, subject="alice", audience="lab", expires=timedelta(hours=2), now=at), audience="lab", now=at
    )

    async def says() -> str:
        return code(await engine.decide(call("t"), token=token))

    host.goes_on(clock, 1.5 * HOUR)
    right = host.off
    host.off += 2 * HOUR
    assert await says() == "token_expired"
    host.goes_on(clock, 60.0)
    host.off = right
    assert await says() == "allowed"
    host.goes_on(clock, HOUR)
    assert await says() == "token_expired"
    host.off -= HOUR
    for _ in range(120):
        assert await says() == "token_expired"
        host.passed += 60.0


def test_a_clock_may_be_asked_by_many_threads_at_once() -> None:
    clock = SystemClock()

    async def many() -> list[datetime]:
        return await asyncio.gather(*(asyncio.to_thread(clock.now) for _ in range(200)))

    for each in asyncio.run(many()):
        assert abs((datetime.now(UTC) - each).total_seconds()) < 60


# --- a machine that sleeps --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock of its own for it")
def test_what_is_kept_in_memory_ends_while_the_machine_sleeps() -> None:
    assert abs(ticks() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    assert MemoryStore()._clock is ticks


@pytest.mark.threat("FI10", "K05")
async def test_the_stores_time_goes_on_here_between_two_questions_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, passed = Seconds(), Seconds(100.0)
    monkeypatch.setattr(epoch, "ticks", passed)
    store = MemoryStore(clock=clock)
    engine = engine_on(store, ASKS)
    assert code(await agreed(engine, "period")) == "allowed"
    (name,) = [name for name, _ in (await store.scan("", None, 99))[0] if "grant/" in name]
    (entry,) = await store.get([name])
    assert entry is not None
    await store.put(name, entry.value, 10_000)
    for seconds, said in ((899.0, "allowed"), (2.0, "approval_unavailable")):
        clock.at += seconds
        passed.at += seconds
        assert code(await engine.decide(call("t"))) == said
    passed.at += 3 * epoch.BEAT
    assert code(await engine.decide(call("t"))) == "approval_unavailable"
