"""A hidden component and one that is not there: one answer, and as many questions to the servers behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from fastmcp.server.middleware import Middleware
from guarded import ERAS, guarded

DENIED = [
    "bf:*:tool_access:allow",
    {"before": {"tool": "*secret*"}, "policy": "tool_access", "action": "deny", "dynamic": True},
    {"before": {"prompt": "*secret*"}, "policy": "tool_access", "action": "deny", "dynamic": True},
    {"before": {"resource": "mail://secret*"}, "policy": "tool_access", "action": "deny", "dynamic": True},
    {"before": {"resource": "box://secret*"}, "policy": "tool_access", "action": "deny", "dynamic": True},
]


class Asked(Middleware):
    """Counts what reaches the server behind."""

    def __init__(self) -> None:
        self.methods: Counter[str] = Counter()

    async def on_message(self, context: Any, call_next: Any) -> Any:
        self.methods[str(context.method)] += 1
        return await call_next(context)


def back() -> FastMCP[Any]:
    server: FastMCP[Any] = FastMCP("back")
    for name in ("secret", "open"):
        server.tool(lambda: "done", name=name)
        server.prompt(lambda: "done", name=name)
        server.resource(f"mail://{name}", name=name)(lambda: "done")
        server.resource(f"box://{name}/{{id}}", name=name)(lambda id: id)
    return server


def front(how: str, behind: FastMCP[Any]) -> FastMCP[Any]:
    if how == "local":
        return behind
    if how == "proxied":
        return create_proxy(behind, name="front")
    server: FastMCP[Any] = FastMCP("front")
    server.mount(behind)
    return server


ASK = {
    "tool": lambda client, name: client.call_tool(name, {}),
    "prompt": lambda client, name: client.get_prompt(name),
    "resource": lambda client, name: client.read_resource(f"mail://{name}"),
    "template": lambda client, name: client.read_resource(f"box://{name}/1"),
}


@pytest.mark.threat("R17")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("how", ["local", "mounted", "proxied"])
@pytest.mark.parametrize("kind", list(ASK))
async def test_hidden_and_unknown_cost_the_same_and_answer_the_same(kind: str, how: str, era: str) -> None:
    """attacks H10."""
    behind, asked = back(), Asked()
    behind.add_middleware(asked)
    server = front(how, behind)
    for provider in server.providers:  # every look is a trip: what a backend's own list cache spares is no matter
        if hasattr(provider, "_cache_ttl"):
            provider._cache_ttl = 0
    guarded(server, DENIED, config={"default": "allow"})
    async with Client(server, mode=era) as client:

        async def once(name: str) -> tuple[str, Counter[str]]:
            before = asked.methods.copy()
            with pytest.raises(Exception) as refused:  # noqa: PT011 - each kind has its own
                await ASK[kind](client, name)
            return str(refused.value).replace(name, "NAME"), asked.methods - before

        await once("secret")  # whatever is learnt at the first look of all
        hidden = [await once("secret") for _ in range(3)]
        unknown = [await once(f"nobody{number}") for number in range(3)]
        assert {text for text, _ in hidden} == {text for text, _ in unknown}
        assert [trips for _, trips in hidden] == [trips for _, trips in unknown]
