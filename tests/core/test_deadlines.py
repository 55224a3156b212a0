"""A verdict that comes after its deadline is none, whichever way it comes: law L2 over every shape of an enforcer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from lab import ALICE, call, lab

from mcp_macaroon_middleware.core.approvers import OpenApprover
from mcp_macaroon_middleware.model import (
    ONCE,
    Action,
    Answer,
    Assurance,
    Challenge,
    Effect,
    Phase,
    Result,
    Verdict,
)
from mcp_macaroon_middleware.plugin.contract import ApproverType, Check, EnforcerType, NoParams
from mcp_macaroon_middleware.tokens import KeyRing, mint, verify

LATE = 0.08
TIME = 0.02
KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")


def stall() -> None:
    time.sleep(LATE)


def sleeps(_: Check[NoParams]) -> Verdict:
    stall()
    return Verdict.allow()


async def holds_the_loop(_: Check[NoParams]) -> Verdict:
    stall()
    return Verdict.allow()


async def holds_the_loop_later(_: Check[NoParams]) -> Verdict:
    await asyncio.sleep(0)
    stall()
    return Verdict.allow()


async def swallows_its_cancellation(_: Check[NoParams]) -> Verdict:
    for _number in range(3):
        try:
            await asyncio.sleep(LATE / 2)
        except asyncio.CancelledError:
            continue
    return Verdict.allow()


def sleeps_and_answers_later(_: Check[NoParams]) -> Any:
    time.sleep(LATE)

    async def answer() -> Verdict:
        return Verdict.allow()

    return answer()


def answers_later_in_two_halves(_: Check[NoParams]) -> Any:
    time.sleep(TIME * 0.7)

    async def answer() -> Verdict:
        await asyncio.sleep(TIME * 0.7)
        return Verdict.allow()

    return answer()


SHAPES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (sleeps, {}),
    (sleeps, {"blocking": True}),
    (sleeps, {"constant": True, "reads_arguments": False}),
    (holds_the_loop, {}),
    (holds_the_loop, {"blocking": True}),
    (holds_the_loop_later, {}),
    (swallows_its_cancellation, {}),
    (swallows_its_cancellation, {"blocking": True}),
    (sleeps_and_answers_later, {}),
    (answers_later_in_two_halves, {}),
]


def late(function: Callable[..., Any], fields: dict[str, Any], **more: Any) -> EnforcerType:
    made: dict[str, Any] = {"timeout": TIME, "phases": frozenset(Phase), "attenuates": True, **fields, **more}
    return EnforcerType(name="late", check=function, actions=frozenset({Action.ALLOW}), **made)


@pytest.mark.threat("R23", "M02")
@pytest.mark.parametrize("side", ["operator", "token"])
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("function", "fields"), SHAPES)
async def test_L2_a_late_verdict_refuses_before_and_withholds_after(
    function: Callable[..., Any], fields: dict[str, Any], phase: Phase, side: str
) -> None:
    """plugin-author B5."""
    rule = f"{phase}:t:late:allow"
    room = lab(["bf:t:tool_access:allow", *([rule] if side == "operator" else [])], late(function, fields))
    token = None
    if side == "token":
        text = mint(KEYS, subject="alice", audience="a", caveats=[rule], expires=timedelta(hours=1))
        token = verify(KEYS, text, audience="a")
    decision = await room.engine.decide(call("t"), token=token)
    if phase is Phase.BEFORE:
        assert not decision.allowed
    else:
        assert decision.allowed
        outcome = await room.engine.finish(decision, Result.of({"a": 1}), lambda redaction: redaction)
        assert (outcome.effect, outcome.applied) == (Effect.DENY, None)
    (final,) = room.records.finals()
    assert "enforcer_timeout" in repr(final)
    room.engine.close()


@pytest.mark.threat("R23")
@pytest.mark.parametrize(("function", "fields"), SHAPES)
async def test_L2_a_late_verdict_keeps_a_component_out_of_lists(
    function: Callable[..., Any], fields: dict[str, Any]
) -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:late:allow"], late(function, fields, hides=True))
    assert not await room.engine.reachable(call("t"))
    room.engine.close()


async def test_a_short_deadline_is_its_own_beside_a_longer_one() -> None:
    async def slow(_: Check[NoParams]) -> Verdict:
        await asyncio.sleep(LATE)
        return Verdict.allow()

    patient = EnforcerType(name="patient", check=slow, timeout=5.0)
    hasty = late(slow, {})
    both = lab(["bf:t:tool_access:allow", "bf:t:patient:allow", "bf:t:late:allow"], patient, hasty)
    decision = await both.engine.decide(call("t"))
    assert decision.refusal is not None
    assert decision.refusal.code == "enforcer_timeout"
    alone = lab(["bf:t:tool_access:allow", "bf:t:patient:allow"], patient)
    assert (await alone.engine.decide(call("t"))).allowed


async def test_a_constant_check_that_was_late_once_is_judged_anew() -> None:
    times = [LATE, 0.0]

    def slow_at_first(_: Check[NoParams]) -> Verdict:
        time.sleep(times.pop(0))
        return Verdict.allow()

    room = lab(["bf:t:tool_access:allow", "bf:t:late:allow"], late(slow_at_first, SHAPES[2][1]))
    assert not (await room.engine.decide(call("t"))).allowed
    assert (await room.engine.decide(call("t"))).allowed
    assert (await room.engine.decide(call("t"))).allowed, "it is judged once when it was in time"


@pytest.mark.threat("R23")
async def test_L2_an_approver_that_holds_the_loop_past_its_time_has_not_answered() -> None:
    class Late:
        async def ask(self, challenge: Challenge) -> Answer:
            stall()
            return Answer.chosen(ONCE)

    kind = ApproverType(name="late", open=lambda _: Late(), assurance=Assurance.PERSON)  # type: ignore[arg-type,return-value]
    found = OpenApprover(kind=kind, approver=Late())  # type: ignore[arg-type]
    challenge = Challenge(id="1", approver="late", phase=Phase.BEFORE, questions=(), principal=ALICE)
    assert await found.ask(challenge, TIME) == Answer(ending="timeout")
