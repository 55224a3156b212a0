"""`protect` in front of published servers that somebody else wrote, unchanged, over stdio, in both protocol eras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonClientAuth
from mcp_macaroon_middleware.cli.backends import Backend, Secrets, headers_of
from mcp_macaroon_middleware.cli.backends import environment as environment_of
from mcp_macaroon_middleware.errors import ConfigError
from mcp_macaroon_middleware.tokens import KeyRing, mint
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


SECRET: Final = "s3cr3t-of-the-policy-file-0123456789abcdef"
REFERRED: Final = {
    "signing": {"secret_key": "${MAIL_SIGNING}"},
    "by mapping": {"secret_key": {"env": "MAIL_SIGNING"}},
    "a store's address": {"store": "${MAIL_SIGNING}"},
    "a shared secret": {"third_party": [{"location": "https://x", "key": "${MAIL_SIGNING}"}]},
    "a key in a list": {"audit": [{"sink": "webhook", "headers": ["${MAIL_SIGNING}"]}]},
}


def ours_of(tmp_path: Path, config: Mapping[str, Any]) -> Secrets:
    """The guard's own of a file, whether or not it could be loaded."""
    data = {"config": config, "policies": []}
    held = SimpleNamespace(source=SimpleNamespace(data=data, base=tmp_path))
    tokens = SimpleNamespace(variable="HOLDER")
    return Secrets.of(SimpleNamespace(compiled=held, settings=SimpleNamespace(tokens=tokens)))  # type: ignore[arg-type]


@pytest.mark.threat("R18")
@pytest.mark.parametrize("where", list(REFERRED))
def test_L7_what_the_policy_file_refers_to_goes_nowhere_attacks_h6(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """attacks H6: `protect` gave the child every variable that did not begin with `MACAROON_`."""
    monkeypatch.setenv("MAIL_SIGNING", SECRET)
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("MACAROON_OTHER", "another secret")
    monkeypatch.setenv("HOLDER", "mm_a-token-of-this-process")
    monkeypatch.setenv("SOMETHING", "else")
    ours = ours_of(tmp_path, REFERRED[where])

    given = environment_of(("EXTRA=1", "SOMETHING"), ours)
    assert {"PATH", "EXTRA", "SOMETHING"} <= given.keys()
    assert not {"MAIL_SIGNING", "REDIS_PASSWORD", "MACAROON_OTHER", "HOLDER"} & given.keys()
    assert "hunter2hunter2" in environment_of(("REDIS_PASSWORD",), ours).values(), "named on purpose"

    refused: list[Callable[[], Any]] = [
        lambda: environment_of(("MAIL_SIGNING",), ours),
        lambda: environment_of(("MAIL_SIGNING=x",), ours),
        lambda: environment_of((f"OTHER=a {SECRET} b",), ours),
        lambda: environment_of(("HOLDER",), ours),
        lambda: environment_of(("MACAROON_SECRET_KEY=x",), ours),
        lambda: headers_of(("Authorization: env:MAIL_SIGNING",), ours),
        lambda: headers_of((f"Authorization: Bearer {SECRET}",), ours),
        lambda: Backend(command=("server", f"--key={SECRET}")).transport(ours),
        lambda: Backend(url=f"https://mcp.example/mcp?key={SECRET}").transport(ours),
    ]
    for each in refused:
        with pytest.raises(ConfigError) as told:
            each()
        assert SECRET not in str(told.value)


@pytest.mark.threat("R18")
def test_a_file_of_the_policy_file_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET, encoding="utf-8")
    (tmp_path / "copy").write_text(SECRET, encoding="utf-8")
    (tmp_path / "other").write_text("a credential for upstream", encoding="utf-8")
    ours = ours_of(tmp_path, {"secret_key": {"file": "key"}})
    for name in ("key", "copy"):
        with pytest.raises(ConfigError) as told:
            headers_of((f"Authorization: file:{tmp_path / name}",), ours)
        assert SECRET not in str(told.value)
    assert headers_of((f"X: file:{tmp_path / 'other'}",), ours) == {"X": "a credential for upstream"}


@pytest.mark.threat("R18")
async def test_a_child_sees_nothing_of_ours_in_its_environment_arguments_and_requests(tmp_path: Path) -> None:
    """attacks H6, end to end."""
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, sys\n"
        "from fastmcp import Context, FastMCP\n"
        "mcp = FastMCP('child')\n"
        "@mcp.tool\n"
        "def told(ctx: Context) -> str:\n"
        "    meta = ctx.request_context.meta\n"
        "    return json.dumps([dict(os.environ), sys.argv, repr(meta)])\n"
        "mcp.run(show_banner=False)\n",
        encoding="utf-8",
    )
    path = tmp_path / "policies.json"
    settings = {"secret_key": "${MAIL_SIGNING}", "audience": "mail", "tokens": {}, "audit": [{"sink": "log"}]}
    path.write_text(json.dumps({"config": settings, "policies": ["bf:told:tool_access:allow"]}), encoding="utf-8")
    key = new_secret()
    token = mint(KeyRing.from_secret(key), subject="alice", audience="mail")
    words = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(path), "--env", "EXTRA=1", "--"]
    environment = {**os.environ, "MAIL_SIGNING": key, "REDIS_PASSWORD": "hunter2hunter2"}
    transport = StdioTransport(sys.executable, [*words, sys.executable, str(child)], env=environment, keep_alive=False)
    async with Client(MacaroonClientAuth(token).over(transport)) as client:
        got = await client.call_tool("told")
    text = got.data
    assert '"EXTRA": "1"' in text
    for secret in (key, token, "hunter2hunter2", "MAIL_SIGNING", "mcp-macaroon/"):
        assert secret not in text
