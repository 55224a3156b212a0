"""The redis store on real servers: the contract, many clients at once, keys, time, event loops."""

from __future__ import annotations

import asyncio
import random
import secrets
import subprocess
import sys
import time
from typing import Any

import pytest
from contracted import StandingContract
from redis_server import RedisServer, line, opened

from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Added, Namespaced, Store


class TestContract(StandingContract):
    """The contract on each kind of server."""

    server: RedisServer

    @pytest.fixture(autouse=True)
    def on(self, server: RedisServer) -> None:
        self.server = server

    def opened(self, audience: str) -> Store:
        return opened(self.server, audience)


def keys_of(server: RedisServer, audience: str) -> list[bytes]:
    return [key for key in server.ask("KEYS", "*") if key.startswith(f"mcpm:{{{audience}}}:".encode())]


# --- together ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("N07")
async def test_of_two_hundred_takers_on_two_clients_one_gets_the_value(server: RedisServer) -> None:
    one, two = opened(server, "takers"), opened(server, "takers")
    await one.put("k", b"grant", 600)
    taken = await asyncio.gather(*(each.take("k") for each in [one, two] * 100))
    assert [value for value in taken if value is not None] == [b"grant"]
    await asyncio.gather(one.close(), two.close())


CHARGER = """
import asyncio, sys
from mcp_macaroon_middleware.builtin.redis_store import REDIS
from mcp_macaroon_middleware.plugin import Amount, StoreContext

async def main():
    store = REDIS.open(sys.argv[1], StoreContext(audience=sys.argv[2]))
    await store.now()
    print("ready", flush=True)
    sys.stdin.readline()
    line = Amount(key="limit", amount=1, limit=10, window=600.0)
    answers = await asyncio.gather(*(store.add([line]) for _ in range(25)))
    print(sum(answer.ok for answer in answers))
    await store.close()

asyncio.run(main())
"""


