"""A guarded server for tests: a policy from a mapping, its audit records as a list, callers in memory and over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.utilities.tests import asgi_client
from lab import Records

from mcp_macaroon_middleware.adapters.fastmcp import Guard, guard
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.core.audit import SinkSlot

KEY = secrets.token_hex(32)
ERAS = ("auto", "legacy")


@dataclass
class Guarded:
    """A server with its guard and everything that was recorded."""

    server: FastMCP[Any]
    guard: Guard
    records: Records

    @property
    def ends(self) -> list[tuple[str, str, str]]:
        """The final records as (component, outcome, code), in order, without those of the connection itself."""
        return [
            (record["component"]["name"], record["outcome"], record.get("code") or record.get("detail", ""))
            for record in self.records.finals()
            if record["component"]["name"] not in ("initialize", "server/discover", "notifications/initialized")
        ]

    def exactly_one_end_each(self) -> bool:
        """Whether no request has two final records, and every intent has one."""
        ends = [record["request"] for record in self.records.finals()]
        intents = [record["request"] for record in self.records if record["event"] == "intent"]
        return len(ends) == len(set(ends)) and set(intents) <= set(ends)


def policy(
    policies: Sequence[str | Mapping[str, Any]], config: Mapping[str, Any] | None = None, **sections: Any
) -> Mapping[str, Any]:
    """A policy file as a mapping; `default` is deny unless told otherwise."""
    settings: dict[str, Any] = {"secret_key": KEY, "default": "deny", "audit": [{"sink": "log"}], **(config or {})}
    return {"config": settings, "policies": list(policies), **({"plugins": sections} if sections else {})}


def runtime(
    policies: Sequence[str | Mapping[str, Any]], *, application: Sequence[object] = (), **more: Any
) -> tuple[Runtime, Records]:
    """A runtime whose records come into a list."""
    made, records = load_runtime(policy(policies, **more), application=application), Records()
    made.audit._slots = (SinkSlot(name="list", sink=records, required=True),)
    return made, records


def guarded(server: FastMCP[Any], policies: Sequence[str | Mapping[str, Any]], **more: Any) -> Guarded:
    """The server under these rules."""
    made, records = runtime(policies, **more)
    return Guarded(server=server, guard=guard(server, made), records=records)


def tokens(**claims: Mapping[str, Any]) -> StaticTokenVerifier:
    """A token table: the token of each user is his name."""
    return StaticTokenVerifier(
        {
            user: {"client_id": "a client", "subject": user, "sub": user, "scopes": [], **more}
            for user, more in claims.items()
        }
    )


@asynccontextmanager
async def http(server: FastMCP[Any], user: str | None = None, era: str = "auto") -> AsyncIterator[Client[Any]]:
    """A client over HTTP, without sockets."""
    async with asgi_client(server, auth=user, mode=era) as client:
        yield client


async def text_of(client: Client[Any], tool: str, **arguments: Any) -> str:
    """What a tool call answers, errors included: the text of its first block."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    return str(getattr(result.content[0], "text", "")) if result.content else ""


async def code_of(client: Client[Any], tool: str, **arguments: Any) -> str | None:
    """The code of a refusal; None where the call was not refused."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    return ((result.meta or {}).get("mcp-macaroon") or {}).get("code")


__all__ = ["ERAS", "Guarded", "code_of", "guarded", "http", "policy", "runtime", "text_of"]
