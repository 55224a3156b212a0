"""What a token's rules keep is theirs alone, ends with the token, and is bounded; nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agreeing import HERE
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import BOB, call, lab

from mcp_macaroon_middleware import attenuate as narrow
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core import quotas
from mcp_macaroon_middleware.errors import RuleError
from mcp_macaroon_middleware.model import Action, Charge, Component, Kind, Phase, Verdict
from mcp_macaroon_middleware.plugin.contract import Check, EnforcerType, NoParams
from mcp_macaroon_middleware.testing import FixedClock
from mcp_macaroon_middleware.tokens import (
    KeyRing,
    ThirdParty,
    VerifiedToken,
    attenuate,
    bind,
    discharge,
    macaroons,
    mint,
    require,
    unmet,
    verify,
)

KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")
PARTY = ThirdParty(location="duty", key=KeyRing.from_secret("a secret that a third party has, for tests only"))
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ALLOWED = "bf:*:tool_access:allow"
MADE = mint(KEYS, subject="alice", audience="a", expires=timedelta(hours=1), now=NOW)


def verified(text: str) -> VerifiedToken:
    return verify(KEYS, text, audience="a", now=NOW)


def written(*caveats: str, base: str = MADE) -> str:
    """A token with these caveats, as a holder writes them with any macaroon library."""
    for caveat in caveats:
        base = macaroons.append(base, caveat)
    return base


class Ticking:
    """Time that the tests move, for the engine and the store alike."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def house(rules: Sequence[str], *enforcers: EnforcerType, store: MemoryStore | None = None, clock: Any = None) -> Any:
    return lab([ALLOWED, *rules], *enforcers, store=store, clock=clock or FixedClock(NOW))


# --- a rule of a token has a memory of its own -----------------------------------------------------------------------


async def third_time(check: Check[NoParams]) -> Verdict:
    """Lets the third look pass: the more often it is asked the sooner it says yes."""
    (entry,) = await check.store.get(["seen"])
    seen = 1 + (int(entry.value) if entry is not None else 0)
    await check.store.put("seen", str(seen).encode(), 1e9)
    return Verdict.allow() if seen > 3 else Verdict.deny("wait", "Not yet.")


async def counting_up(check: Check[NoParams]) -> Verdict:
    """The same, kept in a counter."""
    line = quotas.Amount(key="seen", amount=1, limit=1000, window=600)
    used = (await check.store.add([line])).used[0]
    return Verdict.allow() if used > 3 else Verdict.deny("wait", "Not yet.")


async def by_swap(check: Check[NoParams]) -> Verdict:
    """The same, by swap and scan."""
    page, _ = await check.store.scan("", None, 10)
    await check.store.swap(f"seen{len(page)}", None, b"", 600)
    return Verdict.allow() if len(page) > 2 else Verdict.deny("wait", "Not yet.")


def remembering(function: Any) -> EnforcerType:
    return EnforcerType(name="remembers", check=function, attenuates=True, phases=frozenset(Phase))


TARGETS = st.sampled_from(["*", "t", "t*", "*t", "u"])


@pytest.mark.threat("R23")
@pytest.mark.parametrize("function", [third_time, counting_up, by_swap])
@given(
    copies=st.lists(st.tuples(TARGETS, st.booleans()), max_size=6),
    calls=st.integers(1, 6),
)
@settings(max_examples=25, deadline=None)
def test_L1_no_number_of_copies_of_a_caveat_changes_what_the_operators_rules_remember(
    function: Any, copies: list[tuple[str, bool]], calls: int
) -> None:
    """plugin-author B7."""
    text = MADE
    for target, fresh_branch in copies:
        caveat = f"bf:{target}:remembers:allow"
        text = attenuate(text, caveat) if fresh_branch else written(caveat, base=text)
    assert asyncio.run(outcomes(function, text, calls)) <= asyncio.run(outcomes(function, None, calls))


