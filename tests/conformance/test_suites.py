"""The suites themselves: each defect that they are meant to find is put into an enforcer, a store or a sink."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.plugin import (
    Action,
    Added,
    Amount,
    AuditSink,
    Charge,
    Check,
    Edit,
    EnforcerType,
    Entry,
    Params,
    Phase,
    Store,
    StoreUnavailable,
    Verdict,
)
from mcp_macaroon_middleware.testing import (
    AuditSinkContract,
    BrokenStore,
    Case,
    EnforcerContract,
    Records,
    StoreContract,
)


def failures(suite: Any, only: str = "") -> set[str]:
    """The tests of a suite that fail, by name, without `test_`; of all its tests, or of one."""
    failed = set()
    for name, method in inspect.getmembers(suite, inspect.ismethod):
        if name.startswith(f"test_{only}"):
            try:
                answer = method()
                if inspect.isawaitable(answer):
                    asyncio.run(_done(answer))
            except Exception:
                failed.add(name.removeprefix("test_"))
    return failed


async def _done(answer: Any) -> None:
    await answer


# --- enforcers ------------------------------------------------------------------------------------------------------


class Name(Params):
    name: str = "ok"


def good(check: Check[Name]) -> Verdict:
    """Lets the argument `name` through if it is the rule's."""
    passes = check.request.arguments.get("name") == check.params.name
    if check.action is Action.DENY:
        wrong = passes or "name" not in check.request.arguments
        return check.refuse("name_refused", "Not this name.") if wrong else Verdict.allow()
    return Verdict.allow() if passes else check.refuse("name_refused", "Not this name.")


BASE = EnforcerType(
    name="name_is",
    check=good,
    params=Name,
    actions=frozenset({Action.ALLOW, Action.DENY, Action.ELICIT}),
    attenuates=True,
)
CASES = (
    Case(params=("ok",), arguments={"name": "ok"}),
    Case(params=("ok",), arguments={"name": "other"}),
)


def suite_of(enforcer: EnforcerType, cases: Sequence[Case] = CASES, **fields: Any) -> Any:
    return type("Suite", (EnforcerContract,), {"enforcer": enforcer, "cases": cases, **fields})()


def test_an_enforcer_that_keeps_the_contract_passes_every_test() -> None:
    assert failures(suite_of(BASE)) == set()


def _returns(answer: Any) -> Any:
    return lambda check: answer


def _raises(check: Check[Name]) -> Verdict:
    if not isinstance(check.request.arguments.get("name"), str):
        raise TypeError("name")
    return good(check)


def _random(check: Check[Name]) -> Verdict:
    return Verdict.allow(detail=str(random.random()))


def _slow(check: Check[Name]) -> Verdict:
    time.sleep(0.6)
    return good(check)


def _leaks(check: Check[Name]) -> Verdict:
    return check.refuse("name_refused", "Not this name.", detail=f"it was {check.request.arguments.get('name')}")


def _mute(check: Check[Name]) -> Verdict:
    return check.refuse("Name Refused", "")


def _asks_always(check: Check[Name]) -> Verdict:
    return Verdict.ask("name_asked", "Go on?")


def _ignores_elicit(check: Check[Name]) -> Verdict:
    return Verdict.allow() if check.asks else good(check)


def _edits_before(check: Check[Name]) -> Verdict:
    return Verdict.allow(edits=[Edit(withhold=("a",))])


def _charges_nonsense(check: Check[Name]) -> Verdict:
    return Verdict.allow(charges=[Charge(key=("a",), limit=1, window=0)])


def _no_rule(check: Check[Name]) -> Verdict:
    return Verdict.allow(caveats=["allow everything"])


def _passes_what_is_missing(check: Check[Name]) -> Verdict:
    return good(check) if "name" in check.request.arguments else Verdict.allow()


_SEEN: list[str] = []


def _remembers(check: Check[Name]) -> Verdict:
    _SEEN.append(check.rule.text)
    return Verdict.allow() if len(_SEEN) % 2 else check.refuse("name_refused", "Not now.")


async def _trusts_a_broken_store(check: Check[Name]) -> Verdict:
    try:
        await check.store.get(["blocked"])
    except StoreUnavailable:
        return Verdict.allow()
    return good(check)


async def _weakens(check: Check[Name]) -> Verdict:
    (seen,) = await check.store.get(["seen"])
    await check.store.put("seen", b"1", 60)
    return Verdict.allow() if seen else good(check)


async def _hangs(check: Check[Name]) -> Verdict:
    await asyncio.sleep(60)
    return good(check)


