"""What a guard adds to a call in memory and over HTTP, by the number of rules; nothing about stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.server.auth import AuthContext
from fastmcp.server.middleware import AuthMiddleware, Middleware
from fastmcp.utilities.tests import asgi_client
from measuring import Bench, Call, caller, guarded, interleaved, over_memory, policy, server, table


def access() -> list[str]:
    """Twenty access rules that all speak of `tool_0`."""
    return ["bf:tool_0:tool_access:allow", *(f"bf:tool_*:tool_access:only:tool_*:other_{n}" for n in range(19))]


def twenty() -> list[str]:
    """Twenty rules that all speak of `tool_0`: access, fields and a limit."""
    rules = ["bf:tool_0:tool_access:allow", "bf:tool_*:rate_limit:allow:100000000/day"]
    rules += [f"bf:tool_*:tool_access:only:tool_*:other_{n}" for n in range(8)]
    return rules + [f"af:tool_*:field_access:deny:absent_{n}" for n in range(10)]


def many(count: int) -> list[Any]:
    """Rules of which two match: the rest are literals and globs for other tools."""
    rest: list[Any] = [
        {"before": f"other_{n}", "policy": "tool_access", "action": "deny", "dynamic": True}
        if n % 2
        else f"bf:other_{n}_*:tool_access:deny"
        for n in range(count - 2)
    ]
    return ["bf:tool_0:tool_access:allow", "bf:tool_*:tool_access:only:tool_*", *rest]


class Nowhere:
    """An audit sink that keeps nothing."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Throws a record away."""

    def close(self) -> None:
        """Nothing to release."""


def unrecorded(rules: list[str], bench: Bench) -> FastMCP[Any]:
    """A server behind these rules, whose records go nowhere."""
    from mcp_macaroon_middleware import guard
    from mcp_macaroon_middleware.config.runtime import load_runtime
    from mcp_macaroon_middleware.plugin import AuditSinkType

    nowhere = AuditSinkType(name="nowhere", open=lambda options, context: Nowhere())
    made = server()
    guard(made, load_runtime(policy(rules, bench.folder, audit=[{"sink": "nowhere"}]), application=[nowhere]))
    return made


class Nothing(Middleware):
    """A middleware that does nothing."""


def trivial(number: int) -> Callable[[AuthContext], bool]:
    def check(context: AuthContext) -> bool:
        return number >= 0

    return check


async def added(bench: Bench) -> list[str]:
    """What twenty rules add, beside what FastMCP's own AuthMiddleware adds with twenty checks."""
    auth = server()
    auth.add_middleware(AuthMiddleware(auth=[trivial(n) for n in range(20)]))
    nothing = server()
    nothing.add_middleware(Nothing())
    rows = await over_memory(
        {
            "bare FastMCP": server(),
            "bare FastMCP again (noise floor)": server(),
            "a middleware that does nothing": nothing,
            "AuthMiddleware, 20 trivial checks": auth,
            "**guarded, 20 access rules, audit on**": guarded(access(), bench.folder),
            "the same, its two audit records thrown away": unrecorded(access(), bench),
            "**guarded, 20 rules: access, fields, a limit, audit on**": guarded(twenty(), bench.folder),
        },
        bench.rounds(2_000),
    )
    return table("in-memory client, protocol 2026-07-28", rows)


async def rules(bench: Bench) -> list[str]:
    """The same call under more and more rules that do not speak of it."""
    servers = {"bare FastMCP": server(), "bare FastMCP again (noise floor)": server()}
    for count in bench.upto(10, 100, 1_000, 10_000):
        servers[f"guarded, {count:,} rules"] = guarded(many(count), bench.folder)
    return table("growth with the number of rules", await over_memory(servers, bench.rounds(1_000)))


async def lists(bench: Bench) -> list[str]:
    """Modern HTTP with 200 tools: a call of one of them, and the list of them all, which a rule decides one by one."""
    allow = ["bf:tool_*:tool_access:allow"]
    servers = {
        "bare FastMCP": server(200),
        "bare FastMCP again (noise floor)": server(200),
        "**guarded**": guarded(allow, bench.folder, 200),
    }
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(asgi_client(made)) for name, made in servers.items()}
        calls = {f"a call, {name}": caller(client) for name, client in clients.items()}
        called = await interleaved(calls, bench.rounds(500))
        lists = {f"the list, {name}": lister(client) for name, client in clients.items()}
        listed = await interleaved(lists, bench.rounds(100), warm=5)
    return table("modern HTTP (in process), 200 tools", called, listed)


def lister(client: Client[Any]) -> Call:
    """A list of all tools."""

    async def list_tools(number: int) -> Any:
        return await client.list_tools()

    return list_tools
