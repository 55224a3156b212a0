"""Paths as keys: names that a caller may choose are judged beside those that a schema lists, never in their place."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from guarded import ERAS, guarded
from pydantic import BaseModel

RULE = "bf:*:path_allowlist:allow:docs/*"


class Change(BaseModel):
    path: str
    content: str = ""


def server(ran: list[Any]) -> FastMCP[Any]:
    made: FastMCP[Any] = FastMCP("files")

    @made.tool
    def write_files(files: dict[str, str]) -> None:
        ran.append(files)

    @made.tool
    def push_files(files: list[Change]) -> None:
        ran.append([each.path for each in files])

    @made.tool
    def convert(options: dict[str, Any], path: str = "docs/x") -> None:
        ran.append((path, options))

    @made.tool
    def run(options: dict[str, Any]) -> None:
        ran.append(options)

    return made


@pytest.mark.threat("R05")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("proxied", [False, True], ids=["local", "proxied"])
@pytest.mark.parametrize(
    ("tool", "arguments", "runs"),
    [
        # attacks H3
        ("write_files", {"files": {"file": "docs/ok.md", "/etc/passwd": "x"}}, False),
        ("write_files", {"files": {"docs/from": "docs/a", "/etc/cron.d/x": "x"}}, False),
        ("write_files", {"files": {"/etc/passwd": "x"}}, False),
        ("write_files", {"files": {"path": "docs/a", "Makefile": "x"}}, False),
        ("push_files", {"files": [{"path": "docs/a"}]}, True),
        ("push_files", {"files": [{"path": "docs/a"}, {"path": "etc/b"}]}, False),
        ("convert", {"path": "docs/a", "options": {"level": 1}}, True),
        ("convert", {"path": "docs/a", "options": {"outfile": "/etc/passwd"}}, False),
        ("convert", {"path": "/etc/passwd", "options": {"file": "docs/ok.md"}}, False),
        ("run", {"options": {"file": "docs/ok.md", "input": "/etc/passwd"}}, False),
        ("run", {"options": {"nested": [{"file": "docs/ok.md"}]}}, False),
    ],
)
async def test_attacks_h3_no_key_that_a_caller_chooses_stands_for_a_path(
    tool: str, arguments: dict[str, Any], runs: bool, proxied: bool, era: str
) -> None:
    ran: list[Any] = []
    made = server(ran)
    front = create_proxy(made) if proxied else made
    guarded(front, ["bf:*:tool_access:allow", RULE])
    async with Client(front, mode=era) as client:
        result = await client.call_tool(tool, arguments, raise_on_error=False)
    assert (not result.is_error, bool(ran)) == (runs, runs)
