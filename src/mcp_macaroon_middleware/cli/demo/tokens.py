"""Scenes in which tokens travel: minted for an agent, narrowed for a sub-agent, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from ...tokens import attenuate, mint
from .stage import Scene, Stage, call
from .world import AUDIENCE


def shown(token: str) -> str:
    """A token as a person may see it: its beginning and its length."""
    return f"{token[:9]}… ({len(token)} characters)"


async def travels(stage: Stage) -> None:
    """From operator to agent to sub-agent, over the wire, and back."""
    runtime = stage.world.guard.runtime
    agent = mint(runtime.keys, subject="bob", audience=AUDIENCE, client="agent", expires=timedelta(hours=8))
    stage.show("the operator mints a token for bob's agent", shown(agent), agent.startswith("mm_"))
    sub_agent = attenuate(
        agent,
        "bf:*:tool_access:only:read_mail:read_contact",
        "af:read_contact:field_access:deny:email",
        expires=timedelta(minutes=5),
    )
    stage.show("the agent narrows it, without the key", "two tools, five minutes, no email field", sub_agent != agent)
    async with stage.world.client(agent) as client:
        names = sorted(tool.name for tool in await client.list_tools())
        stage.show("the agent lists the tools", names, "send_mail" in names)
    async with stage.world.client(sub_agent) as client:
        names = sorted(tool.name for tool in await client.list_tools())
        stage.show("the sub-agent lists the tools", names, names == ["read_contact", "read_mail"])
        _, saw = await call(client, "read_contact", name="Carol")
        stage.show("it reads a contact: no email, and nobody is asked", saw, saw == {"name": "Carol"})
        ran, saw = await call(client, "send_mail", to="carol@example.org", text="hi")
        stage.show("it sends a mail", saw, not ran and "Unknown tool" in saw)
        if runtime.bearers is None:
            stage.show("tokens are accepted", "no", False)
            return
        parent = (await runtime.bearers.accept(agent)).token
        await runtime.bearers.revocations.revoke(parent.id)
        stage.show("the operator revokes the agent's token", f"id {parent.id[:8]}…", True)
        stage.show("the sub-agent's next call", *await _refused(client))
    stage.show("the agent's next connection", *await _connects(stage, agent))


async def _refused(client: object) -> tuple[str, bool]:
    try:
        ran, saw = await call(client, "read_contact", name="Carol")  # type: ignore[arg-type]
    except Exception as error:  # the transport's own error for 401
        return f"refused: {error}", True
    return str(saw), not ran


async def _connects(stage: Stage, token: str) -> tuple[str, bool]:
    try:
        async with stage.world.client(token):
            return "connected", False
    except Exception as error:
        return f"refused: {error}", True


TOKENS: Final = (
    Scene("travels", "A token that travels", "Minted, narrowed without the key, held to it, revoked.", travels),
)
