"""Checks run apart from each other: what one plugin does wrong refuses, is told of, and is nobody else's trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from lab import Lab, Records, call, lab

from mcp_macaroon_middleware.core.audit import SinkSlot
from mcp_macaroon_middleware.core.checks import Runner
from mcp_macaroon_middleware.core.failing import IN_A_ROW
from mcp_macaroon_middleware.core.workers import THREADS, WAITING, Workers
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.model import Charge, Edit, Effect, Phase, Question, Result, Verdict
from mcp_macaroon_middleware.plugin.contract import Check, EnforcerType, NoParams

RULES = ["bf:t:tool_access:allow", "bf:t:moody:allow"]


class Moody:
    """A check that does what it is told at the moment."""

    def __init__(self, **fields: Any) -> None:
        self.now: Callable[[], Any] = Verdict.allow
        self.type = EnforcerType(name="moody", check=lambda _: self.now(), timeout=0.05, **fields)

    def raises(self) -> Any:
        raise ValueError("secret-value")

    async def hangs(self) -> Verdict:
        await asyncio.sleep(30)
        return Verdict.allow()


def events(records: Records) -> list[dict[str, Any]]:
    return [record for record in records if record["event"].startswith("plugin_")]


async def code_of(room: Lab, name: str = "t") -> str:
    decision = await room.engine.decide(call(name))
    return decision.refusal.code if decision.refusal is not None else "ok"


# --- the event of a plugin that fails -------------------------------------------------------------------------------


@pytest.mark.threat("FI17")
@pytest.mark.parametrize(
    ("fault", "code"),
    [("raises", "enforcer_error"), ("hangs", "enforcer_timeout"), ("nothing", "enforcer_contract")],
)
async def test_a_plugin_that_fails_time_after_time_is_told_of_once_and_so_is_its_recovery(
    fault: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody()
    room = lab(RULES, moody.type)
    moody.now = {"raises": moody.raises, "hangs": moody.hangs, "nothing": lambda: None}[fault]
    for number in range(IN_A_ROW + 3):
        assert await code_of(room) == code
        assert len(events(room.records)) == (number + 1 >= IN_A_ROW)
    (event,) = events(room.records)
    whose = {"plugin": "lab", "distribution": "mcp-macaroon-lab", "version": "1.2", "policy": "moody"}
    assert whose.items() <= event.items()
    assert (event["event"], event["count"]) == ("plugin_failing", IN_A_ROW)
    moody.now = lambda: Verdict.deny("no", "No.")
    assert await code_of(room) == "no"
    assert await code_of(room) == "no"
    recovered = events(room.records)[1:]
    assert [(e["event"], e["count"]) for e in recovered] == [("plugin_recovered", IN_A_ROW + 3)]
    assert whose.items() <= recovered[0].items()
    assert "secret-value" not in repr(room.records) + caplog.text


@pytest.mark.threat("FI17")
async def test_failures_that_are_not_in_a_row_are_no_event_and_each_row_has_its_own() -> None:
    moody = Moody()
    room = lab(RULES, moody.type)
    for _ in range(3):
        moody.now = moody.raises
        for _ in range(IN_A_ROW - 1):
            await code_of(room)
        moody.now = Verdict.allow
        assert await code_of(room) == "ok"
    assert events(room.records) == []
    for _ in range(2):
        moody.now = moody.raises
        for _ in range(IN_A_ROW):
            await code_of(room)
        moody.now = Verdict.allow
        await code_of(room)
    assert [e["event"] for e in events(room.records)] == ["plugin_failing", "plugin_recovered"] * 2


@pytest.mark.threat("FI17", "N02")
async def test_a_store_that_is_down_is_no_failure_of_the_plugin_that_needs_it_and_no_answer_either() -> None:
    moody = Moody()
    room = lab(RULES, moody.type)

    def down() -> Any:
        raise StoreUnavailable("down")

    for fault in (*[moody.raises] * (IN_A_ROW - 1), *[down] * 20, moody.raises):
        assert events(room.records) == []
        moody.now = fault
        await code_of(room)
    assert [e["event"] for e in events(room.records)] == ["plugin_failing"]


@pytest.mark.threat("FI17", "O01")
async def test_an_event_that_cannot_be_recorded_is_tried_again_and_changes_no_decision() -> None:
    class Picky(Records):
        full = True

        def write(self, record: Mapping[str, Any]) -> None:
            if self.full and record["event"].startswith("plugin_"):
                raise OSError("disk full")
            super().write(record)

    moody, records = Moody(), Picky()
    room = lab(RULES, moody.type)
    room.engine.audit._slots = (SinkSlot(name="picky", sink=records, required=True),)
    moody.now = moody.raises
    assert {await code_of(room) for _ in range(IN_A_ROW + 2)} == {"enforcer_error"}
    records.full = False
    assert {await code_of(room) for _ in range(2)} == {"enforcer_error"}
    assert [(e["event"], e["count"]) for e in events(records)] == [("plugin_failing", IN_A_ROW + 3)]


@pytest.mark.threat("FI17")
async def test_checks_that_a_plan_settles_once_are_counted_too() -> None:
    moody = Moody(constant=True, reads_arguments=False)
    moody.now = moody.raises
    rules = [f"bf:t{number}:{policy}:allow" for number in range(IN_A_ROW) for policy in ("tool_access", "moody")]
    room = lab(rules, moody.type)
    for number in range(IN_A_ROW):
        assert await code_of(room, f"t{number}") == "enforcer_error"
    assert [e["event"] for e in events(room.records)] == ["plugin_failing"]


# --- verdicts that are none -----------------------------------------------------------------------------------------

MALFORMED = {
    "an effect in words": {"effect": "deny"},
    "no effect": {"effect": None},
    "a number for an effect": {"effect": 0},
    "a path that is a text": {"effect": Effect.ALLOW, "edits": (Edit(withhold="ssn"),)},  # type: ignore[arg-type]
    "kept paths that are a text": {"effect": Effect.ALLOW, "edits": (Edit(keep="id"),)},  # type: ignore[arg-type]
    "an edit that is a path": {"effect": Effect.ALLOW, "edits": ("ssn",)},
    "one edit": {"effect": Effect.ALLOW, "edits": Edit(withhold=("ssn",))},
    "a charge in words": {"effect": Effect.ALLOW, "charges": ("10/minute",)},
    "one caveat": {"effect": Effect.ALLOW, "caveats": "bf:t:tool_access:deny"},
    "a caveat of bytes": {"effect": Effect.ALLOW, "caveats": (b"bf:t:tool_access:deny",)},
    "a question in words": {"effect": Effect.ASK, "question": "May it?"},
    "no code": {"effect": Effect.DENY, "code": None},
    "a reason that is an object": {"effect": Effect.DENY, "code": "no", "reason": {"text": "No."}},
    "a time in words": {"effect": Effect.DENY, "code": "no", "retry_after": "soon"},
}


@pytest.mark.threat("M03", "FI17")
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("fields", MALFORMED.values(), ids=lambda fields: "-".join(fields))
async def test_L2_a_verdict_with_parts_of_another_kind_refuses_or_withholds(
    fields: dict[str, Any], phase: Phase
) -> None:
    moody = Moody(phases=frozenset(Phase))
    moody.now = lambda: Verdict(**fields)
    room = lab(["bf:t:tool_access:allow", f"{phase}:t:moody:allow"], moody.type)
    decision = await room.engine.decide(call("t"))
    if phase is Phase.BEFORE:
        refusal = decision.refusal
    else:
        outcome = await room.engine.finish(decision, Result.of({"id": 1, "ssn": 2}), lambda redaction: redaction)
        assert outcome.applied is None
        refusal = outcome.refusal
    assert refusal is not None
    assert refusal.code == "enforcer_contract"
    assert len(room.records.finals()) == 1


async def test_a_verdict_with_every_part_of_its_kind_passes() -> None:
    moody = Moody(phases=frozenset(Phase))
    edit, charge = Edit(withhold=("a",), keep=None), Charge(key=("k",), limit=5, window=60.0)
    moody.now = lambda: Verdict(effect=Effect.ALLOW, edits=(edit,), charges=(charge,), detail="fine", retry_after=1)
    assert await code_of(lab(RULES, moody.type)) == "ok"
    moody.now = lambda: Verdict(effect=Effect.ASK, question=Question(text="May it?"))
    assert await code_of(lab(RULES, moody.type)) == "approval_unavailable"


# --- threads --------------------------------------------------------------------------------------------------------


def runner_of(room: Lab) -> Runner:
    return room.engine._runner


@pytest.mark.threat("FI17", "FI24", "M02")
async def test_a_plugin_that_hangs_in_every_thread_it_has_holds_up_no_other() -> None:
    let_go = threading.Event()

    def stuck(_: Check[NoParams]) -> Verdict:
        let_go.wait(30)
        return Verdict.allow()

    hung = EnforcerType(name="stuck", check=stuck, blocking=True, timeout=0.2)
    fine = EnforcerType(name="fine", check=lambda _: Verdict.allow(), blocking=True, timeout=10.0)
    room = lab(["bf:*:tool_access:allow", "bf:t:stuck:allow", "bf:u:fine:allow"], hung, fine)
    _made_by_another(room, "fine")
    try:
        codes = await asyncio.gather(*(code_of(room, "t") for _ in range(THREADS + WAITING + 5)))
        assert set(codes) == {"enforcer_timeout", "busy"}
        assert codes.count("enforcer_timeout") <= THREADS, "who had no thread is told so, and its plugin is not blamed"
        await until(room, "busy")
        assert set(await asyncio.gather(*(code_of(room, "u") for _ in range(50)))) == {"ok"}
        assert [e["policy"] for e in events(room.records)] == ["stuck"]
        assert runner_of(room)._workers._crews["lab"]._threads == THREADS
    finally:
        let_go.set()
    await until(room, "ok")
    assert [e["event"] for e in events(room.records)] == ["plugin_failing", "plugin_recovered"]
    room.engine.close()


async def until(room: Lab, expected: str) -> None:
    """Calls until it goes as expected."""
    for _ in range(1000):
        if await code_of(room) == expected:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {expected}")


def _made_by_another(room: Lab, policy: str) -> None:
    """Gives a bound enforcer to another plugin."""
    for match in room.engine.plan.book.checks:
        if match.enforcer.name == policy:
            object.__setattr__(match, "plugin", "another")


async def test_after_the_deadline_no_further_check_of_the_request_begins() -> None:
    let_go, begun = threading.Event(), []

    def first(_: Check[NoParams]) -> Verdict:
        let_go.wait(30)
        return Verdict.allow()

    def second(_: Check[NoParams]) -> Verdict:
        begun.append("second")
        return Verdict.allow()

    kinds = [EnforcerType(name=f.__name__, check=f, blocking=True, timeout=0.05) for f in (first, second)]
    room = lab(["bf:t:tool_access:allow", "bf:t:first:allow", "bf:t:second:allow"], *kinds)
    assert await code_of(room) == "enforcer_timeout"
    let_go.set()
    room.engine.close()
    await asyncio.sleep(0.05)
    assert begun == []


def test_threads_are_reused_and_jobs_that_nobody_waits_for_are_left_out() -> None:
    workers, done = Workers(), []
    for number in range(50):
        future = workers.submit("p", lambda number=number: done.append(number))  # type: ignore[misc]
        assert future is not None
        future.result(5)
    assert done == list(range(50))
    assert workers._crews["p"]._threads == 1
    gate = threading.Event()
    held = [workers.submit("p", gate.wait) for _ in range(THREADS)]
    late = workers.submit("p", lambda: done.append("late"))
    assert late is not None
    assert late.cancel()
    gate.set()
    assert all(future is not None and future.result(5) for future in held)
    last = workers.submit("p", lambda: "last")
    assert last is not None
    assert last.result(5) == "last"
    assert "late" not in done
    deadline = time.monotonic() + 20
    while workers._crews["p"]._open and time.monotonic() < deadline:
        time.sleep(0.001)  # a future tells its waiters first, and its crew then
    assert workers._crews["p"]._open == 0
    workers.close()


@pytest.mark.threat("FI24")
def test_no_more_than_so_many_jobs_of_a_plugin_wait_for_a_thread_and_another_plugin_has_its_own() -> None:
    workers, gate = Workers(), threading.Event()
    taken = [workers.submit("p", gate.wait) for _ in range(THREADS + WAITING)]
    assert None not in taken
    assert workers.submit("p", gate.wait) is None
    other = workers.submit("q", lambda: "q")
    assert other is not None
    assert other.result(5) == "q"
    gate.set()
    assert all(future is not None and future.result(5) for future in taken)
    again = workers.submit("p", lambda: "p")
    assert again is not None
    assert again.result(5) == "p"
    workers.close()


def test_what_a_check_raises_in_its_thread_comes_back_and_the_thread_goes_on() -> None:
    workers = Workers()

    def leaves() -> None:
        raise SystemExit(3)

    for _ in range(20):
        future = workers.submit("p", leaves)
        assert future is not None
        with pytest.raises(SystemExit):
            future.result(5)
    assert workers._crews["p"]._threads == 1
    workers.close()


HANGS = """
import asyncio, sys, time
sys.path.insert(0, "tests")
from lab import call, lab
from mcp_macaroon_middleware.plugin.contract import EnforcerType
hung = EnforcerType(name="hung", check=lambda _: time.sleep(600), blocking=True, timeout=0.05)
room = lab(["bf:t:tool_access:allow", "bf:t:hung:allow"], hung)
print(asyncio.run(room.engine.decide(call("t"))).refusal.code)
"""


@pytest.mark.threat("FI17", "M02")
def test_a_check_that_hangs_does_not_keep_a_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "enforcer_timeout"
