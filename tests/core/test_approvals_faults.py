"""Approvals cut off at every point, and approvers that are down, slow, late, or answer what nobody asked them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agreeing import HERE, answer, asked, code, emptied, on
from lab import APPROVERS, Lab, call, open_approvers

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvers import OpenApprover
from mcp_macaroon_middleware.core.binding import ApprovalTerms
from mcp_macaroon_middleware.core.decisions import Decision
from mcp_macaroon_middleware.errors import ApprovalRequired, PolicyViolationError
from mcp_macaroon_middleware.model import Answer, Assurance, Challenge, Effect, Reply, RequestContext, Result
from mcp_macaroon_middleware.plugin.contract import ApproverType

LEGS = 60
"""More than there are points at which a leg can be cut off."""


class Suspending(MemoryStore):
    """A store that lets others go first, before it does anything and before it says so. `cut` is called at the n-th."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.at = 0, 0
        self.cut: Callable[[], object] = lambda: None

    def arm(self, at: int, cut: Callable[[], object]) -> None:
        self.points, self.at, self.cut = 0, at, cut

    async def _point(self) -> None:
        self.points += 1
        if self.points == self.at:
            self.cut()
        await asyncio.sleep(0)


def suspending(name: str) -> Any:
    original = getattr(MemoryStore, name)

    async def operation(self: Suspending, *arguments: Any, **more: Any) -> Any:
        await self._point()
        done = await original(self, *arguments, **more)
        await self._point()
        return done

    return operation


for _name in ("get", "put", "swap", "take", "add", "now"):
    setattr(Suspending, _name, suspending(_name))


class Office:
    """A server on such a store, and what its tool has done."""

    def __init__(self, rules: list[Any]) -> None:
        self.store = Suspending()
        self.made: Lab = on(self.store, rules)
        self.engine = self.made.engine
        self.runs = 0
        self.shown: list[Any] = []

    async def runs_on(self, decision: Decision) -> Decision:
        """What an adapter does: the tool runs, unless its result waits already, and every end has its record."""
        if not decision.allowed:
            return decision
        try:
            self.runs += decision.held is None
            outcome = await self.engine.finish(decision, Result.of({"x": 1, "y": 2}), lambda r: r, asking=HERE)
            if outcome.effect is Effect.ASK:
                (challenge,) = outcome.challenges
                await self.engine.pose(decision, challenge, held=b"result")
                await self.engine.asked(decision, held=True)
                decision.challenges = (challenge,)
            elif outcome.applied is not None and outcome.applied.is_empty:
                self.shown.append(decision)
        finally:
            if not decision.closed:
                await self.engine.fail(decision, "cancelled")
        return decision

    async def leg(self, challenge: Challenge, **content: str) -> Decision:
        """One request with an answer."""
        replies = {challenge.id: Reply(action="accept", content=content)}
        return await self.runs_on(await self.engine.decide(call("t"), asking=HERE.answered(replies)))

    def check(self, requests: int) -> None:
        """Every request has one end, and nothing ran without being written down before."""
        finals = [record["request"] for record in self.made.records.finals()]
        assert len(finals) == len(set(finals)) == requests
        assert {record["request"] for record in self.made.records if record["event"] == "intent"} <= set(finals)


async def cut_off(office: Office, request: Callable[[], Awaitable[Any]], at: int) -> tuple[bool, Any]:
    """Whether a request was cut off, at its `at`-th point, and else its answer."""
    task: asyncio.Task[Any] = asyncio.ensure_future(request())  # type: ignore[arg-type]
    office.store.arm(at, task.cancel)
    try:
        done = await task
    except asyncio.CancelledError:
        return True, None
    finally:
        office.store.arm(0, lambda: None)
        await asyncio.sleep(0)
    return office.store.at > 0, done


# --- cut off at every point -------------------------------------------------------------------------------------------

BEFORE: list[Any] = ["bf:t:tool_access:elicit", "bf:*:tool_access:elicit", "bf:t:rate_limit:allow:5/hour"]
HELD: list[Any] = ["bf:t:tool_access:allow", "bf:t:rate_limit:allow:5/hour", "af:t:field_access:elicit:x"]


@pytest.mark.threat("FI16", "D01")
@pytest.mark.parametrize("says", ["once", "period", "deny"])
async def test_wherever_an_approved_call_is_cut_off_it_runs_once_at_most_and_has_one_end(
    says: str,
) -> None:
    seen = set()
    for at in range(1, LEGS):
        office = Office(BEFORE)
        challenge = await asked(office.engine)
        cut, _ = await cut_off(office, lambda office=office, c=challenge: office.leg(c, choice=says), at)  # type: ignore[misc]
        ran = office.runs
        again = await office.leg(challenge, choice=says)
        assert office.runs <= 1, "once means once"
        if ran:
            assert code(again) in ("grant_used", "approval_stale")
        seen.add((cut, ran, code(again)))
        office.check(3)
        whole = await office.engine.decide(call("t"))
        if says != "period":
            assert not whole.allowed
        fresh = await office.engine.decide(call("t", {"n": at}), asking=HERE)
        assert says == "period" or fresh.effect is Effect.ASK, "whoever asks again is asked again"
        if not cut:
            break
    assert not cut, "there are more points than were looked at"
    assert (True, 0, "grant_used") in seen, "what is used counts as used, though its call never ran"


