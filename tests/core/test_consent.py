"""Who must agree and who may: approvers, fallbacks, four eyes, grants in the store, hosts, tokens, limits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lab import ALICE, BOB, RING, Enforcers, Lab, builtins, call, lab, open_approvers, plan_of

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvers import Approvers, OpenApprover
from mcp_macaroon_middleware.core.asks import Asking
from mcp_macaroon_middleware.core.binding import ApprovalTerms, PlanSettings
from mcp_macaroon_middleware.core.decisions import Decision, Outcome
from mcp_macaroon_middleware.core.plan import compile_plan
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.errors import ApprovalRequired, PolicyViolationError
from mcp_macaroon_middleware.model import (
    Answer,
    Assurance,
    Challenge,
    Component,
    Effect,
    Kind,
    Principal,
    Reply,
    RequestContext,
    Result,
)
from mcp_macaroon_middleware.plugin.contract import ApproverType
from mcp_macaroon_middleware.rules import rule_from_mapping
from mcp_macaroon_middleware.tokens import attenuate, mint, verify

HERE = Asking(forms=True)
CAROL = Principal(kind="user", namespace="https://idp", subject="carol")


class Clock:
    """Everybody's time: the server's and the store's."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()


class Person:
    """An approver out of band whose person answers what the test says, once for each question."""

    def __init__(self, *answers: Any, delay: float = 0.0, there: bool = True) -> None:
        self.answers = list(answers)
        self.delay = delay
        self.there = there
        self.seen: list[Challenge] = []

    def available(self) -> bool:
        return self.there

    async def ask(self, challenge: Challenge) -> Any:
        self.seen.append(challenge)
        await asyncio.sleep(self.delay)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        raise AssertionError("an approver out of band is sent no replies")

    async def close(self) -> None:
        """Nothing to release."""


def known(name: str, person: Person, assurance: Assurance) -> tuple[str, OpenApprover]:
    kind = ApproverType(name=name, open=lambda _: person, assurance=assurance)
    return name, OpenApprover(kind=kind, approver=person)


def room(rules: Sequence[Any], *people: tuple[str, OpenApprover], clock: Clock | None = None, **settings: Any) -> Lab:
    made = lab(rules, **settings, approvers=[found.kind for _, found in people])
    approvers = open_approvers("mcp")
    approvers.adopt(dict(people))
    if clock is not None:
        made.store = MemoryStore(clock=clock.seconds)
    made.engine = engine_of(made, approvers, clock)
    return made


def engine_of(made: Lab, approvers: Approvers, clock: Clock | None = None) -> PolicyEngine:
    plan, audit = made.engine.plan, made.engine.audit
    return PolicyEngine(plan, store=made.store, audit=audit, keys=RING, approvers=approvers, clock=clock)


async def answered(engine: PolicyEngine, request: RequestContext, asking: Asking = HERE, **content: str) -> Decision:
    """The decision after one answer through the client; every field of the form gets `choice` where none is named."""
    decision = await engine.decide(request, asking=asking)
    assert decision.effect is Effect.ASK, decision.refusal
    (challenge,) = decision.challenges
    assert await engine.pose(decision, challenge) is None
    reply = Reply(action="accept", content=content or {"choice": "once"})
    return await engine.decide(request, asking=asking.answered({challenge.id: reply}))


async def through(engine: PolicyEngine, request: RequestContext) -> Decision:
    """The decision after everybody out of band was asked."""
    decision = await engine.decide(request, asking=HERE)
    while decision.effect is Effect.ASK:
        replies = {}
        for challenge in decision.challenges:
            assert await engine.pose(decision, challenge, waits=True) is None
            replies[challenge.id] = await engine.consent.elsewhere(decision, challenge)
        decision = await engine.decide(request, asking=HERE.answered(replies))
    return decision


def code(decision: Decision) -> str:
    return decision.refusal.code if decision.refusal is not None else "allowed"


