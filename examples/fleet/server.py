"""One server of the fleet: `python server.py NAME PORT`. Start as many as you like; run.py starts two."""

import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP

from mcp_macaroon_middleware import guard
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth


def build(name: str) -> FastMCP[Any]:
    """A guarded server that says who it is."""
    server: FastMCP[Any] = FastMCP("parcels", auth=MacaroonAuth("policies.yaml"))

    @server.tool
    def track_parcel(number: int) -> str:
        """Where a parcel is."""
        return f"{name}: parcel {number} is on its way"

    @server.tool
    def send_parcel(to: str) -> str:
        """Sends a parcel."""
        return f"{name}: sent to {to}"

    guard(server, "policies.yaml")
    return server


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]).http_app(), port=int(sys.argv[2]), log_level="warning", ws="none")