@pytest.mark.threat("FI16", "FI8")
async def test_wherever_the_release_of_a_held_result_is_cut_off_it_is_given_out_once_at_most() -> None:
    seen = set()
    for at in range(1, LEGS):
        office = Office(HELD)
        first = await office.runs_on(await office.engine.decide(call("t"), asking=HERE))
        (challenge,) = first.challenges
        cut, _ = await cut_off(office, lambda office=office, c=challenge: office.leg(c, choice_1="once"), at)  # type: ignore[misc]
        given = len(office.shown)
        again = await office.leg(challenge, choice_1="once")
        assert office.runs == 1, "the tool runs once, whatever becomes of its result"
        assert len(office.shown) <= 1
        seen.add((cut, given, code(again)))
        office.check(3)
        if not cut:
            break
    assert not cut
    assert given == 1
    assert (True, 0, "grant_used") in seen


@pytest.mark.threat("FI16")
async def test_wherever_asking_is_cut_off_no_question_is_left_half_open() -> None:
    for at in range(1, LEGS):
        office = Office(BEFORE)

        async def asks(office: Office = office) -> Challenge:
            decision = await office.engine.decide(call("t"), asking=HERE)
            (challenge,) = decision.challenges
            try:
                await office.engine.pose(decision, challenge)
                await office.engine.asked(decision)
            except asyncio.CancelledError:
                await office.engine.fail(decision, "cancelled")
                raise
            return challenge

        cut, _ = await cut_off(office, asks, at)
        office.check(1)
        assert code(await office.leg(await asked(office.engine), choice="once")) == "allowed"
        assert office.runs == 1
        if not cut:
            break
    assert not cut


@pytest.mark.threat("FI16", "D08")
async def test_wherever_a_call_with_stored_approvals_is_cut_off_none_of_them_is_good_again() -> None:
    used = 0
    for at in range(1, LEGS):
        office = Office(BEFORE)
        context = RequestContext(user_id="alice")
        with pytest.raises(ApprovalRequired) as needed:
            await office.engine.enforce_policies(None, "bf", tool_name="t", context=context)
        assert await office.engine.answer(needed.value.challenges[0].id, "once", context=context)

        async def attempt(office: Office = office) -> bool:
            mine = RequestContext(user_id="alice")
            try:
                await office.engine.enforce_policies(None, "bf", tool_name="t", context=mine)
            except PolicyViolationError:
                return False
            office.runs += 1
            await office.engine.enforce_policies(None, "af", tool_name="t", context=mine, result={})
            return True

        cut, _ = await cut_off(office, attempt, at)
        again = await attempt()
        assert office.runs <= 1
        assert not await attempt()
        assert office.runs <= 1
        used += cut and not again and not office.runs
        finals = [record["request"] for record in office.made.records.finals()]
        assert len(finals) == len(set(finals))
        if not cut:
            break
    assert not cut
    assert used, "approvals that were taken are used, though the call never ran"


@pytest.mark.threat("D01", "N10")
async def test_L5_a_question_that_was_answered_is_used_though_its_record_is_put_back() -> None:
    office = Office(BEFORE)
    challenge = await asked(office.engine)
    records = await emptied(office.store, "/leg/")
    for _ in range(2):
        for name, value in records.items():
            await office.store.put(name, value, 3600)
        last = await office.leg(challenge, choice="once")
    assert (code(last), office.runs) == ("grant_used", 1)


@pytest.mark.threat("D08", "N10")
async def test_L5_an_approval_for_one_call_is_used_though_its_record_is_put_back() -> None:
    office = Office(BEFORE)
    context = RequestContext(user_id="alice")
    with pytest.raises(ApprovalRequired) as needed:
        await office.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    assert await office.engine.answer(needed.value.challenges[0].id, "once", context=context)
    records = await emptied(office.store, "grant/")
    assert len(records) == 2
    for allowed in (True, False):
        for name, value in records.items():
            await office.store.put(name, value, 3600)
        try:
            await office.engine.enforce_policies(None, "bf", tool_name="t", context=RequestContext(user_id="alice"))
        except PolicyViolationError:
            assert not allowed
        else:
            assert allowed


# --- approvers --------------------------------------------------------------------------------------------------------


class Elsewhere:
    """An approver out of band that does what a test says for each question."""

    def __init__(self, *does: Any) -> None:
        self.does = list(does)
        self.seen: list[Challenge] = []
        self.withdrawn = 0

    def available(self) -> bool:
        return True

    async def ask(self, challenge: Challenge) -> Any:
        self.seen.append(challenge)
        answers = self.does.pop(0)
        if isinstance(answers, Exception):
            raise answers
        if answers is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.withdrawn += 1
                raise
        return answers

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        raise AssertionError("an approver out of band is sent no replies")

    async def close(self) -> None:
        """Nothing to release."""


