"""The redis store when its server is gone, hangs or refuses: no answer is ever guessed, no secret is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis_server import BINARIES, RedisServer, free_port, line, opened, operations, refusal, running
from redis_wire import served, wired

from mcp_macaroon_middleware.builtin.redis_link import FIRST_PAUSE, LONGEST_PAUSE
from mcp_macaroon_middleware.builtin.redis_store import REDIS, RedisSettings
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Store, StoreContext


async def works_again(store: Store, within: float = 20.0) -> None:
    end = time.monotonic() + within
    while True:
        try:
            await store.put("again", b"v", 600)
        except StoreUnavailable:
            assert time.monotonic() < end, "the store did not recover"
            await asyncio.sleep(0.02)
        else:
            return


PATIENCE = 2.0
SILENT = "the redis server did not answer in time"


# --- gone, hanging ----------------------------------------------------------------------------------------------------


@pytest.mark.threat("N01", "N02", "FI1")
async def test_a_server_that_is_killed_refuses_in_time_and_is_used_again_once_it_is_back(own: RedisServer) -> None:
    store = opened(own, timeout=30)
    await asyncio.gather(*(store.put(f"k{number}", b"v", 600) for number in range(50)))
    own.kill()
    start = time.monotonic()
    for call in operations(store) * 5:
        assert await refusal(call) == "the redis server cannot be reached, or went away"
    assert time.monotonic() - start < 30, "it was waited for"
    await asyncio.to_thread(own.start)
    await works_again(store)
    for call in operations(store) * 5:
        await call()
    await store.close()


async def test_a_server_that_was_restarted_unnoticed_costs_no_call(own: RedisServer) -> None:
    store = opened(own)
    await asyncio.gather(*(store.put(f"k{number}", b"v", 600) for number in range(50)))
    own.kill()
    await asyncio.to_thread(own.start)
    for call in operations(store):
        await call()
    await store.close()


@pytest.mark.threat("N03", "FI4")
async def test_behind_a_server_that_hangs_nothing_piles_up_and_the_event_loop_runs_on(own: RedisServer) -> None:
    store = opened(own, timeout=PATIENCE, max_waiting=150)
    await asyncio.gather(*(store.get(["k"]) for _ in range(100)))
    own.pause()
    worst, beating = 0.0, True

    async def beat() -> None:
        nonlocal worst
        while beating:
            start = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - start - 0.005)

    async def ask() -> tuple[str, float]:
        start = time.monotonic()
        return await refusal(lambda: store.get(["k"])), time.monotonic() - start

    heart = asyncio.ensure_future(beat())
    answers = await asyncio.gather(*(ask() for _ in range(1000)))
    took = {text: [seconds for why, seconds in answers if why == text] for text in {why for why, _ in answers}}
    assert set(took) == {SILENT, "too many operations wait for the redis server"}
    assert len(took[SILENT]) == 150, "more waited than may"
    assert max(took[SILENT]) < 100 * PATIENCE, "they waited one after another"
    again = await asyncio.gather(*(ask() for _ in range(20)))
    assert max(seconds for _, seconds in again) < 20 * PATIENCE, "they waited one after another"
    why, seconds = await ask()
    assert (why, seconds < PATIENCE) == (SILENT, True), "it waits again for a server that has just not answered"
    beating = False
    await heart
    assert worst < PATIENCE, "the event loop stood still"
    own.resume()
    await works_again(store)
    await store.close()


@pytest.mark.threat("FI30")
async def test_while_a_server_cannot_be_reached_callers_do_not_wait_for_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(BINARIES[kind])
    store = opened(server)
    tried = 0
    dial = asyncio.open_connection

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal tried
        tried += 1
        return await dial(*args, **options)

    monkeypatch.setattr(asyncio, "open_connection", counted)
    start = time.monotonic()
    for _ in range(500):
        await refusal(lambda: store.get(["k"]))
    assert 1 <= tried <= 6 + (time.monotonic() - start) / LONGEST_PAUSE, "more than one in a pause tried it"
    try:
        await asyncio.to_thread(server.start)
        await works_again(store)
    finally:
        await store.close()
        server.kill()


@pytest.mark.threat("FI30")
async def test_a_server_that_ends_every_connection_is_tried_again_after_pauses_only() -> None:
    tried = 0

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        writer.close()

    async with served(end) as address:
        store = REDIS.open(address, StoreContext(audience="a"))
        start = time.monotonic()
        while tried < 4:
            await asyncio.gather(*(refusal(lambda: store.get(["k"])) for _ in range(20)))
            await asyncio.sleep(0.005)
        assert time.monotonic() - start > FIRST_PAUSE * (1 + 2 + 4) * 0.9, "it was tried again too soon"
        await store.close()


@pytest.mark.threat("FI30")
async def test_a_host_name_that_means_nothing_is_a_refusal() -> None:
    context = StoreContext(audience="a", settings=RedisSettings(timeout=10))
    store = REDIS.open("redis://:hunter2@no-such-host.invalid/0", context)
    assert "cannot be reached" in await refusal(lambda: store.now())
    await store.close()


# --- a lost reply -----------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI8", "N07")
@pytest.mark.parametrize("what", ["take", "swap", "add"])
async def test_an_operation_whose_reply_is_lost_is_an_error_and_is_never_sent_again(
    own: RedisServer, what: str
) -> None:
    direct = opened(own, "a")
    await direct.put("grant", b"v", 600)
    async with wired(own) as (wire, address):
        store = REDIS.open(address, StoreContext(audience="a"))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "take": lambda: store.take("grant"),
            "swap": lambda: store.swap("used", None, b"v", 600),
            "add": lambda: store.add([line()]),
        }
        await store.get(["grant"])
        for call in operations(direct):  # every script is known to the server
            await call()
        await direct.take("k")
        used = (await direct.add([line("k", 0)])).used[0]
        wire.cut, wire.commands = True, b""
        await refusal(calls[what])
        assert wire.commands.count(b"EVAL") == 1
        wire.cut = False
        await works_again(store)
        assert (await store.take("grant") is None) == (what == "take")
        assert (await store.get(["used"]) != [None]) == (what == "swap")
        assert (await store.add([line("k", 0)])).used[0] - used == (1 if what == "add" else 0)
        await store.close()
    await direct.close()


async def test_a_server_that_forgets_its_scripts_is_told_them_again(own: RedisServer) -> None:
    store = opened(own)
    for call in operations(store):
        await call()
        await asyncio.to_thread(own.ask, "SCRIPT", "FLUSH")
    await store.close()


# --- refusals of the server -------------------------------------------------------------------------------------------


@pytest.mark.threat("FI6", "N10")
async def test_a_replica_answers_nothing_since_it_may_be_stale(own: RedisServer) -> None:
    store = opened(own)
    await store.put("k", b"v", 600)
    await asyncio.to_thread(own.ask, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    await asyncio.to_thread(own.ask, "REPLICAOF", "127.0.0.1", free_port())
    for call in operations(store):
        assert await refusal(call) == "the redis server refuses the operation (READONLY)"
    await asyncio.to_thread(own.ask, "REPLICAOF", "NO", "ONE")
    await works_again(store)
    await store.close()


@pytest.mark.threat("FI6", "N05")
async def test_a_full_server_refuses_what_is_new_and_forgets_nothing(own: RedisServer) -> None:
    store = opened(own)
    await store.put("k", b"v", 600)
    await store.add([line(limit=1)])
    await asyncio.to_thread(own.ask, "CONFIG", "SET", "maxmemory", "1")
    writes = [
        lambda: store.put("n", b"v", 600),
        lambda: store.swap("n", None, b"v", 600),
        lambda: store.add([line("n")]),
        lambda: store.add([line("n"), line("m")]),
    ]
    for call in writes:
        assert await refusal(call) == "the redis server refuses the operation (OOM)"
    assert (await store.get(["k", "n"]))[1] is None
    assert not (await store.add([line(limit=1)])).ok
    assert (await store.add([line("m", 0)])).used == (0,)
    assert await store.take("k") == b"v"
    await asyncio.to_thread(own.ask, "CONFIG", "SET", "maxmemory", "0")
    await store.put("n", b"v", 600)
    await store.close()


@pytest.mark.threat("FI6")
@pytest.mark.parametrize("name", ["LOADING", "MOVED", "CLUSTERDOWN", "MISCONF", "NOREPLICAS", "BUSY", "hunter2"])
async def test_every_error_of_a_server_is_a_refusal_that_names_it(name: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(f"-{name} 1234 hunter2:6379\r\n".encode() * 4)
        writer.close()

    async with served(answer) as address:
        store = REDIS.open(address, StoreContext(audience="a"))
        for call in operations(store):
            why = await refusal(call)
            assert name == "hunter2" or why == f"the redis server refuses the operation ({name})"
        await store.close()


POLICIES = [f"{which}-{how}" for which in ("allkeys", "volatile") for how in ("lru", "lfu", "random")] + [
    "volatile-ttl"
]


@pytest.mark.threat("N05")
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_server_that_may_forget_limits_is_refused_unless_that_is_allowed_and_then_it_is_said_loudly(
    server: RedisServer, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory-policy", policy)
    try:
        strict, lax = opened(server), opened(server, allow_eviction=True)
        for call in operations(strict):
            why = await refusal(call)
            assert f"(maxmemory-policy {policy}); set noeviction there" in why
        caplog.clear()
        await lax.put("k", b"v", 600)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"its maxmemory-policy is {policy}, and allow_eviction is set" in caplog.text
        await asyncio.gather(strict.close(), lax.close())
    finally:
        await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.mark.threat("N05")
async def test_a_server_that_does_not_tell_whether_it_forgets_is_refused_unless_that_is_allowed(
    own: RedisServer,
) -> None:
    rights = ("on", ">hunter2", "~*", "&*", "+@all", "-info")
    await asyncio.to_thread(own.ask, "ACL", "SETUSER", "mail", *rights)
    strict = opened(own, user="mail:hunter2")
    lax = opened(own, user="mail:hunter2", allow_eviction=True)
    for call in operations(strict):
        assert "does not tell its maxmemory-policy; let this user run INFO" in await refusal(call)
    await lax.put("k", b"v", 600)
    await asyncio.gather(strict.close(), lax.close())


@pytest.mark.threat("N05")
async def test_a_used_up_limit_and_a_revocation_are_never_evicted_by_other_callers(kind: str) -> None:
    options = ("--maxmemory", "4mb", "--maxmemory-policy", "volatile-lru", "--maxmemory-samples", "10")
    with running(kind, *options) as full:
        lax, strict = opened(full, "a", allow_eviction=True), opened(full, "a")
        await lax.add([line("limit", 10)])
        await lax.put("revoked", b"v", 600)
        for number in range(100):
            await asyncio.gather(*(lax.add([line(f"{number} {caller} {'x' * 500}")]) for caller in range(100)))
        stats = await asyncio.to_thread(full.ask, "INFO", "stats")
        assert stats["evicted_keys"] > 100, "the server did not come to forget anything"
        await refusal(lambda: strict.add([line("limit")]))
        await refusal(lambda: strict.get(["revoked"]))
        await asyncio.gather(lax.close(), strict.close())
