"""Limits: what is read, what is refused, and how exact a window is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import ALICE, BOB, RING, call, lab, plan_of

from mcp_macaroon_middleware.builtin.limits import TEN_YEARS, Limits, read_limit
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.builtin.windows import SLOTS
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.model import Component, Kind, Principal
from mcp_macaroon_middleware.plugin import Amount
from mcp_macaroon_middleware.tokens import attenuate, mint, verify


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10/minute", (10, 60)),
        ("1/second", (1, 1)),
        ("100/hour", (100, 3600)),
        ("5/day", (5, 86_400)),
        ("5/30s", (5, 30)),
        ("7/2h", (7, 7200)),
    ],
)
def test_a_limit_is_calls_per_time(text: str, limit: tuple[int, int]) -> None:
    assert read_limit(text) == limit


@pytest.mark.threat("K12")
@pytest.mark.parametrize(
    "text",
    [
        "0/minute",
        "-1/minute",
        "1/0s",
        "abc/m",
        "60/d",
        "1.5/minute",
        "10",
        "10/",
        "/minute",
        "10/minutes",
        "1/1s ",
        "٣/minute",
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no limit"):
        read_limit(text)


@pytest.mark.threat("K12")
@pytest.mark.parametrize("value", [750, 10.5, True, None, ["10/minute", 5], [], {}])
def test_what_yaml_made_something_else_of_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own, whatever its text
        Limits.model_validate({"limits": value})


@pytest.mark.threat("K10", "C02")
async def test_a_caller_has_one_count_over_names_clients_and_sessions() -> None:
    room = lab(["bf:tool=*:tool_access:allow", "bf:tool=*:rate_limit:allow:2/minute"])
    first = Component(kind=Kind.TOOL, name="ns_wipe", names=("ns_wipe", "wipe"), server="child")
    alias = Component(kind=Kind.TOOL, name="clean", names=("clean", "wipe"), server="child")
    results = [
        (await room.engine.decide(call(component=component, client=client))).allowed
        for component, client in ((first, "cli"), (alias, "web"), (first, "cli"))
    ]
    assert results == [True, True, False]
    assert (await room.engine.decide(call(component=first, principal=BOB))).allowed


async def test_per_says_whose_count_it_is() -> None:
    rule = {"before": "*", "policy": "rate_limit", "action": "allow", "params": {"limits": "2/minute", "per": "tenant"}}
    room = lab(["bf:*:tool_access:allow", rule])
    people = [Principal(kind="user", namespace="i", subject=name, tenant="acme") for name in "abc"]
    assert [(await room.engine.decide(call("t", principal=p))).allowed for p in people] == [True, True, False]
    other = Principal(kind="user", namespace="i", subject="d", tenant="other")
    assert (await room.engine.decide(call("t", principal=other))).allowed


async def test_attempts_are_a_limit_of_ten_years() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:allow_attempts:allow:2"])
    decisions = [await room.engine.decide(call("t", principal=ALICE)) for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    refusal = decisions[-1].refusal
    assert refusal is not None
    assert refusal.code == "attempts_exhausted"
    assert refusal.retry_after is not None
    assert refusal.retry_after > TEN_YEARS - 60


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.threat("K04", "K06")
@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 200), steps=st.lists(st.tuples(st.floats(0, 7), st.integers(1, 5)), max_size=60))
def test_no_window_ever_holds_more_than_its_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    import asyncio

    async def run() -> list[tuple[float, int]]:
        clock = Clock()
        store = MemoryStore(clock=clock)
        charged: list[tuple[float, int]] = []
        for wait, amount in steps:
            clock.now += wait
            if (await store.add([Amount(key="k", amount=amount, limit=limit, window=10.0)])).ok:
                charged.append((clock.now, amount))
        return charged

    charged = asyncio.run(run())
    for at, _ in charged:
        assert sum(amount for when, amount in charged if at - 10.0 < when <= at) <= limit


@pytest.mark.threat("K04")
@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 50), steps=st.lists(st.tuples(st.floats(0, 7), st.integers(1, 5)), max_size=60))
def test_no_bucket_ever_gives_more_than_it_holds_and_what_was_refilled(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    import asyncio

    async def run() -> list[tuple[float, int]]:
        clock = Clock()
        store = MemoryStore(clock=clock)
        charged: list[tuple[float, int]] = []
        for wait, amount in steps:
            clock.now += wait
            line = Amount(key="k", amount=amount, limit=limit, window=10.0, refills=True)
            answer = await store.add([line])
            if answer.ok:
                charged.append((clock.now, amount))
            elif answer.retry_after is not None:
                clock.now += answer.retry_after + 1e-9
                assert (await store.add([line])).ok
                charged.append((clock.now, amount))
        return charged

    charged = asyncio.run(run())
    for first, (start, _) in enumerate(charged):
        given = 0
        for at, amount in charged[first:]:
            given += amount
            assert given <= limit + (at - start) * limit / 10.0 + 1e-3


async def test_up_to_64_charges_a_window_is_exact() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for _ in range(SLOTS):
        assert (await store.add([Amount(key="k", amount=1, limit=SLOTS, window=64.0)])).ok
        clock.now += 1
    assert (await store.add([Amount(key="k", amount=1, limit=SLOTS, window=64.0)])).ok


@pytest.mark.threat("K08", "N05", "FI23")
async def test_a_full_store_refuses_new_keys_and_forgets_none() -> None:
    store = MemoryStore(max_entries=3)
    for key in "abc":
        await store.add([Amount(key=key, amount=1, limit=1, window=60)])
    with pytest.raises(StoreUnavailable):
        await store.add([Amount(key="d", amount=1, limit=1, window=60)])
    with pytest.raises(StoreUnavailable):
        await store.put("e", b"", 60)
    assert not (await store.add([Amount(key="a", amount=1, limit=1, window=60)])).ok
    await store.close()


@pytest.mark.threat("P03")
async def test_what_has_ended_gives_its_room_back() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(20_000):
        await store.add([Amount(key=str(number), amount=1, limit=1, window=5)])
        await store.put(f"v{number}", b"x", 5)
    clock.now += 6
    await store.get(["x"])
    assert len(store) == 0


@pytest.mark.threat("K12")
async def test_one_limit_written_twice_counts_once() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:2/minute:2/60s"])
    assert [(await room.engine.decide(call("t"))).allowed for _ in range(3)] == [True, True, False]


def by_cost(**params: Any) -> list[Any]:
    rule = {"before": "t", "policy": "rate_limit", "action": "allow", "params": {"limits": "10/minute", **params}}
    return ["bf:t:tool_access:allow", rule]


@pytest.mark.threat("K09")
@pytest.mark.parametrize("per", ["size", "arguments", "arguments.size", "session", [], ["tenant", "tenant"], 5])
def test_a_limit_is_never_counted_by_what_a_caller_may_choose(per: Any) -> None:
    with pytest.raises(ValueError, match="per"):
        Limits.model_validate({"limits": "10/minute", "per": per})


async def test_a_burst_passes_at_once_and_no_more_than_the_rate_after_it() -> None:
    room = lab(by_cost(limits="60/hour", burst=3, cost="size"))
    outcomes = [(await room.engine.decide(call("t", {"size": size}))).allowed for size in (1, 2, 1)]
    assert outcomes == [True, True, False]
    refusal = (await room.engine.decide(call("t", {"size": 2}))).refusal
    assert refusal is not None
    assert refusal.code == "rate_limited"
    assert refusal.retry_after is not None
    assert 100 < refusal.retry_after <= 120
    never = (await room.engine.decide(call("t", {"size": 4}))).refusal
    assert never is not None
    assert never.code == "cost_above_limit"


@pytest.mark.threat("K12")
@pytest.mark.parametrize("burst", [0, -1, 1.5, True, "3", 10**10])
def test_what_is_no_burst_is_refused(burst: Any) -> None:
    with pytest.raises(ValueError, match="burst"):
        Limits.model_validate({"limits": "10/minute", "burst": burst})


@pytest.mark.threat("K10")
async def test_a_token_and_all_that_is_narrowed_from_it_have_one_count() -> None:
    rule = {"before": "t", "policy": "rate_limit", "action": "allow", "params": {"limits": "2/minute", "per": "token"}}
    room = lab(["bf:t:tool_access:allow", rule])
    parent = mint(RING, subject="alice", audience="lab")
    child = attenuate(parent, "bf:other:tool_access:deny")
    other = mint(RING, subject="alice", audience="lab")

    async def passes(text: str | None) -> bool:
        token = verify(RING, text, audience="lab") if text is not None else None
        return (await room.engine.decide(call("t"), token=token)).allowed

    assert [await passes(text) for text in (parent, child, parent, child)] == [True, True, False, False]
    assert [await passes(text) for text in (other, None, None, None)] == [True, True, True, False]


@pytest.mark.threat("K13")
async def test_a_call_counts_what_its_argument_says() -> None:
    room = lab(by_cost(cost="size"))
    outcomes = [(await room.engine.decide(call("t", {"size": size}))).allowed for size in (4, 6, 1)]
    assert outcomes == [True, True, False]


@pytest.mark.threat("K13")
async def test_a_call_that_costs_more_than_its_limit_is_told_that_it_never_fits() -> None:
    decision = await lab(by_cost(cost="size")).engine.decide(call("t", {"size": 11}))
    assert decision.refusal is not None
    assert decision.refusal.code == "cost_above_limit"
    assert "never succeed" in decision.refusal.reason
    assert decision.refusal.retry_after is None


@pytest.mark.threat("K13")
@pytest.mark.parametrize("arguments", [{}, {"size": 0}, {"size": -1}, {"size": True}, {"size": "3"}, {"size": 1.5}])
async def test_L2_a_cost_that_cannot_be_read_is_refused(arguments: dict[str, Any]) -> None:
    decision = await lab(by_cost(cost="size")).engine.decide(call("t", arguments))
    assert decision.refusal is not None
    assert decision.refusal.code == "cost_unknown"


@pytest.mark.threat("K15")
def test_only_a_limit_by_cost_waits_for_the_arguments() -> None:
    assert [check.reads_arguments for check in plan_of(by_cost()).book.checks] == [False, False]
    assert [check.reads_arguments for check in plan_of(by_cost(cost="size")).book.checks] == [False, True]


@pytest.mark.threat("K01", "K14")
async def test_of_50_calls_at_once_10_run_and_the_rest_hear_when_to_come_back() -> None:
    import asyncio

    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:10/minute"])
    decisions = await asyncio.gather(*(room.engine.decide(call("t")) for _ in range(50)))
    assert sum(decision.allowed for decision in decisions) == 10
    waits = [d.refusal.retry_after for d in decisions if d.refusal is not None]
    assert all(wait is not None and 0 < wait <= 60 for wait in waits)
