"""What one decision adds by the kind of its rule and the store it counts in: real stores, real clients, in turn."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from measuring import Bench, Row, caller, cells, guarded, heads, interleaved, server
from redis_server import BINARIES, running

from mcp_macaroon_middleware.errors import MacaroonError

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
        found = {"memory": "memory"}
        if sqlite3.sqlite_version_info >= (3, 35):
            found["sqlite"] = f"sqlite:///{bench.folder / 'bench.db'}"
        for name in sorted(BINARIES):
            found[name] = stack.enter_context(running(name)).url()
        yield found


async def period(message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
    """A person who allows everything for a while."""
    return ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], "period"))


def variants(bench: Bench, addresses: dict[str, str]) -> dict[str, FastMCP[Any]]:
    """Two bare servers, and one for each kind of rule on each store."""
    made = {"bare FastMCP": server(), "bare FastMCP again (noise floor)": server()}
    for store, address in addresses.items():
        for number, (kind, rules) in enumerate(KINDS.items()):
            config = {"store": address, "audience": f"bench{number}", "elicit_expiry": 36_000}
            try:
                made[f"{kind}, {store}"] = guarded(rules, bench.folder, **config)
            except MacaroonError:
                break  # this build has no such store
    return made


async def decisions(bench: Bench) -> list[str]:
    """Added microseconds and ratio, a line for each kind of rule, two columns for each store."""
    with stores(bench) as addresses:
        servers = variants(bench, addresses)
        async with AsyncExitStack() as stack:
            calls = {}
            for name, made in servers.items():
                client = await stack.enter_async_context(Client(made, elicitation_handler=period))
                calls[name] = caller(client)
            rows = {row.name: row for row in await interleaved(calls, bench.rounds(1_000))}
    present = [store for store in addresses if f"{next(iter(KINDS))}, {store}" in rows]
    return laid_out(rows, present)


def laid_out(rows: dict[str, Row], present: list[str]) -> list[str]:
    """The table."""
    bare = rows["bare FastMCP"].median
    columns = [column for store in present for column in (f"{store}: added µs", "ratio")]
    lines = heads(f"one rule of a kind, beside bare FastMCP ({bare:.0f} µs)", *columns)
    again = rows["bare FastMCP again (noise floor)"].median
    lines.append(cells("bare FastMCP again (noise floor)", *(pair(again, bare) * len(present))))
    for kind in KINDS:
        values = [value for store in present for value in pair(rows[f"{kind}, {store}"].median, bare)]
        lines.append(cells(kind, *values))
    return lines


def pair(median: float, bare: float) -> list[str]:
    """What is added, and the ratio."""
    return [f"{median - bare:+.0f}", f"{median / bare:.2f}"]
