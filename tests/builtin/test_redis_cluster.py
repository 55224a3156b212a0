"""The redis store on a real cluster of three masters: the contract, where keys lie, moved slots, failover, refusals."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from contracted import StandingContract
from lab import ALICE
from redis.crc import key_slot
from redis_many import ClusterOfServers, running_cluster
from redis_server import BINARIES, RedisServer, certificates, line, opened, operations, refusal

from mcp_macaroon_middleware.builtin.redis_parts import Parts
from mcp_macaroon_middleware.builtin.redis_store import CLUSTER, CLUSTERS
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import ConfigError, PluginError, StoreUnavailable
from mcp_macaroon_middleware.model import Component, Kind, RequestContext
from mcp_macaroon_middleware.model.subjects import place_of
from mcp_macaroon_middleware.plugin import Store, StoreContext
from mcp_macaroon_middleware.tokens import mint, verify


@pytest.fixture(scope="module", params=["valkey", "redis"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOfServers]:
    """Three masters, for a module."""
    if request.param not in BINARIES:
        pytest.skip(f"no {request.param} server here")
    with running_cluster(request.param, tmp_path_factory.mktemp("cluster")) as made:
        yield made


class TestContract(StandingContract):
    """The contract on a cluster of each kind; a second store learns the nodes from one of them."""

    cluster: ClusterOfServers

    @pytest.fixture(autouse=True)
    def on(self, cluster: ClusterOfServers) -> None:
        self.cluster = cluster

    def opened(self, audience: str) -> Store:
        return self.cluster.opened(audience)

    def beside(self, audience: str) -> Store:
        return self.cluster.opened(audience, nodes=1)


@asynccontextmanager
async def using(cluster: ClusterOfServers, **settings: Any) -> AsyncIterator[tuple[Store, str]]:
    audience = secrets.token_hex(8)
    store = cluster.opened(audience, **settings)
    yield store, audience
    await store.close()


def tagged(count: int) -> list[str]:
    """Keys of so many principals."""
    return [f"grant/{place_of(str(number))}/{number}" for number in range(count)]


async def held(call: Callable[[], Awaitable[object]], seconds: float = 30.0) -> object:
    """What `call` returns as soon as it succeeds."""
    end = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except StoreUnavailable:
            assert time.monotonic() < end, "it does not return"
            await asyncio.sleep(0.05)


# --- where keys lie ---------------------------------------------------------------------------------------------------


async def test_a_principals_keys_share_a_slot_what_is_nobodys_has_another_and_all_have_an_end(
    cluster: ClusterOfServers,
) -> None:
    async with using(cluster) as (store, audience):
        keys = tagged(200)
        for key in keys:
            await store.put(key, b"v", 600)
            await store.put(key.replace("grant/", "decline/"), b"v", 600)
            tag = key.split("/")[1]
            assert (await store.add([line(f"limit/{tag}/a"), line(f"limit/{tag}/b")])).ok
        await store.put("epoch", b"v", 600)
        counts = []
        for node in cluster.masters:
            there = [name for name in node.ask("KEYS", "*") if name.startswith(f"mcpm:{{{audience}/".encode())]
            counts.append(len(there))
            for name in there:
                assert 0 < node.ask("PTTL", name) < 700_000, name
        assert min(counts) > 100, counts
        parts = Parts(audience, spread=True)
        for key in keys:
            names = {part.base for part in (parts.of(key), parts.of(key.replace("grant/", "decline/")))}
            assert len(names) == 1
            assert key_slot(parts.of(key).base) != key_slot(parts.server.base)
        (found,) = await store.get(["epoch"])
        assert found is not None


async def test_entries_of_all_parts_are_read_in_their_order_in_one_go(cluster: ClusterOfServers) -> None:
    async with using(cluster) as (store, _):
        keys = [*tagged(50), "epoch", "absent"]
        for key in keys[:-1]:
            await store.put(key, key.encode(), 600)
        found = await store.get(list(reversed(keys)))
        assert found[0] is None
        assert [entry.value for entry in found[1:] if entry is not None] == [
            key.encode() for key in reversed(keys[:-1])
        ]


@pytest.mark.threat("N11")
async def test_a_list_over_all_parts_has_every_entry_once(cluster: ClusterOfServers) -> None:
    async with using(cluster) as (store, _):
        keys = tagged(300)
        await asyncio.gather(*(store.put(key, b"v", 600) for key in keys[:150]))
        await asyncio.gather(*(store.put(key, b"v", 600) for key in keys[150:]))
        await store.put("other", b"v", 600)
        for size in (1, 7, 1000):
            seen: list[str] = []
            cursor, pages = None, 0
            while pages == 0 or cursor is not None:
                page, cursor = await store.scan("grant/", cursor, size)
                assert len(page) <= size
                seen += [key for key, _ in page]
                pages += 1
            assert sorted(seen) == sorted(keys)
        with pytest.raises(ValueError, match="cursor"):
            await store.scan("grant/", "nonsense", 10)


async def test_a_charge_over_two_parts_is_refused_and_charges_nothing(cluster: ClusterOfServers) -> None:
    async with using(cluster) as (store, _):
        with pytest.raises(StoreUnavailable, match="cannot be charged at once") as refused:
            await store.add([line("limit/{a}"), line("limit")])
        assert refused.value.code == "limits_apart"
        assert (await store.add([line("limit/{a}", 0)])).used == (0,)


# --- together ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat("FI9", "N07")
async def test_of_two_hundred_takers_one_gets_it_and_of_fifty_charges_ten_are_made(cluster: ClusterOfServers) -> None:
    async with using(cluster, max_waiting=1000) as (store, audience):
        other = cluster.opened(audience, max_waiting=1000)
        for key in ("grant", *tagged(3)):
            await store.put(key, b"grant", 600)
            taken = await asyncio.gather(*(each.take(key) for each in [store, other] * 100))
            assert [value for value in taken if value is not None] == [b"grant"]
            answers = await asyncio.gather(*(each.add([line(f"limit/{key}")]) for each in [store, other] * 25))
            assert sum(answer.ok for answer in answers) == 10
        await other.close()


# --- slots that move --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def moving(cluster: ClusterOfServers, key: str, audience: str) -> AsyncIterator[Callable[..., None]]:
    """A slot on its way: what is yielded carries its keys over, all or only one; in the end it has arrived."""
    slot = key_slot(Parts(audience, spread=True).of(key).base)
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters if node is not source)
    names = {node: node.ask("CLUSTER", "MYID").decode() for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])

    def carry(*chosen: bytes) -> None:
        for name in chosen or source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.ask("MIGRATE", "127.0.0.1", target.port, name, 0, 5000)

    yield carry
    carry()
    for node in (target, source, *cluster.masters):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])


@pytest.mark.threat("FI6")
@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_slot_on_its_way_is_refused_and_when_it_has_arrived_nothing_is_lost_or_done_twice(
    cluster: ClusterOfServers, all_of_it: bool
) -> None:
    async with using(cluster) as (store, audience):
        fresh = cluster.opened(audience)
        key = tagged(2)[all_of_it]
        await store.put(key, b"1", 600)
        assert (await store.add([line(f"limit/{key}", 3)])).ok
        async with moving(cluster, key, audience) as carry:
            carry(*(() if all_of_it else (Parts(audience, spread=True).of(key).index,)))
            for each in (store, fresh):
                assert await refusal(lambda each=each: each.take(key)) in (
                    "the redis server refuses the operation (ASK)",
                    "the redis server refuses the operation (TRYAGAIN)",
                )
        assert (await fresh.get([key]))[0] is not None
        assert (await store.add([line(f"limit/{key}", 3)])).used == (6,)
        assert await store.take(key) == b"1"
        assert await fresh.take(key) is None
        await fresh.close()


async def test_a_node_that_has_moved_slots_and_forgot_its_scripts_costs_no_call(cluster: ClusterOfServers) -> None:
    async with using(cluster) as (store, audience):
        keys = tagged(10)
        for key in keys:
            await store.put(key, b"1", 600)
        for key in keys[:5]:
            async with moving(cluster, key, audience):
                pass
        for node in cluster.masters:
            node.ask("SCRIPT", "FLUSH")
        for key in keys:
            assert await store.take(key) == b"1"


# --- nodes that end ---------------------------------------------------------------------------------------------------


@pytest.mark.threat("N04", "FI1")
@pytest.mark.parametrize("kind", sorted(BINARIES))
async def test_when_a_master_dies_its_copy_serves_what_was_acknowledged(kind: str, tmp_path: Path) -> None:
    with running_cluster(kind, tmp_path, copies=1) as cluster:
        async with using(cluster, nodes=4) as (store, audience):
            strict = cluster.opened(audience, nodes=4, replicas=1)
            parts = Parts(audience, spread=True)
            mine = [key for key in tagged(60) if cluster.owner(key_slot(parts.of(key).base)) is cluster.masters[0]]
            others = [key for key in tagged(60) if key not in mine]
            for key in mine[:5]:
                await strict.put(key, b"1", 600)
                assert (await strict.add([line(f"limit/{key}", 10)])).ok
            assert await strict.take(mine[0]) == b"1"
            await asyncio.sleep(0.3)
            cluster.masters[0].kill()
            began = time.monotonic()
            await refusal(lambda: store.get([mine[1]]))
            assert time.monotonic() - began < 10
            await held(lambda: store.put(others[0], b"2", 600))
            (found,) = await held(lambda: store.get([mine[1]]))  # type: ignore[misc]
            assert found is not None
            assert await store.take(mine[0]) is None, "what was used stays used"
            assert not (await store.add([line(f"limit/{mine[0]}")])).ok, "what was charged stays charged"
            await strict.close()


async def test_a_node_that_hangs_holds_up_nothing_of_the_others(tmp_path: Path, kind: str) -> None:
    with running_cluster(kind, tmp_path) as cluster:
        async with using(cluster, timeout=1.0, nodes=3) as (store, audience):
            parts = Parts(audience, spread=True)
            keys = tagged(60)
            owners = {key: cluster.owner(key_slot(parts.of(key).base)) for key in keys}
            hung = next(key for key in keys if owners[key] is cluster.masters[0])
            free = next(key for key in keys if owners[key] is cluster.masters[1])
            await store.get(keys)
            cluster.masters[0].pause()
            began = time.monotonic()
            await refusal(lambda: store.get([hung]))
            assert time.monotonic() - began < 10, "it was waited for"
            await store.get([free])
            cluster.masters[0].resume()
            await asyncio.to_thread(cluster.settled)
            await held(lambda: store.get([hung]))


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_a_node_is_not_taken_for_a_server_nor_a_server_for_a_node(
    cluster: ClusterOfServers, own: RedisServer
) -> None:
    plain = opened(cluster.masters[0])
    for call in operations(plain):
        assert "write redis+cluster://" in await refusal(call)
    await plain.close()
    store = CLUSTER.open(f"redis+cluster://127.0.0.1:{own.port}", StoreContext(audience="a"))
    for call in operations(store):
        assert "write redis://" in await refusal(call)
    await store.close()


@pytest.mark.threat("N12", "FI30")
async def test_over_tls_every_node_must_show_a_certificate_that_we_trust(tmp_path: Path) -> None:
    if "redis" not in BINARIES:
        pytest.skip("no redis-server here, which speaks TLS")
    with running_cluster("redis", tmp_path, tls=certificates(tmp_path)) as cluster:
        async with using(cluster, nodes=1) as (store, _):
            keys = tagged(60)
            await asyncio.gather(*(store.put(key, b"v", 600) for key in keys))
            assert None not in await store.get(keys)
            assert min(len(node.ask("KEYS", "mcpm:*")) for node in cluster.masters) > 0, "every node was spoken to"
        doubting = cluster.address().partition("?")[0]
        for address in (doubting, doubting.replace("rediss", "redis")):
            other = (CLUSTERS if address.startswith("rediss") else CLUSTER).open(address, StoreContext(audience="a"))
            assert "cannot be reached" in await refusal(lambda other=other: other.get(["k"]))
            await other.close()


async def test_a_cluster_that_cannot_be_reached_is_an_error_of_ours_that_shows_nothing(
    cluster: ClusterOfServers,
) -> None:
    where = "redis+cluster://user:hunter2@127.0.0.1:1,127.0.0.1:2"
    store = CLUSTER.open(where, StoreContext(audience="hunter2"))
    assert repr(store) == "RedisStore(redis+cluster://…)"
    for call in operations(store):
        await refusal(call)
    await store.close()
    assert await refusal(lambda: store.get(["k"])) == "the redis store is closed"


@pytest.mark.parametrize(
    "address",
    [
        "redis+cluster://",
        "redis+cluster://a,",
        "redis+cluster://a,,b",
        "redis+cluster://u:hunter2@a:0",
        "redis+cluster://a/1",
        "redis+cluster://a#x",
        "redis+cluster://a?ssl_ca_certs=x",
        "rediss+cluster://a?ssl_cert_reqs=none",
    ],
)
def test_an_address_that_cannot_be_read_whole_is_refused_and_never_shown(address: str) -> None:
    with pytest.raises(PluginError) as refused:
        CLUSTER.open(address, StoreContext(audience="a"))
    assert "hunter2" not in str(refused.value)


# --- limits over two parts --------------------------------------------------------------------------------------------


def ruled(cluster: ClusterOfServers, *rules: object, **config: object) -> Runtime:
    settings = {
        "secret_key": "0123456789abcdef" * 4,
        "audience": secrets.token_hex(4),
        "default": "allow",
        "store": cluster.address(),
        **config,
    }
    return load_runtime({"config": settings, "policies": list(rules)})


def together(target: str, per: str = "server") -> dict[str, object]:
    """A limit that several principals share."""
    params = {"limits": "2/hour", "per": per}
    return {"before": target, "policy": "rate_limit", "action": "allow", "params": params}


def request(*names: str) -> RequestContext:
    return RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name=names[0], names=names))


def test_limits_that_cannot_be_charged_at_once_stop_the_start(cluster: ClusterOfServers) -> None:
    with pytest.raises(ConfigError, match="cannot be charged at once"):
        ruled(cluster, "bf:send:rate_limit:allow:10/hour", together("*"))


async def test_limits_on_different_tools_begin_and_both_hold(cluster: ClusterOfServers) -> None:
    runtime = ruled(cluster, "bf:read:rate_limit:allow:1/hour", together("send"))
    codes = []
    for name in ("read", "read", "send", "send", "send"):
        decision = await runtime.engine.decide(request(name))
        codes.append(decision.refusal.code if decision.refusal is not None else "ok")
    assert codes == ["ok", "rate_limited", "ok", "ok", "rate_limited"]
    await runtime.close()


async def test_where_tokens_are_accepted_a_limit_that_no_token_of_theirs_could_stand_beside_stops_the_start(
    cluster: ClusterOfServers,
) -> None:
    with pytest.raises(ConfigError, match="the limits that a token may carry") as refused:
        ruled(cluster, together("send"), tokens={})
    assert [diagnostic.code for diagnostic in refused.value.diagnostics] == ["limits_apart"]
    runtime = ruled(cluster, "bf:send:rate_limit:allow:10/hour", tokens={})
    minted = mint(
        runtime.keys, subject="alice", audience=runtime.settings.audience, caveats=["bf:*:rate_limit:allow:1/hour"]
    )
    token = verify(runtime.keys, minted, audience=runtime.settings.audience)
    first, second = [await runtime.engine.decide(request("send"), token=token) for _ in range(2)]
    assert first.allowed
    assert second.refusal is not None
    assert second.refusal.code == "rate_limited"
    await runtime.close()


async def test_a_tool_that_bears_two_ruled_names_is_refused_with_a_reason_and_no_limit_is_charged(
    cluster: ClusterOfServers,
) -> None:
    runtime = ruled(cluster, "bf:send:rate_limit:allow:1/hour", together("mail_send"))
    decision = await runtime.engine.decide(request("mail_send", "send"))
    assert decision.refusal is not None
    assert decision.refusal.code == "limits_apart"
    assert "cannot be counted together" in decision.refusal.reason
    for name in ("send", "mail_send"):
        assert (await runtime.engine.decide(request(name))).allowed
    await runtime.close()
