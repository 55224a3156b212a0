"""Store keys never meet, whatever is in them; a sink that fails does not take the others along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import ALLOW, KEY, Records, call, lab

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.audit import AuditLog, SinkSlot
from mcp_macaroon_middleware.errors import AuditUnavailable
from mcp_macaroon_middleware.model import Charge, Component, Kind, Principal, Result, Verdict
from mcp_macaroon_middleware.plugin import Check, EnforcerType, NoParams
from mcp_macaroon_middleware.plugin.namespace import Namespaced

parts = st.text(st.sampled_from(list('a:*{}/|"\\\n\x00,[]é')), max_size=6)
principals = st.builds(
    Principal, kind=st.sampled_from(["user", "client"]), namespace=parts, subject=parts, tenant=st.none() | parts
)


@pytest.mark.threat("E04")
@given(principals, principals)
def test_two_principals_share_a_key_only_if_they_are_one(first: Principal, second: Principal) -> None:
    assert (first.key == second.key) == (first == second)


@pytest.mark.threat("E04")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(parts, parts), min_size=2, max_size=2, unique=True))
def test_two_charges_share_a_counter_only_if_all_their_parts_are_equal(keys: list[tuple[str, str]]) -> None:
    import asyncio

    async def charged() -> list[bool]:
        waiting = list(keys)

        def limit(_: Check[NoParams]) -> Verdict:
            return Verdict.allow(charges=[Charge(key=waiting.pop(0), limit=1, window=60)])

        room = lab(["bf:t:limit:allow"], EnforcerType(name="limit", check=limit, reads_arguments=False), default=ALLOW)
        return [(await room.engine.decide(call("t"))).allowed for _ in keys]

    assert asyncio.run(charged()) == [True, True]


@pytest.mark.threat("E04", "M10")
@given(parts, parts, parts, parts)
def test_two_namespaces_never_reach_each_others_keys(first: str, second: str, one: str, two: str) -> None:
    import asyncio

    async def meet() -> Any:
        store = MemoryStore()
        await Namespaced(store, first).put(one, b"x", 60)
        return (await Namespaced(store, second).get([two]))[0]

    assert (asyncio.run(meet()) is not None) == ((first, one) == (second, two))


@pytest.mark.threat("O02")
def test_one_failing_sink_does_not_take_the_other_along() -> None:
    broken, whole = Records(), Records()
    broken.broken = True
    log = AuditLog([SinkSlot(name="a", sink=broken), SinkSlot(name="b", sink=whole)], digest_key=KEY)
    log.write({"event": "final", "request": "1"})
    assert [record["request"] for record in whole] == ["1"]
    assert log.failures == 1


@pytest.mark.threat("O01", "O02")
def test_a_required_sink_that_fails_is_told_though_another_recorded() -> None:
    broken, whole = Records(), Records()
    broken.broken = True
    slots = [SinkSlot(name="a", sink=broken, required=True), SinkSlot(name="b", sink=whole)]
    log = AuditLog(slots, digest_key=KEY)
    with pytest.raises(AuditUnavailable):
        log.write({"event": "intent", "request": "1"})
    assert len(whole) == 1


@pytest.mark.threat("O09")
async def test_a_refusal_for_want_of_a_record_is_still_recorded_where_it_can_be() -> None:
    room = lab(["bf:t:tool_access:allow"])
    broken, whole = Records(), Records()
    broken.broken = True
    slots = (SinkSlot(name="a", sink=broken, required=True), SinkSlot(name="b", sink=whole))
    room.engine.audit._slots = slots
    decision = await room.engine.decide(call("t"))
    assert not decision.allowed
    assert [record["event"] for record in whole] == ["intent", "final"]


@pytest.mark.threat("P07")
async def test_nothing_is_locked_while_a_component_runs() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:100/minute"])
    running = [await room.engine.decide(call("t")) for _ in range(50)]
    assert all(decision.allowed for decision in running)
    later = await room.engine.decide(call("t"))
    assert later.allowed
    for decision in (*running, later):
        await room.engine.fail(decision, "error")


def test_what_runs_has_one_key_for_all_of_its_names() -> None:
    first = Component(kind=Kind.TOOL, name="a", names=("a", "leaf"), server="s")
    alias = Component(kind=Kind.TOOL, name="b", names=("b", "leaf"), server="s")
    assert first.key == alias.key != Component(kind=Kind.TOOL, name="a", names=("a", "leaf"), server="z").key


@pytest.mark.threat("O01", "FI11")
def test_what_a_sink_could_not_take_it_gets_once_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_macaroon_middleware.core.audit.LATE", 2)
    records = Records()
    log = AuditLog([SinkSlot(name="list", sink=records, required=True)], digest_key=KEY)
    log.event("start", {})
    records.broken = True
    for number in range(5):
        with pytest.raises(AuditUnavailable):
            log.write({"event": "final", "request": str(number), "outcome": "ok"}, otherwise={"outcome": "withheld"})
    records.broken = False
    log.event("back", {})
    log.event("on", {})
    assert [record["event"] for record in records] == ["start", "final", "final", "unrecorded", "back", "on"]
    assert [(r["request"], r["outcome"], r["late"]) for r in records[1:3]] == [
        ("0", "withheld", True),
        ("1", "withheld", True),
    ]
    assert records[3]["count"] == 3
    assert records[0]["time"] <= records[3]["since"] <= records[3]["time"]


@pytest.mark.threat("O01", "O09")
async def test_a_call_whose_end_could_not_be_recorded_has_the_end_that_its_caller_got() -> None:
    room = lab(["bf:t:tool_access:allow"])
    decision = await room.engine.decide(call("t"))
    room.records.broken = True
    outcome = await room.engine.finish(decision, Result.of({"a": 1}), lambda redaction: "all of it")
    assert (outcome.applied, outcome.refusal and outcome.refusal.code) == (None, "audit_unavailable")
    refused = await room.engine.decide(call("t"))
    assert refused.refusal is not None
    room.records.broken = False
    assert (await room.engine.decide(call("t"))).allowed
    ends = [(r["outcome"], r["code"]) for r in room.records.finals()]
    assert ends == [("withheld", "audit_unavailable"), ("denied", "audit_unavailable")]


def test_a_log_that_is_closed_still_writes_what_waits() -> None:
    records = Records()
    log = AuditLog([SinkSlot(name="list", sink=records)], digest_key=KEY)
    records.broken = True
    with pytest.raises(AuditUnavailable):
        log.event("waits", {})
    records.broken = False
    log.close()
    assert [record["event"] for record in records] == ["waits"]


@pytest.mark.threat("O01")
def test_a_record_that_a_sink_never_takes_holds_up_no_other() -> None:
    class Picky(Records):
        def write(self, record: Mapping[str, Any]) -> None:
            if record["event"] == "poison":
                raise OSError("not this one")
            super().write(record)

    records = Picky()
    log = AuditLog([SinkSlot(name="picky", sink=records, required=True)], digest_key=KEY)
    with pytest.raises(AuditUnavailable):
        log.event("poison", {})
    for number in range(3):
        log.event(f"fine {number}", {})
    assert [r["event"] for r in records] == ["fine 0", "unrecorded", "fine 1", "fine 2"]
    assert records[1]["count"] == 1
