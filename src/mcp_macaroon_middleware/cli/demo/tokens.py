"""Scenes in which tokens travel: minted for an agent, narrowed for a sub-agent, revoked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import httpx2
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from mcp.shared.exceptions import MCPError

from ...config.revoking import revoke
from ...config.token_policy import open_policy
from ...tokens import attenuate, inspect, mint
from .stage import Scene, Stage, call

HERE: Final = "on the connection that is open"
ANEW: Final = "on a new connection"


def shown(token: str) -> str:
    """A token as a person may see it: its beginning and its length."""
    return f"{token[:9]}… ({len(token)} characters)"


async def travels(stage: Stage) -> None:
    """From operator to agent to sub-agent, over the wire, and back."""
    policy = await asyncio.to_thread(open_policy, stage.world.policies)
    lasts = timedelta(hours=8)
    agent = mint(policy.keys, subject="bob", audience=policy.audience, client="agent", expires=lasts)
    stage.show("the operator mints a token for bob's agent", shown(agent), agent.startswith("mm_"))
    sub_agent = attenuate(
        agent,
        "bf:*:tool_access:only:read_mail:read_contact",
        "af:read_contact:field_access:deny:email",
        expires=timedelta(minutes=5),
    )
    stage.show("the agent narrows it, without the key", "two tools, five minutes, no email field", sub_agent != agent)
    async with _holding(stage, agent) as wide, _holding(stage, sub_agent) as narrow:
        await _do_what_they_may(stage, wide.client, narrow.client)
        await revoke(stage.world.guard.runtime, agent)
        stage.show("the operator revokes the agent's token", f"id {inspect(agent).id[:8]}…", True)
        stage.show(f"the agent's next call, {HERE}", *await _call_refused(stage, wide))
        stage.show(f"the sub-agent's next call, {HERE}", *await _call_refused(stage, narrow))
    stage.show(f"the agent, {ANEW}", *await _connection_refused(stage, agent))
    stage.show(f"the sub-agent, {ANEW}", *await _connection_refused(stage, sub_agent))


async def _do_what_they_may(stage: Stage, agent: Client[Any], sub_agent: Client[Any]) -> None:
    names = sorted(tool.name for tool in await agent.list_tools())
    stage.show("the agent lists the tools", names, "send_mail" in names)
    names = sorted(tool.name for tool in await sub_agent.list_tools())
    stage.show("the sub-agent lists the tools", names, names == ["read_contact", "read_mail"])
    _, saw = await call(sub_agent, "read_contact", name="Carol")
    stage.show("it reads a contact: no email, and nobody is asked", saw, saw == {"name": "Carol"})
    ran, saw = await call(sub_agent, "send_mail", to="carol@example.org", text="hi")
    stage.show("it sends a mail", saw, not ran and "Unknown tool" in saw)


# --- who is refused, and for what -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """A holder's client, and the HTTP status of every answer that it gets."""

    client: Client[Any]
    statuses: list[int] = field(default_factory=list)


@asynccontextmanager
async def _holding(stage: Stage, token: str) -> AsyncIterator[_Held]:
    held = _held(stage, token)
    async with held.client:
        yield held


def _held(stage: Stage, token: str) -> _Held:
    statuses: list[int] = []

    async def note(response: httpx2.Response) -> None:
        statuses.append(response.status_code)

    def factory(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **more: Any,
    ) -> httpx2.AsyncClient:
        lasts = timeout or httpx2.Timeout(30.0, read=300.0)
        return httpx2.AsyncClient(headers=headers, timeout=lasts, auth=auth, event_hooks={"response": [note]}, **more)

    transport = StreamableHttpTransport(stage.world.url, auth=token, httpx_client_factory=factory)
    more: dict[str, Any] = {"mode": stage.world.era} if stage.world.era is not None else {}
    return _Held(Client(transport, **more), statuses)


async def _call_refused(stage: Stage, held: _Held) -> tuple[str, bool]:
    """What a call that the token allowed before gets now."""
    held.statuses.clear()
    try:
        await call(held.client, "read_mail", id=1)
    except MCPError:
        return _told(held, _refusals(stage))
    return "answered", False


async def _connection_refused(stage: Stage, token: str) -> tuple[str, bool]:
    held = _held(stage, token)
    try:
        async with held.client:
            return "connected", False
    except MCPError:
        return _told(held, _refusals(stage))


def _told(held: _Held, codes: list[str]) -> tuple[str, bool]:
    """What the wire and the audit record say, and whether it is a revoked token's 401 and nothing else."""
    seen = ", ".join(sorted({*map(str, held.statuses), *codes}))
    return f"refused: {seen}", set(held.statuses) == {401} and set(codes) == {"token_revoked"}


def _refusals(stage: Stage) -> list[str]:
    """The codes of the tokens that were refused so far, as the audit record has them: repeats are folded into one."""
    text = (stage.world.folder / "audit.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [record["code"] for record in records if record["event"] == "token_refused"]


TOKENS: Final = (
    Scene("travels", "A token that travels", "Minted, narrowed without the key, held to it, revoked.", travels),
)
