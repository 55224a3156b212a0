"""The memory store: bounded whatever callers do, its own time, and the same answers as a plain model of it."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin.memory import SWEPT, TYPE, MemoryStore
from mcp_macaroon_middleware.builtin.windows import SLOTS
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount, Namespaced, StoreContext


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def line(key: str, amount: int = 1, limit: int = 10, window: float = 10.0) -> Amount:
    return Amount(key=key, amount=amount, limit=limit, window=window)


@pytest.mark.threat("K06")
async def test_its_time_never_goes_back_and_a_jump_back_refills_nothing() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    assert (await store.add([line("k", 10)])).ok
    await store.put("v", b"x", 5)
    clock.now += 6
    at = await store.now()
    clock.now -= 3600
    assert await store.now() == at
    assert not (await store.add([line("k")])).ok
    assert await store.get(["v"]) == [None]
    clock.now += 3600 + 5
    assert (await store.add([line("k", 10)])).ok


@pytest.mark.threat("K04")
async def test_a_burst_at_the_edge_of_a_window_is_held() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    clock.now = 1059.9
    assert (await store.add([line("k", 10, window=60.0)])).ok
    clock.now = 1060.1
    refused = await store.add([line("k", 10, window=60.0)])
    assert not refused.ok
    assert refused.retry_after == pytest.approx(59.8)


@pytest.mark.threat("K07", "K08", "P03", "FI23")
async def test_users_seen_once_leave_nothing_behind() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    gc.collect()
    tracemalloc.start()
    for number in range(50_000):
        clock.now += 0.01
        await store.add([line(f"user{number}")])
    clock.now += 100
    for _ in range(50_000 // SWEPT + 1):
        await store.get(["x"])
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(store) == 0
    assert left < 500_000


@pytest.mark.threat("P03")
@pytest.mark.parametrize("pattern", ["take", "shorter", "shorter-and-longer"])
async def test_what_is_written_over_and_over_leaves_no_trail(pattern: str) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(5_000):
        clock.now += 0.001
        if pattern == "take":
            await store.put("k", b"x", 900)
            assert await store.take("k") == b"x"
        elif pattern == "shorter":
            await store.put("k", b"x", 900 - number / 10)
        else:
            await store.put("k", b"x", 900 if number % 2 else 10)
    assert len(store._ends) <= 2 * len(store) + SWEPT
    clock.now += 1000
    assert len(store) == 0


@pytest.mark.threat("P07")
async def test_no_operation_drops_more_than_a_few_of_what_has_ended() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(10_000):
        await store.put(str(number), b"", 5)
    clock.now += 6
    assert await store.get(["1"]) == [None]
    assert len(store._values) >= 10_000 - 2 * SWEPT
    assert await store.scan("", None, 10) == ([], None)
    assert await store.swap("1", None, b"new", 5)
    assert len(store) == 1


@pytest.mark.threat("K08", "P03")
async def test_bytes_are_bounded_and_come_back() -> None:
    clock = Clock()
    store = MemoryStore(max_bytes=1000, clock=clock)
    await store.put("a", b"x" * 900, 5)
    for call in (store.put("b", b"x" * 200, 5), store.swap("b", None, b"x" * 200, 5), store.put("a", b"x" * 1000, 5)):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises(StoreUnavailable):
        await store.add([line("k" * 200)])
    await store.put("a", b"x" * 990, 5)
    await store.put("a", b"", 5)
    await store.put("b", b"x" * 900, 5)
    clock.now += 6
    await store.put("c", b"x" * 990, 5)
    assert [entry is not None for entry in await store.get(["a", "b", "c"])] == [False, False, True]


async def test_a_full_store_drops_what_has_ended_before_it_refuses() -> None:
    clock = Clock()
    store = MemoryStore(max_entries=1000, clock=clock)
    for number in range(1000):
        await store.put(str(number), b"", 5)
    clock.now += 6
    assert (await store.add([line(f"new{number}") for number in range(900)])).ok


@pytest.mark.parametrize(
    "bad", [line("k", -1), line("k", 1, -1), line("k", 1, 1, 0), line("k", 1, 1, float("nan")), line("k", 1, 1, 1e999)]
)
async def test_a_charge_that_makes_no_sense_is_refused_and_changes_nothing(bad: Amount) -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="above 0"):
        await store.add([line("k"), bad])
    assert (await store.add([line("k", 0)])).used == (0,)


def test_threads_share_it_without_losing_a_charge() -> None:
    store = MemoryStore()
    passed: list[bool] = []

    def charge() -> None:
        async def run() -> None:
            for _ in range(200):
                passed.append((await store.add([line("k", limit=500, window=600)])).ok)

        asyncio.run(run())

    threads = [threading.Thread(target=charge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 500


@pytest.mark.threat("E04", "N08")
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=2, unique=True))
@settings(max_examples=200, deadline=None)
def test_no_two_owners_and_keys_are_ever_one_key(pairs: list[tuple[str, str]]) -> None:
    async def run() -> list[bytes | None]:
        store = MemoryStore()
        for number, (owner, key) in enumerate(pairs):
            await Namespaced(store, owner).put(key, str(number).encode(), 60)
        return [await Namespaced(store, owner).take(key) for owner, key in pairs]

    assert asyncio.run(run()) == [b"0", b"1"]


def test_an_address_is_not_for_it() -> None:
    with pytest.raises(ValueError, match="no address"):
        TYPE.open("memory://x", StoreContext(audience="a"))


# --- against a model ------------------------------------------------------------------------------------------------

keys = st.sampled_from("abc")
operations = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 8)),
        st.tuples(st.just("put"), keys, st.integers(1, 12)),
        st.tuples(st.just("swap"), keys, st.integers(1, 12), st.booleans()),
        st.tuples(st.just("take"), keys),
        st.tuples(st.just("add"), st.lists(st.tuples(keys, st.integers(0, 4)), min_size=1, max_size=3)),
    ),
    max_size=40,
)


class Model:
    """What a store is, without any bound: values with an end, charges with an end."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.charges: list[tuple[str, int, float]] = []

    def live(self, key: str, now: float) -> bytes | None:
        value, ends = self.values.get(key, (b"", 0.0))
        return value if ends > now else None

    def used(self, key: str, now: float) -> int:
        return sum(amount for k, amount, ends in self.charges if k == key and ends > now)

    def add(self, lines: list[tuple[str, int]], now: float) -> bool:
        for key in {key for key, _ in lines}:
            asked = sum(amount for k, amount in lines if k == key)
            if self.used(key, now) + asked > 10:
                return False
        self.charges += [(key, amount, now + 10.0) for key, amount in lines]
        return True


