"""`protect` in front of published servers that somebody else wrote, unchanged, over stdio, in both protocol eras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from mcp_macaroon_middleware.tokens.keys import new_secret

ROOT = Path(__file__).resolve().parents[2]
FILESYSTEM = ROOT / "tests/node/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
ERAS: list[dict[str, Any]] = [{}, {"mode": "legacy"}]

needs_node = pytest.mark.skipif(
    not os.environ.get("CI") and (shutil.which("node") is None or not FILESYSTEM.exists()),
    reason="needs node and, in tests/node, npm ci",
)


def policy_file(folder: Path, *policies: str) -> Path:
    path = folder / "policies.yaml"
    lines = "".join(f"  - '{policy}'\n" for policy in policies)
    path.write_text(
        "config: {default: deny, audit: [{sink: jsonl, path: audit.jsonl, required: true}]}\npolicies:\n" + lines,
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path


@asynccontextmanager
async def protected(path: Path, command: list[str], log: Path, era: dict[str, Any]) -> AsyncIterator[Client[Any]]:
    arguments = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(path), "--", *command]
    environment = {**os.environ, "MACAROON_SECRET_KEY": new_secret(), "NO_COLOR": "1"}
    transport = StdioTransport(sys.executable, arguments, env=environment, keep_alive=False, log_file=log)
    async with Client(transport, **era) as client:
        yield client


def audit(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


@needs_node
@pytest.mark.parametrize("era", ERAS, ids=["modern", "legacy"])
async def test_the_published_filesystem_server_is_guarded(tmp_path: Path, era: dict[str, Any]) -> None:
    data = tmp_path / "data"
    (data / "docs").mkdir(parents=True)
    (data / "docs" / "a.md").write_text("hello")
    (data / "secret.txt").write_text("the secret")
    path = policy_file(
        tmp_path,
        "bf:read_text_file:tool_access:allow",
        "bf:list_allowed_directories:tool_access:allow",
        "bf:read_text_file:argument_allowlist:allow:path:*/docs/*",
        "bf:read_text_file:rate_limit:allow:3/minute",
    )
    async with protected(path, ["node", str(FILESYSTEM), str(data)], tmp_path / "log", era) as client:
        assert sorted(tool.name for tool in await client.list_tools()) == ["list_allowed_directories", "read_text_file"]
        good = await client.call_tool("read_text_file", {"path": str(data / "docs" / "a.md")})
        assert good.content[0].text == "hello"
        bad = await client.call_tool("read_text_file", {"path": str(data / "secret.txt")}, raise_on_error=False)
        assert bad.is_error
        assert "the secret" not in str(bad)
        confused = await client.call_tool("read_text_file", {"path": ["x"]}, raise_on_error=False)
        assert confused.is_error
        hidden = await client.call_tool("write_file", {"path": "x", "content": "y"}, raise_on_error=False)
        assert hidden.content[0].text == "Unknown tool: 'write_file'"
        assert not (data / "x").exists()
        outcomes = [
            (await client.call_tool("read_text_file", {"path": str(data / "docs/a.md")}, raise_on_error=False)).is_error
            for _ in range(3)
        ]
        assert outcomes == [False, False, True]
    finals = [record for record in audit(tmp_path) if record["event"] == "final"]
    assert len(finals) == len({record["request"] for record in finals})
    assert all(record["principal"]["kind"] == "local" for record in finals)


@pytest.mark.parametrize("era", ERAS, ids=["modern", "legacy"])
async def test_the_published_time_server_is_guarded(tmp_path: Path, era: dict[str, Any]) -> None:
    path = policy_file(
        tmp_path,
        "bf:get_current_time:tool_access:allow",
        "bf:get_current_time:argument_allowlist:allow:timezone:Europe/*",
        "af:get_current_time:field_access:deny:is_dst",
    )
    command = [sys.executable, "-m", "mcp_server_time"]
    async with protected(path, command, tmp_path / "log", era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["get_current_time"]
        good = await client.call_tool("get_current_time", {"timezone": "Europe/Berlin"})
        shown = json.dumps([block.text for block in good.content]) + json.dumps(good.structured_content)
        assert "Europe/Berlin" in shown
        assert "is_dst" not in shown
        bad = await client.call_tool("get_current_time", {"timezone": "UTC"}, raise_on_error=False)
        assert bad.is_error


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mcp_macaroon_middleware", "protect", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, input="", timeout=30, env={**os.environ, **environment}
    )


def test_a_broken_policy_file_stops_the_start_with_its_place(tmp_path: Path) -> None:
    path = policy_file(tmp_path, "bf:x:tool_acces:allow")
    done = run("--config", str(path), "--", sys.executable, "-c", "pass", MACAROON_SECRET_KEY=new_secret())
    assert done.returncode == 2
    assert "did you mean 'tool_access'" in done.stderr
    assert done.stdout == ""


def test_a_command_that_does_not_exist_is_said(tmp_path: Path) -> None:
    path = policy_file(tmp_path, "bf:x:tool_access:allow")
    done = run("--config", str(path), "--", "no-such-command-here", MACAROON_SECRET_KEY=new_secret())
    assert done.returncode == 2
    assert "cannot find the command" in done.stderr


def test_without_a_command_it_says_what_to_write(tmp_path: Path) -> None:
    done = run("--config", str(policy_file(tmp_path, "bf:x:tool_access:allow")), MACAROON_SECRET_KEY=new_secret())
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    path = policy_file(tmp_path, "bf:x:tool_access:allow")
    done = run(
        "--config", str(path), "--", sys.executable, "-c", "raise SystemExit(3)", MACAROON_SECRET_KEY=new_secret()
    )
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["MACAROON_SECRET_KEY", "MACAROON_OTHER"])
def test_L7_our_own_secrets_are_not_handed_to_the_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.cli.backends import environment as environment_of

    monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("SOMETHING", "else")
    environment = environment_of(("EXTRA=1", "SOMETHING"))
    assert name not in environment
    assert environment["EXTRA"] == "1"
    assert environment["SOMETHING"] == "else"
