"""Walks one token through both programs: `python client.py`, while `mcp_server.py` and `server.py` run."""

from __future__ import annotations

import argparse
import asyncio
import os
from datetime import timedelta
from typing import Any

import httpx2
from fastmcp import Client

from mcp_macaroon_middleware import KeyRing, MacaroonClientAuth, mint


async def walk(mcp_url: str, api_url: str, mode: str) -> None:
    """The operator mints, an agent narrows, both programs hold the tokens to what they say."""
    keys = KeyRing.from_secret(os.environ["MACAROON_SECRET_KEY"])  # the operator's part: only this line needs the key
    agent = MacaroonClientAuth(mint(keys, subject="alice", audience="bank", expires=timedelta(hours=1)))
    reader = MacaroonClientAuth(
        agent.narrow("bf:*:tool_access:only:read_customer:GET *", expires=timedelta(minutes=5), check=lambda _: None)
    )
    for name, auth in (("The agent's token", agent), ("Narrowed by the agent: reading only", reader)):
        print(f"\n{name}, at the MCP server")
        async with Client(mcp_url, auth=auth, mode=mode) as client:
            print(f"  tools: {', '.join(sorted(tool.name for tool in await client.list_tools()))}")
            print(f"  read_customer: {(await client.call_tool('read_customer', {'number': 1})).structured_content}")
            await show("book_transfer", client.call_tool("book_transfer", {"amount": 40}, raise_on_error=False))
        print(f"\n{name}, at the web service")
        async with httpx2.AsyncClient(base_url=api_url, auth=auth) as http:
            for answer in (await http.get("/customers/1"), await http.post("/transfers", json={"amount": 40})):
                print(f"  {answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    print("\nNo token, at the web service")
    async with httpx2.AsyncClient(base_url=api_url) as http:
        answer = await http.get("/customers/1")
        print(f"  GET /customers/1: {answer.status_code} {answer.text}")


async def show(what: str, call: Any) -> None:
    """Prints a call's data, or its refusal."""
    result = await call
    print(f"  {what}: {result.structured_content or result.content[0].text}")


def main() -> None:
    """Reads the ports and walks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mcp", type=int, default=8000, help="the MCP server's port")
    parser.add_argument("--api", type=int, default=8001, help="the web service's port")
    parser.add_argument("--legacy", action="store_true", help="speak the protocol of 2025-11-25")
    options = parser.parse_args()
    urls = f"http://127.0.0.1:{options.mcp}/mcp", f"http://127.0.0.1:{options.api}"
    asyncio.run(walk(*urls, "legacy" if options.legacy else "auto"))


if __name__ == "__main__":
    main()
