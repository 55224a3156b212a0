"""The most memory that a bare and a guarded server ever take, each in a process of its own.

As a program it is one such server under one load: it prints its peaks as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from fastmcp import Client, FastMCP
from measuring import Bench, apart, cells, heads, server

VARIANTS = {
    "bare FastMCP": "bare",
    "bare FastMCP again (noise floor)": "bare",
    "**guarded, 20 rules: access, fields, a limit, audit on**": "twenty",
    "**guarded, 10,000 rules**": "many",
}


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def made(variant: str, folder: Path) -> FastMCP[Any]:
    """The server; a bare process never imports the package."""
    if variant == "bare":
        return server()
    from basics import many, twenty
    from measuring import guarded

    return guarded(many(10_000) if variant == "many" else twenty(), folder)


async def loaded(variant: str, calls: int, size: int) -> dict[str, int]:
    """Peaks after the start, after so many calls, and after one result of so many bytes."""
    peaks = {"imported": peak()}
    with tempfile.TemporaryDirectory() as folder:
        serving = made(variant, Path(folder))
        rows = [{"id": n, "ssn": "123-45-6789", "note": "n" * 150} for n in range(size // 200)]

        @serving.tool
        async def tool_large() -> dict[str, Any]:
            return {"rows": rows}

        async with Client(serving) as client:
            await client.call_tool("tool_0", {"id": 0})
            peaks["started"] = peak()
            for number in range(calls):
                await client.call_tool("tool_0", {"id": number})
            peaks["called"] = peak()
            await client.call_tool("tool_large", {}, raise_on_error=False)
            peaks["large"] = peak()
    return peaks


def peaks(bench: Bench) -> list[str]:
    """Peaks in MB: each line a process of its own."""
    calls, size = bench.rounds(5_000), 500_000 if bench.quick else 5_000_000
    columns = ("started", f"after {calls:,} calls", f"after a result of {size / 1e6:g} MB")
    lines = heads("peak memory of a process, MB", *columns)
    for name, variant in VARIANTS.items():
        run = apart("peaks", variant=variant, calls=calls, size=size)
        lines.append(cells(name, *(f"{run[key] / 1e6:.1f}" for key in ("started", "called", "large"))))
    return lines


def main() -> None:
    """One process of one variant."""
    logging.disable(logging.WARNING)
    print(json.dumps(asyncio.run(loaded(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