@settings(max_examples=300, deadline=None)
@given(operations)
def test_it_answers_as_a_store_without_bounds_would(steps: list[Any]) -> None:
    async def run() -> None:
        clock, model = Clock(), Model()
        store = MemoryStore(clock=clock, max_entries=100, max_bytes=10_000)
        for number, step in enumerate(steps):
            now, data = clock.now, str(number).encode()
            match step:
                case ("wait", seconds):
                    clock.now += seconds
                case ("put", key, ttl):
                    await store.put(key, data, ttl)
                    model.values[key] = (data, now + ttl)
                case ("swap", key, ttl, fresh):
                    entry = (await store.get([key]))[0]
                    there = model.live(key, now)
                    assert (entry.value if entry else None) == there
                    version = None if fresh or entry is None else entry.version
                    done = await store.swap(key, version, data, ttl)
                    assert done == (there is None or not fresh)
                    if done:
                        model.values[key] = (data, now + ttl)
                case ("take", key):
                    assert await store.take(key) == model.live(key, now)
                    model.values.pop(key, None)
                case ("add", lines):
                    answer = await store.add([line(key, amount) for key, amount in lines])
                    assert answer.ok == model.add(lines, now)
                    assert answer.used == tuple(model.used(key, now) for key, _ in lines)
        clock.now += 100
        assert len(store) == 0
        assert store._free == 10_000

    asyncio.run(run())


def test_more_than_its_slots_are_counted_on_the_strict_side() -> None:
    async def run() -> None:
        clock = Clock()
        store = MemoryStore(clock=clock)
        times = []
        for _ in range(SLOTS * 6):
            clock.now += 0.05
            if (await store.add([line("k", limit=SLOTS * 2)])).ok:
                times.append(clock.now)
        for first, past in zip(times, times[SLOTS * 2 :], strict=False):
            assert past - first >= 10.0

    asyncio.run(run())