class Ticking(MemoryStore):
    """A store whose time a test moves."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0
        super().__init__(clock=lambda: self.at)


WEB: list[Any] = [{"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}]
YES = Answer.chosen("once")


def with_approver(approver: Elsewhere, store: MemoryStore | None = None, **terms: Any) -> Lab:
    kind = ApproverType(name="web", open=lambda _: approver, assurance=Assurance.PERSON)
    approvers = open_approvers("mcp")
    approvers.adopt({"web": OpenApprover(kind=kind, approver=approver)})
    APPROVERS.append(kind)
    try:
        return on(MemoryStore() if store is None else store, WEB, approvers=approvers, approvals=ApprovalTerms(**terms))
    finally:
        APPROVERS.remove(kind)


async def posed(made: Lab) -> tuple[Decision, Challenge]:
    decision = await made.engine.decide(call("t"), asking=HERE)
    (challenge,) = decision.challenges
    assert challenge.approver == "web"
    assert await made.engine.pose(decision, challenge, waits=True) is None
    return decision, challenge


async def with_answers(made: Lab, **answers: Any) -> str:
    return code(await made.engine.decide(call("t"), asking=HERE.answered(answers)))


@pytest.mark.threat("FI22")
async def test_an_approver_that_is_down_or_slow_approves_nothing_is_let_go_and_is_asked_the_next_time() -> None:
    approver = Elsewhere(OSError("down"), None, YES)
    made = with_approver(approver, timeout=1)
    codes = []
    for _ in range(3):
        decision, challenge = await posed(made)
        found = await made.engine.consent.elsewhere(decision, challenge)
        codes.append(await with_answers(made, **{challenge.id: found}))
    assert codes == ["approval_failed", "approval_timeout", "allowed"]
    assert approver.withdrawn == 1, "whoever waits no longer takes the question back"
    ends = [record["code"] for record in made.records.finals()]
    assert ends == ["approval_failed", "approval_timeout"], "and each end is on record"


@pytest.mark.threat("FI22", "D01")
@pytest.mark.parametrize(("first", "said"), [("once", "allowed"), ("deny", "declined")])
async def test_a_second_answer_to_a_question_changes_nothing(first: str, said: str) -> None:
    made = with_approver(Elsewhere())
    _, challenge = await posed(made)
    assert await with_answers(made, **{challenge.id: Answer.chosen(first)}) == said
    for second in ("once", "period", "deny"):
        assert await with_answers(made, **{challenge.id: Answer.chosen(second)}) == "grant_used"
    asks_again = await made.engine.decide(call("t"), asking=HERE)
    assert code(asks_again) == ("asks" if first == "once" else "declined")


@pytest.mark.threat("FI22")
async def test_an_answer_to_what_nobody_was_asked_is_refused_and_on_record() -> None:
    made = with_approver(Elsewhere())
    _, challenge = await posed(made)
    for unknown in ("", "0" * 32, challenge.id.upper() + "x", "../" + challenge.id):
        assert await with_answers(made, **{unknown: YES}) == "approval_stale"
    assert [record["code"] for record in made.records.finals()] == ["approval_stale"] * 4
    bob = call("t", principal=call().principal.__class__(kind="user", namespace="https://idp", subject="bob"))
    refused = await made.engine.decide(bob, asking=HERE.answered({challenge.id: YES}))
    assert code(refused) == "approval_stale"
    assert await with_answers(made, **{challenge.id: YES}) == "allowed", "the question itself is still open"


@pytest.mark.threat("FI22", "D07")
@pytest.mark.parametrize("restart", [False, True])
async def test_an_answer_that_comes_too_late_is_refused_and_opens_nothing(restart: bool) -> None:
    store = Ticking()
    made = with_approver(Elsewhere(), store)
    _, challenge = await posed(made)
    store.at += 120 + 10 + 1
    late = with_approver(Elsewhere(), store) if restart else made
    assert await with_answers(late, **{challenge.id: YES}) == "approval_stale"
    assert (await late.engine.decide(call("t"), asking=HERE)).effect is Effect.ASK


@pytest.mark.threat("FI22", "F06")
async def test_an_approver_that_is_gone_from_the_file_answers_nothing_any_more() -> None:
    store = MemoryStore()
    made = with_approver(Elsewhere(), store)
    _, challenge = await posed(made)
    without = on(store, ["bf:t:tool_access:elicit"])
    assert code(await without.engine.decide(call("t"), asking=HERE.answered({challenge.id: YES}))) == "approval_failed"
    assert code(await answer(without.engine, await asked(without.engine))) == "allowed"


@pytest.mark.threat("FI14")
async def test_a_question_that_is_never_answered_ends_by_itself() -> None:
    store = Ticking()
    made = on(store, ["bf:t:tool_access:elicit"])
    await asked(made.engine)
    assert [name for name, _ in (await store.scan("", None, 99))[0] if "/leg/" in name]
    store.at += 121
    assert [name for name, _ in (await store.scan("", None, 99))[0] if "/leg/" in name] == []
