"""Limits that ask, one by one; what a call costs; and that nothing is charged twice, or while a person thinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from agreeing import HERE, agreed, answer, asked, code, on
from lab import call, lab, plan_of

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.errors import ApprovalRequired
from mcp_macaroon_middleware.model import Effect, Reply, RequestContext, Result
from mcp_macaroon_middleware.plugin import Added, Amount

ALLOWED = "bf:t:tool_access:allow"
HOURLY, DAILY = (f"The limit of {text} seconds is reached. Go on?" for text in ("2 in 3,600", "5 in 86,400"))


async def questions(engine: PolicyEngine) -> list[str]:
    """What a call is asked about."""
    decision = await engine.decide(call("t"), asking=HERE)
    assert decision.effect is Effect.ASK, decision.refusal
    return [question.text for challenge in decision.challenges for question in challenge.questions]


class Counting(MemoryStore):
    """A store that tells what stands charged to limits. Without `room` a look at one finds none, and a charge does."""

    room = True

    def __init__(self) -> None:
        super().__init__()
        self._limits: dict[str, Amount] = {}

    async def add(self, amounts: Sequence[Amount]) -> Added:
        limits = [amount for amount in amounts if "rate_limit" in amount.key]
        if limits and not self.room and not any(amount.amount for amount in limits):
            return Added(ok=True, used=tuple(amount.limit for amount in amounts))
        added = await super().add(amounts)
        self._limits |= {amount.key: amount for amount in limits if added.ok and amount.amount}
        return added

    async def charged(self) -> list[int]:
        """How much is used of each limit that was ever charged, the least first."""
        lines = [replace(amount, amount=0) for amount in self._limits.values()]
        return sorted((await super().add(lines)).used) if lines else []


# --- one limit of several ---------------------------------------------------------------------------------------------


@pytest.mark.threat("K15", "C07")
async def test_an_approval_lets_a_call_pass_the_limit_that_was_reached_and_no_other_of_its_rule() -> None:
    store = Counting()
    engine = on(store, [ALLOWED, "bf:t:rate_limit:elicit:2/hour:5/day"]).engine
    assert [code(await engine.decide(call("t"), asking=HERE)) for _ in range(3)] == ["allowed", "allowed", "asks"]
    assert await questions(engine) == [HOURLY]
    assert code(await agreed(engine, "period")) == "allowed"
    assert [code(await engine.decide(call("t"), asking=HERE)) for _ in range(3)] == ["allowed", "allowed", "asks"]
    assert await store.charged() == [2, 5], "the limit that nobody was asked about goes on counting"
    assert await questions(engine) == [DAILY]
    assert code(await engine.decide(call("t"))) == "approval_unavailable"
    assert code(await agreed(engine, "once")) == "allowed"
    assert await questions(engine) == [DAILY]
    assert code(await agreed(engine, "period")) == "allowed"
    assert code(await engine.decide(call("t"))) == "allowed"
    assert await store.charged() == [2, 5]


async def test_two_limits_that_are_reached_at_once_are_two_questions_of_one_form() -> None:
    engine = on(MemoryStore(), [ALLOWED, "bf:t:rate_limit:elicit:1/hour:1/day"]).engine
    assert (await engine.decide(call("t"))).allowed
    assert len(await questions(engine)) == 2
    assert code(await agreed(engine, "period")) == "allowed"
    assert code(await engine.decide(call("t"))) == "allowed"


@pytest.mark.threat("C14")
async def test_an_approval_of_a_limit_is_none_of_the_limit_that_replaced_it() -> None:
    engine = on(MemoryStore(), [ALLOWED, "bf:t:rate_limit:elicit:1/hour"]).engine
    assert (await engine.decide(call("t"))).allowed
    assert code(await agreed(engine, "period")) == "allowed"
    engine.adopt(plan_of([ALLOWED, "bf:t:rate_limit:elicit:1/day"]))
    assert code(await engine.decide(call("t"), asking=HERE)) == "allowed"
    assert code(await engine.decide(call("t"), asking=HERE)) == "asks"


async def test_the_limit_of_another_rule_refuses_before_anybody_is_asked() -> None:
    rules = [ALLOWED, "bf:t:rate_limit:elicit:1/hour", "bf:t:rate_limit:allow:1/day"]
    engine = on(MemoryStore(), rules).engine
    assert (await engine.decide(call("t"))).allowed
    assert code(await engine.decide(call("t"), asking=HERE)) == "rate_limited"


# --- what a call costs ------------------------------------------------------------------------------------------------


def by_cost(action: str, **params: Any) -> list[Any]:
    params = {"limits": "10/minute", "cost": "size", **params}
    return [ALLOWED, {"before": "t", "policy": "rate_limit", "action": action, "params": params}]


@pytest.mark.threat("K13")
@pytest.mark.parametrize("action", ["allow", "elicit"])
@pytest.mark.parametrize(
    ("size", "refused"),
    [(11, "cost_above_limit"), (10**12, "cost_above_limit"), (-5, "cost_unknown"), (0, "cost_unknown")]
    + [(size, "cost_unknown") for size in ("x", "3", True, 1.5, None)],
)
async def test_a_cost_that_can_never_be_counted_is_refused_and_nobody_is_asked(
    action: str, size: Any, refused: str
) -> None:
    decision = await lab(by_cost(action)).engine.decide(call("t", {"size": size}), asking=HERE)
    assert (code(decision), decision.challenges) == (refused, ())
    assert decision.refusal is not None
    assert decision.refusal.retry_after is None


@pytest.mark.threat("K13")
async def test_a_bucket_that_asks_is_never_asked_about_more_than_it_holds() -> None:
    engine = lab(by_cost("elicit", burst=3)).engine
    assert code(await engine.decide(call("t", {"size": 4}), asking=HERE)) == "cost_above_limit"
    assert code(await engine.decide(call("t", {"size": 3}), asking=HERE)) == "allowed"
    assert code(await engine.decide(call("t", {"size": 1}), asking=HERE)) == "asks"


@pytest.mark.threat("K13", "C08")
async def test_a_call_that_does_not_fit_by_its_cost_is_asked_about_with_that_cost() -> None:
    engine = on(MemoryStore(), by_cost("elicit")).engine
    assert code(await engine.decide(call("t", {"size": 10}))) == "allowed"
    assert code(await agreed(engine, "period", arguments={"size": 5})) == "allowed"
    assert code(await engine.decide(call("t", {"size": 5}))) == "allowed"
    assert code(await engine.decide(call("t", {"size": 9}), asking=HERE)) == "asks"


# --- once -------------------------------------------------------------------------------------------------------------


@pytest.mark.threat("K15")
async def test_a_call_whose_result_was_held_is_charged_once_over_all_its_legs() -> None:
    rules = [ALLOWED, "bf:t:rate_limit:allow:1/hour", "af:t:field_access:elicit:x"]
    store = Counting()
    made = on(store, rules)
    engine = made.engine
    decision = await engine.decide(call("t"), asking=HERE)
    outcome = await engine.finish(decision, Result.of({"x": 1}), lambda redaction: redaction, asking=HERE)
    (challenge,) = outcome.challenges
    assert await engine.pose(decision, challenge, held=b"result") is None
    await engine.asked(decision, held=True)
    assert await store.charged() == [1]
    replies = HERE.answered({challenge.id: Reply(action="accept", content={"choice_1": "once"})})
    again = await engine.decide(call("t"), asking=replies)
    assert (code(again), again.held) == ("allowed", b"result")
    shown = await engine.finish(again, Result.of({"x": 1}), lambda redaction: redaction, asking=HERE)
    assert shown.applied.is_empty
    assert await store.charged() == [1]


@pytest.mark.threat("K15")
@pytest.mark.parametrize("legs", [1, 2, 3])
async def test_a_call_that_asks_its_client_itself_is_charged_once_over_all_its_legs(legs: int) -> None:
    store = Counting()
    engine = on(store, ["bf:t:tool_access:elicit", "bf:t:rate_limit:allow:1/hour"]).engine
    decision = await agreed(engine)
    for _ in range(legs):
        assert decision.allowed
        leg = await engine.consent.park(decision)
        assert leg is not None
        await engine.fail(decision, "input_required")
        decision = await engine.decide(call("t"), asking=type(HERE)(forms=True, leg=leg))
    assert decision.allowed
    assert await store.charged() == [1]


@pytest.mark.threat("K15")
async def test_nothing_is_charged_while_somebody_thinks_nor_for_a_no() -> None:
    store = Counting()
    engine = on(store, ["bf:t:tool_access:elicit", "bf:t:rate_limit:allow:1/hour"]).engine
    challenge = await asked(engine)
    assert await store.charged() == []
    assert code(await answer(engine, challenge, "deny")) == "declined"
    assert await store.charged() == []


@pytest.mark.threat("K15")
async def test_a_limit_that_got_room_while_it_was_looked_at_is_charged_once() -> None:
    store = Counting()
    engine = on(store, ["bf:t:tool_access:elicit", "bf:t:rate_limit:allow:5/hour"]).engine
    context = RequestContext(user_id="alice")
    with pytest.raises(ApprovalRequired) as needed:
        await engine.enforce_policies(None, "bf", tool_name="t", context=context)
    assert await engine.answer(needed.value.challenges[0].id, "once", context=context)
    store.room = False
    await engine.enforce_policies(None, "bf", tool_name="t", context=RequestContext(user_id="alice"))
    assert await store.charged() == [1]
