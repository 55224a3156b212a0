"""What redaction costs by the size of a result: a list of records, two of whose fields are withheld from everyone.

The size is that of the whole result: half of it is structured content, half the same as text. What is past the bound
of 5 MB is never walked: under a field rule it is withheld, and the table says so.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastmcp import Client, FastMCP
from measuring import Bench, cells, guarded, heads, interleaved

SIZES = (1_000, 10_000, 100_000, 1_000_000, 5_000_000, 6_000_000)
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
    """A server whose tool returns `size` bytes or a little less, in structured content and in text together."""
    made: FastMCP[Any] = FastMCP("bench")
    each = len(json.dumps(record(100_000), separators=(",", ":"))) + 1
    rows = [record(number) for number in range(max(1, (size // 2 - 20) // each))]

    @made.tool
    async def tool_0(id: int) -> dict[str, Any]:
        return {"rows": rows}

    return made


class Calls:
    """A client's calls, and what became of the last one: an empty text, or the code of the refusal."""

    def __init__(self, client: Client[Any]) -> None:
        self.client, self.code = client, ""

    async def __call__(self, number: int) -> None:
        """Calls once."""
        result = await self.client.call_tool("tool_0", {"id": number}, raise_on_error=False)
        said = (result.meta or {}).get("mcp-macaroon") or {}
        self.code = str(said.get("code", "error")) if result.is_error else ""


async def redaction(bench: Bench) -> list[str]:
    """Median milliseconds of a call by size, and beside each what it is to bare."""
    sizes = bench.upto(*SIZES)
    lines: dict[str, list[str]] = {}
    for size in sizes:
        servers = {"bare FastMCP": serving(size), "bare FastMCP again (noise floor)": serving(size)}
        servers |= {name: guarded(rules, bench.folder, made=serving(size)) for name, rules in RULES.items()}
        async with AsyncExitStack() as stack:
            made = {name: Calls(await stack.enter_async_context(Client(server))) for name, server in servers.items()}
            calls: dict[str, Callable[[int], Awaitable[Any]]] = {**made}
            most = bench.of(tiny=3, quick=4_000_000 // size, full=40_000_000 // size)
            rows = await interleaved(calls, min(bench.rounds(300), max(5, most)), warm=2)
        for row in rows:
            told = made[row.name].code
            cell = f"{row.median / 1e3:.2f} ({row.median / rows[0].median:.2f})"
            lines.setdefault(row.name, []).append(f"{cell} `{told}`" if told else cell)
    title = "a result of so many bytes, median ms (ratio to bare)"
    return heads(title, *map(spelt, sizes)) + [cells(name, *values) for name, values in lines.items()]


def spelt(size: int) -> str:
    """A size as people write it."""
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} kB"
