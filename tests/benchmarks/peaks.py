"""The most memory that a bare and a guarded server ever take, each in a process of its own.

As a program it is one such server under one load: it prints its peaks as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from fastmcp import Client, FastMCP
from measuring import Bench, apart, cells, heads, peak, server

VARIANTS = {
    "bare FastMCP": "bare",
    "bare FastMCP again (noise floor)": "bare",
    "**guarded, 20 rules: access, fields, a limit, audit on**": "twenty",
    "**guarded, 10,000 rules**": "many",
}


def made(variant: str, folder: Path, size: int) -> FastMCP[Any]:
    """The server, one of whose results has about `size` bytes; a bare process never imports the package."""
    serving = server()
    rows = [{"id": n, "ssn": "123-45-6789", "note": "n" * 150} for n in range(size // 2 // 200)]

    @serving.tool
    async def tool_large() -> dict[str, Any]:
        return {"rows": rows}  # it leaves twice: as structured content and as text

    if variant == "bare":
        return serving
    from basics import many, twenty
    from measuring import guarded

    rules = [*(many(10_000) if variant == "many" else twenty()), "bf:tool_large:tool_access:allow"]
    return guarded(rules, folder, made=serving)


async def loaded(variant: str, calls: int, size: int) -> dict[str, int]:
    """Peaks after the start, after so many calls, and after one result of so many bytes."""
    peaks = {"imported": peak()}
    with tempfile.TemporaryDirectory() as folder:
        async with Client(made(variant, Path(folder), size)) as client:
            await client.call_tool("tool_0", {"id": 0})
            peaks["started"] = peak()
            for number in range(calls):
                await client.call_tool("tool_0", {"id": number})
            peaks["called"] = peak()
            result = await client.call_tool("tool_large", {})
            assert "rows" in (result.structured_content or {}), "the large result was withheld"
            peaks["large"] = peak()
    return peaks


def peaks(bench: Bench) -> list[str]:
    """Peaks in MB: each line a process of its own."""
    calls, size = bench.rounds(5_000), bench.of(tiny=10_000, quick=500_000, full=5_000_000)
    columns = ("started", f"after {calls:,} calls", f"after a result of {size / 1e6:g} MB")
    lines = heads("peak memory of a process, MB", *columns)
    for name, variant in list(VARIANTS.items())[: bench.of(tiny=3, quick=4, full=4)]:
        run = apart("peaks", variant=variant, calls=calls, size=size)
        lines.append(cells(name, *(f"{run[key] / 1e6:.1f}" for key in ("started", "called", "large"))))
    return lines


def main() -> None:
    """One process of one variant."""
    logging.disable(logging.WARNING)
    print(json.dumps(asyncio.run(loaded(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
