"""What grows with principals, grants and calls: time, the memory of the process and that of Redis.

As a program it is one process of one size, whose peak is its own: it prints what it measured as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from decisions import ALLOW, period, stores
from fastmcp import Client
from measuring import Bench, Row, apart, caller, cells, guarded, heads, interleaved, policy, table
from redis_server import BINARIES, running

from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import MacaroonError
from mcp_macaroon_middleware.model import Component, Effect, Kind, Principal, RequestContext

AT_ONCE = 64
TOOL = Component(kind=Kind.TOOL, name="tool_0", names=("tool_0",))
LIMIT = [ALLOW, "bf:tool_0:rate_limit:allow:10/day"]


# --- one size, in a process of its own ------------------------------------------------------------------------------


async def principals_once(store: str, count: int) -> dict[str, Any]:
    """So many principals are seen once each; then a thousand of them again, timed."""
    with tempfile.TemporaryDirectory() as folder:
        audit = [{"sink": "jsonl", "path": "/dev/null"}]
        runtime = load_runtime(policy(LIMIT, Path(folder), store=store, audit=audit))
        numbers = iter(range(count))
        refused = 0

        async def decide(number: int) -> bool:
            who = Principal(kind="user", namespace="https://id.example", subject=f"user-{number}")
            decision = await runtime.engine.decide(RequestContext(principal=who, component=TOOL))
            if decision.effect is Effect.ALLOW:
                await runtime.engine.finish(decision, None, lambda _: None)
            return decision.effect is Effect.ALLOW

        async def worker() -> None:
            nonlocal refused
            for number in numbers:
                refused += not await decide(number)

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        seconds = time.perf_counter() - began
        late = []
        for number in range(1000):
            began = time.perf_counter()
            await decide(number * count // 1000)
            late.append((time.perf_counter() - began) * 1e6)
    each = seconds / count * 1e6
    return {"peak": peak(), "each": each, "late": statistics.median(late), "refused": refused}


async def granted(store: str, count: int, rounds: int) -> dict[str, Any]:
    """One principal approves so many calls for a while; then calls that are covered are timed."""
    rules = [ALLOW, "bf:tool_0:argument_range:elicit:id:0:0"]
    terms = {"max_pending": 10_000, "timeout": 10}
    with tempfile.TemporaryDirectory() as folder:
        made = guarded(rules, Path(folder), store=store, approvals=terms, elicit_expiry=36_000)
        async with Client(made, elicitation_handler=period) as client:
            for number in range(1, count + 1):
                await client.call_tool("tool_0", {"id": number})
            times = []
            for number in range(rounds):
                began = time.perf_counter()
                await client.call_tool("tool_0", {"id": 1 + number % count})
                times.append((time.perf_counter() - began) * 1e6)
    return {"peak": peak(), "late": statistics.median(times)}


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- the tables -----------------------------------------------------------------------------------------------------


def principals(bench: Bench) -> list[str]:
    """Principals on memory and on Redis: what each costs, and what of it stays."""
    columns = ("memory: µs each", "again µs", "peak MB", "B each", "Redis: µs each", "again µs", "peak MB", "server MB")
    lines = heads("principals seen once, under a rate limit (engine alone)", *columns, "B each")
    base: tuple[float, float] | None = None
    for count in bench.upto(1, 1_000, 10_000, 100_000, 1_000_000):
        own = apart("growing", what="principals", store="memory", count=count)
        with running(next(iter(BINARIES))) as redis:
            there = apart("growing", what="principals", store=redis.url(), count=count)
            used = used_memory(redis)
        base = base or (own["peak"], used)
        values = [own["each"], own["late"], own["peak"] / 1e6, share(own["peak"] - base[0], count)]
        values += [there["each"], there["late"], there["peak"] / 1e6, used / 1e6, share(used - base[1], count)]
        lines.append(cells(named(count, own, there), *values))
    return lines


def share(grown: float, count: int) -> float | str:
    """Bytes for each principal, where there are enough of them to tell."""
    return grown / count if count >= 10_000 else "-"


def named(count: int, *runs: dict[str, Any]) -> str:
    """The count, and what was refused where anything was."""
    refused = max(run["refused"] for run in runs)
    return f"{count:,}" + (f" ({refused:,} refused)" if refused else "")


def used_memory(redis: Any) -> float:
    """What the server says that it uses, in bytes."""
    return float(redis.ask("INFO", "memory")["used_memory"])


def grants(bench: Bench) -> list[str]:
    """A covered call, by how many grants its principal has."""
    columns = ("memory: median µs", "peak MB", "Redis: median µs", "server MB")
    lines = heads("grants of one principal", *columns)
    for count in bench.upto(1, 10, 100, 1_000, 10_000):
        own = apart("growing", what="grants", store="memory", count=count, rounds=bench.rounds(1000))
        with running(next(iter(BINARIES))) as redis:
            there = apart("growing", what="grants", store=redis.url(), count=count, rounds=bench.rounds(1000))
            used = used_memory(redis)
        lines.append(cells(f"{count:,}", own["late"], own["peak"] / 1e6, there["late"], f"{used / 1e6:.1f}"))
    return lines


async def calls(bench: Bench) -> list[str]:
    """One user's calls under a limit, early and late, on each store."""
    rules = [ALLOW, "bf:tool_0:allow_attempts:allow:100000000"]
    rounds = bench.rounds(2_000)
    tenth = max(20, rounds // 10)
    rows = []
    with stores(bench) as addresses:
        async with AsyncExitStack() as stack:
            made = {}
            for name, address in addresses.items():
                try:
                    server = guarded(rules, bench.folder, store=address)
                except MacaroonError:
                    continue  # this build has no such store
                made[name] = caller(await stack.enter_async_context(Client(server)))
            for row in await interleaved(made, rounds):
                first = Row(name=f"{row.name}, calls 1 to {tenth:,}", times=row.times[:tenth])
                last = Row(name=f"{row.name}, calls {rounds - tenth:,} to {rounds:,}", times=row.times[-tenth:])
                rows.append((first, last))
    lines = table("one user under `allow_attempts`", rows[0])
    return lines + [line for pair in rows[1:] for line in table("", pair)[2:]]


def main() -> None:
    """One process of one size."""
    logging.disable(logging.WARNING)
    given = json.loads(sys.argv[1])
    run = {"principals": principals_once, "grants": granted}[given.pop("what")]
    print(json.dumps(asyncio.run(run(**given))))


if __name__ == "__main__":
    main()
