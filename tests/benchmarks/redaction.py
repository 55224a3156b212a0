"""What redaction costs by the size of a result: a list of records, two of whose fields are withheld from everyone."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from fastmcp import Client, FastMCP
from measuring import Bench, caller, cells, guarded, heads, interleaved

SIZES = (1_000, 10_000, 100_000, 1_000_000, 5_000_000)
ALLOW = "bf:tool_0:tool_access:allow"
RULES: dict[str, list[Any]] = {
    "guarded, no field rule": [ALLOW],
    "**two fields withheld**": [ALLOW, "af:tool_0:field_access:deny:rows.ssn:rows.contact.email"],
    "**at any depth**": [ALLOW, "af:tool_0:field_access:deny:**.ssn:**.email"],
}


def record(number: int) -> dict[str, Any]:
    """A record of about 200 bytes of JSON."""
    contact = {"email": f"user{number}@example.org", "phone": "+1 555 0100", "city": "Springfield"}
    return {"id": number, "name": f"user {number}", "ssn": "123-45-6789", "contact": contact, "note": "n" * 60}


def serving(size: int) -> FastMCP[Any]:
    """A server whose tool returns about `size` bytes, in structured content and in text."""
    made: FastMCP[Any] = FastMCP("bench")
    rows = [record(number) for number in range(max(1, size // 200))]

    @made.tool
    async def tool_0(id: int) -> dict[str, Any]:
        return {"rows": rows}

    return made


async def redaction(bench: Bench) -> list[str]:
    """Median milliseconds of a call by size, and beside each what it is to bare."""
    sizes = bench.upto(*SIZES)
    lines: dict[str, list[str]] = {}
    for size in sizes:
        servers = {"bare FastMCP": serving(size), "bare FastMCP again (noise floor)": serving(size)}
        servers |= {name: guarded(rules, bench.folder, made=serving(size)) for name, rules in RULES.items()}
        async with AsyncExitStack() as stack:
            calls = {n: caller(await stack.enter_async_context(Client(made))) for n, made in servers.items()}
            rounds = max(5, min(bench.rounds(300), 40_000_000 // size // (10 if bench.quick else 1)))
            rows = await interleaved(calls, rounds, warm=2)
        for row in rows:
            lines.setdefault(row.name, []).append(f"{row.median / 1e3:.2f} ({row.median / rows[0].median:.2f})")
    title = "a result of so many bytes, median ms (ratio to bare)"
    return heads(title, *map(spelt, sizes)) + [cells(name, *values) for name, values in lines.items()]


def spelt(size: int) -> str:
    """A size as people write it."""
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} kB"
