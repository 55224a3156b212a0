"""One contract for every host: the same policy has the same effects, answers and records, however it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hosts import CARD, HOSTS, Host, on

from mcp_macaroon_middleware.core.enforcement import ROUNDS

ALLOW = "bf:{pay}:tool_access:allow"
ASK = "bf:{pay}:tool_access:elicit"
PAGE: dict[str, Any] = {"before": "{pay}", "policy": "tool_access", "action": "elicit", "approver": "pager"}
SHOW = "af:{pay}:field_access:elicit:card"
PAGE_CARD: dict[str, Any] = {
    "after": "{pay}", "policy": "field_access", "action": "elicit", "params": ["card"], "approver": "pager",
}  # fmt: skip
HIDE = "af:{pay}:field_access:deny:card"
LIMIT: dict[str, Any] = {"before": "{pay}", "policy": "rate_limit", "action": "elicit", "params": ["1/hour"]}
EVERY = pytest.mark.parametrize("name", HOSTS)

FULL = {"paid": 1, "card": CARD}
LESS = {"paid": 1}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A policy, what people say, and what must come of one call. `says` and `pager` as for `on`."""

    rules: tuple[Any, ...]
    says: str | None = "once"
    pager: str | None = "once"
    breaks: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    ran: int = 1
    value: Any = None
    codes: tuple[str, ...] = ()
    end: str = "ok"
    asked: int = 0
    paged: int = 0
    leaves_open: bool = False
    """Whether a question may stay for whoever answers it later."""


SHORT = {"approvals": {"timeout": 1}}
SCENARIOS = {
    "allowed": Scenario(rules=(ALLOW,), value=FULL),
    "denied": Scenario(
        rules=(ALLOW, "bf:{pay}:tool_access:deny"),
        config={"hide_denied": False}, ran=0, codes=("denied",), end="denied",
    ),
    "nothing grants it": Scenario(
        rules=(), config={"hide_denied": False}, ran=0, codes=("not_allowed",), end="denied"
    ),
    "withheld": Scenario(rules=(ALLOW, HIDE), value=LESS),
    "in band, yes": Scenario(rules=(ASK,), value=FULL, asked=1),
    "in band, no": Scenario(rules=(ASK,), says="deny", ran=0, codes=("declined",), end="denied", asked=1),
    "in band, unanswered": Scenario(
        rules=(ASK,), says=None, ran=0, codes=("approval_cancelled", "approval_required"), end="", asked=1,
        leaves_open=True,
    ),
    "out of band, yes": Scenario(rules=(PAGE,), value=FULL, paged=1),
    "out of band, no": Scenario(rules=(PAGE,), pager="deny", ran=0, codes=("declined",), end="denied", paged=1),
    "out of band, slow": Scenario(
        rules=(PAGE,), pager=None, config=SHORT, ran=0, codes=("approval_timeout",), end="denied", paged=1
    ),
    "both at once": Scenario(
        rules=(PAGE, LIMIT, ASK), config={"approvals": {"max_pending": 2}}, value=FULL, asked=1, paged=1
    ),
    "both, no out of band": Scenario(
        rules=(PAGE, ASK), pager="deny", ran=0, codes=("declined",), end="denied", asked=0, paged=1
    ),
    "both, no in band": Scenario(
        rules=(PAGE, ASK), says="deny", ran=0, codes=("declined",), end="denied", asked=1, paged=1
    ),
    "both, one too many": Scenario(
        rules=(PAGE, ASK), config={"approvals": {"max_pending": 1}}, ran=0, codes=("too_many_pending",), end="denied",
        paged=1,
    ),
    "result, yes": Scenario(rules=(ALLOW, SHOW), value=FULL, asked=1),
    "result, no": Scenario(rules=(ALLOW, SHOW), says="deny", value=LESS, asked=1),
    "result, out of band, yes": Scenario(rules=(ALLOW, PAGE_CARD), value=FULL, paged=1),
    "result, out of band, no": Scenario(rules=(ALLOW, PAGE_CARD), pager="deny", value=LESS, paged=1),
    "result, one too many": Scenario(
        rules=(ASK, SHOW), config={"approvals": {"max_pending": 1}}, value=LESS, asked=1
    ),
    "call and result, yes": Scenario(rules=(ASK, SHOW), value=FULL, asked=2),
    "call and result, both ways": Scenario(
        rules=(PAGE, ASK, SHOW, {**PAGE_CARD, "params": ["paid"]}), value=FULL, asked=2, paged=2
    ),
    "error": Scenario(rules=(ALLOW,), breaks=True, codes=("error",), end="error"),
    "error under an output rule": Scenario(
        rules=(ALLOW, HIDE), breaks=True, codes=("error", "withheld", "tool_error"), end="error"
    ),
    "asked, then an error": Scenario(rules=(ASK,), breaks=True, codes=("error",), end="error", asked=1),
}  # fmt: skip


def expected(host: Host, scenario: Scenario) -> Scenario:
    """The scenario as a host without questions about results answers it."""
    if host.carries_results:
        return scenario
    after = [rule for rule in scenario.rules if rule == SHOW or (isinstance(rule, dict) and "after" in rule)]
    if not after:
        return scenario
    gone = {"card"} | {name for rule in after if isinstance(rule, dict) for name in rule["params"]}
    before = [rule for rule in scenario.rules if rule not in after]
    value = {key: each for key, each in FULL.items() if key not in gone}
    return Scenario(rules=scenario.rules, value=value, asked=int(ASK in before), paged=int(PAGE in before))


