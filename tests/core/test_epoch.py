"""The epoch of a store: one that is emptied or put back admits nothing from before, and still forbids."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agreeing import HERE, Slow, agreed, answer, asked, code, emptied, on
from lab import ALICE, RING, Lab, call

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core import epoch
from mcp_macaroon_middleware.core.approvals import Approvals
from mcp_macaroon_middleware.tokens import KeyRing, mint, verify

RULES: list[Any] = [
    "bf:t:tool_access:elicit",
    "bf:open:tool_access:elicit",
    "bf:used:tool_access:elicit",
    "bf:never:tool_access:deny",
    "bf:work:tool_access:allow",
    "bf:work:rate_limit:allow:2/hour",
]


class Durable(MemoryStore):
    """A store that is kept, as far as whoever uses it can tell."""

    durable = True


def epochs(*servers: Lab) -> list[str]:
    """Why epochs began, as the servers' records tell."""
    return [record["why"] for made in servers for record in made.records if record["event"] == "epoch"]


async def counted(made: Lab) -> list[str]:
    return [code(await made.engine.decide(call("work"))) for _ in range(3)]


@pytest.mark.threat("FI5", "D09")
async def test_a_store_that_is_emptied_takes_every_approval_and_question_with_it_and_one_server_says_so() -> None:
    store = MemoryStore()
    one, other = on(store, RULES), on(store, RULES)
    assert code(await agreed(one.engine, "period")) == "allowed"
    assert code(await other.engine.decide(call("t"))) == "allowed"
    open_then, used = await asked(one.engine, "open"), await asked(one.engine, "used")
    assert code(await answer(one.engine, used, tool="used")) == "allowed"
    assert await counted(one) == ["allowed", "allowed", "rate_limited"]
    assert epochs(one, other) == ["missing"]

    taken = await emptied(store)  # FLUSHALL
    for made in (one, other):
        assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
        assert code(await made.engine.decide(call("never"))) == "not_allowed", "what the rules deny stays denied"
        assert code(await answer(made.engine, open_then, tool="open")) == "approval_stale"
    assert epochs(one, other) == ["missing", "missing"], "one event, whoever sees it first"

    leg = next(name for name in taken if "/leg/" in name)
    for name, value in taken.items():  # whoever can write puts back what there was, but for the epoch
        if not name.endswith("/epoch"):
            await store.put(name, value, 3600)
    for made in (one, other, on(store, RULES)):
        assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
        assert code(await answer(made.engine, open_then, tool="open")) == "approval_stale"
        await emptied(store, "/leg/")
        await store.put(leg, taken[leg], 3600)
    assert code(await answer(one.engine, used, tool="used")) == "grant_used"
    assert code(await agreed(one.engine, "period")) == "allowed", "and service goes on"
    assert code(await other.engine.decide(call("t"))) == "allowed"


@pytest.mark.threat("FI5", "F02")
async def test_L5_a_no_stays_a_no_where_it_was_said_though_the_store_is_emptied() -> None:
    store = MemoryStore()
    made = on(store, RULES)
    assert code(await agreed(made.engine, "deny")) == "declined"
    await emptied(store)
    assert code(await made.engine.decide(call("t"), asking=HERE)) == "declined"


@pytest.mark.threat("FI5", "N10")
async def test_an_older_epoch_that_is_put_back_begins_a_new_one() -> None:
    store = MemoryStore()
    made = on(store, RULES)
    assert code(await agreed(made.engine, "period")) == "allowed"
    taken = await emptied(store)
    assert code(await agreed(made.engine, "period")) == "allowed"
    for name, value in taken.items():
        await store.put(name, value, 3600)
    assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
    assert epochs(made) == ["missing", "missing", "older than what this server has seen"]


@pytest.mark.threat("FI7")
async def test_an_epoch_that_cannot_be_read_begins_a_new_one() -> None:
    store = MemoryStore()
    made = on(store, RULES)
    assert code(await agreed(made.engine, "period")) == "allowed"
    (name,) = [name for name, _ in (await store.scan("", None, 99))[0] if name.endswith("/epoch")]
    await store.put(name, b"what nobody sealed", 3600)
    assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
    assert epochs(made) == ["missing", "broken"]


@pytest.mark.threat("FI5")
async def test_of_many_servers_that_see_an_empty_store_at_once_one_begins_the_epoch() -> None:
    store = Slow()
    servers = [on(store, RULES) for _ in range(12)]
    await asyncio.gather(*(made.engine.revocations.begin() for made in servers))
    assert epochs(*servers) == ["missing"]
    assert len({await made.engine.revocations.begin() for made in servers}) == 1