async def finished(engine: PolicyEngine, decision: Decision, value: Mapping[str, Any], asking: Asking) -> Outcome:
    return await engine.finish(decision, Result.of(value), lambda redaction: redaction, asking=asking)


# --- grants ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("C01", "C02")
async def test_an_approval_is_one_callers_and_nobody_elses() -> None:
    made = room(["bf:t:tool_access:elicit"])
    assert (await answered(made.engine, call("t", client="a"), choice="period")).allowed
    assert (await made.engine.decide(call("t", client="a"))).allowed
    others = [
        call("t", client="b"),
        call("t", principal=BOB, client="a"),
        call("t", principal=replace(ALICE, namespace="https://other"), client="a"),
        call("t", principal=replace(ALICE, tenant="x"), client="a"),
        call("t"),
    ]
    for other in others:
        assert code(await made.engine.decide(other)) == "approval_unavailable"


@pytest.mark.threat("C06", "C08", "C10")
async def test_an_approval_is_for_one_component_as_it_is_defined_and_for_the_arguments_that_its_title_says() -> None:
    made = room(["bf:*:tool_access:elicit"])

    def tool(name: str, digest: str = "d1") -> Component:
        return Component(kind=Kind.TOOL, name=name, names=(name,), digest=digest)

    assert (await answered(made.engine, call(component=tool("elicit_info")), choice="period")).allowed
    assert (await made.engine.decide(call(component=tool("elicit_info"), arguments={"x": 2}))).allowed
    assert not (await made.engine.decide(call(component=tool("allow_info")))).allowed
    assert not (await made.engine.decide(call(component=tool("elicit_info", "d2")))).allowed
    first = call(component=tool("write"), arguments={"x": 1})
    assert (await answered(made.engine, first)).allowed
    assert not (await made.engine.decide(call(component=tool("write"), arguments={"x": 999}))).allowed
    assert not (await made.engine.decide(first)).allowed


@pytest.mark.threat("C07")
async def test_an_approved_field_releases_no_other_field() -> None:
    rules = ["bf:t:tool_access:allow", "af:t:field_access:elicit:body_html", "af:t:field_access:elicit:body"]
    made = room(rules)
    value = {"body": 1, "body_html": 2}
    decision = await made.engine.decide(call("t"), asking=HERE)
    outcome = await finished(made.engine, decision, value, HERE)
    assert outcome.effect is Effect.ASK
    (challenge,) = outcome.challenges
    assert [question.fields for question in challenge.questions] == [("body_html",), ("body",)]
    assert await made.engine.pose(decision, challenge) is None
    reply = Reply(action="accept", content={"choice_1": "period", "choice_2": "deny"})
    outcome = await finished(made.engine, decision, value, HERE.answered({challenge.id: reply}))
    assert outcome.applied.withhold == ("body",)
    again = await made.engine.decide(call("t"), asking=HERE)
    outcome = await finished(made.engine, again, value, HERE)  # the other one was declined a moment ago
    assert (outcome.effect, outcome.applied.withhold) == (Effect.ALLOW, ("body",))


@pytest.mark.threat("C12")
async def test_an_approval_before_the_call_is_none_for_what_comes_after_it() -> None:
    rules = ["bf:t:tool_access:elicit", "af:t:field_access:elicit:x"]
    made = room(rules)
    decision = await answered(made.engine, call("t"), choice="period")
    assert decision.allowed
    outcome = await finished(made.engine, decision, {"x": 1}, HERE)
    assert outcome.effect is Effect.ASK
    (challenge,) = outcome.challenges
    await made.engine.pose(decision, challenge)
    replies = {challenge.id: Reply(action="accept", content={"choice_1": "period"})}
    assert (await finished(made.engine, decision, {"x": 1}, HERE.answered(replies))).applied.is_empty
    made.engine.adopt(plan_of(["bf:t:tool_access:elicit", *rules[1:], "bf:t:rate_limit:allow:9/minute"]))
    assert (await made.engine.decide(call("t"))).allowed
    fresh = room(["bf:t:tool_access:elicit"])
    fresh.store = made.store
    assert not (await engine_of(fresh, open_approvers("mcp")).decide(call("u"))).allowed


