"""Calls a second over HTTP at 1, 8 and 64 connections: servers and load in processes of their own, raw requests.

As a program it is one of the servers, on uvicorn, bare or guarded; the load is `loading`.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from measuring import Bench, apart, cells, heads, server
from redis_server import free_port

CONNECTIONS = (1, 8, 64)
VARIANTS = {
    "bare FastMCP": "bare",
    "bare FastMCP again (noise floor)": "bare",
    "**guarded, 20 rules: access, fields, a limit, audit on**": "twenty",
}


# --- a server ---------------------------------------------------------------------------------------------------------


def serve(variant: str, port: int, folder: str) -> None:
    """A server until it is killed."""
    import uvicorn

    made = server()
    if variant != "bare":
        from basics import twenty
        from measuring import guarded

        made = guarded(twenty(), Path(folder))
    uvicorn.run(made.http_app(), host="127.0.0.1", port=port, log_level="error", ws="none")


# --- the table ------------------------------------------------------------------------------------------------------


@contextmanager
def started(variant: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({"variant": variant, "port": port, "folder": folder})
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
    seconds, turns = bench.of(tiny=(0.1, 1), quick=(1.0, 1), full=(3.0, 3))
    chosen = tuple(bench.of(tiny=CONNECTIONS[:2], quick=CONNECTIONS, full=CONNECTIONS))
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(started(variant)) for name, variant in VARIANTS.items()}
        for url in urls.values():
            apart("loading", url=url, connections=2, seconds=0.5)
        for connections in chosen * turns:
            for name, url in urls.items():
                run = apart("loading", url=url, connections=connections, seconds=seconds)
                runs.setdefault((name, connections), []).append(run)
    columns = [column for count in chosen for column in (f"{count}: calls/s", "ratio", "p50 / p99 ms")]
    lines = heads("connections over HTTP, protocol 2026-07-28", *columns)
    bare = next(iter(VARIANTS))
    for name in VARIANTS:
        lines.append(cells(name, *(v for count in chosen for v in shown(runs[name, count], runs[bare, count]))))
    return lines


def shown(runs: list[dict[str, float]], bare: list[dict[str, float]]) -> list[str]:
    """The best of the runs: what else the machine did only ever takes away."""
    best = max(runs, key=lambda run: run["rate"])
    ratio = best["rate"] / max(run["rate"] for run in bare)
    return [f"{best['rate']:.0f}", f"{ratio:.2f}", f"{best['median']:.1f} / {best['p99']:.1f}"]


def main() -> None:
    """One of the servers."""
    logging.disable(logging.WARNING)
    serve(**json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