async def outcomes(function: Any, text: str | None, calls: int) -> Outcomes:
    """How calls end one after the other, under an operator's rule and the rules of a token."""
    room = house(["bf:t:remembers:allow"], remembering(function))
    token = verified(text) if text is not None else None
    return Outcomes([(await room.engine.decide(call("t"), token=token)).allowed for _ in range(calls)])


class Outcomes(list[bool]):
    """Comparable call by call."""

    def __le__(self, other: list[bool]) -> bool:
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


@pytest.mark.threat("R23")
@pytest.mark.parametrize("function", [third_time, counting_up, by_swap])
async def test_L1_one_more_copy_never_helps_the_others(function: Any) -> None:
    """Six copies end their waiting no sooner than one does."""
    for fresh_branch in (True, False):
        ends = []
        for copies in (1, 2, 6):
            text = MADE
            for number in range(copies):
                caveat = f"bf:{'*' * (number + 1) if fresh_branch else ''}t:remembers:allow"
                text = attenuate(text, caveat) if fresh_branch else written(caveat, base=text)
            room = house([], remembering(function))
            token = verified(text)
            ends.append(Outcomes([(await room.engine.decide(call("t"), token=token)).allowed for _ in range(6)]))
        assert ends[2] <= ends[1] <= ends[0]
        assert ends[0] == [False, False, False, True, True, True], "a rule of a token does remember"


async def test_what_a_rule_of_a_token_remembers_goes_on_in_what_was_narrowed_from_it() -> None:
    room = house([], remembering(third_time))
    parent = written("bf:t:remembers:allow")
    for text in (parent, attenuate(parent), attenuate(parent, "bf:u:tool_access:deny")):
        assert not (await room.engine.decide(call("t"), token=verified(text))).allowed
    assert (await room.engine.decide(call("t"), token=verified(parent))).allowed


# --- a counter ends with its token -----------------------------------------------------------------------------------


@pytest.mark.threat("R16")
@pytest.mark.parametrize(
    "caveat",
    ["bf:t:allow_attempts:allow:2", "bf:t:rate_limit:allow:2/999999d", "bf:t:counts:allow", "bf:t:remembers:allow"],
)
async def test_nothing_that_a_token_counted_outlives_it(caveat: str) -> None:
    """attacks H7."""
    clock = Ticking()
    store = MemoryStore(clock=clock)

    def counts(check: Check[NoParams]) -> Verdict:
        return Verdict.allow(charges=[Charge(key=("any",), limit=2, window=1e9, refills=True)])

    charging = EnforcerType(name="counts", check=counts, attenuates=True)
    room = house([], charging, remembering(third_time), store=store, clock=clock)
    parent = written(caveat)
    child = attenuate(parent, expires=timedelta(minutes=1), now=NOW)
    for text in (parent, child, child):
        last = await room.engine.decide(call("t"), token=verified(text))
    assert not last.allowed
    clock.seconds = 3000.0
    end = "remembers" in caveat
    assert (await room.engine.decide(call("t"), token=verified(parent))).allowed is end, "a child's end frees nothing"
    assert len(store) > 0
    clock.seconds = 3600.0 + quotas.SKEW + 1
    assert len(store) == 0


@pytest.mark.threat("R16")
async def test_an_end_that_is_written_behind_a_rule_ends_no_counter_of_the_token_before_it() -> None:
    first = verified(written("bf:t:allow_attempts:allow:2"))
    later = verified(written("bf:t:allow_attempts:allow:2", "time<20260302T120001Z"))
    assert first.ends == later.ends == (first.expires,)
    early = verified(written("time<20260302T123000Z", "bf:t:allow_attempts:allow:2"))
    assert early.ends == (early.expires,)


# --- so many rules, so many counters, a token ------------------------------------------------------------------------

COUNTING = ["bf:t:rate_limit:allow:9/minute", "bf:*:allow_attempts:allow:9"]
MORE = ["bf:u:rate_limit:allow:9/hour", *COUNTING]