@pytest.mark.threat("C14", "F15", "FI29")
async def test_a_reload_that_forbids_or_asks_for_more_is_obeyed_by_what_was_approved_before() -> None:
    person = Person(Answer.chosen("once"))
    made = room(["bf:t:tool_access:elicit"], known("web", person, Assurance.PERSON))
    request = call("t")
    assert (await answered(made.engine, request, choice="period")).allowed
    kinds = [found.kind for name in ("web",) if (found := made.engine.consent.approvers.get(name))]
    stricter = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}
    made.engine.adopt(plan_of([stricter], approvers=kinds))
    decision = await made.engine.decide(request, asking=HERE)
    assert [challenge.approver for challenge in decision.challenges] == ["web"]
    made.engine.adopt(plan_of(["bf:t:tool_access:elicit", "bf:t:tool_access:deny"]))
    assert not (await made.engine.decide(request)).allowed


async def test_a_question_that_was_open_when_the_rule_changed_is_asked_again() -> None:
    made = room(["bf:t:tool_access:elicit"])
    decision = await made.engine.decide(call("t"), asking=HERE)
    (challenge,) = decision.challenges
    await made.engine.pose(decision, challenge)
    made.engine.adopt(plan_of([{"before": "t", "policy": "tool_access", "action": "elicit", "scopes": ["once"]}]))
    reply = HERE.answered({challenge.id: Reply(action="accept", content={"choice": "period"})})
    again = await made.engine.decide(call("t"), asking=reply)
    assert again.effect is Effect.ASK


@pytest.mark.threat("C15")
async def test_an_approval_ends_with_the_credential_where_the_file_says_so() -> None:
    clock = Clock()
    made = room(["bf:t:tool_access:elicit"], clock=clock, approvals=ApprovalTerms(end_with_token=True))
    asking = Asking(forms=True, until=clock.at + timedelta(seconds=60))
    decision = await made.engine.decide(call("t", at=clock.at), asking=asking)
    titles = [choice.title for choice in decision.challenges[0].choices[0]]
    assert titles[-1] == "Allow t with any arguments, for 1 minute"
    assert (await answered(made.engine, call("t", at=clock.at), asking, choice="period")).allowed
    clock.at += timedelta(seconds=50)
    assert (await made.engine.decide(call("t"))).allowed
    clock.at += timedelta(seconds=15)
    assert not (await made.engine.decide(call("t"))).allowed


@pytest.mark.threat("F21")
async def test_a_period_is_as_long_as_its_rule_says_and_the_title_says_so() -> None:
    clock = Clock()
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "expiry": 300}
    made = room([rule], clock=clock, elicit_expiry=3600)
    decision = await made.engine.decide(call("t"), asking=HERE)
    assert decision.challenges[0].choices[0][-1].title == "Allow t with any arguments, for 5 minutes"
    assert (await answered(made.engine, call("t"), choice="period")).allowed
    clock.at += timedelta(seconds=301)
    assert not (await made.engine.decide(call("t"))).allowed


@pytest.mark.threat("D07", "FI10")
async def test_an_answer_after_its_time_is_refused_and_no_clock_brings_it_back() -> None:
    clock = Clock()
    made = room(["bf:t:tool_access:elicit"], clock=clock)
    decision = await made.engine.decide(call("t"), asking=HERE)
    (challenge,) = decision.challenges
    await made.engine.pose(decision, challenge)
    clock.at += timedelta(seconds=121)
    replies = HERE.answered({challenge.id: Reply(action="accept", content={"choice": "once"})})
    assert code(await made.engine.decide(call("t"), asking=replies)) == "approval_stale"
    clock.at -= timedelta(hours=1)
    assert code(await made.engine.decide(call("t"), asking=replies)) == "approval_stale"


