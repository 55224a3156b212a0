"""The demo's scenes: what a real client does, what it should see, and what it saw. A test runs each one too."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from ...errors import TokenInvalid
from ...tokens import attenuate, mint, verify
from .asking import ASKING
from .protected import PROTECTED
from .stage import Scene, Stage, call
from .tokens import TOKENS, shown
from .world import AUDIENCE


async def allowed(stage: Stage) -> None:
    """Who may do what."""
    async with stage.world.client("bob") as bob:
        ran, saw = await call(bob, "read_mail", id=1)
        stage.show("bob calls read_mail", saw, ran)
        ran, saw = await call(bob, "delete_mailbox", name="alice")
        stage.show("bob calls delete_mailbox", saw, not ran and "Unknown tool" in saw)
        stage.record = stage.world.record("delete_mailbox")
        ran, saw = await call(bob, "no_such_tool", name="alice")
        stage.show("bob calls a tool that does not exist: the same answer", saw, not ran and "Unknown tool" in saw)
    async with stage.world.client("alice") as alice:
        ran, saw = await call(alice, "delete_mailbox", name="old")
        stage.show("alice, who is in ops, calls delete_mailbox", saw, ran)


async def hidden(stage: Stage) -> None:
    """What lists show."""
    for user, expected in (
        ("bob", ["forward_mail", "read_contact", "read_mail", "send_mail"]),
        ("alice", ["delete_mailbox", "forward_mail", "read_contact", "read_mail", "send_mail"]),
    ):
        async with stage.world.client(user) as client:
            names = sorted(tool.name for tool in await client.list_tools())
            stage.show(f"{user} lists the tools", names, names == expected)


async def redacted(stage: Stage) -> None:
    """Fields leave the result."""
    async with stage.world.client("alice") as alice:
        _, saw = await call(alice, "read_mail", id=1)
        stage.show("alice reads a mail: everything", saw, "555 0100" in str(saw) and "s3-0042" in str(saw))
    async with stage.world.client("bob") as bob:
        result = await bob.call_tool("read_mail", {"id": 1})
        whole = result.model_dump_json() if hasattr(result, "model_dump_json") else repr(result)
        gone = "555 0100" not in whole and "s3-004" not in whole
        kept = "Carol" in whole and "menu.pdf" in whole
        stage.show("bob reads the same mail: no phone, no storage keys", result.structured_content, gone and kept)


async def limited(stage: Stage) -> None:
    """How often."""
    async with stage.world.client("bob") as bob:
        for number in (1, 2):
            ran, saw = await call(bob, "send_mail", to="carol@example.org", text="hi")
            stage.show(f"bob sends mail {number}", saw, ran)
        result = await bob.call_tool("send_mail", {"to": "carol@example.org", "text": "hi"}, raise_on_error=False)
        meta = (result.meta or {}).get("mcp-macaroon", {})
        stage.show("bob sends a third", meta, meta.get("code") == "rate_limited" and meta.get("retry_after", 0) > 0)


async def plugin(stage: Stage) -> None:
    """A rule of our own, from a file."""
    async with stage.world.client("bob") as bob:
        ran, saw = await call(bob, "send_mail", to="mallory@evil.example", text="the plans")
        stage.show("bob sends mail to a foreign domain", saw, not ran and "our own domains" in saw)
        ran, saw = await call(bob, "send_mail", to="carol@example.org", text="hello")
        stage.show("bob sends mail to our own", saw, ran)


async def reload(stage: Stage) -> None:
    """The file changes while the server runs."""
    world = stage.world
    runtime = world.guard.runtime
    before = runtime.revision
    async with world.client("bob") as bob:
        world.edit('"bf:read_mail:tool_access:allow"', '"bf:read_mail:tool_acces:allow"')
        changed = await runtime.reload()
        stage.show(
            "a broken file is put in place", f"reloaded: {changed}; revision {runtime.revision[:12]}", not changed
        )
        ran, _ = await call(bob, "read_mail", id=1)
        stage.show("the old rules go on", f"bob reads mail: {ran}", ran and runtime.revision == before)
        world.edit('"bf:read_mail:tool_acces:allow"', '"bf:read_mail:tool_access:deny"')
        changed = await runtime.reload()
        stage.show("a good file is put in place", f"reloaded: {changed}; revision {runtime.revision[:12]}", changed)
        ran, saw = await call(bob, "read_mail", id=1)
        stage.show("bob reads mail under the new rules", saw, not ran and runtime.revision != before)


async def token(stage: Stage) -> None:
    """A token: minted, narrowed without the key, tampered with, verified."""
    keys = stage.world.guard.runtime.keys
    minted = mint(
        keys, subject="alice", audience=AUDIENCE, caveats=["bf:*:tool_access:only:read_*"], expires=timedelta(hours=1)
    )
    stage.show("the operator mints a token for alice", shown(minted), minted.startswith("mm_"))
    narrow = attenuate(minted, "af:read_mail:field_access:deny:sender", expires=timedelta(minutes=5))
    stage.show("alice narrows it for an agent, without the key", shown(narrow), narrow != minted)
    verified = verify(keys, narrow, audience=AUDIENCE)
    stage.show("the server verifies it", list(verified.caveats), len(verified.caveats) == 2)
    middle = len(narrow) // 2
    forged = narrow[:middle] + ("A" if narrow[middle] != "A" else "B") + narrow[middle + 1 :]
    for name, text, audience in (("a changed character", forged, AUDIENCE), ("another server", narrow, "bank")):
        try:
            verify(keys, text, audience=audience)
        except TokenInvalid as error:
            stage.show(f"the same token with {name}" if text == forged else f"the token at {name}", error.code, True)
        else:
            stage.show(name, "accepted", False)


SCENES: Final = (
    Scene(
        "allowed",
        "Allowed and refused",
        "Rules name who may call what; what no rule allows does not exist for the caller.",
        allowed,
        ("read_mail:tool_access", "delete_mailbox"),
    ),
    Scene("hidden", "Hidden from lists", "A list shows what its reader can reach.", hidden),
    Scene(
        "redacted",
        "Fields redacted",
        "The same result leaves with other fields for other callers.",
        redacted,
        ("after: read_mail",),
    ),
    Scene(
        "limited", "Rate-limited", "Two mails a minute; the refusal says when to come back.", limited, ("rate_limit",)
    ),
    Scene("plugin", "A plugin's rule", "Twelve lines in a file of our own become a policy.", plugin, ("house_",)),
    Scene("reload", "A reload", "A broken file changes nothing; a good one takes effect at once.", reload),
    Scene("token", "A token, narrowed", "A holder narrows a token alone; nobody can widen it.", token),
    *ASKING,
    *TOKENS,
    *PROTECTED,
)
FIRST: Final = ("allowed", "redacted", "once")
"""What the demo begins with, and ends with unless you ask for all."""