@pytest.mark.threat("FI5", "D09")
async def test_a_token_from_before_a_store_that_is_kept_was_emptied_counts_no_more() -> None:
    store = Durable()
    made = on(store, RULES)
    before = verify(
        RING,
        mint(RING, subject="alice", audience="lab", now=datetime.now(UTC) - timedelta(minutes=5)),
        audience="lab",
    )
    assert await made.engine.revocations.fault(before, ALICE) == "token_before_epoch"
    now = verify(RING, mint(RING, subject="alice", audience="lab"), audience="lab")
    assert await made.engine.revocations.fault(now, ALICE) is None


@pytest.mark.threat("D09", "N10")
async def test_a_copy_of_the_store_from_a_while_ago_is_told_by_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "BEAT", 0.0)
    store = MemoryStore()
    made = on(store, RULES)
    await asked(made.engine)
    (name,) = [name for name, _ in (await store.scan("", None, 99))[0] if name.endswith("/epoch")]
    (copy,) = await store.get([name])
    assert copy is not None
    assert code(await agreed(made.engine, "period")) == "allowed"
    await store.put(name, copy.value, 3600)
    assert code(await made.engine.decide(call("t"))) == "approval_unavailable"
    assert epochs(made)[-1] == "older than what this server has seen"


class Ahead(MemoryStore):
    """A store whose clock is so many seconds ahead."""

    ahead = 0.0

    async def now(self) -> float:
        return await super().now() + self.ahead


@pytest.mark.threat("D09", "FI10")
async def test_what_was_approved_by_a_clock_that_was_ahead_is_from_before_the_store_was_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(epoch, "BEAT", 0.0)
    store = Ahead()
    store.ahead = 600.0
    one, other = on(store, RULES), on(store, RULES)
    assert code(await agreed(one.engine, "period")) == "allowed"
    for made in (one, other):
        assert code(await made.engine.decide(call("t"))) == "allowed"
    store.ahead = 0.0
    taken = await emptied(store)
    assert code(await other.engine.decide(call("t"))) == "approval_unavailable"
    for name, value in taken.items():
        if "grant/" in name:
            await store.put(name, value, 3600)
    for made in (one, other):
        assert code(await made.engine.decide(call("t"))) == "approval_unavailable"


@pytest.mark.threat("D09")
async def test_a_beat_never_takes_time_back_for_a_server_whose_clock_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "BEAT", 0.0)
    store = Ahead()
    one, other = on(store, RULES), on(store, RULES)
    store.ahead = 600.0
    assert code(await agreed(one.engine, "period")) == "allowed"
    store.ahead = 0.0
    for made in (other, one, other, one):
        assert code(await made.engine.decide(call("t"))) == "allowed"
    assert epochs(one, other) == ["missing"]


@pytest.mark.threat("D09", "FI10")
async def test_a_server_with_a_new_key_and_an_earlier_clock_seals_the_epoch_anew_and_takes_no_time_back() -> None:
    store, events = Ahead(), []  # type: tuple[Ahead, list[Any]]
    keys = {"old": b"1" * 32, "new": b"2" * 32}
    old, new = (
        Approvals(keys=ring, store=store, audience="lab", event=lambda *event: events.append(event)).revocations
        for ring in (KeyRing(keys, "old"), KeyRing(keys, "new"))
    )
    store.ahead = 600.0
    since = await old.begin()
    store.ahead = 0.0
    assert [await each.begin() for each in (new, old)] == [since, since]
    assert len(events) == 1


# --- replicas with different files ------------------------------------------------------------------------------------


@pytest.mark.threat("FI29", "F15", "C14")
async def test_an_approval_under_one_file_is_none_under_another_in_which_its_rule_reads_otherwise() -> None:
    store = MemoryStore()
    loose: list[Any] = ["bf:t:tool_access:elicit", "bf:u:tool_access:elicit", "bf:same:tool_access:elicit"]
    once = [{"before": name, "policy": "tool_access", "action": "elicit", "scopes": ["once"]} for name in "tu"]
    old, new = on(store, loose), on(store, [*once, "bf:same:tool_access:elicit", "bf:more:tool_access:allow"])
    assert code(await agreed(old.engine, "period", "t")) == "allowed"
    assert code(await agreed(old.engine, "period", "same")) == "allowed"
    assert code(await new.engine.decide(call("t"), asking=HERE)) == "asks"
    assert code(await new.engine.decide(call("same"))) == "allowed", "a rule that reads the same is the same rule"
    question = await asked(old.engine, "u")
    assert code(await answer(new.engine, question, "period", "u")) == "asks", "an answer to what the old file asked"
    assert code(await new.engine.decide(call("u"), asking=HERE)) == "asks"