@pytest.mark.threat("D09", "FI5", "N10")
async def test_a_store_that_was_emptied_or_put_back_admits_nothing_that_was_approved_before() -> None:
    made = room(["bf:t:tool_access:elicit"])
    assert (await answered(made.engine, call("t"), choice="period")).allowed
    copy = dict(made.store._values)
    assert (await made.engine.decide(call("t"))).allowed
    made.store._values.clear()  # FLUSHALL
    assert not (await made.engine.decide(call("t"))).allowed
    for name, entry in copy.items():  # and a backup from before it
        made.store._values[name] = entry
    assert not (await made.engine.decide(call("t"))).allowed
    epochs = [record["why"] for record in made.records if record["event"] == "epoch"]
    assert epochs == ["missing", "missing", "older than what this server has seen"]


@pytest.mark.threat("FI7")
async def test_a_broken_record_counts_for_nothing_and_is_reported() -> None:
    made = room(["bf:t:tool_access:elicit"])
    assert (await answered(made.engine, call("t"), choice="period")).allowed
    for name in [name for name in made.store._values if "grant/" in name]:
        await made.store.put(name, secrets.token_bytes(40), 600)
    assert not (await made.engine.decide(call("t"))).allowed
    assert [record["what"] for record in made.records if record["event"] == "record_broken"] == ["grant"]
    assert (await answered(made.engine, call("t"), choice="period")).allowed


# --- out of band ----------------------------------------------------------------------------------------------------


@pytest.mark.threat("F06")
async def test_a_rule_that_wants_a_person_takes_no_answer_of_the_client() -> None:
    person = Person(Answer.chosen("once"))
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}
    made = room([rule], known("web", person, Assurance.PERSON))
    decision = await made.engine.decide(call("t"), asking=HERE)
    (challenge,) = decision.challenges
    await made.engine.pose(decision, challenge)
    replies = HERE.answered({challenge.id: Reply(action="accept", content={"choice": "once"})})
    assert code(await made.engine.decide(call("t"), asking=replies)) == "approval_invalid"
    assert person.seen == []
    assert (await through(made.engine, call("t"))).allowed
    assert len(person.seen) == 1


@pytest.mark.threat("F07")
async def test_four_eyes_wants_somebody_else() -> None:
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web", "four_eyes": True}
    answers = [Answer.chosen("once", by=who) for who in (ALICE, None, CAROL)]
    person = Person(*answers)
    made = room([rule], known("web", person, Assurance.PERSON))
    assert code(await through(made.engine, call("t"))) == "approver_is_requester"
    assert code(await through(made.engine, call("t"))) == "approver_is_requester"
    assert (await through(made.engine, call("t"))).allowed


async def test_four_eyes_with_an_approver_that_knows_nobody_is_an_error_of_the_file() -> None:
    rule = rule_from_mapping({"before": "t", "policy": "tool_access", "action": "elicit", "four_eyes": True})
    _, problems = compile_plan([rule], Enforcers(builtins()), PlanSettings(), {}, "r1")  # type: ignore[arg-type]
    assert [problem.code for problem in problems] == ["approver_knows_nobody"]


@pytest.mark.threat("FI22")
@pytest.mark.parametrize(
    ("person", "refused"),
    [
        (Person(RuntimeError("down")), "approval_failed"),
        (Person(Answer.chosen("once"), delay=5.0), "approval_timeout"),
        (Person(Answer.chosen("once", "once")), "approval_invalid"),
        (Person(Answer.chosen("for ever")), "approval_invalid"),
        (Person(None), "approval_failed"),
        (Person("once"), "approval_failed"),
        (Person(Answer(ending="cancelled")), "approval_cancelled"),
        (Person(Answer(ending="declined")), "declined"),
    ],
    ids=["down", "slow", "too many", "not offered", "nothing", "a text", "cancelled", "declined"],
)
async def test_whatever_an_approver_does_but_choose_is_no_approval(person: Person, refused: str) -> None:
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}
    made = room([rule], known("web", person, Assurance.PERSON), approvals=ApprovalTerms(timeout=1))
    assert code(await through(made.engine, call("t"))) == refused


