"""Keys for the state that travels with a question: one for every server that has our keys, not one a process.

FastMCP seals the state to method, name, arguments and principal (`RequestStateBoundary`). Under a key of its own
process an answer would be refused by any other server, and after a restart. It never touches a state itself.
"""

from __future__ import annotations

from typing import Any, Final

from fastmcp import FastMCP
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError

from ...core.decisions import plain_refusal
from ...model import Refusal
from ...tokens import KeyRing

STALE: Final[Refusal] = plain_refusal("approval_stale")
REASON: Final = "invalid_request_state"
SHORTEST: Final = 600.0
MORE: Final = 60.0


def seal_states(server: FastMCP[Any], keys: KeyRing, audience: str, *, timeout: float) -> None:
    """Has the server seal states under our keys, unless its author gave it keys.

    `timeout` is how long a question stays open, in seconds; a state is good for that long at least.
    """
    if server._request_state_security is not None:
        return
    chain = server._mcp_server.middleware
    secrets = [keys.derive("leg", audience, key_id) for key_id in _current_first(keys)]
    security = RequestStateSecurity(keys=secrets, ttl=max(SHORTEST, timeout + MORE), audience=audience or server.name)
    for number, middleware in enumerate(chain):
        if isinstance(middleware, RequestStateBoundary):
            chain[number] = RequestStateBoundary(security, default_audience=audience or server.name)


def _current_first(keys: KeyRing) -> list[str]:
    return [keys.current, *(key_id for key_id in keys.ids if key_id != keys.current)]


def is_stale(error: BaseException) -> bool:
    """Whether this is the boundary's refusal of a state."""
    data = error.error.data if isinstance(error, MCPError) else None
    return isinstance(data, dict) and data.get("reason") == REASON
