"""Measures what a guard adds, beside bare FastMCP in one interleaved run: `python dev.py bench [--write] [--quick]`.

Every variant is called in turn, round after round, so that a machine that gets slower slows all of them. What counts is
the ratio to bare and its distance from the noise floor, a second bare server in the same run. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import verifying
from fastmcp import Client, FastMCP
from fastmcp.server.auth import AuthContext
from fastmcp.server.middleware import AuthMiddleware, Middleware
from fastmcp.utilities.tests import asgi_client

from mcp_macaroon_middleware import guard

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- figures: python dev.py bench --write -->", "<!-- /figures -->"
SECRET = "a key for measurements only, which nobody else may ever use"

Call = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant's times, in microseconds a call."""

    name: str
    times: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[98]


def server(tools: int = 1) -> FastMCP[Any]:
    """A server whose tools do next to nothing."""
    made: FastMCP[Any] = FastMCP("bench")

    async def tool(id: int, note: str = "") -> dict[str, Any]:
        return {"id": id, "note": note, "ssn": "123-45-6789"}

    for number in range(tools):
        made.tool(tool, name=f"tool_{number}", description="Returns a record. " * 5)
    return made


def guarded(rules: Sequence[Any], folder: Path, tools: int = 1) -> FastMCP[Any]:
    """The same server behind these rules: memory store, audit on."""
    made = server(tools)
    audit = folder / f"audit-{id(made)}.jsonl"
    config = {
        "secret_key": SECRET,
        "default": "deny",
        "identity": {"anonymous": "bench"},
        "audit": [{"sink": "jsonl", "path": str(audit)}],
    }
    guard(made, {"config": config, "policies": list(rules)})
    return made


def access() -> list[str]:
    """Twenty access rules that all speak of `tool_0`."""
    return ["bf:tool_0:tool_access:allow", *(f"bf:tool_*:tool_access:only:tool_*:other_{n}" for n in range(19))]


def twenty() -> list[str]:
    """Twenty rules that all speak of `tool_0`: access, fields and a limit."""
    rules = ["bf:tool_0:tool_access:allow", "bf:tool_*:rate_limit:allow:100000000/day"]
    rules += [f"bf:tool_*:tool_access:only:tool_*:other_{n}" for n in range(8)]
    return rules + [f"af:tool_*:field_access:deny:absent_{n}" for n in range(10)]


def many(count: int) -> list[Any]:
    """Rules of which two match: the rest are literals and globs for other tools."""
    rest: list[Any] = [
        {"before": f"other_{n}", "policy": "tool_access", "action": "deny", "dynamic": True}
        if n % 2
        else f"bf:other_{n}_*:tool_access:deny"
        for n in range(count - 2)
    ]
    return ["bf:tool_0:tool_access:allow", "bf:tool_*:tool_access:only:tool_*", *rest]


class Nothing(Middleware):
    """A middleware that does nothing."""


def trivial(number: int) -> Callable[[AuthContext], bool]:
    def check(context: AuthContext) -> bool:
        return number >= 0

    return check


async def interleaved(calls: dict[str, Call], rounds: int) -> list[Row]:
    """Times every variant once a round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for warm in range(50):
            await call(warm)
    gc.collect()
    gc.freeze()  # what stands already is not walked again and again, in no variant
    for number in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            await call(number)
            times[name].append((time.perf_counter() - began) * 1e6)
    return [Row(name=name, times=values) for name, values in times.items()]


def caller(client: Client[Any], tool: str = "tool_0") -> Call:
    async def call(number: int) -> Any:
        return await client.call_tool(tool, {"id": number})

    return call


async def over_memory(servers: dict[str, FastMCP[Any]], rounds: int) -> list[Row]:
    """Real clients over in-memory connections, today's protocol."""
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client(made)) for name, made in servers.items()}
        return await interleaved({name: caller(client) for name, client in clients.items()}, rounds)


async def main_table(folder: Path, rounds: int) -> list[str]:
    """What twenty rules add, beside what FastMCP's own AuthMiddleware adds with twenty checks."""
    auth = server()
    auth.add_middleware(AuthMiddleware(auth=[trivial(n) for n in range(20)]))
    nothing = server()
    nothing.add_middleware(Nothing())
    rows = await over_memory(
        {
            "bare FastMCP": server(),
            "bare FastMCP again (noise floor)": server(),
            "a middleware that does nothing": nothing,
            "AuthMiddleware, 20 trivial checks": auth,
            "**guarded, 20 access rules, audit on**": guarded(access(), folder),
            "**guarded, 20 rules: access, fields, a limit, audit on**": guarded(twenty(), folder),
        },
        rounds,
    )
    return table("in-memory client, protocol 2026-07-28", rows)


def table(title: str, rows: Sequence[Row], base: Row | None = None) -> list[str]:
    """Markdown: median, 99th percentile, what is added to the first row, the ratio to it."""
    base = base or rows[0]
    lines = [f"| {title} | median µs | p99 µs | added µs | ratio |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        added = row.median - base.median
        lines.append(
            f"| {row.name} | {row.median:.0f} | {row.p99:.0f} | {added:+.0f} | {row.median / base.median:.2f} |"
        )
    return lines


async def growth(folder: Path, rounds: int) -> list[str]:
    """The same call under more and more rules that do not speak of it."""
    servers = {"bare FastMCP": server()}
    for count in (10, 100, 1_000, 10_000):
        servers[f"guarded, {count:,} rules"] = guarded(many(count), folder)
    return table("growth with the number of rules", await over_memory(servers, rounds))


async def history(folder: Path, rounds: int) -> list[str]:
    """One user's calls under a limit, early and late."""
    made = guarded(["bf:tool_0:tool_access:allow", "bf:tool_0:allow_attempts:allow:100000000"], folder)
    async with Client(made) as client:
        rows = await interleaved({"calls": caller(client)}, rounds)
    tenth = max(20, rounds // 10)
    first = Row(name=f"calls 1 to {tenth}", times=rows[0].times[:tenth])
    last = Row(name=f"calls {rounds - tenth} to {rounds}", times=rows[0].times[-tenth:])
    return table("one user under `allow_attempts`", [first, last])


async def over_http(folder: Path, rounds: int) -> list[str]:
    """Modern HTTP with 200 tools, where every call is preceded by an internal list."""
    rules = ["bf:tool_*:tool_access:allow"]
    async with AsyncExitStack() as stack:
        clients = {}
        for name, made in (("bare FastMCP", server(200)), ("**guarded**", guarded(rules, folder, 200))):
            clients[name] = await stack.enter_async_context(asgi_client(made))
        rows = await interleaved({name: caller(client) for name, client in clients.items()}, rounds)
    return table("modern HTTP (in process), 200 tools", rows)


async def measure(*, quick: bool) -> str:
    """Every table, as markdown."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="macaroon-bench-") as name:
        folder = Path(name)
        parts = [
            await main_table(folder, 2_000 // scale),
            await growth(folder, 1_000 // scale),
            await history(folder, 2_000 // scale),
            await over_http(folder, 300 // scale),
            verifying.measure(1_000 // scale),
        ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def write(figures: str) -> None:
    """Puts the tables into the README, between their marks."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Runs and prints; with `--write` also into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--json", action="store_true", help="print the tables as one JSON text")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = asyncio.run(measure(quick=options.quick))
    print(json.dumps(figures) if options.json else figures)
    if options.write:
        write(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