@pytest.mark.threat("F01")
async def test_a_fallback_is_asked_and_never_one_that_proves_less() -> None:
    console, web = Person(Answer.chosen("once"), Answer.chosen("once")), Person(there=False)
    people = (known("console", console, Assurance.OPERATOR), known("web", web, Assurance.PERSON))
    terms = ApprovalTerms(fallback=("console",))
    made = room(["bf:t:tool_access:elicit"], *people, approvals=terms)
    no_forms = Asking(forms=False)
    decision = await made.engine.decide(call("t"), asking=no_forms)
    assert [challenge.approver for challenge in decision.challenges] == ["console"]
    strict = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}
    made = room([strict], *people, approvals=terms)
    decision = await made.engine.decide(call("t"), asking=HERE)
    assert code(decision) == "approval_unavailable"
    assert decision.refusal is not None
    assert decision.refusal.approval == "web"


async def test_two_approvers_are_both_asked_and_one_no_is_enough() -> None:
    rules = [
        "bf:t:tool_access:elicit",
        {"before": "t", "policy": "rate_limit", "action": "allow", "params": "9/minute"},
        {"before": "*", "policy": "tool_access", "action": "elicit", "approver": "web"},
    ]
    for answer, allowed in ((Answer.chosen("once"), True), (Answer.chosen("deny"), False)):
        made = room(rules, known("web", Person(answer), Assurance.PERSON))
        decision = await made.engine.decide(call("t"), asking=HERE)
        assert [challenge.approver for challenge in decision.challenges] == ["web", "mcp"]
        first = decision.challenges[0]
        await made.engine.pose(decision, first)
        reply = await made.engine.consent.elsewhere(decision, first)
        decision = await made.engine.decide(call("t"), asking=HERE.answered({first.id: reply}))
        if not allowed:
            assert code(decision) == "declined"
            continue
        (second,) = decision.challenges
        assert second.approver == "mcp"
        await made.engine.pose(decision, second)
        yes = {second.id: Reply(action="accept", content={"choice": "once"})}
        assert (await made.engine.decide(call("t"), asking=HERE.answered(yes))).allowed


@pytest.mark.threat("C03")
async def test_a_machine_is_asked_nothing() -> None:
    made = room(["bf:t:tool_access:elicit"], known("console", Person(), Assurance.OPERATOR))
    asking = Asking(person=False, forms=True)
    assert code(await made.engine.decide(call("t"), asking=asking)) == "approval_unavailable"


# --- tokens ---------------------------------------------------------------------------------------------------------


def token(*caveats: str, **fields: Any) -> str:
    return mint(RING, subject="alice", audience="mail", caveats=list(caveats), namespace="https://idp", **fields)


@pytest.mark.threat("B12")
async def test_an_approval_asked_for_under_a_narrowed_token_is_that_tokens_and_widens_nothing() -> None:
    made = room(["bf:*:tool_access:elicit"], audience="mail")
    parent = token("bf:*:tool_access:only:read_*")
    child = attenuate(parent, "bf:*:tool_access:only:read_mail")
    narrow, wide = (verify(RING, text, audience="mail") for text in (child, parent))
    decision = await made.engine.decide(call("read_mail"), token=narrow, asking=HERE)
    (challenge,) = decision.challenges
    await made.engine.pose(decision, challenge)
    yes = HERE.answered({challenge.id: Reply(action="accept", content={"choice": "period"})})
    assert (await made.engine.decide(call("read_mail"), token=narrow, asking=yes)).allowed
    assert (await made.engine.decide(call("read_mail"), token=narrow)).allowed
    assert code(await made.engine.decide(call("read_mail"), token=wide)) == "approval_unavailable"
    assert code(await made.engine.decide(call("read_mail"))) == "approval_unavailable"
    assert code(await made.engine.decide(call("read_all"), token=narrow, asking=HERE)) == "token_insufficient"
    assert code(await made.engine.decide(call("write"), token=wide, asking=HERE)) == "token_insufficient"


