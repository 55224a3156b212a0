"""Calls a second over HTTP at 1, 8 and 64 connections: servers and load in processes of their own, raw requests.

As a program it is one of these processes: a server on uvicorn, bare or guarded, or the load against one address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import httpx2
from measuring import Bench, apart, cells, heads, server
from redis_server import free_port

CONNECTIONS = (1, 8, 64)
VERSION = "2026-07-28"
HEADERS = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": VERSION,
    "mcp-method": "tools/call",
    "mcp-name": "tool_0",
}
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
VARIANTS = {
    "bare FastMCP": "bare",
    "bare FastMCP again (noise floor)": "bare",
    "**guarded, 20 rules: access, fields, a limit, audit on**": "twenty",
}


# --- the two kinds of process ---------------------------------------------------------------------------------------


def serve(variant: str, port: int, folder: str) -> None:
    """A server until it is killed."""
    import uvicorn

    made = server()
    if variant != "bare":
        from basics import twenty
        from measuring import guarded

        made = guarded(twenty(), Path(folder))
    uvicorn.run(made.http_app(), host="127.0.0.1", port=port, log_level="error", ws="none")


async def load(url: str, connections: int, seconds: float) -> dict[str, float]:
    """Calls over so many connections, one after another on each, for so long."""
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def one() -> None:
        async with httpx2.AsyncClient(headers=HEADERS, timeout=60) as client:
            number = 0
            while time.perf_counter() < end:
                number += 1
                began = time.perf_counter()
                answer = await client.post(url, json=request(number))
                took.append((time.perf_counter() - began) * 1e3)
                if answer.status_code != 200 or '"isError":true' in answer.text or "123-45" not in answer.text:
                    raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    rate = len(took) / (time.perf_counter() - began)
    return {"rate": rate, "median": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98]}


def request(number: int) -> dict[str, Any]:
    """A call as today's protocol has it: it stands alone, without a handshake."""
    params = {"name": "tool_0", "arguments": {"id": number}, "_meta": META}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


# --- the table ------------------------------------------------------------------------------------------------------


@contextmanager
def started(variant: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({"serve": {"variant": variant, "port": port, "folder": folder}})
        process = subprocess.Popen([sys.executable, __file__, given])
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once somebody listens there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError("a server ended at its start")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("a server does not listen")


def throughput(bench: Bench) -> list[str]:
    """Calls a second, and the latency of one call; the variants in turn, three times each."""
    seconds, turns = (1.0, 1) if bench.quick else (3.0, 3)
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(started(variant)) for name, variant in VARIANTS.items()}
        for url in urls.values():
            apart("throughput", load={"url": url, "connections": 2, "seconds": 0.5})
        for connections in CONNECTIONS * turns:
            for name, url in urls.items():
                run = apart("throughput", load={"url": url, "connections": connections, "seconds": seconds})
                runs.setdefault((name, connections), []).append(run)
    columns = [column for count in CONNECTIONS for column in (f"{count}: calls/s", "ratio", "p50 / p99 ms")]
    lines = heads("connections over HTTP, protocol 2026-07-28", *columns)
    bare = next(iter(VARIANTS))
    for name in VARIANTS:
        lines.append(cells(name, *(v for count in CONNECTIONS for v in shown(runs[name, count], runs[bare, count]))))
    return lines


def shown(runs: list[dict[str, float]], bare: list[dict[str, float]]) -> list[str]:
    """The best of the runs: what else the machine did only ever takes away."""
    best = max(runs, key=lambda run: run["rate"])
    ratio = best["rate"] / max(run["rate"] for run in bare)
    return [f"{best['rate']:.0f}", f"{ratio:.2f}", f"{best['median']:.1f} / {best['p99']:.1f}"]


def main() -> None:
    """One of the processes."""
    logging.disable(logging.WARNING)
    given = json.loads(sys.argv[1])
    if "serve" in given:
        serve(**given["serve"])
    else:
        print(json.dumps(asyncio.run(load(**given["load"]))))


if __name__ == "__main__":
    main()
