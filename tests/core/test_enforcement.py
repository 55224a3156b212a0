"""The loop that every host drives, where a host alone cannot show it: time that passes, and what strikes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from agreeing import HERE, on
from lab import call, lab

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.decisions import Decision, Outcome
from mcp_macaroon_middleware.core.enforcement import Carried, Questions, Replies, agree, release, run
from mcp_macaroon_middleware.model import Challenge, Refusal, Reply, Result

ASK = ["bf:t:tool_access:elicit"]


class Lingering(MemoryStore):
    """A store that takes its time to take something out."""

    def __init__(self) -> None:
        super().__init__()
        self.taking, self.go = asyncio.Event(), asyncio.Event()

    async def take(self, key: str) -> bytes | None:
        self.taking.set()
        await self.go.wait()
        return await super().take(key)


async def legs(store: MemoryStore) -> list[str]:
    return [name for name, _ in (await store.scan("", None, 100))[0] if "leg/" in name]


async def test_what_follows_an_answer_is_judged_by_the_time_at_which_it_is_judged() -> None:
    now = [1_800_000_000.0]
    made = on(MemoryStore(), ASK, wall=lambda: now[0])

    async def carry(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Replies | Refusal:
        (challenge,) = challenges
        assert await questions.open(challenge, waits=True) is None
        now[0] += 60
        return {challenge.id: Reply(action="accept", content={"choice": "once"})}

    request = call("t", at=made.engine.clock.now())
    decision = await agree(made.engine, request, carry, asking=HERE)
    assert isinstance(decision, Decision)
    assert decision.allowed
    assert (decision.request.at - request.at).total_seconds() == 60


@pytest.mark.threat("FI15")
async def test_whoever_is_cancelled_twice_has_one_record_and_leaves_no_question_open() -> None:
    store = Lingering()
    made = on(store, ASK)
    asked = asyncio.Event()

    async def carry(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Replies | Refusal:
        await questions.open(challenges[0], waits=True)
        asked.set()
        await asyncio.Event().wait()
        return {}

    task = asyncio.create_task(agree(made.engine, call("t"), carry, asking=HERE))
    await asked.wait()
    task.cancel()
    await store.taking.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [end["outcome"] for end in made.records.finals()] == ["cancelled"]
    store.go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert await legs(store) == []


@pytest.mark.parametrize("error", [ValueError("secret"), asyncio.CancelledError(), SystemExit()])
@pytest.mark.threat("O09")
async def test_a_result_that_cannot_be_viewed_leaves_as_nothing_and_has_its_record(error: BaseException) -> None:
    made = lab(["bf:t:tool_access:allow"])
    decision = await agree(made.engine, call("t"))
    assert isinstance(decision, Decision)

    async def view() -> Any:
        raise error

    if isinstance(error, Exception):
        outcome = await release(made.engine, decision, view)
        assert isinstance(outcome, Outcome)
        assert (outcome.applied, outcome.refusal and outcome.refusal.code) == (None, "internal")
    else:
        with pytest.raises(type(error)):
            await release(made.engine, decision, view)
    ends = [(end["outcome"], end.get("detail")) for end in made.records.finals()]
    assert ends == [("withheld", "ValueError") if isinstance(error, Exception) else ("cancelled", None)]


@pytest.mark.parametrize("error", [ValueError("secret"), asyncio.CancelledError(), SystemExit(), KeyboardInterrupt()])
@pytest.mark.threat("O09")
async def test_a_run_that_ends_without_a_result_has_its_record_whatever_ends_it(error: BaseException) -> None:
    made = lab(["bf:t:tool_access:allow"])
    decision = await agree(made.engine, call("t"))
    assert isinstance(decision, Decision)

    async def running() -> None:
        raise error

    with pytest.raises(type(error)):
        await run(made.engine, decision, running())
    cancelled = isinstance(error, asyncio.CancelledError)
    assert [end["outcome"] for end in made.records.finals()] == ["cancelled" if cancelled else "error"]
    assert "secret" not in str(made.records)


@pytest.mark.parametrize("fault", [ValueError("secret"), "refused"])
async def test_a_question_that_cannot_be_carried_is_a_refusal_and_is_not_left_open(fault: Any) -> None:
    store = MemoryStore()
    made = on(store, ASK)

    async def carry(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Replies | Refusal:
        await questions.open(challenges[0])
        if isinstance(fault, Exception):
            raise fault
        return Refusal(code="approval_failed", reason="it cannot be")

    decision = await agree(made.engine, call("t"), carry, asking=HERE)
    assert isinstance(decision, Decision)
    assert decision.refusal is not None
    assert (decision.allowed, decision.refusal.code) == (False, "approval_failed")
    assert [(end["outcome"], end["code"]) for end in made.records.finals()] == [("denied", "approval_failed")]
    assert await legs(store) == []
    assert "secret" not in str(made.records)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_question_that_leaves_after_the_run_ends_the_request_unless_its_host_comes_back(ends: bool) -> None:
    store = MemoryStore()
    made = on(store, ["bf:t:tool_access:allow", "af:t:field_access:elicit:email"])
    decision = await agree(made.engine, call("t"))
    assert isinstance(decision, Decision)

    async def view() -> tuple[Result, Any]:
        return Result.of({"email": "a@b", "id": 1}), lambda redaction: redaction

    async def carry(decision: Decision, challenges: Sequence[Challenge], questions: Questions) -> Carried:
        await questions.open(challenges[0])
        return Carried("later", ends=ends)

    step: Mapping[str, Any] | Any = await release(made.engine, decision, view, carry, asking=HERE)
    assert step == Carried("later", ends=ends)
    assert [end["outcome"] for end in made.records.finals()] == (["held"] if ends else [])
    assert len(await legs(store)) == 1