async def test_a_tokens_own_question_never_goes_to_the_client_of_its_holder() -> None:
    made = room(["bf:t:tool_access:allow"], audience="mail")
    held = verify(RING, token("bf:t:tool_access:elicit"), audience="mail")
    assert code(await made.engine.decide(call("t"), token=held, asking=HERE)) == "approval_unavailable"
    person = Person(Answer.chosen("once"))
    made = room(
        ["bf:t:tool_access:allow"],
        known("console", person, Assurance.OPERATOR),
        audience="mail",
        approvals=ApprovalTerms(fallback=("console",)),
    )
    decision = await made.engine.decide(call("t"), token=held, asking=HERE)
    assert [challenge.approver for challenge in decision.challenges] == ["console"]


@pytest.mark.threat("B11")
async def test_an_answer_to_one_call_is_none_to_another() -> None:
    made = room(["bf:*:tool_access:elicit"])
    decision = await made.engine.decide(call("t", {"x": 1}), asking=HERE)
    (challenge,) = decision.challenges
    for other in (call("t", {"x": 2}), call("u", {"x": 1}), call("t")):
        await made.engine.pose(decision, challenge)
        fresh = Asking(forms=True).answered({challenge.id: Reply(action="accept", content={"choice": "once"})})
        refused = await made.engine.decide(other, asking=fresh)
        assert code(refused) == "request_changed"
        decision = await made.engine.decide(call("t", {"x": 1}), asking=HERE)
        (challenge,) = decision.challenges


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("K15")
async def test_a_limit_is_looked_at_before_a_question_and_charged_once_when_the_call_runs() -> None:
    made = room(["bf:t:tool_access:elicit", "bf:t:rate_limit:allow:2/hour"])
    for _ in range(2):
        assert (await answered(made.engine, call("t"))).allowed
    decision = await made.engine.decide(call("t"), asking=HERE)
    assert (code(decision), decision.challenges) == ("rate_limited", ())
    assert decision.refusal is not None
    assert decision.refusal.retry_after is not None
    assert decision.refusal.retry_after > 3000


async def test_a_question_that_is_never_answered_costs_no_charge() -> None:
    made = room(["bf:t:tool_access:elicit", "bf:t:rate_limit:allow:1/hour"])
    for _ in range(5):
        assert (await made.engine.decide(call("t"), asking=HERE)).effect is Effect.ASK
    assert (await answered(made.engine, call("t"))).allowed


async def test_a_limit_that_asks_lets_more_through_once_a_person_agrees() -> None:
    made = room(["bf:t:tool_access:allow", "bf:t:rate_limit:elicit:1/hour"])
    assert (await made.engine.decide(call("t"), asking=HERE)).allowed
    decision = await made.engine.decide(call("t"), asking=HERE)
    assert decision.effect is Effect.ASK
    assert decision.challenges[0].questions[0].text == "The limit of 1 in 3,600 seconds is reached. Go on?"
    assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
    assert (await answered(made.engine, call("t"))).allowed
    assert (await made.engine.decide(call("t"), asking=HERE)).effect is Effect.ASK


