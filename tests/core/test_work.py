"""What a decision costs, counted in calls of Python functions: rules for other components cost nothing, and those that
apply, a bounded number each. Times are measured by the benchmark."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
from lab import call, lab

from mcp_macaroon_middleware.core.policy_engine import PolicyEngine


def work(engine: PolicyEngine, name: str) -> int:
    """How many functions are called for one decision, once everything was called before."""

    async def decide() -> Any:
        return await engine.decide(call(name))

    async def counted() -> int:
        for _ in range(3):
            assert (await decide()).allowed
        count = 0

        def see(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event == "call"

        gc.disable()  # a collection calls whoever has asked to be told of it
        sys.setprofile(see)
        try:
            await decide()
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    return asyncio.run(counted())


def others(number: int) -> list[str]:
    return [f"bf:other_{each}:tool_access:{('allow', 'deny')[each % 2]}" for each in range(number)]


@pytest.mark.threat("P06")
def test_rules_for_other_components_cost_a_decision_nothing() -> None:
    counts = [work(lab(["bf:mine:tool_access:allow", *others(n)]).engine, "mine") for n in (0, 100, 1000, 10_000)]
    assert len(set(counts)) == 1, counts
    assert counts[0] < 400, counts


@pytest.mark.threat("P06")
def test_each_rule_that_applies_costs_a_bounded_number_of_calls() -> None:
    def limits(number: int) -> list[str]:
        return [f"bf:mine:rate_limit:allow:{1000 + each}/hour" for each in range(number)]

    none, ten, hundred = (work(lab(["bf:mine:tool_access:allow", *limits(n)]).engine, "mine") for n in (0, 10, 100))
    assert none < ten < hundred
    assert (hundred - none) / 100 < 100
    assert (hundred - ten) / 90 < 1.5 * (ten - none) / 10
