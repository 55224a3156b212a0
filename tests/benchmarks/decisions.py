"""What one decision adds by the kind of its rule and the store it counts in: real stores, real clients, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from measuring import Bench, Row, caller, cells, guarded, heads, interleaved, server
from redis_many import SentinelServers, running_cluster, running_sentinels
from redis_server import BINARIES, running

ALLOW = "bf:tool_0:tool_access:allow"
KINDS: dict[str, list[Any]] = {
    "`tool_access`": [ALLOW],
    "`argument_range`": [ALLOW, "bf:tool_0:argument_range:allow:id:0:1000000"],
    "`field_access`": [ALLOW, "af:tool_0:field_access:deny:ssn"],
    "`rate_limit`": [ALLOW, "bf:tool_0:rate_limit:allow:100000000/day"],
    "`elicit`, a grant stands": ["bf:tool_0:tool_access:elicit"],
}


@contextmanager
def stores(bench: Bench) -> Iterator[dict[str, str]]:
    """The address of every store that this machine has, by name."""
    with ExitStack() as stack:
        found = {"memory": "memory", "sqlite": f"sqlite:///{bench.folder / 'bench.db'}"}
        for name in sorted(BINARIES):
            found[name] = stack.enter_context(running(name)).url()
        yield found


@contextmanager
def several(bench: Bench) -> Iterator[dict[str, str]]:
    """The addresses of a watched master and of a cluster of three, where there is a server to make them of."""
    with ExitStack() as stack:
        found: dict[str, str] = {}
        for kind in sorted(BINARIES)[:1]:
            (bench.folder / "watched").mkdir()
            (bench.folder / "cluster").mkdir()
            found["sentinel"] = address(stack.enter_context(running_sentinels(kind, bench.folder / "watched")))
            found["cluster"] = stack.enter_context(running_cluster(kind, bench.folder / "cluster")).address()
        yield found


def address(watched: SentinelServers) -> str:
    """Where a server asks for the master."""
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
    return f"redis+sentinel://{hosts}/store/0"


async def period(message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
    """A person who allows everything for a while."""
    return ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], "period"))


def variants(bench: Bench, addresses: dict[str, str]) -> dict[str, FastMCP[Any]]:
    """Two bare servers, and one for each kind of rule on each store."""
    made = {"bare FastMCP": server(), "bare FastMCP again (noise floor)": server()}
    for store, place in addresses.items():
        for number, (kind, rules) in enumerate(KINDS.items()):
            config = {"store": place, "audience": f"bench{number}", "elicit_expiry": 36_000}
            made[f"{kind}, {store}"] = guarded(rules, bench.folder, **config)
    return made


async def decisions(bench: Bench) -> list[str]:
    """Added microseconds and ratio, a line for each kind of rule, a column for each store."""
    with stores(bench) as one, several(bench) as many:
        addresses = one | many
        servers = variants(bench, addresses)
        async with AsyncExitStack() as stack:
            calls = {}
            for name, made in servers.items():
                client = await stack.enter_async_context(Client(made, elicitation_handler=period))
                calls[name] = caller(client)
            warm = bench.of(tiny=2, quick=20, full=50)
            rows = {row.name: row for row in await interleaved(calls, bench.rounds(1_000), warm)}
    return laid_out(rows, list(addresses))


def laid_out(rows: dict[str, Row], present: list[str]) -> list[str]:
    """The table."""
    bare = rows["bare FastMCP"].median
    lines = heads(f"one rule of a kind beside bare FastMCP ({bare:.0f} µs): added µs (ratio)", *present)
    again = rows["bare FastMCP again (noise floor)"].median
    lines.append(cells("bare FastMCP again (noise floor)", *([added(again, bare)] * len(present))))
    for kind in KINDS:
        lines.append(cells(kind, *(added(rows[f"{kind}, {store}"].median, bare) for store in present)))
    return lines


def added(median: float, bare: float) -> str:
    """What is added, and the ratio."""
    return f"{median - bare:+.0f} ({median / bare:.2f})"
