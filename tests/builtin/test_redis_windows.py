"""The redis store's sliding windows: those of the memory store, charge by charge."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer, line, opened

from mcp_macaroon_middleware.builtin import redis_scripts
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.builtin.redis_scripts import Script
from mcp_macaroon_middleware.plugin import Amount


class Clock:
    """Sixty-fourths of a second, exact for both stores."""

    ticks = 64 * 1_800_000_000

    def __call__(self) -> float:
        return self.ticks / 64


charges = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from([0, 1, 1, 1, 3, 200]),
    st.sampled_from([3, 100, 10**6]),
    st.sampled_from([8, 64]),
)
steps = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.integers(0, 5000),
        st.sampled_from([8, 64, 512, 4096]),
        st.lists(charges, min_size=1, max_size=3),
    ),
    max_size=25,
)


@pytest.fixture
def clocked(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    source = redis_scripts.ADD.source
    time_of_test = source.replace("redis.call('TIME')", "cjson.decode(redis.call('GET', 'clock'))")
    assert time_of_test != source
    monkeypatch.setattr(redis_scripts, "ADD", Script(time_of_test))
    return server


async def _set(server: RedisServer, clock: Clock) -> None:
    seconds, ticks = divmod(clock.ticks, 64)
    await asyncio.to_thread(server.ask, "SET", "clock", f"[{seconds},{ticks * 15625}]", "PX", 60_000)


@pytest.mark.threat("K04")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps, burst=st.integers(0, 150))
def test_windows_are_those_of_the_memory_store(clocked: RedisServer, plan: list[Any], burst: int) -> None:
    async def both() -> None:
        clock = Clock()
        ours, model = opened(clocked), MemoryStore(clock=clock)
        crowd = [x for _ in range(burst) for x in (1, [("a", 1, 10**6, 64)])]
        for step in [0, *crowd, *plan]:
            if isinstance(step, int):
                clock.ticks += step
                await _set(clocked, clock)
                continue
            lines = [line(*charge) for charge in step]
            assert await ours.add(lines) == await model.add(lines)
        await ours.close()

    asyncio.run(both())


async def test_a_charge_leaves_at_the_end_of_its_window_and_no_sooner(clocked: RedisServer) -> None:
    clock, store = Clock(), opened(clocked)
    await _set(clocked, clock)
    assert (await store.add([line(limit=1, window=8)])).ok
    for ticks, fits in ((8 * 64 - 1, False), (1, True)):
        clock.ticks += ticks
        await _set(clocked, clock)
        assert (await store.add([line(limit=1, window=8)])).ok is fits
    await store.close()


@pytest.mark.threat("K06")
async def test_the_time_it_tells_never_goes_back(clocked: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = Clock(), opened(clocked)
    monkeypatch.setattr(redis_scripts, "CHECK", Script("return cjson.decode(redis.call('GET', 'clock'))"))
    told = []
    for ticks in (0, 64, -6400, 6500):
        clock.ticks += ticks
        await _set(clocked, clock)
        told.append(await store.now() - 1_800_000_000)
    assert told == [0.0, 1.0, 1.0, 2.5625]
    await store.close()


@pytest.mark.threat("K06")
async def test_a_server_clock_that_steps_back_refills_nothing(clocked: RedisServer) -> None:
    clock, store = Clock(), opened(clocked)
    await _set(clocked, clock)
    assert (await store.add([line(amount=10, window=8)])).ok
    for back in (64 * 3600, 64 * 60, 1):
        clock.ticks -= back
        await _set(clocked, clock)
        assert not (await store.add([line(window=8)])).ok
    await store.close()


def limit(key: str, *, refills: bool, amount: int = 1) -> Amount:
    """Two a minute."""
    return Amount(key=key, amount=amount, limit=2, window=60.0, refills=refills)


DAY = 86_400 * 64
LATE = 60 / 64
"""Seconds that a charge of a full window may leave late."""


@pytest.mark.threat("K06", "FI10")
@pytest.mark.parametrize("refills", [False, True])
@pytest.mark.parametrize("amount", [0, 1])
async def test_what_a_clock_that_ran_a_day_ahead_wrote_down_ends_within_one_window_after_it_is_set_right(
    clocked: RedisServer, refills: bool, amount: int
) -> None:
    clock, store = Clock(), opened(clocked)
    clock.ticks += DAY
    await _set(clocked, clock)
    assert (await store.add([limit("k", refills=refills, amount=2)])).ok
    clock.ticks -= DAY
    await _set(clocked, clock)
    answer = await store.add([limit("k", refills=refills, amount=amount)])
    assert (answer.ok, answer.used) == (amount == 0, (2,)), "it was refilled"
    if amount:
        assert answer.retry_after is not None
        assert answer.retry_after <= 60 + LATE
    clock.ticks += 29 * 64
    await _set(clocked, clock)
    assert not (await store.add([limit("k", refills=refills)])).ok, "it was refilled too soon"
    clock.ticks += 33 * 64
    await _set(clocked, clock)
    assert (await store.add([limit("k", refills=refills, amount=1 if refills else 2)])).ok
    await store.close()


@pytest.mark.threat("K06")
async def test_a_clock_that_is_set_right_heals_a_window_of_many_charges_too(clocked: RedisServer) -> None:
    clock, store = Clock(), opened(clocked)
    clock.ticks += DAY
    for _ in range(150):
        clock.ticks += 13
        await _set(clocked, clock)
        assert (await store.add([line("k", 1, 150, 60)])).ok
    clock.ticks -= DAY
    await _set(clocked, clock)
    assert (await store.add([line("k", 0, 150, 60)])).used == (150,)
    clock.ticks += 61 * 64
    await _set(clocked, clock)
    assert (await store.add([line("k", 150, 150, 60)])).ok
    await store.close()


@pytest.mark.threat("K06")
@pytest.mark.parametrize("refills", [False, True])
async def test_a_charge_of_a_longer_window_is_not_cut_short_by_a_look_with_a_shorter_one(
    clocked: RedisServer, refills: bool
) -> None:
    clock, store = Clock(), opened(clocked)
    await _set(clocked, clock)
    long, short = (Amount(key="k", amount=2, limit=2, window=each, refills=refills) for each in (600.0, 8.0))
    assert (await store.add([long])).ok
    await store.add([short])
    clock.ticks += 60 * 64
    await _set(clocked, clock)
    assert not (await store.add([long])).ok
    await store.close()


@pytest.mark.threat("K08", "P03")
async def test_a_window_is_bounded_however_many_charges_it_holds(clocked: RedisServer) -> None:
    clock, store = Clock(), opened(clocked, "bounded")
    await _set(clocked, clock)
    for number in range(600):
        if number % 2:
            clock.ticks += 13
            await _set(clocked, clock)
        assert (await store.add([line("k", 1, 10**6, 64)] * 5)).ok
    assert await asyncio.to_thread(clocked.ask, "STRLEN", "mcpm:{bounded}:c:k") < 140 * 12
    await store.close()
