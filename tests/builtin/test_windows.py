"""Windows and buckets as bytes: what was packed is what is unpacked, and no bytes are mistaken for a counter."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.builtin.windows import LARGEST, SLOTS, Bucket, Window, packed, unpacked
from mcp_macaroon_middleware.plugin import Amount

charges = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 2**61)), max_size=3 * SLOTS)


@settings(max_examples=100, deadline=None)
@given(charges)
def test_a_window_is_unpacked_as_it_was_packed(plan: list[tuple[float, int]]) -> None:
    now, window = 1000.0, Window()
    for wait, amount in plan:
        now += wait
        window.used(now)
        window.add(now, min(amount, LARGEST - (window.amounts[-1] if window.amounts else 0)), 60.0)
    again = unpacked(packed(window), bucket=False)
    assert again == window
    assert again.ends == window.ends
    assert len(packed(window)) == 16 * len(window.leaves) <= 16 * (2 * SLOTS + 2)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(1, 1000))
def test_a_bucket_is_unpacked_as_it_was_packed(each: float, amount: int) -> None:
    bucket = Bucket(each)
    bucket.add(1000.0, amount, 0.0)
    assert unpacked(packed(bucket), bucket=True) == bucket


@pytest.mark.threat("FI7")
@pytest.mark.parametrize(
    ("state", "bucket"), [(b"nonsense", False), (b"x" * 17, False), (b"x" * 32, True), ("x", False)]
)
def test_other_bytes_are_no_counter(state: bytes, bucket: bool) -> None:
    with pytest.raises(ValueError, match="no counter"):
        unpacked(state, bucket=bucket)


@pytest.mark.threat("K04")
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.floats(0, 8), st.integers(1, 4)), max_size=150))
def test_a_limit_is_exact_in_every_window(limit: int, plan: list[tuple[float, int]]) -> None:
    """Up to `SLOTS` charges: what fits passes, what does not is refused, in whatever window one looks."""

    async def run() -> None:
        clock = [1000.0]
        store = MemoryStore(clock=lambda: clock[0])
        passed: list[tuple[float, int]] = []
        for wait, amount in plan:
            clock[0] += wait
            used = sum(n for at, n in passed if at + 10.0 > clock[0])
            answer = await store.add([Amount(key="k", amount=amount, limit=limit, window=10.0)])
            assert answer.ok == (used + amount <= limit)
            if answer.ok:
                passed.append((clock[0], amount))

    asyncio.run(run())


@pytest.mark.threat("K04")
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12)), min_size=250, max_size=300))
def test_past_its_slots_no_window_ever_holds_more_than_the_limit(plan: list[tuple[int, int]]) -> None:
    async def run() -> None:
        clock, limit = [1000.0], 8 * SLOTS
        store = MemoryStore(clock=lambda: clock[0])
        line = Amount(key="k", amount=1, limit=limit, window=10.0)
        passed: list[float] = []
        for wait, calls in plan:
            clock[0] += wait / 64
            passed += [clock[0] for _ in range(calls) if (await store.add([line])).ok]
        for first, later in zip(passed, passed[limit:], strict=False):
            assert later >= first + 10.0

    asyncio.run(run())
