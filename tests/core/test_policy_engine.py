"""How a request becomes a decision: one sentence a test."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lab import ALICE, ALLOW, BOB, DENY, Lab, builtins, call, lab, plan_of
from laws import token_of

from mcp_macaroon_middleware.core.asks import Asking
from mcp_macaroon_middleware.errors import ArgumentsInvalid, StoreUnavailable
from mcp_macaroon_middleware.model import (
    Action,
    Charge,
    Component,
    Edit,
    Effect,
    Kind,
    Phase,
    Principal,
    Redaction,
    Result,
    Selector,
    Verdict,
)
from mcp_macaroon_middleware.plugin.contract import Check, EnforcerType, NoParams

BOTH = frozenset(Phase)


def enforcer(name: str, function: Any, **fields: Any) -> EnforcerType:
    fields.setdefault("actions", frozenset({Action.ALLOW, Action.DENY, Action.ELICIT}))
    return EnforcerType(name=name, check=function, **fields)


async def finished(room: Lab, request: Any, value: Any) -> Any:
    decision = await room.engine.decide(request)
    assert decision.allowed
    return await room.engine.finish(decision, Result.of(value), lambda redaction: redaction)


# --- combining ------------------------------------------------------------------------------------------------------


async def test_with_default_deny_what_no_rule_names_is_refused_as_unknown() -> None:
    room = lab(["bf:read_*:tool_access:allow"])
    decision = await room.engine.decide(call("wipe"))
    assert decision.effect is Effect.DENY
    assert decision.refusal is not None
    assert decision.refusal.hidden
    assert decision.refusal.code == "not_allowed"
    assert (await room.engine.decide(call("read_mail"))).allowed


async def test_with_default_allow_what_no_rule_names_passes() -> None:
    assert (await lab([], default=ALLOW).engine.decide(call("anything"))).allowed


@pytest.mark.threat("L09", "M08")
async def test_one_deny_beats_any_number_of_allows_in_any_order() -> None:
    for rules in (
        ["bf:t:tool_access:allow", "bf:t*:tool_access:deny"],
        ["bf:t*:tool_access:deny", "bf:t:tool_access:allow"],
    ):
        assert not (await lab(rules).engine.decide(call("t"))).allowed


async def test_elicit_asks_and_where_nobody_can_be_asked_it_is_refused() -> None:
    room = lab(["bf:t:tool_access:elicit"])
    decision = await room.engine.decide(call("t"))
    assert decision.effect is Effect.DENY
    assert decision.refusal is not None
    assert decision.refusal.code == "approval_unavailable"
    assert not decision.refusal.hidden
    assert decision.challenges == ()
    assert await room.engine.reachable(call("t"))
    asks = await room.engine.decide(call("t"), asking=Asking(forms=True))
    assert asks.effect is Effect.ASK
    assert [challenge.approver for challenge in asks.challenges] == ["mcp"]


async def test_a_restricting_rule_by_the_leaf_name_binds_a_renamed_tool_and_a_granting_one_does_not() -> None:
    renamed = Component(kind=Kind.TOOL, name="friendly", names=("friendly", "delete", "child/delete"))
    assert not (await lab(["bf:delete:tool_access:allow"]).engine.decide(call(component=renamed))).allowed
    room = lab(["bf:*:tool_access:allow", "bf:delete:tool_access:deny"])
    assert not (await room.engine.decide(call(component=renamed))).allowed
    room = lab(["bf:*:tool_access:allow", "bf:child/delete:tool_access:deny"])
    assert not (await room.engine.decide(call(component=renamed))).allowed


async def test_an_only_rule_refuses_what_it_does_not_name_and_grants_what_it_names() -> None:
    room = lab(["bf:*:tool_access:only:read_*"])
    assert (await room.engine.decide(call("read_mail"))).allowed
    assert not (await room.engine.decide(call("send_mail"))).allowed


@pytest.mark.threat("I09")
async def test_the_default_covers_every_kind() -> None:
    for kind in Kind:
        component = Component(kind=kind, name="x", names=("x",))
        assert not (await lab(["bf:tool=y:tool_access:allow"]).engine.decide(call(component=component))).allowed


async def test_a_rule_ends_at_its_instant_and_not_before() -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")
    past = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")
    assert (await lab([f"bf:t:tool_access:allow:time<{soon}"]).engine.decide(call("t"))).allowed
    assert not (await lab([f"bf:t:tool_access:allow:time<{past}"]).engine.decide(call("t"))).allowed


# --- principals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "granted", "restricted"),
    [({"groups": ["sre"]}, True, True), ({"groups": ["dev"]}, False, False), ({}, False, True)],
)
async def test_what_cannot_be_told_of_a_principal_counts_against_it(
    claims: dict[str, Any], granted: bool, restricted: bool
) -> None:
    roles = {"ops": Selector(claim=(("groups", ("sre",)),))}
    grant = {"before": "t", "policy": "tool_access", "action": "allow", "for": {"role": "ops"}}
    assert (await lab([grant], roles=roles).engine.decide(call("t", claims=claims))).allowed is granted
    deny = {"before": "t", "policy": "tool_access", "action": "deny", "for": {"role": "ops"}}
    room = lab(["bf:t:tool_access:allow", deny], roles=roles)
    assert (await room.engine.decide(call("t", claims=claims))).allowed is not restricted


async def test_except_lifts_a_restriction_from_one_principal_only() -> None:
    deny = {"before": "t", "policy": "tool_access", "action": "deny", "except": {"subject": ["alice"]}}
    room = lab(["bf:t:tool_access:allow", deny])
    assert (await room.engine.decide(call("t"))).allowed
    assert not (await room.engine.decide(call("t", principal=BOB))).allowed


@pytest.mark.threat("C02")
def test_the_same_subject_of_two_issuers_or_tenants_is_two_principals() -> None:
    others = [
        Principal(kind="user", namespace="https://other", subject="alice"),
        Principal(kind="user", namespace="https://idp", subject="alice", tenant="b"),
        Principal(kind="client", namespace="https://idp", subject="alice"),
    ]
    assert len({ALICE.key, *(p.key for p in others)}) == 4


# --- L2: fail closed ------------------------------------------------------------------------------------------------


class Fault(BaseException):
    """Not even an Exception."""


def raises(error: BaseException) -> Any:
    def check(_: Check[NoParams]) -> Verdict:
        raise error

    return check


def returns(value: Any) -> Any:
    def check(_: Check[NoParams]) -> Any:
        return value

    return check


async def hangs(_: Check[NoParams]) -> Verdict:
    await asyncio.sleep(30)
    return Verdict.allow()


async def raises_later(_: Check[NoParams]) -> Verdict:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def coroutine_of_nothing(_: Check[NoParams]) -> Any:
    return None


def sleeps(_: Check[NoParams]) -> Verdict:
    time.sleep(0.5)
    return Verdict.allow()


FAULTS = [
    (raises(ValueError("secret-value")), "enforcer_error", {}),
    (raises(Fault("secret-value")), "enforcer_error", {}),
    (raises(SystemExit(1)), "enforcer_error", {}),
    (raises(asyncio.CancelledError()), "enforcer_error", {}),
    (raises(StoreUnavailable("down")), "store_unavailable", {}),
    (raises_later, "enforcer_error", {}),
    (hangs, "enforcer_timeout", {"timeout": 0.05}),
    (sleeps, "enforcer_timeout", {"timeout": 0.05, "blocking": True}),
    (raises(ValueError("secret-value")), "enforcer_error", {"blocking": True}),
    (returns(None), "enforcer_contract", {}),
    (returns(True), "enforcer_contract", {}),
    (returns("allow"), "enforcer_contract", {}),
    (returns([]), "enforcer_contract", {}),
    (returns(Effect.ALLOW), "enforcer_contract", {}),
    (returns(None), "enforcer_contract", {"blocking": True}),
    (coroutine_of_nothing, "enforcer_contract", {}),
    (returns(Verdict(effect=Effect.ASK)), "enforcer_contract", {}),
]


@pytest.mark.threat("M01", "M02", "M03", "M11", "FI17")
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("function", "code", "fields"), FAULTS)
async def test_L2_a_faulty_enforcer_refuses_before_and_withholds_after(
    function: Any, code: str, fields: dict[str, Any], phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    bad = enforcer("bad", function, phases=BOTH, **fields)
    room = lab(["bf:t:tool_access:allow", f"{phase}:t:bad:allow"], bad)
    decision = await room.engine.decide(call("t"))
    if phase is Phase.BEFORE:
        assert not decision.allowed
        refusal = decision.refusal
    else:
        assert decision.allowed
        assert decision.after
        outcome = await room.engine.finish(decision, Result.of({"a": 1}), lambda redaction: redaction)
        assert outcome.effect is Effect.DENY
        assert outcome.applied is None
        refusal = outcome.refusal
    assert refusal is not None
    assert refusal.code == code
    assert "secret-value" not in repr(room.records) + caplog.text + repr(decision)
    assert len(room.records.finals()) == 1
    room.engine.close()


@pytest.mark.threat("M12")
async def test_L2_a_component_is_left_out_of_lists_when_its_rule_cannot_be_judged() -> None:
    bad = enforcer("bad", raises(ValueError()), hides=True, grants=False)
    assert not await lab(["bf:t:tool_access:allow", "bf:t:bad:allow"], bad).engine.reachable(call("t"))


@pytest.mark.threat("N02")
async def test_L2_a_limit_that_the_store_cannot_charge_refuses() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:10/minute"])
    await room.store.close()
    decision = await room.engine.decide(call("t"))
    assert decision.refusal is not None
    assert decision.refusal.code == "store_unavailable"
    assert len(room.records.finals()) == 1


@pytest.mark.threat("O01")
async def test_L2_a_call_that_cannot_be_recorded_does_not_run() -> None:
    room = lab(["bf:t:tool_access:allow"])
    room.records.broken = True
    decision = await room.engine.decide(call("t"))
    assert not decision.allowed
    assert decision.refusal is not None
    assert decision.refusal.code == "audit_unavailable"


@pytest.mark.threat("G17")
@pytest.mark.parametrize("error", [ValueError("secret-value"), RecursionError(), TypeError()])
async def test_L2_a_redaction_that_cannot_be_applied_withholds(error: Exception) -> None:
    room = lab(["bf:t:tool_access:allow", "af:t:field_access:deny:ssn"])
    decision = await room.engine.decide(call("t"))

    def apply(_: Redaction) -> Any:
        raise error

    outcome = await room.engine.finish(decision, Result.of({"ssn": 1}), apply)
    assert outcome.effect is Effect.DENY
    assert outcome.refusal is not None
    assert outcome.refusal.code == "redaction_failed"
    assert room.records.finals()[0]["outcome"] == "withheld"


async def test_a_slow_inline_check_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    def slow(_: Check[NoParams]) -> Verdict:
        time.sleep(0.06)
        return Verdict.allow()

    room = lab(["bf:t:tool_access:allow", "bf:t:slow:allow"], enforcer("slow", slow))
    for _ in range(2):
        assert (await room.engine.decide(call("t"))).allowed
    assert caplog.text.count("blocking=True") == 1


@pytest.mark.threat("FI24")
async def test_L2_when_every_thread_is_taken_calls_are_refused_as_busy() -> None:
    def stuck(_: Check[NoParams]) -> Verdict:
        time.sleep(0.3)
        return Verdict.allow()

    room = lab(["bf:t:tool_access:allow", "bf:t:stuck:allow"], enforcer("stuck", stuck, blocking=True, timeout=0.1))
    decisions = await asyncio.gather(*(room.engine.decide(call("t")) for _ in range(100)))
    codes = {decision.refusal.code for decision in decisions if decision.refusal is not None}
    assert "busy" in codes
    assert codes <= {"busy", "enforcer_timeout"}
    room.engine.close()


async def test_a_cancelled_decision_stops_its_checks_and_leaves_nothing_charged() -> None:
    stopped = asyncio.Event()

    async def waits(_: Check[NoParams]) -> Verdict:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()
        return Verdict.allow()

    rules = ["bf:t:tool_access:allow", "bf:t:waits:allow", "bf:t:rate_limit:allow:1/minute"]
    room = lab(rules, enforcer("waits", waits, timeout=60))
    task = asyncio.ensure_future(room.engine.decide(call("t")))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(stopped.wait(), 1)


# --- arguments ------------------------------------------------------------------------------------------------------


async def test_arguments_are_asked_for_once_and_only_when_a_rule_looks_at_them() -> None:
    seen: list[Any] = []

    def look(check: Check[NoParams]) -> Verdict:
        seen.append(check.request.arguments["amount"])
        return Verdict.allow()

    asked = 0

    async def arguments() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"amount": 5000}

    looking = enforcer("look", look)
    room = lab(["bf:t:tool_access:allow", "bf:t:look:allow", "bf:t*:look:deny"], looking)
    assert (await room.engine.decide(call("t"), arguments=arguments, raw={"amount": "5_000"})).allowed
    assert seen == [5000, 5000]
    assert (await room.engine.decide(call("other"), arguments=arguments)).allowed is False
    assert asked == 1


async def test_arguments_that_do_not_fit_are_recorded_and_said() -> None:
    async def arguments() -> dict[str, Any]:
        raise ArgumentsInvalid("amount: not a number")

    room = lab(["bf:t:tool_access:allow", "bf:t:look:allow"], enforcer("look", returns(Verdict.allow())))
    with pytest.raises(ArgumentsInvalid, match="not a number"):
        await room.engine.decide(call("t"), arguments=arguments)
    assert [record["code"] for record in room.records.finals()] == ["arguments_invalid"]


async def test_argument_free_rules_refuse_before_arguments_are_looked_at() -> None:
    async def arguments() -> dict[str, Any]:
        raise AssertionError("not asked for")

    room = lab(["bf:t:tool_access:deny", "bf:t:look:allow"], enforcer("look", returns(Verdict.allow())))
    assert not (await room.engine.decide(call("t"), arguments=arguments)).allowed


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("K01", "K14")
async def test_fifty_parallel_calls_against_a_limit_of_ten_let_ten_through() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:10/minute"])
    decisions = await asyncio.gather(*(room.engine.decide(call("t")) for _ in range(50)))
    assert sum(decision.allowed for decision in decisions) == 10
    refusal = next(decision.refusal for decision in decisions if decision.refusal is not None)
    assert refusal.code == "rate_limited"
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 60


async def test_a_refused_call_charges_nothing() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:2/minute", "bf:t:gate:allow"], enforcer("gate", gate))
    for _ in range(5):
        assert not (await room.engine.decide(call("t", {"open": False}))).allowed
    assert (await room.engine.decide(call("t", {"open": True}))).allowed


def gate(check: Check[NoParams]) -> Verdict:
    return Verdict.allow() if check.request.arguments.get("open") else check.refuse("closed", "Closed.")


async def test_several_limits_are_charged_all_or_none() -> None:
    charge = Charge(key=("x",), limit=1, window=60)
    other = Charge(key=("y",), limit=5, window=60)
    limits = enforcer("limits", returns(Verdict.allow(charges=[charge, other])))
    room = lab(["bf:t:tool_access:allow", "bf:t:limits:allow"], limits)
    assert [(await room.engine.decide(call("t"))).allowed for _ in range(5)] == [True, False, False, False, False]


# --- after the call -------------------------------------------------------------------------------------------------


async def test_edits_of_all_rules_are_united() -> None:
    rules = [
        "bf:t:tool_access:allow",
        "af:t:field_access:deny:a",
        "af:*:field_access:deny:b",
        "af:t:field_access:only:c",
    ]
    outcome = await finished(lab(rules), call("t"), {"a": 1, "b": 2, "c": 3})
    assert set(outcome.redaction.withhold) == {"a", "b"}
    assert outcome.redaction.keep == (("c",),)


async def test_an_after_question_that_nobody_answers_withholds_its_fields() -> None:
    room = lab(["bf:t:tool_access:allow", "af:t:field_access:elicit:body"])
    assert (await finished(room, call("t"), {"body": "x", "id": 1})).redaction.withhold == ("body",)
    absent = await finished(room, call("t"), {"id": 1})
    assert absent.refusal is None
    assert absent.redaction.withhold == ("body",)  # nothing to ask about, and what has no fields is held all the same


async def test_finish_follows_an_allowed_decision_once() -> None:
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(call("t"))
    await room.engine.finish(decision, Result.of(1))
    with pytest.raises(RuntimeError):
        await room.engine.finish(decision, Result.of(1))
    with pytest.raises(RuntimeError):
        await room.engine.finish(await room.engine.decide(call("wipe")), Result.of(1))


# --- what enforcers return ------------------------------------------------------------------------------------------


async def test_returned_caveats_narrow_the_rest_of_this_request_and_no_other() -> None:
    def narrows(check: Check[NoParams]) -> Verdict:
        return Verdict.allow(caveats=["af:*:field_access:deny:ssn"] if check.request.arguments.get("guest") else [])

    room = lab(["bf:t:tool_access:allow", "bf:t:narrows:allow"], enforcer("narrows", narrows))
    assert (await finished(room, call("t", {"guest": True}), {"ssn": 1})).redaction.withhold == ("ssn",)
    assert (await finished(room, call("t"), {"ssn": 1})).redaction.is_empty


async def test_a_returned_caveat_that_speaks_of_this_call_is_judged_at_once() -> None:
    narrow = enforcer("narrow", returns(Verdict.allow(caveats=["bf:t:tool_access:deny"])))
    assert not (await lab(["bf:t:tool_access:allow", "bf:t:narrow:allow"], narrow).engine.decide(call("t"))).allowed


@pytest.mark.parametrize("caveat", ["nonsense", "bf:t:unknown_policy:deny", "bf:t:tool_access:allow"])
async def test_L2_a_returned_caveat_that_is_none_or_grants_refuses(caveat: str) -> None:
    narrow = enforcer("narrow", returns(Verdict.allow(caveats=[caveat])))
    decision = await lab(["bf:t:tool_access:allow", "bf:t:narrow:allow"], narrow).engine.decide(call("t"))
    assert decision.refusal is not None
    assert decision.refusal.code == "enforcer_contract"


async def test_a_returned_caveat_never_grants() -> None:
    narrow = enforcer("narrow", returns(Verdict.allow(caveats=["bf:t:tool_access:only:t"])))
    assert not (await lab(["bf:t:narrow:allow"], narrow).engine.decide(call("t"))).allowed


async def test_L2_caveats_returned_without_end_refuse() -> None:
    again = enforcer("again", returns(Verdict.allow(caveats=["bf:t:again:allow", "bf:*:again:allow"])))
    decision = await lab(["bf:t:tool_access:allow", "bf:t:again:allow"], again).engine.decide(call("t"))
    assert decision.refusal is not None
    assert decision.refusal.code == "enforcer_contract"


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("reads", [False, True])
async def test_L2_a_rule_of_a_token_that_returns_rules_refuses(mode: str, reads: bool) -> None:
    narrow = enforcer(
        "narrow", returns(Verdict.allow(caveats=["bf:t:tool_access:deny"])), attenuates=True, reads_arguments=reads
    )
    room = lab(["bf:t:tool_access:allow"], narrow, mode=mode)
    decision = await room.engine.decide(call("t"), token=token_of(["bf:t:narrow:allow"]))
    assert decision.refusal is not None
    assert decision.refusal.code == "enforcer_contract"
    assert (await room.engine.decide(call("t"))).allowed


# --- shadow ---------------------------------------------------------------------------------------------------------


async def test_in_shadow_mode_rules_are_recorded_and_not_enforced() -> None:
    rules = ["bf:t:tool_access:deny", "bf:t:rate_limit:allow:1/minute", "af:t:field_access:deny:ssn"]
    room = lab(rules, mode="shadow")
    for _ in range(3):
        outcome = await finished(room, call("t"), {"ssn": 1})
        assert outcome.redaction.is_empty
    first = room.records.finals()[0]
    assert first["shadow"] == {"effect": "deny", "code": "denied"}
    assert first["shadow_after"]["withhold"] == ["ssn"]
    assert await room.engine.reachable(call("t"))


# --- L6: one outcome, one record ------------------------------------------------------------------------------------


async def test_L6_every_way_a_request_can_end_writes_exactly_one_final_record() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:ask:tool_access:elicit"])
    engine = room.engine
    await engine.decide(call("wipe"))
    await engine.decide(call("ask"))
    await engine.refuse(call("x"), "unknown_component", "Unknown.", hidden=True)
    await engine.observe(call(component=Component(kind=Kind.METHOD, name="tools/list")))
    for status in ("error", "cancelled", "input_required"):
        decision = await engine.decide(call("t"))
        await engine.fail(decision, status)
        await engine.fail(decision, status)
    await engine.finish(await engine.decide(call("t")), Result.of({}))
    finals = room.records.finals()
    assert len(finals) == len({record["request"] for record in finals}) == 8
    intents = [record for record in room.records if record["event"] == "intent"]
    assert {record["request"] for record in intents} < {record["request"] for record in finals}
    assert [record["seq"] for record in room.records] == list(range(1, len(room.records) + 1))


@pytest.mark.threat("O10")
async def test_a_final_record_answers_who_what_why_and_under_which_revision() -> None:
    room = lab(["bf:t:tool_access:allow", "af:t:field_access:deny:ssn"])
    await finished(room, call("t", {"id": 7}, client="cli"), {"ssn": 1})
    record = room.records.finals()[0]
    assert record["principal"] == {"kind": "user", "namespace": "https://idp", "subject": "alice"}
    assert record["component"]["name"] == "t"
    assert record["revision"] == "r1"
    assert record["client"] == "cli"
    assert record["rules"] == ["bf:t:tool_access:allow"]
    assert record["withheld"] == ["ssn"]
    assert record["outcome"] == "ok"
    assert record["duration_ms"] >= 0


# --- L7: secrets stay -----------------------------------------------------------------------------------------------


@pytest.mark.threat("O07", "G20")
@pytest.mark.parametrize("secret", ["hunter2", 4711, {"pin": "hunter2"}, ["hunter2"], True])
async def test_L7_arguments_are_recorded_as_keyed_digests(secret: Any) -> None:
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(call("t"), raw={"x": secret})
    await room.engine.finish(decision, Result.of({"echo": secret}))
    await room.engine.decide(call("t"), raw={"x": secret})
    text = repr(room.records) + repr(decision.request)
    assert "hunter2" not in text
    assert "4711" not in text
    digests = [record["arguments"]["x"] for record in room.records if "arguments" in record]
    assert len(set(digests)) == 1
    assert digests[0].startswith("hmac:")


async def test_an_argument_that_the_file_names_is_recorded_in_clear() -> None:
    room = lab(["bf:t:tool_access:allow"], clear_arguments=frozenset({"path"}))
    await room.engine.decide(call("t", {"path": ["a"], "body": "b"}))
    record = room.records[0]
    assert record["arguments"]["path"] == ["a"]
    assert record["arguments"]["body"].startswith("hmac:")


def test_L7_a_request_shows_no_arguments_claims_or_extras_in_its_repr() -> None:
    request = call("t", {"password": "hunter2"}, claims={"email": "hunter2"}, session="hunter2")
    assert "hunter2" not in repr(request)
    assert "hunter2" not in f"{request}"
    with pytest.raises(AttributeError):
        request.nested = True  # type: ignore[misc]


# --- what lists show ------------------------------------------------------------------------------------------------


@pytest.mark.threat("H01", "H02", "H03")
async def test_a_list_shows_what_some_call_could_reach() -> None:
    rules = [
        "bf:read_*:tool_access:allow",
        "bf:ask:tool_access:elicit",
        "bf:read_all:tool_access:deny",
        "bf:read_one:gate:allow",
        "bf:read_few:rate_limit:allow:1/minute",
    ]
    engine = lab(rules, enforcer("gate", gate)).engine
    shown = {name: await engine.reachable(call(name)) for name in ("read_one", "read_all", "read_few", "ask", "wipe")}
    assert shown == {"read_one": True, "read_all": False, "read_few": True, "ask": True, "wipe": False}


async def test_with_hide_denied_off_denied_components_are_listed_and_say_so() -> None:
    room = lab(["bf:t:tool_access:deny"], hide_denied=False)
    assert await room.engine.reachable(call("t"))
    decision = await room.engine.decide(call("t"))
    assert decision.refusal is not None
    assert not decision.refusal.hidden


def test_what_may_be_withheld_is_known_before_the_call() -> None:
    room = lab(["af:t:field_access:deny:ssn", "af:t:field_access:elicit:body", "af:other:field_access:deny:x"])
    redaction = room.engine.possible_redaction(call("t"))
    assert redaction is not None
    assert set(redaction.withhold) == {"ssn", "body"}
    blind = enforcer("blind", returns(Verdict.allow()), phases=BOTH)
    assert lab(["af:t:blind:allow"], blind).engine.possible_redaction(call("t")) is None
    none = room.engine.possible_redaction(call("plain"))
    assert none is not None
    assert none.is_empty


# --- one revision a request -----------------------------------------------------------------------------------------


@pytest.mark.threat("L11")
async def test_a_request_keeps_the_revision_it_began_with() -> None:
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(call("t"))
    room.engine.adopt(plan_of(["bf:t:tool_access:deny", "af:t:field_access:deny:a"]))
    assert (await room.engine.finish(decision, Result.of({"a": 1}), lambda r: r)).applied.is_empty
    assert not (await room.engine.decide(call("t"))).allowed


# --- cost follows what applies --------------------------------------------------------------------------------------


def test_lookups_cost_what_matches_not_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.core import index

    rules = [f"bf:tool_{n}_*:tool_access:allow" for n in range(3000)]
    rules += [f"bf:*_{n}:tool_access:deny" for n in range(3000)] + ["bf:needle*:tool_access:allow"]
    plan = plan_of(rules)
    tried = 0
    matches = index.glob_matches

    def counting(pattern: str, text: str) -> bool:
        nonlocal tried
        tried += 1
        return matches(pattern, text)

    monkeypatch.setattr(index, "glob_matches", counting)
    found = plan.book.lookup(Phase.BEFORE, Component(kind=Kind.TOOL, name="needle_x", names=("needle_x",)))
    assert len(found.all) == 1
    assert tried <= 3
    plan.book.lookup(Phase.BEFORE, Component(kind=Kind.TOOL, name="needle_x", names=("needle_x",)))
    assert tried <= 3


def test_the_memo_is_bounded_and_does_not_grow_by_uris_that_callers_choose() -> None:
    book = plan_of(["bf:resource=db\\://users/1:tool_access:deny"]).book
    for number in range(10_000):
        uri = f"db://users/{number}"
        component = Component(kind=Kind.RESOURCE, name="db://users/{id}", uri=uri)
        assert len(book.lookup(Phase.BEFORE, component).all) == (1 if number == 1 else 0)
    assert len(book._memo) == 0


def test_the_builtin_enforcers_are_the_documented_ones() -> None:
    assert {t.name for t in builtins()} == {"tool_access", "field_access", "rate_limit", "allow_attempts"}
    assert Edit() == Edit()
    assert DENY is Action.DENY


@pytest.mark.parametrize("arguments", [{"x": "\ud800"}, {"\ud800": "x"}, {"x": ["\ud800"]}])
async def test_L6_text_that_utf8_cannot_say_is_recorded_like_any_other(arguments: dict[str, Any]) -> None:
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(call("t", arguments), raw=arguments)
    assert decision.allowed
    await room.engine.finish(decision, Result.of(1))
    assert len(room.records.finals()) == 1
