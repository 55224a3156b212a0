"""The entries that `--write-config` makes: each is started as its client would, and no secret stands where others look.

A client is played by what its makers say of it: how it reads variables, and that a server gets few of its own.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.cli.clients import CLIENTS
from mcp_macaroon_middleware.cli.server_names import server_name
from mcp_macaroon_middleware.errors import ConfigError
from mcp_macaroon_middleware.tokens.keys import new_secret

SECRET = "a-value-that-must-not-show"
BACKEND = """
import os
from fastmcp import FastMCP
mcp = FastMCP("behind")
@mcp.tool
def read() -> str:
    return repr({name: os.environ.get(name) for name in ("LITERAL", "PASSED")})
mcp.run(show_banner=False)
"""
READERS: dict[str, str] = {
    "cursor": r"\$\{env:(\w+)\}",
    "windsurf": r"\$\{env:(\w+)\}",
    "claude-code": r"\$\{(\w+)\}",
    "gemini-cli": r"\$\{(\w+)\}",
    "vscode": r"\$\{input:([\w-]+)\}",
}
NEEDED = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}  # what clients hand to servers by themselves


def files(folder: Path, **config: Any) -> tuple[Path, Path]:
    """A policy file whose key is in a variable, and a server."""
    policy, server = folder / "policies.yaml", folder / "behind.py"
    settings = {"secret_key": "${MAIL_SIGNING}", "default": "allow", **config}
    policy.write_text(json.dumps({"config": settings, "policies": ["bf:read:tool_access:allow"]}), encoding="utf-8")
    policy.chmod(0o600)
    server.write_text(BACKEND, encoding="utf-8")
    return policy, server


def run(*words: str) -> int:
    return main(["protect", *words])


def as_client(client: str, entry: Mapping[str, Any], mine: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a client starts an entry, having `mine` itself."""
    base = {name: os.environ[name] for name in NEEDED if name in os.environ}
    if client == "codex":
        return base | dict(entry.get("env", {})) | {name: mine[name] for name in entry.get("env_vars", [])}
    pattern = READERS.get(client)

    def read(text: str) -> str:
        asked = {name.lower().replace("_", "-"): value for name, value in mine.items()}
        return re.sub(pattern, lambda found: (mine | asked)[found[1]], text) if pattern else text

    return base | {name: read(value) for name, value in entry.get("env", {}).items()}


