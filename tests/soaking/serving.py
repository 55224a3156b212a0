"""One server of a soak, as a program: `serving.py POLICY LEDGER`. Tools write down their runs, by the number given.

A line of the ledger is what was done and when, by a clock that all processes share and nobody sets.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import Any

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

from mcp_macaroon_middleware import guard
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth
from mcp_macaroon_middleware.config.runtime import load_runtime

PEOPLE = ("alice", "bob", "carol")


def tools(server: FastMCP[Any], ledger: str) -> None:
    """What can be called: at once or taking a while, free, limited, asked about before and after."""

    def note(what: str) -> None:
        descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{what} {time.monotonic():.3f}\n".encode())
        os.close(descriptor)

    @server.tool
    def free(number: int) -> str:
        note(f"free-{number}")
        return f"free {number}"

    @server.tool
    def work(number: int) -> str:
        note(f"work-{number}")
        return f"done {number}"

    @server.tool
    async def slow(number: int, seconds: float) -> str:
        note(f"slow-{number}")
        await asyncio.sleep(seconds)
        note(f"slow-{number}-ended")
        return "slept"

    @server.tool
    def send(number: int) -> str:
        note(f"send-{number}")
        return f"sent {number}"

    @server.tool
    async def pay(number: int, seconds: float) -> str:
        note(f"pay-{number}")
        await asyncio.sleep(seconds)
        return f"paid {number}"

    @server.tool
    def user(number: int) -> dict[str, Any]:
        note(f"user-{number}")
        return {"number": number, "email": "bob@example.com"}


def main(policy: str, ledger: str) -> None:
    """Serves until it is killed."""
    made = load_runtime(policy)
    people = StaticTokenVerifier({name: {"client_id": "app", "sub": name, "scopes": []} for name in PEOPLE})
    server: FastMCP[Any] = FastMCP("soak", auth=MacaroonAuth(made, people))
    tools(server, ledger)
    guard(server, made)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    listener.listen(512)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.http_app(), log_level="error", lifespan="on", ws="none", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
