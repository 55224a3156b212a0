"""How things are measured here: variants in turn, round after round, beside a bare server; tables in markdown.

A machine that gets slower slows all variants of a table. What counts is the ratio to bare and its distance from the
noise floor, a second bare server in the same run. Nothing here is ever asserted.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastmcp import Client, FastMCP

HERE = Path(__file__).resolve().parent
SECRET = "a key for measurements only, which nobody else may ever use"

Call = Callable[[int], Awaitable[Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a table's function gets: a folder of its own, and how far the run is shortened."""

    folder: Path
    size: Literal["tiny", "quick", "full"] = "full"

    def rounds(self, full: int) -> int:
        """How many rounds to run: a tenth of them when it is quick, next to none when it is tiny."""
        return self.of(tiny=3, quick=max(20, full // 10), full=full)

    def upto(self, *sizes: int) -> list[int]:
        """The sizes to go through: without the largest when it is quick, only the smallest when it is tiny."""
        return list(sizes[: self.of(tiny=1, quick=-1, full=len(sizes))])

    def of(self, *, tiny: T, quick: T, full: T) -> T:
        """What is meant for this run."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.size]


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


def policy(rules: Sequence[Any], folder: Path, **config: Any) -> Mapping[str, Any]:
    """A policy of these rules: memory store, audit on, everybody is `bench`."""
    settings = {
        "secret_key": SECRET,
        "audience": "bench",
        "default": "deny",
        "identity": {"anonymous": "bench"},
        "audit": [{"sink": "jsonl", "path": str(folder / f"audit-{time.perf_counter_ns()}.jsonl")}],
    }
    return {"config": settings | config, "policies": list(rules)}


def guarded(
    rules: Sequence[Any], folder: Path, tools: int = 1, made: FastMCP[Any] | None = None, **config: Any
) -> FastMCP[Any]:
    """The same server behind these rules."""
    from mcp_macaroon_middleware import guard  # here, for a bare process that never imports it

    made = made or server(tools)
    guard(made, policy(rules, folder, **config))
    return made


async def interleaved(calls: dict[str, Call], rounds: int, warm: int = 50) -> list[Row]:
    """Times every variant once a round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for number in range(warm):
            await call(number)
    gc.collect()
    gc.freeze()  # what stands already is not walked again and again, in no variant
    for number in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            await call(number)
            times[name].append((time.perf_counter() - began) * 1e6)
    gc.unfreeze()
    return [Row(name=name, times=values) for name, values in times.items()]


def caller(client: Client[Any], tool: str = "tool_0") -> Call:
    """A call of the tool, with its number as `id`."""

    async def call(number: int) -> Any:
        return await client.call_tool(tool, {"id": number})

    return call


async def over_memory(servers: dict[str, FastMCP[Any]], rounds: int, **client: Any) -> list[Row]:
    """Real clients over in-memory connections, today's protocol."""
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client(made, **client)) for name, made in servers.items()}
        return await interleaved({name: caller(client) for name, client in clients.items()}, rounds)


def table(title: str, *groups: Sequence[Row]) -> list[str]:
    """Markdown: median, 99th percentile, what is added to the first row of its group, the ratio to it."""
    lines = heads(title, "median µs", "p99 µs", "added µs", "ratio")
    for base, row in ((rows[0], row) for rows in groups for row in rows):
        added = row.median - base.median
        lines.append(cells(row.name, row.median, row.p99, f"{added:+.0f}", f"{row.median / base.median:.2f}"))
    return lines


def heads(title: str, *columns: str) -> list[str]:
    """The first two lines of a table: one column of names, the others numbers."""
    return [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]


def cells(name: str, *values: float | str) -> str:
    """One line of a table; numbers without decimals."""
    shown = [value if isinstance(value, str) else f"{value:,.0f}" for value in values]
    return f"| {name} | {' | '.join(shown)} |"


def peak() -> int:
    """The most memory that this process ever had, in bytes, nothing of its parent's: that would outlive `exec`."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:  # macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def apart(module: str, **given: Any) -> Any:
    """What a module of this folder prints, as JSON, run in a process of its own with these facts as its argument."""
    command = [sys.executable, str(HERE / f"{module}.py"), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])