DEFECTS: dict[str, tuple[Any, str]] = {
    "returns None": (_returns(None), "it_answers_with_a_sound_verdict"),
    "returns True": (_returns(True), "it_answers_with_a_sound_verdict"),
    "raises on odd arguments": (_raises, "L2_hostile_arguments_get_a_sound_verdict"),
    "is random": (_random, "the_same_question_gets_the_same_answer"),
    "holds the loop": (_slow, "it_answers_in_time"),
    "hangs": (_hangs, "it_answers_in_time"),
    "repeats a value": (_leaks, "L7_no_value_of_an_argument_or_a_result_stands_in_its_texts"),
    "gives no reason": (_mute, "it_answers_with_a_sound_verdict"),
    "asks without elicit": (_asks_always, "it_answers_with_a_sound_verdict"),
    "passes under elicit": (_ignores_elicit, "L1_elicit_asks_where_its_action_refuses_and_nowhere_else"),
    "allow and deny both pass": (_returns(Verdict.allow()), "L1_allow_and_deny_never_both_pass"),
    "edits before the call": (_edits_before, "it_answers_with_a_sound_verdict"),
    "charges nonsense": (_charges_nonsense, "it_answers_with_a_sound_verdict"),
    "returns no rule": (_no_rule, "it_answers_with_a_sound_verdict"),
    "passes what is missing": (_passes_what_is_missing, "L2_missing_arguments_are_refused"),
    "remembers": (_remembers, "the_same_question_gets_the_same_answer"),
    "trusts a broken store": (_trusts_a_broken_store, "L2_a_store_that_is_down_never_lets_anything_pass"),
    "weakens after another rule": (_weakens, "L1_another_rule_judged_first_never_weakens_a_verdict"),
}


@pytest.mark.threat("M01", "M02", "M03", "E12", "FI17")
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.replace(" ", "-"))
def test_the_suite_finds_an_enforcer_that(defect: str) -> None:
    check, expected = DEFECTS[defect]
    timeout = 0.05 if defect == "hangs" else 5.0
    assert failures(suite_of(replace(BASE, check=check, timeout=timeout)), expected) == {expected}


def test_the_suite_finds_descriptions_that_are_not_true() -> None:
    assert "its_description_is_sound" in failures(suite_of(replace(BASE, timeout=0)))
    assert "what_it_says_it_does_not_read_changes_nothing" not in failures(suite_of(BASE))
    reads = replace(BASE, reads_arguments=False, check=_reads_anyway)
    assert "what_it_says_it_does_not_read_changes_nothing" in failures(suite_of(reads))
    constant = replace(BASE, constant=True)
    assert "a_constant_verdict_depends_on_the_rule_and_the_component_alone" in failures(suite_of(constant))
    idle = replace(BASE, idle=frozenset({Action.ALLOW}))
    assert "L1_what_it_calls_idle_refuses_and_withholds_nothing" in failures(suite_of(idle))
    phases = replace(BASE, phases=frozenset(Phase))
    assert "the_cases_cover_every_action_and_phase_it_declares" not in failures(suite_of(phases))
    assert "the_cases_cover_every_action_and_phase_it_declares" in failures(
        suite_of(BASE, [Case(params=("ok",), arguments={"name": "ok"}, actions=("allow",))])
    )


def _reads_anyway(check: Check[Name]) -> Verdict:
    return check.refuse("some", "Some.") if check.request.arguments else Verdict.allow()


def test_the_suite_finds_an_edit_that_may_withhold_does_not_name() -> None:
    def withholds(check: Check[Any]) -> Verdict:
        return Verdict.allow(edits=[Edit(withhold=("secret",))])

    made = EnforcerType(
        name="hides",
        check=withholds,
        actions=frozenset({Action.DENY}),
        phases=frozenset({Phase.AFTER}),
        may_withhold=lambda params, action: [Edit(withhold=("other",))],
    )
    found = failures(suite_of(made, [Case(result={"secret": 1})]))
    assert found == {"its_edits_stay_within_what_it_says_it_may_withhold"}


def test_expected_verdicts_are_compared() -> None:
    case = Case(params=("ok",), arguments={"name": "ok"}, expect={"allow": "deny"})
    assert failures(suite_of(BASE, [case])) == {"its_verdicts_are_those_that_the_cases_expect"}


def test_a_suite_without_cases_fails() -> None:
    assert "it_answers_with_a_sound_verdict" in failures(suite_of(BASE, []))


# --- stores ---------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lying(MemoryStore):
    """A memory store, for defects to be put in."""

    async def unchecked(self, amounts: Sequence[Amount]) -> None:
        await super().add([replace(amount, limit=10**9) for amount in amounts])


class TakesTwice(Lying):
    async def take(self, key: str) -> bytes | None:
        (entry,) = await self.get([key])
        await asyncio.sleep(0)
        await super().take(key)
        return entry.value if entry is not None else None


class SwapsBlindly(Lying):
    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        await self.put(key, value, ttl)
        return True


class SwapsLate(Lying):
    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        (entry,) = await self.get([key])
        await asyncio.sleep(0)
        if (entry.version if entry else None) != version:
            return False
        await self.put(key, value, ttl)
        return True


class KeepsForEver(Lying):
    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await super().put(key, value, 1e9)