@pytest.mark.threat("R16")
@pytest.mark.parametrize("third", MORE)
async def test_a_third_rule_that_counts_is_not_written_and_refuses_everything(third: str) -> None:
    """attacks H7."""
    for two in (
        (mint(KEYS, subject="a", audience="a", caveats=COUNTING)),
        attenuate(attenuate(MADE, COUNTING[0]), COUNTING[1]),
    ):
        for write in (narrow, attenuate):
            with pytest.raises(RuleError, match="at most 2") as caught:
                write(two, third)
            assert caught.value.code == "too_many_counting"
            write(two, "bf:x:tool_access:deny")
    with pytest.raises(RuleError, match="at most 2"):
        mint(KEYS, subject="a", audience="a", caveats=[*COUNTING, third])
    room = house([])
    assert (await room.engine.decide(call("t"), token=verified(written(*COUNTING)))).allowed
    forced = verified(written(*COUNTING, third))
    decision = await room.engine.decide(call("other"), token=forced)
    assert decision.refusal is not None
    assert decision.refusal.code == "token_insufficient"
    assert "caveat_invalid" in repr(room.records[-1])
    assert not await room.engine.reachable(call("other"), token=forced)
    assert (await room.engine.decide(call("t"), token=verified(written(*COUNTING)))).allowed


@pytest.mark.threat("R16")
async def test_a_discharge_counts_among_the_rules_of_its_token() -> None:
    base = mint(KEYS, subject="alice", audience="a", caveats=COUNTING)
    demanding = require(base, PARTY, subject="alice", audience="a")
    ((_, ticket),) = unmet(demanding)
    made = macaroons.from_text(discharge(PARTY.open(ticket), ticket), macaroons.DISCHARGE)
    text = macaroons.to_text(macaroons.extend(made, [MORE[0]]), macaroons.DISCHARGE)
    token = verify(KEYS, demanding, audience="a", discharges=bind(demanding, [text]), parties={PARTY.location: PARTY})
    assert not (await house([], clock=FixedClock(datetime.now(UTC))).engine.decide(call("t"), token=token)).allowed


async def test_narrowing_begins_no_fresh_count_of_what_a_discharge_counts() -> None:
    base = mint(KEYS, subject="alice", audience="a", expires=timedelta(hours=1))
    demanding = require(base, PARTY, subject="alice", audience="a")
    room = house([], clock=FixedClock(datetime.now(UTC)))
    allowed = []
    for text in (demanding, attenuate(demanding), attenuate(attenuate(demanding))):
        ((_, ticket),) = unmet(text)
        made = macaroons.from_text(discharge(PARTY.open(ticket), ticket), macaroons.DISCHARGE)
        vouched = macaroons.to_text(macaroons.extend(made, ["bf:t:rate_limit:allow:2/hour"]), macaroons.DISCHARGE)
        token = verify(KEYS, text, audience="a", discharges=bind(text, [vouched]), parties={PARTY.location: PARTY})
        allowed.append((await room.engine.decide(call("t"), token=token)).allowed)
    assert allowed == [True, True, False]


def on(name: str) -> Any:
    return call("t").replace(component=Component(kind=Kind.TOOL, name=name, names=(name,)))


@pytest.mark.threat("R16")
async def test_a_token_keeps_so_many_counters_and_what_is_more_is_refused_to_it_alone() -> None:
    """attacks H7."""
    store = MemoryStore()
    room = house(["bf:*:rate_limit:allow:1000000/day"], store=store)
    refused = 0
    for number in range(quotas.MOST + 20):
        token = verified(attenuate(MADE, "bf:*:allow_attempts:allow:9", now=NOW))
        decision = await room.engine.decide(on("t"), token=token)
        refused += not decision.allowed
        if decision.refusal is not None:
            assert decision.refusal.code == quotas.CODE, number
    assert refused == 20
    assert len(store) == quotas.MOST + 2, "its counters, the operator's one, and what counts them"
    assert (await room.engine.decide(on("t"), token=verified(MADE))).allowed, "without a rule that counts"
    other = verified(mint(KEYS, subject="bob", audience="a", caveats=["bf:*:allow_attempts:allow:9"], now=NOW))
    assert (await room.engine.decide(on("t").replace(principal=BOB), token=other)).allowed
    assert (await room.engine.decide(on("t").replace(principal=BOB))).allowed


