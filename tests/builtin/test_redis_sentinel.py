"""The redis store on a real master that sentinels watch: failover, copies, sentinels that are gone, refusals."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracted import StandingContract
from redis_many import SentinelServers, running_sentinels, until
from redis_server import BINARIES, certificates, free_port, line, operations, refusal

from mcp_macaroon_middleware.builtin.redis_address import read_sentinels
from mcp_macaroon_middleware.builtin.redis_store import SENTINEL, SENTINELS, RedisSettings
from mcp_macaroon_middleware.errors import PluginError, StoreUnavailable
from mcp_macaroon_middleware.plugin import Store, StoreContext


@pytest.fixture(params=sorted(BINARIES))
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SentinelServers]:
    """A master, its copy and three sentinels, for one test."""
    with running_sentinels(request.param, tmp_path) as made:
        yield made


@pytest.fixture(scope="module", params=sorted(BINARIES))
def steady(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    """The same, for a module: whoever uses it changes nothing there."""
    with running_sentinels(request.param, tmp_path_factory.mktemp("sentinels")) as made:
        yield made


class TestContract(StandingContract):
    """The contract on a watched master of each kind."""

    servers: SentinelServers

    @pytest.fixture(autouse=True)
    def on(self, steady: SentinelServers) -> None:
        self.servers = steady

    def opened(self, audience: str) -> Store:
        return self.servers.opened(audience)


async def works_again(store: Store, seconds: float = 40.0) -> float:
    """How long it takes until the store answers."""
    began = time.monotonic()
    while True:
        try:
            await store.put("again", b"v", 600)
        except StoreUnavailable:
            assert time.monotonic() - began < seconds, "it does not return"
            await asyncio.sleep(0.05)
        else:
            return time.monotonic() - began


@pytest.mark.threat("N04", "FI1")
async def test_when_the_master_dies_its_copy_serves_what_was_acknowledged(watched: SentinelServers) -> None:
    store = watched.opened("mail", replicas=1)
    for number in range(20):
        await store.put(f"k{number}", b"1", 600)
    assert await store.take("k0") == b"1"
    assert (await store.add([line("limit", 10)])).ok
    watched.master.kill()
    began = time.monotonic()
    for call in operations(store):
        await refusal(call)
    assert time.monotonic() - began < 15, "they were waited for"
    weak = watched.opened("mail")  # nobody is left to copy what is written now
    await works_again(weak)
    assert await weak.take("k0") is None, "what was used stays used"
    assert not (await weak.add([line("limit")])).ok, "what was charged stays charged"
    assert None not in await weak.get([f"k{number}" for number in range(1, 20)])
    assert watched.copy.ask("ROLE")[0] == b"master"
    await asyncio.gather(store.close(), weak.close())


@pytest.mark.threat("N04", "FI8")
async def test_a_write_that_no_copy_has_is_refused_where_one_must_have_it_and_counts_as_done(
    watched: SentinelServers,
) -> None:
    strict, weak = watched.opened("mail", replicas=1), watched.opened("mail")
    await strict.put("grant", b"1", 600)
    watched.copy.pause()
    try:
        assert await refusal(lambda: strict.take("grant")) == "fewer than 1 replicas of the redis server have the write"
        assert await weak.take("grant") is None, "in doubt, it is used"
        assert await weak.get(["grant"]) == [None]
        assert await strict.get(["grant"]) == [None], "reading waits for no copy"
    finally:
        watched.copy.resume()
    await works_again(strict)
    await asyncio.gather(strict.close(), weak.close())


@pytest.mark.threat("FI6")
async def test_a_master_that_becomes_a_copy_is_left_for_the_new_one(watched: SentinelServers) -> None:
    store = watched.opened("mail")
    await asyncio.gather(*(store.put(f"k{number}", b"1", 600) for number in range(50)))
    assert watched.master.ask("WAIT", 1, 5000) == 1
    await asyncio.to_thread(until, lambda: watched.sentinels[0].ask("SENTINEL", "FAILOVER", "store"))
    await asyncio.to_thread(until, lambda: watched.master.ask("ROLE")[0] == b"slave")
    await works_again(store)
    for call in operations(store):
        await call()
    assert (await store.get(["k7"]))[0] is not None
    assert watched.copy.ask("ROLE")[0] == b"master"
    await store.close()


async def test_a_sentinel_that_is_gone_or_names_a_copy_is_not_the_last_word(watched: SentinelServers) -> None:
    watched.sentinels[0].kill()
    watched.sentinels[1].pause()
    store = watched.opened("mail")
    await store.put("k", b"v", 600)
    await store.close()
    watched.sentinels[1].resume()
    liar = watched.sentinels[1]
    liar.ask("SENTINEL", "REMOVE", "store")
    liar.ask("SENTINEL", "MONITOR", "store", "127.0.0.1", watched.copy.port, 3)
    hosts = f"127.0.0.1:{liar.port},127.0.0.1:{watched.sentinels[2].port}"
    told = SENTINEL.open(f"redis+sentinel://{hosts}/store", StoreContext(audience="mail"))
    await works_again(told)
    assert (await told.get(["k"]))[0] is not None
    assert watched.copy.ask("ROLE")[0] == b"slave"
    await told.close()


async def test_a_name_that_no_sentinel_knows_and_sentinels_that_are_gone_are_told_apart(
    watched: SentinelServers,
) -> None:
    store = watched.opened("mail", name="other")
    assert await refusal(lambda: store.get(["k"])) == "the sentinels know no redis master of that name"
    await store.close()
    ports = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    lost = SENTINEL.open(f"redis+sentinel://u:hunter2@{ports}/store", StoreContext(audience="hunter2"))
    assert repr(lost) == "RedisStore(redis+sentinel://…)"
    for call in operations(lost):
        assert await refusal(call) == "no redis sentinel can be reached"
    await lost.close()


async def test_sentinels_have_a_user_of_their_own(watched: SentinelServers) -> None:
    audience = secrets.token_hex(4)
    watched.master.ask("CONFIG", "SET", "requirepass", "hunter2")
    watched.copy.ask("CONFIG", "SET", "masterauth", "hunter2")
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "SET", "store", "auth-pass", "hunter2")
        sentinel.ask("ACL", "SETUSER", "default", "resetpass", ">watcher")
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
    context = StoreContext(audience=audience, settings=RedisSettings())
    store = SENTINEL.open(f"redis+sentinel://:hunter2@{hosts}/store?sentinel_password=watcher", context)
    await store.put("k", b"v", 600)
    await store.close()
    wrong = SENTINEL.open(f"redis+sentinel://:hunter2@{hosts}/store?sentinel_password=hunter2", context)
    assert await refusal(lambda: wrong.get(["k"])) == "no redis sentinel can be reached"
    await wrong.close()


@pytest.mark.threat("N12", "FI30")
async def test_over_tls_sentinels_and_master_must_show_a_certificate_that_we_trust(tmp_path: Path) -> None:
    if "redis" not in BINARIES:
        pytest.skip("no redis-server here, which speaks TLS")
    files = certificates(tmp_path)
    with running_sentinels("redis", tmp_path, files) as watched:
        store = watched.opened("mail")
        await asyncio.gather(*(store.put(f"k{number}", b"v", 600) for number in range(40)))
        watched.master.kill()
        await works_again(store)
        assert watched.copy.ask("ROLE")[0] == b"master", "the copy serves, over TLS as well"
        await store.close()
        for address in (watched.address().partition("?")[0], watched.address().partition("?")[0].replace("ss+", "s+")):
            scheme = SENTINELS if address.startswith("rediss") else SENTINEL
            other = scheme.open(address, StoreContext(audience="mail"))
            assert await refusal(lambda other=other: other.get(["k1"])) == "no redis sentinel can be reached"
            await other.close()


@pytest.mark.parametrize(
    "address",
    [
        "redis+sentinel://",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel://a,/m",
        "redis+sentinel://a/m/x",
        "redis+sentinel://a/m/0/1",
        "redis+sentinel://u:hunter2@a:0/m",
        "redis+sentinel://a/m?hunter2=1",
        "redis+sentinel://a/m?sentinel_password=hunter2&sentinel_password=hunter2",
        "redis+sentinel://a/m#hunter2",
        "redis+cluster://a/m",
    ],
)
def test_an_address_that_cannot_be_read_whole_is_refused_and_never_shown(address: str) -> None:
    with pytest.raises(PluginError) as refused:
        SENTINEL.open(address, StoreContext(audience="a"))
    assert "hunter2" not in str(refused.value)


def test_an_address_says_who_is_asked_and_for_what() -> None:
    read = read_sentinels(
        "rediss+sentinel://bob:a%40b@one,two:7/my%20master/3?sentinel_username=w&sentinel_password=p%2F", Path()
    )
    assert [(each.host, each.port, each.username, each.password, each.tls) for each in read.sentinels] == [
        ("one", 26379, "w", "p/", True),
        ("two", 7, "w", "p/", True),
    ]
    assert read.name == "my master"
    master = read.at("10.0.0.1", 6380)
    assert (master.host, master.port, master.database) == ("10.0.0.1", 6380, 3)
    assert (master.username, master.password, master.tls) == ("bob", "a@b", True)
    assert "a@b" not in repr(read)
    assert "p/" not in repr(read)
