"""A guarded server over real transports: a loopback socket with uvicorn, and standard input and output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport
from guarded import ERAS, KEY, guarded, text_of, tokens
from serving import serving

SCRIPT = """
import sys
from fastmcp import FastMCP
from mcp_macaroon_middleware import guard

server = FastMCP("over stdio")


@server.tool
def read(id: int) -> dict:
    return {"id": id, "ssn": "123-45-6789"}


@server.tool
def wipe() -> str:
    raise SystemExit("it must not run")


guard(server, sys.argv[1])
server.run(transport="stdio", show_banner=False)
"""


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("FI28")
async def test_over_stdio_the_caller_is_local_and_everything_holds(era: str, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SCRIPT)
    policies = tmp_path / "policies.yaml"
    policies.write_text(
        f"config: {{secret_key: '{KEY}', default: deny, audit: [{{sink: jsonl, path: ./audit.jsonl}}]}}\n"
        "policies: ['bf:read:tool_access:allow', 'af:read:field_access:deny:ssn']\n"
    )
    policies.chmod(0o600)
    transport = StdioTransport(sys.executable, [str(tmp_path / "server.py"), str(policies)], keep_alive=False)
    async with Client(transport, mode=era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read"]
        assert (await client.call_tool("read", {"id": 3})).structured_content == {"id": 3}
        assert await text_of(client, "wipe") == "Unknown tool: 'wipe'"
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    called = [r for r in records if r["event"] == "final" and r["component"]["name"] == "read"]
    assert [r["principal"]["kind"] for r in called] == ["local"]


@pytest.mark.parametrize("era", ERAS)
async def test_over_http_two_users_get_what_each_may(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s", auth=tokens(alice={"groups": ["ops"]}, bob={}))

    @server.tool
    def read(id: int) -> dict[str, Any]:
        return {"id": id, "ssn": "123"}

    @server.tool
    def wipe() -> str:
        return "gone"

    ops = {"claim": {"groups": "ops"}}
    made = guarded(
        server,
        [
            "bf:read:tool_access:allow",
            {"before": "wipe", "policy": "tool_access", "action": "allow", "for": ops},
            {"after": "read", "policy": "field_access", "action": "deny", "params": ["ssn"], "except": ops},
        ],
    )
    async with serving(server) as url:
        async with Client(url, auth="alice", mode=era) as client:
            assert (await client.call_tool("read", {"id": 1})).structured_content == {"id": 1, "ssn": "123"}
            assert await text_of(client, "wipe") == "gone"
        async with Client(url, auth="bob", mode=era) as client:
            assert (await client.call_tool("read", {"id": 1})).structured_content == {"id": 1}
            assert await text_of(client, "wipe") == "Unknown tool: 'wipe'"
    addresses = {r.get("address") for r in made.records.finals() if r["component"]["name"] == "read"}
    assert addresses == {"127.0.0.1"}
    assert made.exactly_one_end_each()