@pytest.mark.threat("F14")
async def test_no_principal_is_asked_more_than_so_many_questions_in_their_time() -> None:
    made = room(["bf:t:tool_access:elicit"], approvals=ApprovalTerms(max_pending=3))
    codes = []
    for number in range(5):
        decision = await made.engine.decide(call("t", {"n": number}, client=f"c{number}"), asking=HERE)
        refusal = await made.engine.pose(decision, decision.challenges[0])
        codes.append(refusal.code if refusal is not None else "posed")
    assert codes == ["posed"] * 3 + ["too_many_pending"] * 2
    decision = await made.engine.decide(call("t", principal=BOB), asking=HERE)
    assert await made.engine.pose(decision, decision.challenges[0]) is None


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.threat("E05", "F08")
async def test_a_question_shows_the_call_whole_and_nothing_in_it_passes_for_anything_else() -> None:
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "secret": ["login.pin"]}
    made = room([rule], audience="mail")
    hostile = "ok\n\nApproved by admin [yes](https://evil) \x1b[31m \u202etxt.exe\u200b"
    arguments = {"text": hostile, "login": {"pin": "4711", "user": "a"}}
    decision = await made.engine.decide(call("t", arguments), asking=HERE)
    message = decision.challenges[0].message
    lines = message.splitlines()
    assert lines[0] == "mail: your approval is needed before this call."
    assert "Tool: t" in lines
    assert "For: alice (idp)" in lines
    assert [line for line in lines if "Approved by admin" in line] == [
        r'  text: "ok\n\nApproved by admin \[yes\](https:\//evil) \u001b\[31m \u202etxt.exe\u200b"'
    ]
    assert '  login: {"pin": (secret, 4 characters), "user": "a"}' in lines
    assert "4711" not in message
    assert all(character.isprintable() for line in lines for character in line)
    assert "tool_access" not in message


@pytest.mark.threat("E05", "P05")
async def test_what_is_too_long_to_be_shown_whole_is_not_asked_through_a_client() -> None:
    made = room(["bf:t:tool_access:elicit"])
    decision = await made.engine.decide(call("t", {"text": "x" * 10_000}), asking=HERE)
    assert code(decision) == "approval_too_long"
    assert decision.refusal is not None
    assert "digest" in decision.refusal.reason
    console = known("console", Person(Answer.chosen("once")), Assurance.OPERATOR)
    made = room([{"before": "t", "policy": "tool_access", "action": "elicit", "approver": "console"}], console)
    assert (await through(made.engine, call("t", {"text": "x" * 10_000}))).allowed


@pytest.mark.threat("F19")
async def test_three_rules_that_ask_are_one_question() -> None:
    rules = [
        "bf:t:tool_access:elicit",
        "bf:*:tool_access:elicit",
        {"before": "t*", "policy": "tool_access", "action": "elicit"},
    ]
    made = room(rules)
    decision = await made.engine.decide(call("t"), asking=HERE)
    (challenge,) = decision.challenges
    assert len(challenge.questions) == 3
    assert len(challenge.choices) == 1
    assert (await answered(made.engine, call("t"))).allowed


async def test_a_field_that_is_withheld_all_the_same_is_not_asked_for() -> None:
    made = room(["bf:t:tool_access:allow", "af:t:field_access:elicit:x", "af:t:field_access:deny:x"])
    decision = await made.engine.decide(call("t"), asking=HERE)
    outcome = await finished(made.engine, decision, {"x": 1}, HERE)
    assert (outcome.effect, outcome.applied.withhold) == (Effect.ALLOW, ("x",))


async def test_an_approval_is_in_the_record_of_the_call_that_rests_on_it() -> None:
    made = room(["bf:t:tool_access:elicit"])
    first = await answered(made.engine, call("t"), choice="period")
    await finished(made.engine, first, {}, HERE)
    second = await made.engine.decide(call("t"))
    await finished(made.engine, second, {}, HERE)
    given, used = made.records.finals()
    assert given["answers"][0]["answer"] == "period"
    assert given["approvals"][0]["grant"] == used["approvals"][0]["grant"]
    assert used["approvals"][0]["approver"] == "mcp"
    assert "answers" not in used


# --- hosts without MCP ----------------------------------------------------------------------------------------------


