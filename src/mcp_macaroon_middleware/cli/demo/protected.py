"""The scene with an existing server: `protect` starts it unchanged, and stands in front of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from .stage import Scene, Stage, call

SERVER: Final = """\
from fastmcp import FastMCP

mcp = FastMCP("notes")


@mcp.tool
def read_note(name: str) -> dict[str, str]:
    return {"name": name, "text": "buy milk", "owner": "carol@example.org"}


@mcp.tool
def delete_note(name: str) -> str:
    return f"deleted {name}"


mcp.run(show_banner=False)
"""
POLICIES: Final = """\
config: {default: deny, keys: ./keys/, audit: [{sink: jsonl, path: ./notes.jsonl}]}
policies:
  - "bf:read_note:tool_access:allow"
  - "af:read_note:field_access:deny:owner"
"""


async def protected(stage: Stage) -> None:
    """An unchanged server behind `protect`."""
    folder = stage.world.folder
    server, policies = _written(folder / "notes.py", SERVER), _written(folder / "notes.yaml", POLICIES)
    command = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(policies), "--", sys.executable, str(server)]
    shown = "mcp-macaroon protect --config notes.yaml -- python notes.py"
    stage.show(f"a client is told to start  {shown}", POLICIES.rstrip(), True)
    transport = StdioTransport(
        sys.executable, command, env=dict(os.environ), keep_alive=False, log_file=folder / "notes.log"
    )
    more: dict[str, Any] = {"mode": stage.world.era} if stage.world.era is not None else {}
    async with Client(transport, **more) as client:
        names = [tool.name for tool in await client.list_tools()]
        stage.show("it lists the tools", names, names == ["read_note"])
        _, saw = await call(client, "read_note", name="a")
        stage.show("it reads a note, without its owner", saw, saw == {"name": "a", "text": "buy milk"})
        ran, saw = await call(client, "delete_note", name="a")
        stage.show("it tries to delete one", saw, not ran and "Unknown tool" in str(saw))


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


PROTECTED: Final = (
    Scene(
        "protect",
        "An existing server, protected",
        "`protect` starts it unchanged and guards it; clients start `protect` instead.",
        protected,
    ),
)