@EVERY
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.threat("O09")
async def test_every_host_has_the_same_effects_answers_and_records(name: str, scenario: str) -> None:
    given = SCENARIOS[scenario]
    async with on(name, given.rules, says=given.says, pager=given.pager, config=given.config) as host:
        host.breaks = given.breaks
        wanted = expected(host, given)
        said = await host.pay()
        assert said.value == wanted.value, said
        assert said.code in wanted.codes if wanted.codes else said.code is None, said
        assert (host.ran, host.person.asked, host.pager.asked) == (wanted.ran, wanted.asked, wanted.paged)
        *earlier, last = host.ends()
        assert set(earlier) <= {"asked", "held"}
        assert last == wanted.end or (not wanted.end and last in ("asked", "denied"))
        assert host.one_end_each()
        assert wanted.leaves_open or await host.open_questions() == []


@EVERY
async def test_a_question_about_a_result_that_nobody_answers_shows_nothing_more(name: str) -> None:
    async with on(name, (ALLOW, SHOW), says=None) as host:
        said = await host.pay()
        assert said.value == LESS or (said.value, said.code) == (None, "approval_required")
        assert host.ran == 1
        assert host.one_end_each()


# --- the two that had drifted -----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.threat("O09")
async def test_a_call_that_is_cancelled_while_an_approver_thinks_has_one_final_record(name: str) -> None:
    """architecture B1 (law L6)."""
    async with on(name, (PAGE,), pager=None) as host:
        task = asyncio.create_task(host.pay())
        await asyncio.wait_for(host.points.paged.wait(), 5)
        await gone(host, task)
        assert host.ends() == ["cancelled"]
        assert host.ran == 0
        assert await host.open_questions() == []


@EVERY
async def test_a_question_in_band_beside_one_out_of_band_is_opened_once(name: str) -> None:
    """architecture B2: the pager's counts, and the client's, against `max_pending: 2`; no third is opened."""
    async with on(name, (PAGE, LIMIT, ASK), config={"approvals": {"max_pending": 2}}) as host:
        assert (await host.pay()).value == FULL
        assert (host.points.opened, host.person.asked, host.pager.asked) == (2, 1, 1)
        assert await host.open_questions() == []


# --- whenever it ends -------------------------------------------------------------------------------------------------

ENDLESS = {
    "allowed": ((ALLOW, LIMIT, HIDE), False),
    "out of band": ((PAGE, LIMIT, HIDE), False),
    "in band": ((ASK,), True),
    "both": ((PAGE, ASK, SHOW), True),
    "result out of band": ((ALLOW, PAGE_CARD), False),
    "result in band": ((ALLOW, SHOW), True),
}


async def gone(host: Host, task: asyncio.Task[Any]) -> None:
    """The caller goes away; waits until the host has noticed."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    for _ in range(200):
        if host.between or "cancelled" in [end["outcome"] for end in host.records.finals()]:
            break
        await asyncio.sleep(0.005)
    for _ in range(20):  # what was opened is withdrawn after the record
        await asyncio.sleep(0)


@EVERY
@pytest.mark.parametrize("rules", ENDLESS)
@pytest.mark.threat("O09", "FI15")
async def test_L6_a_call_that_is_cancelled_at_any_point_has_one_final_record_and_runs_at_most_once(
    name: str, rules: str
) -> None:
    policy, in_band = ENDLESS[rules]
    stop = 1
    while True:
        async with on(name, policy) as host:
            host.points.stop = stop
            task = asyncio.create_task(host.pay())
            waiting = asyncio.create_task(host.points.reached.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not host.points.reached.is_set():
                waiting.cancel()
                break
            where = (stop, host.points.passed)
            await gone(host, task)
            assert host.one_end_each(), where
            ends = [end["outcome"] for end in host.records.finals()]
            assert ends.count("cancelled") == (not host.between), (where, ends)
            assert host.ran <= 1, where
            if not in_band or host.pushes:
                assert await host.open_questions() == [], where
        stop += 1
    assert stop > 1


@EVERY
@pytest.mark.parametrize("rules", ENDLESS)
@pytest.mark.threat("O09", "FI15")
async def test_a_store_that_fails_at_any_step_refuses_and_leaves_one_final_record(name: str, rules: str) -> None:
    policy, _ = ENDLESS[rules]
    stop, failed = 1, 0
    while True:
        async with on(name, policy) as host:
            host.points.stop, host.points.fails = stop, True
            said = await host.pay()
            if not host.points.reached.is_set():
                break
            failed += host.points.passed[stop - 1] != "running"
            where = (stop, host.points.passed, said)
            assert host.one_end_each(), where
            assert host.ran <= 1, where
            assert host.ran == 1 or said.value is None, where
            assert CARD not in str(said.value) or HIDE not in policy, where
            assert host.ends(), where
        stop += 1
    assert failed


@EVERY
@pytest.mark.parametrize("rule", [ASK, PAGE], ids=["in band", "out of band"])
async def test_a_rule_that_forbids_while_a_person_thinks_wins_over_the_answer(name: str, rule: Any) -> None:
    async with on(name, (rule,), config={"hide_denied": False}) as host:

        async def reload() -> None:
            host.adopt((rule, "bf:{pay}:tool_access:deny"))

        host.person.before = host.pager.before = reload
        said = await host.pay()
        assert (said.code, said.value, host.ran) == ("denied", None, 0)
        assert host.ends()[-1] == "denied"
        assert host.one_end_each()
        assert await host.open_questions() == []


@EVERY
async def test_a_policy_that_asks_anew_after_every_answer_is_refused_in_the_end(name: str) -> None:
    async with on(name, (PAGE,), config={"approvals": {"max_pending": 100}}) as host:

        async def another() -> None:
            host.adopt([{**PAGE, "expiry": 60 + host.pager.asked}])

        host.pager.before = another
        assert (await host.pay()).code == "approval_failed"
        assert (host.ran, host.pager.asked, host.ends()) == (0, ROUNDS, ["denied"])
        assert await host.open_questions() == []
