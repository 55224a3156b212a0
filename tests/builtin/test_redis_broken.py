"""The redis store where somebody else wrote under its keys: that key alone is refused, put aside and told, once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from guarded import guarded
from redis_server import RedisServer, line, opened, refusal

from mcp_macaroon_middleware.errors import AuditUnavailable, StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount, Store

FOREIGN = "the redis server holds what this store did not write"

Plant = Callable[[RedisServer, str], object]

PLANTS: dict[str, Plant] = {
    "random bytes": lambda server, key: server.ask("SET", key, b"\xde\xad\xbe\xef"),
    "a text": lambda server, key: server.ask("SET", key, "not a window"),
    "nothing": lambda server, key: server.ask("SET", key, ""),
    "a hash": lambda server, key: server.ask("HSET", key, "f", "v"),
    "a list": lambda server, key: server.ask("LPUSH", key, "1"),
    "a negative charge": lambda server, key: server.ask("SET", key, b"\x92\xcf\x00\x07\xff\xff\xff\xff\xff\xff\xff"),
    "a map": lambda server, key: server.ask("SET", key, b"\x81\xa1a\x01"),
    "an empty array": lambda server, key: server.ask("SET", key, b"\x90"),
    "texts in an array": lambda server, key: server.ask("SET", key, b"\x92\xa1a\xa1b"),
    "no number": lambda server, key: server.ask("SET", key, b"\x92\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01"),
    "half a charge": lambda server, key: server.ask(
        "SET", key, b"\x92\xcf\x00\x07\xff\xff\xff\xff\xff\xff\xca?\x00\x00\x00"
    ),
    "a number without end": lambda server, key: server.ask("SET", key, b"9" * 300),
    "charges that go back": lambda server, key: server.ask("SET", key, b"\x94\x05\x01\x04\x01"),
}


class Events(list[tuple[str, dict[str, Any]]]):
    """What a store told."""

    def __call__(self, name: str, facts: Mapping[str, Any]) -> None:
        self.append((name, dict(facts)))


def amount(key: str, *, refills: bool, charged: int = 1) -> Amount:
    return Amount(key=key, amount=charged, limit=10, window=600.0, refills=refills)


async def broken(store: Store, *amounts: Amount) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await store.add(amounts)
    assert str(caught.value) == FOREIGN
    return caught.value.code


# --- counters ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI7")
@pytest.mark.parametrize("refills", [False, True])
@pytest.mark.parametrize("what", PLANTS)
async def test_a_counter_that_is_none_is_refused_once_moved_aside_and_told_and_then_begins_afresh(
    server: RedisServer, what: str, refills: bool
) -> None:
    audience, events = secrets.token_hex(8), Events()
    store = opened(server, audience, event=events)
    key = f"mcpm:{{{audience}}}:{'b' if refills else 'c'}:k"
    for _ in range(2):
        await store.add([amount("k", refills=refills, charged=10)])
        await asyncio.to_thread(server.ask, "DEL", key)
        await asyncio.to_thread(PLANTS[what], server, key)
        assert await broken(store, amount("k", refills=refills, charged=0)) == "record_broken"
        ((name, facts),) = events
        aside = facts["moved_to"]
        assert (name, facts) == ("record_broken", {"what": "counter", "moved_to": aside})
        assert aside.startswith(f"mcpm:{{{audience}}}:q:")
        assert 0 < await asyncio.to_thread(server.ask, "PTTL", aside) <= 7 * 86_400_000
        assert not await asyncio.to_thread(server.ask, "EXISTS", key)
        events.clear()
        assert (await store.add([amount("k", refills=refills, charged=10)])).ok
        assert not (await store.add([amount("k", refills=refills)])).ok, "it opened more than one fresh window"
        assert events == []
    await store.close()


@pytest.mark.threat("FI7")
async def test_beside_a_broken_counter_nothing_is_charged_and_nothing_else_is_refused(server: RedisServer) -> None:
    audience, events = secrets.token_hex(8), Events()
    store = opened(server, audience, event=events)
    await store.add([line("other", 3)])
    for name in ("c:one", "c:two"):
        await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:{name}", b"\xde\xad")
    assert (await store.add([line("other")])).used == (4,)
    await broken(store, line("other"), line("one"), line("other"), line("two"), line("one"))
    assert [facts["what"] for _, facts in events] == ["counter", "counter"]
    assert len({facts["moved_to"] for _, facts in events}) == 2
    assert (await store.add([line("other", 0), line("one", 0), line("two", 0)])).used == (4, 0, 0)
    await store.close()


@pytest.mark.threat("FI7")
async def test_of_many_who_meet_a_broken_counter_one_tells_it(server: RedisServer) -> None:
    audience, events = secrets.token_hex(8), Events()
    stores = [opened(server, audience, event=events) for _ in range(2)]
    await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:c:k", b"\xde\xad")
    answers = await asyncio.gather(*(each.add([line("k", limit=5)]) for each in stores * 20), return_exceptions=True)
    assert sum(isinstance(answer, StoreUnavailable) for answer in answers) == 1
    assert sum(getattr(answer, "ok", False) for answer in answers) == 5
    assert len(events) == 1
    await asyncio.gather(*(each.close() for each in stores))


@pytest.mark.threat("FI7")
async def test_a_counter_as_it_was_written_before_spans_were_is_read(server: RedisServer) -> None:
    audience = secrets.token_hex(8)
    store = opened(server, audience)
    ends = int((await store.now() + 100) * 1_000_000)
    old = b"\x92\xcf" + ends.to_bytes(8, "big") + b"\x07"
    await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:c:k", old)
    assert (await store.add([line("k", 0)])).used == (7,)
    await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:b:k", str(ends))
    assert (await store.add([amount("k", refills=True, charged=0)])).used == (2,)
    await store.close()


@pytest.mark.threat("FI7", "O09")
async def test_a_guarded_call_whose_counter_is_broken_is_refused_and_recorded_and_the_next_one_runs(
    server: RedisServer,
) -> None:
    audience, ran = secrets.token_hex(8), []
    mcp = FastMCP("office")

    @mcp.tool
    def limited() -> str:
        ran.append(1)
        return "done"

    rules = ["bf:limited:tool_access:allow", "bf:limited:rate_limit:allow:3/hour"]
    made = guarded(mcp, rules, config={"store": server.url(), "audience": audience})
    async with Client(mcp) as client:
        await client.call_tool("limited")
        keys = await asyncio.to_thread(server.ask, "KEYS", f"mcpm:{{{audience}}}:c:*")
        await asyncio.to_thread(server.ask, "SET", keys[0], b"\xde\xad\xbe\xef")
        made.records.clear()
        refused = await client.call_tool("limited", raise_on_error=False)
        assert refused.is_error
        assert (refused.meta or {})["mcp-macaroon"] == {"code": "record_broken"}
        assert "cannot be read" in str(refused.content)
        assert [(record["event"], record.get("code"), record.get("what")) for record in made.records] == [
            ("record_broken", None, "counter"),
            ("final", "record_broken", None),
        ]
        assert len(ran) == 1
        results = [await client.call_tool("limited", raise_on_error=False) for _ in range(4)]
        assert [result.is_error for result in results] == [False, False, False, True]
    await made.guard.runtime.close()


# --- the index --------------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI7")
@pytest.mark.parametrize("name", ["i", "x"])
@pytest.mark.parametrize("what", ["put", "swap", "take", "scan"])
async def test_an_index_that_is_none_is_moved_aside_and_told_and_refuses_nothing(
    server: RedisServer, name: str, what: str
) -> None:
    audience, events = secrets.token_hex(8), Events()
    store = opened(server, audience, event=events)
    await store.put("k", b"v", 600)
    key = f"mcpm:{{{audience}}}:{name}"
    await asyncio.to_thread(server.ask, "SET", key, "not an index")
    if what == "put":
        await store.put("k", b"w", 600)
    elif what == "swap":
        assert not await store.swap("k", None, b"w", 600)
    elif what == "take":
        assert await store.take("k") == b"v"
    else:
        assert await store.scan("", None, 10) in (([], None), ([("k", (await store.get(["k"]))[0])], None))
    ((told, facts),) = events
    assert (told, facts["what"]) == ("record_broken", "index")
    assert await asyncio.to_thread(server.ask, "GET", facts["moved_to"]) == b"not an index"
    assert 0 < await asyncio.to_thread(server.ask, "PTTL", facts["moved_to"]) <= 7 * 86_400_000
    await store.put("k", b"x", 600)
    assert [key for key, _ in (await store.scan("", None, 10))[0]] == ["k"]
    assert 600_000 < await asyncio.to_thread(server.ask, "PTTL", key) <= 601_000
    assert len(events) == 1
    await store.close()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI7")
@pytest.mark.parametrize("what", ["a hash", "random bytes", "a text"])
async def test_a_value_that_is_none_is_never_read_as_ours_and_stays_since_it_may_forbid_something(
    server: RedisServer, what: str
) -> None:
    audience, events = secrets.token_hex(8), Events()
    store = opened(server, audience, event=events)
    key = f"mcpm:{{{audience}}}:v:k"
    await asyncio.to_thread(PLANTS[what], server, key)
    await store.put("other", b"v", 600)
    for _ in range(3):
        assert await refusal(lambda: store.get(["other", "k"])) == FOREIGN
    assert (await store.get(["other"]))[0] is not None
    assert await asyncio.to_thread(server.ask, "EXISTS", key)
    assert events == [("record_broken", {"what": "value"})], "one event, not one for each call"
    if what == "a hash":
        assert await refusal(lambda: store.swap("k", None, b"w", 600)) == FOREIGN
        assert await refusal(lambda: store.take("k")) == FOREIGN
    else:
        assert not await store.swap("k", None, b"w", 600)
    await store.put("k", b"v", 600)
    assert (await store.get(["k"]))[0] is not None
    await store.close()


async def test_an_event_that_cannot_be_recorded_changes_no_answer(server: RedisServer) -> None:
    def lost(name: str, facts: Mapping[str, Any]) -> None:
        raise AuditUnavailable("no disk")

    audience = secrets.token_hex(8)
    store = opened(server, audience, event=lost)
    await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:i", "not an index")
    await store.put("k", b"v", 600)
    await asyncio.to_thread(server.ask, "SET", f"mcpm:{{{audience}}}:c:k", "not a window")
    assert await broken(store, line()) == "record_broken"
    await store.close()
