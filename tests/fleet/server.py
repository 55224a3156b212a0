"""One server of a fleet, as a program: `server.py POLICY LEDGER`. It prints its URL; tools write down their runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

from mcp_macaroon_middleware import guard
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth
from mcp_macaroon_middleware.config.runtime import load_runtime


def main(policy: str, ledger: str) -> None:
    """Serves until it is killed."""
    made = load_runtime(policy)
    people = StaticTokenVerifier(
        {name: {"client_id": "app", "sub": name, "scopes": []} for name in ("alice", "bob", "carol")}
    )
    server: FastMCP[Any] = FastMCP("fleet", auth=MacaroonAuth(made, people))

    def note(what: str) -> None:
        descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, what.encode() + b"\n")
        os.close(descriptor)

    @server.tool
    def work(number: int) -> str:
        note(f"work-{number}")
        return f"done {number}"

    @server.tool
    def free(number: int) -> str:
        note(f"free-{number}")
        return f"free {number}"

    @server.tool
    async def slow(seconds: float) -> str:
        note("slow-began")
        await asyncio.sleep(seconds)
        note("slow-ended")
        return "slept"

    @server.tool
    def send(to: str) -> str:
        note(f"send-{to}")
        return f"sent to {to}"

    @server.tool
    def user(id: int) -> dict[str, Any]:
        note(f"user-{id}")
        return {"id": id, "email": "bob@example.com"}

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