def printed(client: str | None, out: str) -> dict[str, Any]:
    document = tomllib.loads(out) if client == "codex" else json.loads(out)
    (entry,) = document[CLIENTS[client].key if client else "mcpServers"].values()
    return dict(entry)


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "claude-desktop"])
async def test_an_entry_starts_as_its_client_would_start_it(
    client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, server = files(tmp_path)
    mine = {"MAIL_SIGNING": new_secret(), "PASSED": SECRET}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    words = ["--config", str(policy), "--write-config", "--client", client, "--env", "LITERAL=1", "--env", "PASSED"]
    assert run(*words, "--", sys.executable, str(server)) == 0
    out = capsys.readouterr().out
    assert SECRET not in out
    assert mine["MAIL_SIGNING"] not in out
    entry = printed(client, out)
    assert "1" not in entry["args"]
    environment = as_client(client, entry, mine)
    transport = StdioTransport(
        entry["command"], entry["args"], env=environment, keep_alive=False, log_file=tmp_path / "log"
    )
    async with Client(transport) as connected:
        result = await connected.call_tool("read", {})
    assert result.data == repr({"LITERAL": "1", "PASSED": SECRET})


async def test_an_entry_for_a_client_that_hands_no_variable_on_starts_with_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, server = files(tmp_path)
    words = ["--config", str(policy), "--write-config", "--client", "claude-desktop", "--", sys.executable, str(server)]
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert "MAIL_SIGNING" in said
    assert "keys new" in said
    assert main(["keys", "new", str(tmp_path / "keys.json")]) == 0
    policy.write_text(
        json.dumps({"config": {"keys": str(tmp_path / "keys.json"), "default": "allow"}, "policies": []}),
        encoding="utf-8",
    )
    capsys.readouterr()
    assert run(*words) == 0
    entry = printed("claude-desktop", capsys.readouterr().out)
    assert "env" not in entry
    environment = as_client("claude-desktop", entry, {})
    transport = StdioTransport(
        entry["command"], entry["args"], env=environment, keep_alive=False, log_file=tmp_path / "log"
    )
    async with Client(transport) as connected:
        assert [tool.name for tool in await connected.list_tools()] == ["read"]


@pytest.mark.parametrize("client", [None, *CLIENTS])
def test_no_secret_stands_on_a_command_line(
    client: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM", SECRET)
    policy, _ = files(tmp_path, secret_key={"file": "key"})
    (tmp_path / "header").write_text(SECRET)
    words = ["--config", str(policy), "--write-config", *(["--client", client] if client else [])]
    words += ["--url", "https://mail.example/mcp", "--header", f"X-Key: {SECRET}"]
    files_alone = ["--header", f"X-File: file:{tmp_path / 'header'}"]
    named = [] if client == "claude-desktop" else ["--header", "Authorization: env:UPSTREAM"]
    assert run(*words, *files_alone, *named) == 0
    entry = printed(client, capsys.readouterr().out)
    assert SECRET not in json.dumps(entry["args"])
    assert entry["env"]["MACAROON_HEADER_X_KEY"] == SECRET
    assert "X-Key: env:MACAROON_HEADER_X_KEY" in entry["args"]


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "claude-desktop"])
def test_an_entry_over_http_brings_the_token_that_the_server_wants(
    client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, server = files(tmp_path, tokens={}, audience="mail")
    words = ["--config", str(policy), "--write-config", "--client", client, "--http", "8123"]
    assert run(*words, "--", sys.executable, str(server)) == 0
    told = capsys.readouterr()
    entry = printed(client, told.out)
    assert "http://127.0.0.1:8123/mcp" in entry.values()
    if client == "codex":
        assert entry["bearer_token_env_var"] == "MACAROON_TOKEN"
    else:
        name = "input:macaroon-token" if client == "vscode" else "MACAROON_TOKEN"
        assert re.fullmatch(r"Bearer \$\{(env:)?" + re.escape(name) + r"\}", entry["headers"]["Authorization"])
    assert "token mint" in told.err


def test_claude_desktop_takes_no_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, server = files(tmp_path)
    words = ["--config", str(policy), "--write-config", "--client", "claude-desktop", "--http", "8123"]
    assert run(*words, "--", sys.executable, str(server)) == 2
    assert "--http" in capsys.readouterr().err


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("npx @modelcontextprotocol/server-filesystem /data", "server-filesystem"),
        ("npx -y @modelcontextprotocol/server-memory@2026.8.31", "server-memory"),
        ("npx --package @scope/one two", "one"),
        ("npx -y mcp-remote https://x.example/mcp", "mcp-remote"),
        ("uvx mcp-server-time", "mcp-server-time"),
        ("uvx mcp-server-git==1.2 --repository .", "mcp-server-git"),
        ("uvx --from acme-tools serve", "acme-tools"),
        ("uv run --directory /srv mcp-mail", "mcp-mail"),
        ("uv run python -m mcp_mail", "mcp_mail"),
        ("pipx run mcp-server-fetch", "mcp-server-fetch"),
        ("python -m mcp_server_time --local", "mcp_server_time"),
        ("python3.11 /srv/mail_server.py", "mail_server"),
        ("/usr/bin/python3 /srv/mail/server.py", "mail"),
        ("node /srv/mail/dist/index.js", "mail"),
        ("docker run -i --rm -e TOKEN ghcr.io/github/github-mcp-server", "github-mcp-server"),
        ("docker run -i --rm mcp/fetch:1.2", "fetch"),
        ("/opt/bin/github-mcp-server stdio", "github-mcp-server"),
        ("java -jar /srv/mail.jar", "mail"),
    ],
)
def test_a_server_is_called_as_its_package_is(command: str, name: str) -> None:
    assert server_name(command.split()) == name