@pytest.mark.threat("R16")
async def test_records_of_a_tokens_rules_count_too() -> None:
    async def hoards(check: Check[NoParams]) -> Verdict:
        await check.store.put(check.request.component.name, b"", 1e9)
        return Verdict.allow()

    store = MemoryStore()
    room = house([], EnforcerType(name="hoards", check=hoards, attenuates=True), store=store)
    token = verified(written("bf:*:hoards:allow"))
    ends = [(await room.engine.decide(on(f"t{number}"), token=token)).allowed for number in range(quotas.MOST + 5)]
    assert ends == [True] * quotas.MOST + [False] * 5
    assert "too_many_counters" in repr(room.records[-1])
    assert len(store) == quotas.MOST + 1


@pytest.mark.threat("R16")
async def test_servers_that_share_a_store_see_one_number() -> None:
    store = MemoryStore()
    rooms = [house([], store=store) for _ in range(3)]
    token = verified(written("bf:*:allow_attempts:allow:9"))
    calls = [(rooms[number % 3], on(f"t{number}")) for number in range(quotas.MOST + 30)]
    ends = await asyncio.gather(*(room.engine.decide(each, token=token) for room, each in calls[:30]))
    assert all(end.allowed or end.refusal.code == "store_unavailable" for end in ends)
    for room, each in calls:
        await room.engine.decide(each, token=token)
    assert len(store) == quotas.MOST + 1


async def test_room_comes_back_when_counters_end() -> None:
    clock = Ticking()
    room = house([], store=MemoryStore(clock=clock), clock=clock)
    token = verified(written("bf:*:rate_limit:allow:9/second"))
    for number in range(quotas.MOST):
        assert (await room.engine.decide(on(f"t{number}"), token=token)).allowed
    assert not (await room.engine.decide(on("more"), token=token)).allowed
    clock.seconds = 2 * quotas.SHORTEST + 2
    assert (await room.engine.decide(on("more"), token=token)).allowed


async def test_a_counter_that_is_known_costs_no_more_trips() -> None:
    class Tripping(MemoryStore):
        trips = 0

        async def swap(self, *args: Any) -> bool:
            self.trips += 1
            return await super().swap(*args)

    store = Tripping()
    room = house([], store=store)
    token = verified(written("bf:*:rate_limit:allow:1000/hour"))
    for _ in range(20):
        assert (await room.engine.decide(on("t"), token=token)).allowed
    assert store.trips == 1


async def test_a_count_that_nobody_here_wrote_refuses_that_token() -> None:
    store = MemoryStore()
    room = house([], store=store)
    token = verified(written("bf:*:rate_limit:allow:1000/hour"))
    assert (await room.engine.decide(on("t"), token=token)).allowed
    ((key, _),), _ = await store.scan("quotas/", None, 5)
    await store.put(key, b"odd", 600)
    decision = await room.engine.decide(on("u"), token=token)
    assert decision.refusal is not None
    assert decision.refusal.code == "record_broken"
    assert (await room.engine.decide(on("u"), asking=HERE)).allowed


@pytest.mark.threat("R16")
async def test_more_than_two_rules_that_charge_and_do_not_say_so_are_refused() -> None:
    def counts(check: Check[NoParams]) -> Verdict:
        return Verdict.allow(charges=[Charge(key=("any",), limit=9, window=60)])

    silent = EnforcerType(name="counts", check=counts, attenuates=True, actions=frozenset({Action.ALLOW}))
    room = house([], silent)
    texts = [f"bf:{'*' * number}t:counts:allow" for number in range(3)]
    assert (await room.engine.decide(call("t"), token=verified(written(*texts[:2])))).allowed
    assert not (await room.engine.decide(call("t"), token=verified(written(*texts)))).allowed
