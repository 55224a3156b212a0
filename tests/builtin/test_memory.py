"""The memory store: bounded whatever callers do, its own time, and the same answers as a plain model of it."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin import memory_entries
from mcp_macaroon_middleware.builtin.memory import LOOKS, LOOKS_WHEN_FULL, RESERVED, SKIPPED, TYPE, MemoryStore
from mcp_macaroon_middleware.builtin.memory_entries import TABLES
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


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many entries were looked at for their end since it was asked last."""
    real, count = memory_entries.end_of, 0

    def counted(entry: bytes) -> float:
        nonlocal count
        count += 1
        return real(entry)

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(memory_entries, "end_of", counted)
    return since


@pytest.mark.threat("K07", "K08", "P03", "FI23")
async def test_users_seen_once_leave_nothing_behind() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    free = store._free
    gc.collect()
    tracemalloc.start()
    for number in range(50_000):
        clock.now += 0.01
        await store.add([line(f"user{number}")])
    clock.now += 100
    for _ in range(50_000 // LOOKS + TABLES):
        await store.get(["x"])
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert store._entries() == 0
    assert store._free == free
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
    assert len(store._values._due) <= 2 * len(store) + 65
    clock.now += 1000
    assert len(store) == 0


@pytest.mark.threat("P03", "P07")
async def test_no_operation_looks_at_more_than_a_few_entries_to_drop_what_has_ended(
    looks: Callable[[], int],
) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.add([line(str(number), window=5) for number in range(20_000)])
    for number in range(20_000):
        await store.put(str(number), b"", 5)
    clock.now += 6
    looks()
    assert await store.get(["1"]) == [None]
    assert 0 < looks() <= 2 * (LOOKS + 100)
    assert len(store._values) >= 20_000 - LOOKS - 100
    assert await store.swap("1", None, b"new", 50)
    assert 0 < looks() <= 2 * (LOOKS + 100)
    operations = 0
    while len(store._values) > 1 or len(store._windows) > 1:
        assert (await store.add([line("one", window=0.001)])).ok
        clock.now += 1
        operations += 1
        assert looks() <= 2 * (LOOKS + 100)
    assert operations < 20_000 / 10


@pytest.mark.threat("P03", "P07", "FI23")
async def test_what_has_not_ended_is_not_looked_at_again_and_again(looks: Callable[[], int]) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.add([line(str(number), window=600) for number in range(10_000)])
    looks()
    for _ in range(1000):
        clock.now += 0.1
        await store.add([line("1", limit=10**6, window=600)])
    assert looks() <= 2000  # the end of what is charged, and no other


@pytest.mark.threat("P07", "FI23")
async def test_a_full_store_refuses_with_bounded_work(looks: Callable[[], int]) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock, max_entries=30_000)
    await store.add([line(str(number), window=600) for number in range(20_000)])
    for number in range(10_000):
        await store.put(str(number), b"", 5 if number % 10 else 600)
    looks()
    with pytest.raises(StoreUnavailable):
        await store.add([line("new")])
    assert looks() == 0
    clock.now += 6
    await store.add([line(f"new{number}") for number in range(300)])
    assert 300 < looks() <= 2 * (LOOKS + LOOKS_WHEN_FULL)


@pytest.mark.threat("K08", "P03")
async def test_bytes_are_bounded_and_come_back() -> None:
    clock = Clock()
    store = MemoryStore(max_bytes=4000, clock=clock)
    await store.put("a", b"x" * 3000, 5)
    for call in (store.put("b", b"x" * 900, 5), store.swap("b", None, b"x" * 900, 5), store.put("a", b"x" * 5000, 5)):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises(StoreUnavailable):
        await store.add([line(f"k{number}") for number in range(10)])
    await store.put("a", b"x" * 3600, 5)
    await store.put("a", b"", 5)
    await store.put("b", b"x" * 3000, 5)
    clock.now += 6
    await store.put("c", b"x" * 3000, 5)
    assert [entry is not None for entry in await store.get(["a", "b", "c"])] == [False, False, True]


@pytest.mark.threat("K08", "FI23")
async def test_in_a_full_store_those_who_are_known_go_on_and_are_held_to_their_limits() -> None:
    store = MemoryStore(max_bytes=64_000, clock=Clock())

    async def added(key: str) -> bool | None:
        try:
            return (await store.add([line(key, limit=5, window=600)])).ok
        except StoreUnavailable:
            return None

    outcomes = [await added(f"k{number}") for number in range(1000)]
    known = outcomes.count(True)
    assert 200 < known < 1000
    assert outcomes == [True] * known + [None] * (1000 - known)
    assert 64_000 // RESERVED // 2 < store._free < 64_000 // RESERVED + 500
    assert [await added("k0") for _ in range(6)] == [True] * 4 + [False] * 2
    assert await added("another") is None


@pytest.mark.threat("K08")
async def test_one_counter_stays_small_whatever_its_limit_and_its_charges_are_accounted() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    free = store._free
    for _ in range(5_000):
        clock.now += 0.001
        await store.add([line("k", limit=10**9)])
    (kept,) = store._windows.values()
    assert len(kept) <= 16 * 3 * SLOTS
    assert len(kept) <= free - store._free <= len(kept) + 300


@pytest.mark.threat("N11")
async def test_a_list_of_many_is_read_page_by_page_and_a_page_looks_at_nothing_else(
    looks: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(clock=Clock())
    for number in range(100_000):
        await store.put(f"g:{(number * 7919) % 100_000:06}", b"x", 600)
        if number % 5000 == 0:
            for other in ("a", "g", "g;", "z"):
                await store.put(f"{other}{number}", b"x", 600)
    read, real = [0], store._live
    monkeypatch.setattr(store, "_live", lambda key, now: (read.__setitem__(0, read[0] + 1), real(key, now))[1])
    looks()
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        read[0] = 0
        page, cursor = await store.scan("g:", cursor, 1000)
        assert read[0] <= 1000
        seen += [key for key, _ in page]
        pages += 1
    assert seen == [f"g:{number:06}" for number in range(100_000)]
    assert pages == 100
    assert looks() == 0


@pytest.mark.threat("N11")
async def test_a_page_passes_over_a_bounded_number_of_what_has_ended() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(5 * SKIPPED):
        await store.put(f"k{number:06}", b"", 5)
    await store.put("l", b"", 600)
    clock.now += 6
    pages, cursor = [], None
    while not pages or cursor is not None:
        page, cursor = await store.scan("", cursor, 10)
        pages.append([key for key, _ in page])
    assert [key for page in pages for key in page] == ["l"]
    assert 2 <= len(pages) <= 6


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
        store = MemoryStore(clock=clock, max_entries=100, max_bytes=100_000)
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
        assert store._free == 100_000
        assert not store._values._heads

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
