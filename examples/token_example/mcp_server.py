"""The bank as an MCP server: `python mcp_server.py [PORT]`. Callers bring a token."""

from __future__ import annotations

import sys
from typing import Any

import bank
from fastmcp import FastMCP

from mcp_macaroon_middleware import MacaroonAuth, guard

mcp: FastMCP[Any] = FastMCP("bank", auth=MacaroonAuth("policies.yaml"))


@mcp.tool
def read_customer(number: int) -> dict[str, Any]:
    """Reads a customer."""
    return bank.CUSTOMERS[number]


@mcp.tool
def book_transfer(amount: int) -> dict[str, Any]:
    """Books a transfer."""
    return bank.transfer(amount)


guard(mcp, "policies.yaml")

if __name__ == "__main__":
    mcp.run(transport="http", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000, show_banner=False)
