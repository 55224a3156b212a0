"""What grows with principals, grants and calls: time, the memory of the process and that of Redis.

As a program it is one process of one size, whose peak is its own: it prints what it measured as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from decisions import ALLOW, period, stores
from fastmcp import Client
from measuring import Bench, Row, apart, caller, cells, guarded, heads, interleaved, peak, policy, server, table
from redis_server import BINARIES, running

from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.model import Component, Effect, Kind, Principal, RequestContext
from mcp_macaroon_middleware.plugin import Amount

TOGETHER = 500
FEW = 10
TOOL = Component(kind=Kind.TOOL, name="tool_0", names=("tool_0",))
LIMIT = [ALLOW, "bf:tool_0:rate_limit:allow:100000000/day"]


# --- one size, in a process of its own ------------------------------------------------------------------------------


def who(number: int) -> Principal:
    return Principal(kind="user", namespace="https://id.example", subject=f"user-{number:08}")


async def decide(runtime: Runtime, number: int) -> bool:
    """One whole decision for one principal: whether it passed."""
    decision = await runtime.engine.decide(RequestContext(principal=who(number), component=TOOL))
    if decision.effect is Effect.ALLOW:
        await runtime.engine.finish(decision, None, lambda _: None)
    return decision.effect is Effect.ALLOW


async def seeded(runtime: Runtime, count: int) -> None:
    """Charges so many principals once, as the engine charges the first of them, many in one operation."""
    store, lines = runtime.store, list[Amount]()
    real = store.add

    async def listening(amounts: Sequence[Amount]) -> Any:
        lines.extend(amounts)
        return await real(amounts)

    store.add = listening  # type: ignore[method-assign]
    assert await decide(runtime, 0)
    store.add = real  # type: ignore[method-assign]
    (line,) = [line for line in lines if line.amount]
    for start in range(1, count, TOGETHER):
        await real([of(line, number) for number in range(start, min(start + TOGETHER, count))])
    for number in range(0, count, max(1, count // 5)):
        assert (await real([replace(of(line, number), amount=0)])).used == (1,), "this is not what the engine counts"


def of(line: Amount, number: int) -> Amount:
    """The line of one principal, made of that of the first."""
    first, there = who(0), who(number)
    key = line.key.removeprefix(first.place).replace(first.subject, there.subject)
    return replace(line, key=there.place + key)


async def principals_seen(store: str, count: int, rounds: int) -> dict[str, Any]:
    """So many principals were seen; then those that are new, and those that come again, beside a store with a few."""
    with tempfile.TemporaryDirectory() as folder:

        def opened(audience: str) -> Runtime:
            return load_runtime(policy(LIMIT, Path(folder), store=store, audience=audience))

        few, few_again, many = opened("few"), opened("again"), opened("many")
        await seeded(few, FEW)
        await seeded(few_again, FEW)
        await seeded(many, count - rounds)

        def coming(runtime: Runtime, number: Callable[[int], int]) -> Callable[[int], Awaitable[Any]]:
            return lambda turn: passed(runtime, number(turn))

        rows = await interleaved(
            {
                "few": coming(few, lambda turn: turn % FEW),
                "floor": coming(few_again, lambda turn: turn % FEW),
                "again": coming(many, lambda turn: turn * 7919 % (count - rounds)),
                "new": coming(many, lambda turn: count - rounds + turn),
            },
            rounds,
            warm=0,
        )
    return {"peak": peak(), **{row.name: row.median for row in rows}}


async def passed(runtime: Runtime, number: int) -> None:
    assert await decide(runtime, number), "a principal was refused"


async def granted(store: str, count: int, rounds: int) -> dict[str, Any]:
    """One principal approves so many calls for a while; then calls that are covered are timed, beside bare servers."""
    rules = [ALLOW, "bf:tool_0:argument_range:elicit:id:0:0"]
    terms = {"max_pending": 10_000, "timeout": 10}
    with tempfile.TemporaryDirectory() as folder:
        made = guarded(rules, Path(folder), store=store, approvals=terms, elicit_expiry=36_000)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(made, elicitation_handler=period))
            for number in range(1, count + 1):
                await client.call_tool("tool_0", {"id": number})
            calls = {"many": lambda turn: client.call_tool("tool_0", {"id": 1 + turn % count})}
            for name in ("bare", "floor"):
                calls[name] = caller(await stack.enter_async_context(Client(server())))
            rows = await interleaved(calls, rounds, warm=3)
    return {"peak": peak(), **{row.name: row.median for row in rows}}


# --- the tables -----------------------------------------------------------------------------------------------------


def principals(bench: Bench) -> list[str]:
    """Principals on memory and on Redis: what a decision costs, and the memory that each takes."""
    kind = next(iter(BINARIES))
    both = [(store, ("again µs (ratio; floor)", "new µs", size, "B each")) for store, size in sizes(kind)]
    columns = [f"{store}: {column}" for store, columns in both for column in columns]
    lines = heads(f"principals under a limit, engine alone (ratio to {FEW})", *columns)
    base: tuple[float, float] | None = None
    rounds = bench.of(tiny=20, quick=200, full=500)
    for count in bench.upto(1_000, 10_000, 100_000, 1_000_000):
        own = apart("growing", what="principals", store="memory", count=count, rounds=rounds)
        with running(kind) as redis:
            there = apart("growing", what="principals", store=redis.url(), count=count, rounds=rounds)
            used = used_memory(redis)
        base = base or (own["peak"], used)
        grown = [share(own["peak"] - base[0], count), share(used - base[1], count)]
        values = [*shown(own), own["peak"] / 1e6, grown[0], *shown(there), used / 1e6, grown[1]]
        lines.append(cells(f"{count:,}", *values))
    return lines


def sizes(kind: str) -> list[tuple[str, str]]:
    return [("memory", "process MB"), (kind, "server MB")]


def shown(run: dict[str, float]) -> list[float | str]:
    """A principal that comes again beside one of a few, and one that is new."""
    few = run["few"]
    return [f"{run['again']:.0f} ({run['again'] / few:.2f}; {run['floor'] / few:.2f})", run["new"]]


def share(grown: float, count: int) -> float | str:
    """Bytes for each principal, where there are enough of them to tell."""
    return grown / count if count >= 100_000 else "-"


def used_memory(redis: Any) -> float:
    """What the server says that it uses, in bytes."""
    return float(redis.ask("INFO", "memory")["used_memory"])


def grants(bench: Bench) -> list[str]:
    """A covered call beside bare FastMCP, by how many grants its principal has."""
    kind = next(iter(BINARIES))
    columns = [f"{store}: {c}" for store, size in sizes(kind) for c in ("added µs", "ratio (floor)", size)]
    lines = heads("grants of one principal", *columns)
    rounds = bench.rounds(500)
    for count in bench.upto(1, 10, 100, 1_000, 10_000):
        own = apart("growing", what="grants", store="memory", count=count, rounds=rounds)
        with running(kind) as redis:
            there = apart("growing", what="grants", store=redis.url(), count=count, rounds=rounds)
            used = used_memory(redis)
        values = [*beside(own), f"{own['peak'] / 1e6:.1f}", *beside(there), f"{used / 1e6:.1f}"]
        lines.append(cells(f"{count:,}", *values))
    return lines


def beside(run: dict[str, float]) -> list[str]:
    """What is added to bare, the ratio to it, and that of bare again."""
    bare = run["bare"]
    return [f"{run['many'] - bare:+.0f}", f"{run['many'] / bare:.2f} ({run['floor'] / bare:.2f})"]


async def calls(bench: Bench) -> list[str]:
    """One user's calls under a limit, early and late, on each store; bare calls show how the machine drifts."""
    rules = [ALLOW, "bf:tool_0:allow_attempts:allow:100000000"]
    rounds = bench.rounds(2_000)
    tenth = max(2, rounds // 10)
    pairs = []
    with stores(bench) as addresses:
        async with AsyncExitStack() as stack:
            servers = {"bare FastMCP (noise floor)": server()}
            servers |= {name: guarded(rules, bench.folder, store=address) for name, address in addresses.items()}
            made = {name: caller(await stack.enter_async_context(Client(each))) for name, each in servers.items()}
            for row in await interleaved(made, rounds, warm=0 if rounds < 10 else 50):
                first = Row(name=f"{row.name}, calls 1 to {tenth:,}", times=row.times[:tenth])
                last = Row(name=f"{row.name}, calls {rounds - tenth:,} to {rounds:,}", times=row.times[-tenth:])
                pairs.append((first, last))
    return table("one user under `allow_attempts`", *pairs)


def main() -> None:
    """One process of one size."""
    logging.disable(logging.WARNING)
    given = json.loads(sys.argv[1])
    run = {"principals": principals_seen, "grants": granted}[given.pop("what")]
    print(json.dumps(asyncio.run(run(**given))))


if __name__ == "__main__":
    main()
