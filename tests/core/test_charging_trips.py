"""What a decision costs on the wire to the store: one round trip without limits, two with, whatever else it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agreeing import HERE, agreed, code, on
from lab import ALICE, RING, Lab, call
from redis_server import any_kind, running
from redis_wire import Meter, served

from mcp_macaroon_middleware.builtin.redis_store import REDIS, RedisSettings
from mcp_macaroon_middleware.core import epoch
from mcp_macaroon_middleware.core.decisions import Decision
from mcp_macaroon_middleware.model import Effect, Reply, Result
from mcp_macaroon_middleware.plugin import StoreContext
from mcp_macaroon_middleware.plugin.ticks import ticks
from mcp_macaroon_middleware.tokens import VerifiedToken, mint, verify

ALLOWED, ASKS = "bf:t:tool_access:allow", "bf:t:tool_access:elicit"
LIMIT, LARGE = "bf:t:rate_limit:allow:9000/day", "bf:t:rate_limit:elicit:9000/day"
WARM = ["bf:warm:tool_access:elicit", "bf:wa*:tool_access:elicit"]
"""Two approvals to be kept at once, so that connections and scripts are there."""
AFTER = "af:t:field_access:elicit:x"
CASES: dict[str, tuple[list[Any], int, int]] = {
    "no limit": ([ALLOWED], 0, 0),
    "a limit": ([ALLOWED, LIMIT], 1, 0),
    "three limits": ([ALLOWED, LIMIT, "bf:t:rate_limit:allow:9000/hour", "bf:*:rate_limit:allow:9000/minute"], 1, 0),
    "an approval": ([ASKS], 1, 0),
    "three approvals": ([ASKS, "bf:*:tool_access:elicit", "bf:t*:tool_access:elicit"], 1, 0),
    "an approval and a limit": ([ASKS, LIMIT], 2, 0),
    "a limit that would ask": ([ALLOWED, LARGE], 2, 0),
    "an approval of a limit": ([ALLOWED, "bf:t:rate_limit:elicit:1/day:9000/day", LIMIT], 2, 0),
    "approvals of all kinds": ([ASKS, LIMIT, "bf:t:rate_limit:elicit:1/day:9000/day", AFTER], 2, 1),
    "an approval of a field": ([ALLOWED, AFTER], 0, 1),
}


@asynccontextmanager
async def measured(kind: str, rules: list[Any]) -> AsyncIterator[tuple[Lab, Meter]]:
    with running(kind) as server:
        meter = Meter(server.port)
        async with served(meter.carry) as address:
            store = REDIS.open(address, StoreContext(audience="trips", settings=RedisSettings(), base=Path()))
            yield on(store, rules), meter
            await store.close()


async def everybody_agrees(made: Lab, token: VerifiedToken | None = None) -> None:
    """Approvals for a period of whatever is asked about."""
    for _ in range(4):
        asking = HERE
        decision = await made.engine.decide(call("t"), token=token, asking=asking)
        while decision.effect is Effect.ASK:
            (challenge,) = decision.challenges
            await made.engine.pose(decision, challenge)
            asking = HERE.answered({challenge.id: Reply(action="accept", content={"choice": "period"})})
            decision = await made.engine.decide(call("t"), token=token, asking=asking)
        outcome = await ended(made, decision)
        if outcome.effect is Effect.ASK:
            (challenge,) = outcome.challenges
            await made.engine.pose(decision, challenge)
            replies = {challenge.id: Reply(action="accept", content={"choice_1": "period"})}
            outcome = await ended(made, decision, HERE.answered(replies))
        assert outcome.effect is Effect.ALLOW


async def ended(made: Lab, decision: Decision, asking: Any = HERE) -> Any:
    return await made.engine.finish(decision, Result.of({"x": 1}), lambda redaction: redaction, asking=asking)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("token", [False, True], ids=["", "with a token"])
async def test_a_decision_makes_one_round_trip_without_limits_and_two_with(
    name: str, token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token's credential makes one more, where it is accepted: before it is known what it is used for."""
    monkeypatch.setattr(epoch, "BEAT", 1e9)
    rules, before, after = CASES[name]
    async with measured(any_kind(), rules) as (made, meter):
        await made.engine.revocations.begin()
        held = verify(RING, mint(RING, subject="alice", audience="lab"), audience="lab") if token else None
        await everybody_agrees(made, held)
        if held is not None:
            await made.engine.revocations.fault(held, ALICE)
        for _ in range(5):
            start = meter.trips
            if held is not None:
                assert await made.engine.revocations.fault(held, ALICE) is None
                assert meter.trips - start == 1
                start = meter.trips
            decision = await made.engine.decide(call("t"), token=held, asking=HERE)
            assert code(decision) == "allowed"
            assert meter.trips - start == before
            start = meter.trips
            assert (await ended(made, decision)).applied.is_empty
            assert meter.trips - start == after


@pytest.mark.parametrize("says", ["once", "period"])
async def test_an_answer_is_taken_kept_and_acted_on_in_few_trips(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "BEAT", 1e9)
    async with measured(any_kind(), [ASKS, "bf:*:tool_access:elicit", LIMIT, *WARM]) as (made, meter):
        await agreed(made.engine)
        await agreed(made.engine, "period", "warm")
        decision = await made.engine.decide(call("t", {"n": 1}), asking=HERE)
        (challenge,) = decision.challenges
        await made.engine.pose(decision, challenge)
        start = meter.trips
        replies = {challenge.id: Reply(action="accept", content={"choice": says})}
        again = await made.engine.decide(call("t", {"n": 1}), asking=HERE.answered(replies))
        assert code(again) == "allowed"
        # the epoch; the leg; what time it is; for a period, the grants; how it stands; the charge
        assert meter.trips - start == (5 if says == "once" else 6)


async def test_now_and_then_a_decision_asks_what_time_it_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with measured(any_kind(), [ASKS]) as (made, meter):
        assert code(await agreed(made.engine, "period")) == "allowed"
        trips = []
        for passed in (0.0, 3 * epoch.BEAT, 3 * epoch.BEAT):
            monkeypatch.setattr(epoch, "ticks", lambda passed=passed: ticks() + passed)
            start = meter.trips
            assert code(await made.engine.decide(call("t"))) == "allowed"
            trips.append(meter.trips - start)
        assert trips == [1, 2, 1]