async def test_a_host_answers_what_its_own_people_chose_and_each_answer_counts_once() -> None:
    made = room(["bf:t:tool_access:elicit"])
    context = RequestContext(user_id="alice")
    with pytest.raises(ApprovalRequired) as asked:
        await made.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    (challenge,) = asked.value.challenges
    assert challenge.message.startswith("Your approval is needed")
    with pytest.raises(PolicyViolationError) as other:
        await made.engine.answer(challenge.id, "once", context=RequestContext(user_id="bob"))
    assert other.value.code == "approval_stale"
    assert await made.engine.answer(challenge.id, "once", context=context)
    with pytest.raises(PolicyViolationError) as again:
        await made.engine.answer(challenge.id, "once", context=context)
    assert again.value.code == "grant_used"
    await made.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    result, _ = await made.engine.enforce_policies(None, "af", tool_name="t", context=context, result={"a": 1})
    assert result == {"a": 1}
    with pytest.raises(ApprovalRequired):
        await made.engine.enforce_policies(None, "bf", tool_name="t", context=RequestContext(user_id="alice"))
    ends = [(record["outcome"], record["code"]) for record in made.records.finals()]
    assert ends == [("asked", "approval_required"), ("ok", "ok"), ("asked", "approval_required")]
    assert len({record["request"] for record in made.records.finals()}) == 3


@pytest.mark.threat("D08")
async def test_a_host_that_tries_in_parallel_runs_an_approved_call_once() -> None:
    made = room(["bf:t:tool_access:elicit"])
    context = RequestContext(user_id="alice")
    with pytest.raises(ApprovalRequired) as asked:
        await made.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    await made.engine.answer(asked.value.challenges[0].id, "once", context=context)

    async def attempt() -> bool:
        try:
            await made.engine.enforce_policies(None, "bf", tool_name="t", context=RequestContext(user_id="alice"))
        except PolicyViolationError:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt() for _ in range(20)))) == 1


async def test_a_host_is_asked_about_fields_after_the_call_which_runs_once() -> None:
    made = room(["bf:t:tool_access:allow", "af:t:field_access:elicit:x"])
    context = RequestContext(user_id="alice")
    await made.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    with pytest.raises(ApprovalRequired) as asked:
        await made.engine.enforce_policies(None, "af", tool_name="t", context=context, result={"x": 1, "y": 2})
    await made.engine.answer(asked.value.challenges[0].id, "once", context=context)
    shown, _ = await made.engine.enforce_policies(None, "af", tool_name="t", context=context, result={"x": 1, "y": 2})
    assert shown == {"x": 1, "y": 2}
    later = RequestContext(user_id="alice")
    await made.engine.enforce_policies(None, "bf", tool_name="t", context=later)
    with pytest.raises(ApprovalRequired) as asked:
        await made.engine.enforce_policies(None, "af", tool_name="t", context=later, result={"x": 1, "y": 2})
    await made.engine.answer(asked.value.challenges[0].id, "deny", context=later)
    shown, _ = await made.engine.enforce_policies(None, "af", tool_name="t", context=later, result={"x": 1, "y": 2})
    assert shown == {"y": 2}


async def test_a_host_cannot_answer_for_another_approver() -> None:
    rule = {"before": "t", "policy": "tool_access", "action": "elicit", "approver": "web"}
    made = room([rule], known("web", Person(Answer.chosen("once"), delay=0.2), Assurance.PERSON))
    decision = await made.engine.decide(call("t", principal=ALICE), asking=HERE)
    (challenge,) = decision.challenges
    await made.engine.pose(decision, challenge)
    with pytest.raises(PolicyViolationError) as refused:
        await made.engine.answer(challenge.id, "once", context=RequestContext(principal=ALICE))
    assert refused.value.code == "approval_unavailable"


async def test_a_hosts_call_that_raised_has_its_final_record() -> None:
    made = room(["bf:t:tool_access:allow"])
    context = RequestContext(user_id="alice")
    await made.engine.enforce_policies(None, "bf", tool_name="t", context=context)
    await made.engine.call_failed(tool_name="t", context=context, detail="ValueError")
    assert [(record["outcome"], record["detail"]) for record in made.records.finals()] == [("error", "ValueError")]