class ChargesOneByOne(Lying):
    async def add(self, amounts: Sequence[Amount]) -> Added:
        answers = [await super(Lying, self).add([amount]) for amount in amounts]
        return Added(ok=all(a.ok for a in answers), used=tuple(a.used[0] for a in answers))


class ChargesLate(Lying):
    async def add(self, amounts: Sequence[Amount]) -> Added:
        looked = await super().add([replace(amount, amount=0) for amount in amounts])
        await asyncio.sleep(0)
        if any(used + amount.amount > amount.limit for used, amount in zip(looked.used, amounts, strict=True)):
            return replace(looked, ok=False, retry_after=1.0)
        await self.unchecked(amounts)
        return replace(looked, used=tuple(u + a.amount for u, a in zip(looked.used, amounts, strict=True)))


class FixedWindows(Lying):
    """Counts by the calendar: twice the limit passes around a boundary (THREATS K04)."""

    async def add(self, amounts: Sequence[Amount]) -> Added:
        self.first = getattr(self, "first", await self.now())  # in the middle of a window, whatever the time is
        spent = await self.now() - self.first
        keyed = [replace(a, key=f"{a.key}@{(spent + a.window / 2) // a.window}", window=a.window * 2) for a in amounts]
        return await super().add(keyed)


class FoldsKeys(Lying):
    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await super().put(key.lower(), value, ttl)


class GlobScan(Lying):
    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        return await super().scan(prefix.rstrip("*?"), cursor, n)


class LongPages(Lying):
    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        return await super().scan(prefix, cursor, 1000)


class SameVersion(Lying):
    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        return [replace(entry, version="1") if entry else None for entry in await super().get(keys)]


class NeverCloses(Lying):
    async def close(self) -> None:
        """Goes on."""


LIES: dict[type[Lying], str] = {
    TakesTwice: "of_many_takers_one_gets_the_value",
    SwapsBlindly: "swap_sets_only_over_the_version_that_was_read",
    SwapsLate: "of_many_swappers_one_wins",
    KeepsForEver: "a_value_is_gone_after_its_ttl",
    ChargesOneByOne: "add_charges_no_line_if_one_does_not_fit",
    ChargesLate: "many_chargers_never_pass_the_limit",
    FixedWindows: "a_window_slides_and_never_holds_more_than_its_limit",
    FoldsKeys: "no_two_keys_are_ever_one",
    GlobScan: "scan_takes_a_prefix_as_it_is_written",
    LongPages: "scan_pages_through_every_key_once",
    SameVersion: "a_version_never_comes_back_even_with_the_same_value",
    NeverCloses: "a_closed_store_raises_and_never_guesses",
}


def store_suite(kind: type[MemoryStore]) -> Any:
    clock = Clock()

    class Suite(StoreContract):
        tick = 10.0

        @asynccontextmanager
        async def open_store(self) -> AsyncIterator[Store]:
            yield kind(clock=clock)

        async def advance(self, seconds: float) -> None:
            clock.now += seconds

    return Suite()


@pytest.mark.threat("N10", "K04", "FI9")
@pytest.mark.parametrize("kind", LIES, ids=lambda kind: kind.__name__)
def test_the_suite_finds_a_store_that(kind: type[Lying]) -> None:
    assert LIES[kind] in failures(store_suite(kind))
    assert failures(store_suite(MemoryStore)) == set()


async def test_a_broken_store_raises_at_every_call_and_counts_them() -> None:
    store = BrokenStore()
    for call in (store.get([]), store.take("a"), store.now(), store.add([]), store.scan("", None, 1)):
        with pytest.raises(StoreUnavailable):
            await call
    assert store.touched == 5


# --- sinks ----------------------------------------------------------------------------------------------------------


class Silent(Records):
    def write(self, record: Mapping[str, Any]) -> None:
        if not self.broken and not self.closed:
            super().write(record)


class Buffered(Records):
    def write(self, record: Mapping[str, Any]) -> None:
        self.__dict__.setdefault("later", []).append(dict(record))
        if len(self.__dict__["later"]) > 1:
            super().write(self.__dict__["later"].pop(0))


class ByReference(Records):
    def write(self, record: Mapping[str, Any]) -> None:
        self.append(record)  # type: ignore[arg-type]


def sink_suite(kind: type[Records]) -> Any:
    class Suite(AuditSinkContract):
        @contextmanager
        def open_sink(self) -> Iterator[AuditSink]:
            yield kind()

        def read(self, sink: Any) -> Sequence[Mapping[str, Any]]:
            return list(sink)

        def break_sink(self, sink: Any) -> bool:
            sink.broken = True
            return True

    return Suite()


@pytest.mark.threat("O01")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Silent, "a_sink_that_cannot_record_raises"),
        (Buffered, "a_record_is_there_when_write_returns"),
        (ByReference, "a_record_that_changes_later_is_kept_as_it_was"),
    ],
)
def test_the_suite_finds_a_sink_that(kind: type[Records], expected: str) -> None:
    assert expected in failures(sink_suite(kind))
    assert failures(sink_suite(Records)) == set()