@pytest.mark.parametrize("command", ["python -c pass", "node -e 0", "npx", "bash -c x", "docker run", "python"])
def test_a_command_that_says_nothing_must_be_named(command: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        server_name(command.split())


def test_a_package_of_its_own_names_its_script(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "package.json").write_text('{"name": "@acme/mail-server"}')
    assert server_name(["node", str(tmp_path / "dist" / "index.js")]) == "mail-server"


# --- written ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a project of one's own, both in one folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def writing(folder: Path, client: str, *more: str) -> list[str]:
    policy, server = files(folder, secret_key={"file": "key"})
    return [
        "--config",
        str(policy),
        "--write-config",
        "--client",
        client,
        "--write",
        *more,
        "--",
        sys.executable,
        str(server),
    ]


@pytest.mark.parametrize("client", list(CLIENTS))
def test_an_entry_is_written_beside_what_a_client_has_already(
    client: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = CLIENTS[client].place
    assert place is not None
    path = place.path()
    assert home in path.parents
    path.parent.mkdir(parents=True, exist_ok=True)
    toml = client == "codex"
    key = CLIENTS[client].key
    mine = (
        f'# mine\n[{key}.other]\ncommand = "x"\n'
        if toml
        else json.dumps({"theme": "dark", key: {"other": {"command": "x"}}})
    )
    path.write_text(mine)
    path.chmod(0o640)
    assert run(*writing(home, client)) == 0
    said = capsys.readouterr().err
    found = tomllib.loads(path.read_text()) if toml else json.loads(path.read_text())
    assert set(found[key]) == {"other", "behind"}
    assert found[key]["other"] == {"command": "x"}
    assert "+" in said
    assert path.read_text().startswith("# mine") if toml else found["theme"] == "dark"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (saved,) = path.parent.glob("*.bak")
    assert saved.read_text() == mine
    assert str(saved) in said
    assert run(*writing(home, client)) == 0  # the same again changes nothing
    assert "already" in capsys.readouterr().err
    assert len(list(path.parent.glob("*.bak"))) == 1


def test_another_server_of_that_name_is_replaced_only_on_request(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / ".mcp.json"
    mine = json.dumps({"mcpServers": {"behind": {"command": "mine", "env": {"TOKEN": SECRET}}}})
    path.write_text(mine)
    assert run(*writing(home, "claude-code")) == 2
    assert path.read_text() == mine
    assert run(*writing(home, "claude-code", "--replace")) == 0
    assert json.loads(path.read_text())["mcpServers"]["behind"]["command"] == sys.executable
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"servers": {} // mine\n}', "[]", "{", '{"servers": []}'])
def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(
    text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / ".vscode" / "mcp.json"
    path.parent.mkdir()
    path.write_text(text)
    assert run(*writing(home, "vscode")) == 2
    assert path.read_text() == text
    assert str(path) in capsys.readouterr().err


def test_a_new_file_is_made_with_its_folder(home: Path) -> None:
    assert run(*writing(home, "cursor")) == 0
    assert "behind" in json.loads((home / ".cursor" / "mcp.json").read_text())["mcpServers"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--write"], "--write-config"),
        (["--write-config", "--replace"], "--write"),
        (["--write-config", "--write"], "--client"),
        (["--write-config", "--client", "emacs"], "claude-desktop"),
    ],
)
def test_words_that_do_not_go_together_are_told(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, server = files(tmp_path)
    assert run("--config", str(policy), *words, "--", sys.executable, str(server)) == 2
    assert said in capsys.readouterr().err


def test_the_command_line_prints_the_same_from_a_shell(tmp_path: Path) -> None:
    policy, server = files(tmp_path, secret_key={"file": "key"})
    words = [sys.executable, "-m", "mcp_macaroon_middleware", "protect", "--config", str(policy), "--write-config"]
    done = subprocess.run([*words, "--", sys.executable, str(server)], capture_output=True, text=True, check=True)
    assert list(json.loads(done.stdout)["mcpServers"]) == ["behind"]