@pytest.mark.threat("K02")
def test_of_fifty_charges_by_two_processes_exactly_the_limit_passes(server: RedisServer) -> None:
    command = [sys.executable, "-c", CHARGER, server.url(), secrets.token_hex(8)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    assert sum(int(each.communicate(timeout=30)[0]) for each in both) == 10


@pytest.mark.threat("N08")
@pytest.mark.parametrize("other", ["ab", "a}", "{a", "a}:v:", "A", "a%7D", "a:", "\u202ea", "a\x00", "a\ud800"])
async def test_two_audiences_share_nothing(server: RedisServer, other: str) -> None:
    await asyncio.to_thread(server.ask, "FLUSHALL")
    one, two = opened(server, "a"), opened(server, other)
    for key in ("", "k", "v:k", "}:v:k", "i", "x"):
        await one.put(key, b"one", 600)
        await one.add([line(key)])
        assert await two.take(key) is None
        assert await two.swap(key, None, b"two", 600)
        assert (await two.add([line(key, 0)])).used == (0,)
        await two.take(key)
    assert await two.scan("", None, 100) == ([], None)
    assert len((await one.scan("", None, 100))[0]) == 6
    await asyncio.gather(one.close(), two.close())


async def test_a_version_that_never_was_sets_nothing(server: RedisServer) -> None:
    store = opened(server)
    for version in ("", "-", "0" * 32, "\ud800"):
        assert not await store.swap("k", version, b"v", 600)
    await store.put("k", b"v", 600)
    for version in (None, "", "-", "0" * 32, "\ud800"):
        assert not await store.swap("k", version, b"w", 600)
    await store.close()


# --- keys and time ----------------------------------------------------------------------------------------------------


@pytest.mark.threat("K07", "K08")
async def test_every_key_has_a_ttl_after_every_kind_of_work(server: RedisServer) -> None:
    store, chance = opened(server, "work"), random.Random(7)
    for number in range(400):
        key = str(chance.randrange(40))
        ttl = chance.choice([0.001, 0.05, 10, 600, 1e12])
        entry = (await store.get([key]))[0]
        await chance.choice(
            [
                lambda key=key, ttl=ttl: store.put(key, b"v", ttl),
                lambda key=key, ttl=ttl, entry=entry: store.swap(key, entry and entry.version, b"w", ttl),
                lambda key=key: store.take(key),
                lambda key=key, ttl=ttl: store.add([line(key, 2, 50, ttl), line("all", 1, 10**6, ttl)]),
                lambda number=number: store.scan("", None, 1 + number % 7),
            ]
        )()
    await store.close()
    found = keys_of(server, "work")
    assert len(found) > 20
    ttls = {key: server.ask("PTTL", key) for key in found}
    assert {key: ttl for key, ttl in ttls.items() if ttl == -1} == {}


@pytest.mark.threat("K08", "P03")
async def test_nothing_is_left_of_what_has_ended(server: RedisServer) -> None:
    store = opened(server, "ended")
    await asyncio.gather(*(store.put(f"short{number}", b"v", 0.05) for number in range(160)))
    await store.put("long", b"v", 600)
    await asyncio.sleep(0.1)
    for _ in range(10):
        await store.put("long", b"v", 600)
    assert await asyncio.to_thread(server.ask, "ZCARD", "mcpm:{ended}:i") == 1
    assert await asyncio.to_thread(server.ask, "ZCARD", "mcpm:{ended}:x") == 1
    await store.take("long")
    await asyncio.sleep(0.05)
    assert keys_of(server, "ended") == []
    await store.close()


async def test_the_index_lives_as_long_as_what_lives_longest(server: RedisServer) -> None:
    store = opened(server, "index")
    for key, ttl, least in (("a", 0.05, 50), ("b", 600, 600_000), ("c", 0.05, 600_000), ("d", 900, 900_000)):
        await store.put(key, b"v", ttl)
        for name in "ix":
            assert await asyncio.to_thread(server.ask, "PTTL", f"mcpm:{{index}}:{name}") > least
    await store.close()


@pytest.mark.threat("K05")
async def test_the_clock_of_an_instance_does_not_matter(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = opened(server, "clock"), opened(server, "clock")
    assert (await one.add([line(limit=1)])).ok
    await one.put("k", b"v", 600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3000)
    assert not (await two.add([line(limit=1)])).ok
    assert (await two.get(["k"]))[0] is not None
    assert abs(await two.now() - real()) < 5
    await asyncio.gather(one.close(), two.close())


async def test_what_is_larger_than_the_server_can_count_is_refused_and_never_forgotten_early(
    server: RedisServer,
) -> None:
    store = opened(server)
    assert await store.add([line("k", 2**60, 2**70)]) == Added(ok=False, used=(0,), retry_after=None)
    assert (await store.add([line("k", 2**53 - 2, 2**70)])).used == (2**53 - 2,)
    assert (await store.add([line("k", 1, 2**70)])).used == (2**53 - 1,)
    assert not (await store.add([line("k", 1, 2**70)])).ok
    assert (await store.add([line("long", 1, 1, 1e300)])).ok
    assert not (await store.add([line("long", 1, 1, 1e300)])).ok
    await store.put("k", b"v", 1e300)
    assert (await store.get(["k"]))[0] is not None
    assert await store.add([]) == Added(ok=True, used=())
    await store.close()


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
async def test_a_ttl_that_is_no_span_of_time_is_an_error(server: RedisServer, ttl: float) -> None:
    store = opened(server)
    with pytest.raises(ValueError, match="ttl"):
        await store.put("k", b"v", ttl)
    with pytest.raises(ValueError, match="ttl"):
        await store.swap("k", None, b"v", ttl)
    with pytest.raises(ValueError, match="window"):
        await store.add([line(window=ttl)])
    assert await store.get(["k"]) == [None]
    await store.close()


async def test_keys_are_any_text_and_come_back_as_they_were(server: RedisServer) -> None:
    store = Namespaced(opened(server), "a plugin")
    keys = ["\ud800", "a\udfff", "\x00", "\xff", "\U0010ffff", "", "é", "k" * 5000]
    for key in keys:
        await store.put(key, key.encode("utf-8", "surrogatepass"), 600)
    page, cursor = await store.scan("", None, 100)
    assert ([key for key, _ in page], cursor) == (sorted(keys), None)
    await store._Namespaced__inner.close()  # type: ignore[attr-defined]


@pytest.mark.threat("N11")
async def test_scan_is_paged_in_the_order_of_keys_whatever_ends_meanwhile(server: RedisServer) -> None:
    store = opened(server)
    await store.put("b", b"before them all", 600)
    await asyncio.gather(*(store.put(f"p:{number:05}", b"v" * 10_000, 600) for number in range(180)))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.scan("p:", cursor, 50)
        seen += [key for key, _ in page]
        await store.take(seen[-1])  # the cursor is a key that need not be there any more
        if cursor is None:
            break
    assert seen == [f"p:{number:05}" for number in range(180)]
    assert (await store.scan("p:", "a", 2))[0][0][0] == "p:00000"
    assert await store.scan("p:", "q", 2) == ([], None)
    with pytest.raises(ValueError, match="page"):
        await store.scan("", None, 0)
    await store.close()


async def test_a_page_of_large_values_is_cut_short(server: RedisServer) -> None:
    store = opened(server)
    for number in range(12):
        await store.put(str(number), bytes(1_000_000), 600)
    page, cursor = await store.scan("", None, 100)
    assert 1 <= len(page) < 12
    assert cursor == page[-1][0]
    await store.close()


# --- loops and the end ------------------------------------------------------------------------------------------------


def connections(server: RedisServer) -> int:
    return len(server.ask("CLIENT", "LIST").splitlines()) - 1


def test_one_store_serves_one_event_loop_after_another(server: RedisServer) -> None:
    before, store = connections(server), opened(server)
    asyncio.run(store.put("k", b"v", 600))
    for _ in range(3):
        assert asyncio.run(store.take("k")) == b"v"
        asyncio.run(store.put("k", b"v", 600))
    assert connections(server) == before, "an ended event loop left a connection behind"
    asyncio.run(store.close())
    with pytest.raises(StoreUnavailable, match="closed"):
        asyncio.run(store.take("k"))


async def test_closing_ends_what_is_under_way_and_leaves_no_connection(server: RedisServer) -> None:
    before, store = await asyncio.to_thread(connections, server), opened(server)
    await store.put("k", b"v", 600)
    waiting = [asyncio.ensure_future(store.get(["k"])) for _ in range(100)]
    await asyncio.sleep(0)
    await store.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {StoreUnavailable, list}
    assert isinstance(answers[-1], StoreUnavailable)
    assert await asyncio.to_thread(connections, server) == before


async def test_calls_that_are_cancelled_never_mix_up_answers(server: RedisServer) -> None:
    store, chance = opened(server), random.Random(3)
    for number in range(40):
        await store.put(str(number), str(number).encode() * 1000, 600)
    for _ in range(20):
        asked = [chance.randrange(40) for _ in range(100)]
        calls = [asyncio.ensure_future(store.get([str(number)])) for number in asked]
        for call in chance.sample(calls, 60):
            asyncio.get_running_loop().call_later(chance.random() / 50, call.cancel)
        for number, answer in zip(asked, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if not isinstance(answer, BaseException):
                assert answer[0] is not None
                assert answer[0].value == str(number).encode() * 1000
            else:
                assert isinstance(answer, asyncio.CancelledError)
    await store.close()


def test_redis_is_imported_only_by_those_who_open_such_a_store() -> None:
    code = (
        "import sys; from mcp_macaroon_middleware import builtin; builtin.macaroon_stores();"
        "sys.exit(any(name.partition('.')[0] == 'redis' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
