"""`protect` over HTTP: serving there, guarding a server there, and the entries that clients' configurations need."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import Person
from fastmcp import Client, Context, FastMCP
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.server.dependencies import get_http_headers
from guarded import ERAS
from serving import serving

from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint

SECRET = "a secret of at least thirty-two bytes, for tests only"
BACKEND = """
from fastmcp import FastMCP
server = FastMCP("backend")

@server.tool
def read(id: int) -> dict:
    return {"id": id, "ssn": "123"}

@server.tool
def wipe() -> str:
    return "wiped"

server.run(transport="stdio", show_banner=False)
"""


def policy_file(folder: Path, *policies: str, **config: Any) -> Path:
    path = folder / "policies.yaml"
    settings = {"default": "deny", "audit": [{"sink": "jsonl", "path": "audit.jsonl"}], **config}
    path.write_text(json.dumps({"config": settings, "policies": list(policies)}))
    path.chmod(0o600)
    return path


@asynccontextmanager
async def protecting(*words: str, env: dict[str, str] | None = None) -> AsyncIterator[str]:
    """`protect --http 0 …` as a process of its own; the URL that it says."""
    environment = {**os.environ, "MACAROON_SECRET_KEY": SECRET, "NO_COLOR": "1", **(env or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mcp_macaroon_middleware",
        "protect",
        *words,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(40):
            while not (found := re.search(rb"serving at (\S+)", said)):
                line = await process.stderr.readline()
                assert line, said.decode()
                said += line
        yield found[1].decode()
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)
        await process.stderr.read()


def backend_file(folder: Path) -> str:
    (folder / "backend.py").write_text(BACKEND)
    return str(folder / "backend.py")


@pytest.mark.parametrize("era", ERAS)
async def test_a_stdio_server_is_served_over_http_to_holders_of_tokens(era: str, tmp_path: Path) -> None:
    file = policy_file(
        tmp_path, "bf:*:tool_access:allow", "af:read:field_access:deny:ssn", audience="backend", tokens={}
    )
    words = ["--config", str(file), "--http", "0", "--", sys.executable, backend_file(tmp_path)]
    token = mint(KeyRing.from_secret(SECRET), subject="alice", audience="backend")
    async with protecting(*words) as url:
        async with Client(url, auth=token, mode=era) as client:
            assert {tool.name for tool in await client.list_tools()} == {"read", "wipe"}
            assert (await client.call_tool("read", {"id": 1})).structured_content == {"id": 1}
        async with Client(url, auth=attenuate(token, "bf:wipe:tool_access:deny"), mode=era) as client:
            assert [tool.name for tool in await client.list_tools()] == ["read"]
        async with httpx2.AsyncClient() as http:
            assert (await http.post(url, json={})).status_code == 401
            evil = await http.post(url, json={}, headers={"Host": "evil.example", "Authorization": f"Bearer {token}"})
            assert evil.status_code in (400, 403, 421)


async def test_callers_without_a_credential_are_served_where_the_file_names_them(tmp_path: Path) -> None:
    file = policy_file(tmp_path, "bf:read:tool_access:allow", identity={"anonymous": "guest"})
    words = ["--config", str(file), "--http", "127.0.0.1:0", "--", sys.executable, backend_file(tmp_path)]
    async with protecting(*words) as url, Client(url) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read"]


def remote() -> tuple[FastMCP[Any], list[dict[str, str]]]:
    """A server over HTTP, and the headers that came to it."""
    server, seen = FastMCP[Any]("remote"), list[dict[str, str]]()

    @server.tool
    async def read(ctx: Context, id: int) -> dict[str, Any]:
        seen.append(get_http_headers(include_all=True))
        return {"id": id, "ssn": "123"}

    @server.tool
    def send(to: str) -> str:
        return f"sent to {to}"

    return server, seen


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("A17")
async def test_a_remote_server_gets_its_own_headers_and_none_of_a_callers(era: str, tmp_path: Path) -> None:
    server, seen = remote()
    file = policy_file(
        tmp_path, "bf:read:tool_access:allow", "af:read:field_access:deny:ssn", audience="backend", tokens={}
    )
    (tmp_path / "secret").write_text("from a file\n")
    token = mint(KeyRing.from_secret(SECRET), subject="alice", audience="backend")
    async with serving(server) as behind:
        words = ["--config", str(file), "--http", "0", "--url", behind]
        words += ["--header", "Authorization: env:UPSTREAM", "--header", f"X-Key: file:{tmp_path / 'secret'}"]
        async with protecting(*words, env={"UPSTREAM": "Bearer upstream"}) as url:
            mine = {"Cookie": "session=mine", "X-Mine": "mine"}
            transport = StreamableHttpTransport(url, headers=mine, auth=token)
            async with Client(transport, mode=era) as client:
                assert (await client.call_tool("read", {"id": 1})).structured_content == {"id": 1}
    assert [(h["authorization"], h["x-key"]) for h in seen] == [("Bearer upstream", "from a file")]
    assert "mm_" not in str(seen)
    assert "mine" not in str(seen)


@pytest.mark.parametrize("era", ERAS)
async def test_a_question_reaches_the_person_at_the_client_through_either(era: str, tmp_path: Path) -> None:
    server, _ = remote()
    file = policy_file(tmp_path, "bf:send:tool_access:elicit", identity={"local": "me"})
    person = Person("once")
    async with serving(server) as behind:
        words = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(file), "--url", behind]
        environment = {**os.environ, "MACAROON_SECRET_KEY": SECRET}
        transport = StdioTransport(sys.executable, words, env=environment, keep_alive=False, log_file=tmp_path / "log")
        async with Client(transport, mode=era, elicitation_handler=person) as client:
            assert (await client.call_tool("send", {"to": "bob"})).data == "sent to bob"
    assert person.asked == 1


async def test_secrets_are_sent_to_no_other_host_that_the_server_names(tmp_path: Path) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import RedirectResponse, Response
    from starlette.routing import Route

    from mcp_macaroon_middleware.cli.backends import _http_client

    got: list[str] = []

    async def away(request: Request) -> Response:
        return RedirectResponse("http://elsewhere/mcp", 307)

    app = Starlette(routes=[Route("/mcp", away, methods=["POST"])])
    client = _http_client({"X-Key": "secret"})
    client._transport = httpx2.ASGITransport(app=app)
    async with client:
        response = await client.post("http://here/mcp", json={})
        got.append(str(response.status_code))
    assert got == ["307"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--config", "p.yaml"], 2, "nothing to protect"),
        (["--config", "p.yaml", "--url", "https://x.example/mcp", "--", "python"], 2, "or two things"),
        (["--config", "p.yaml", "--url", "http://x.example/mcp"], 2, "without encryption"),
        (["--config", "p.yaml", "--url", "ftp://x.example/mcp"], 2, "https://"),
        (["--config", "p.yaml", "--url", "https://me:secret@x.example/mcp"], 2, "no user or password"),
        (["--config", "p.yaml", "--header", "X: y", "--", sys.executable], 2, "goes with --url"),
        (["--config", "p.yaml", "--http", "here", "--", sys.executable], 2, "HOST:PORT"),
        (["--config", "p.yaml", "--http", "99999", "--", sys.executable], 2, "HOST:PORT"),
        (["--config", "p.yaml", "--client", "cursor", "--", sys.executable], 2, "--write-config"),
        (["--config", "p.yaml", "--write-config", "--client", "emacs", "--", sys.executable], 2, "claude-desktop"),
        (["--config", "p.yaml", "--", "no-such-command-here"], 2, "cannot find"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_with_what_to_do(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["protect", *words]) == code
    said = capsys.readouterr().err
    assert says in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("header", "says"),
    [("no colon", "'Name: value'"), ("X: env:NOT_THERE", "NOT_THERE"), ("X: file:/not/there", "/not/there")],
)
def test_a_header_that_cannot_be_had_is_said_without_its_value(
    header: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", SECRET)
    file = policy_file(tmp_path, "bf:*:tool_access:allow")
    assert main(["protect", "--config", str(file), "--url", "http://127.0.0.1:1/mcp", "--header", header]) == 2
    assert says in capsys.readouterr().err


def test_nobody_is_served_over_http_by_accident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", SECRET)
    file = policy_file(tmp_path, "bf:*:tool_access:allow")
    assert main(["protect", "--config", str(file), "--http", "0", "--", sys.executable]) == 2
    assert "tokens: {}" in capsys.readouterr().err
    file = policy_file(tmp_path, "bf:*:tool_access:allow", identity={"anonymous": "guest"})
    assert main(["protect", "--config", str(file), "--http", "0.0.0.0:0", "--", sys.executable]) == 2
    assert "--allow-anonymous-network" in capsys.readouterr().err
    assert main(["protect", "--config", str(file), "--url", "http://127.0.0.1:1/mcp"]) == 4
    assert "no MCP server answers" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", SECRET)
    file = policy_file(tmp_path, "bf:*:tool_access:allow", identity={"anonymous": "guest"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["protect", "--config", str(file), "--http", str(port), "--", sys.executable, backend_file(tmp_path)]
        assert main(words) == 2, capsys.readouterr().err
    assert "choose another port" in capsys.readouterr().err


# --- entries for clients --------------------------------------------------------------------------------------------


def test_codex_gets_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'a "b".yaml').write_text("config: {keys: k}\npolicies: []\n")
    words = [
        "--config",
        str(tmp_path / 'a "b".yaml'),
        "--name",
        "x",
        "--write-config",
        "--client",
        "codex",
        "--",
        sys.executable,
        "x",
    ]
    assert main(["protect", *words]) == 0
    found = tomllib.loads(capsys.readouterr().out)["mcp_servers"]
    (entry,) = found.values()
    assert entry["args"][-3:] == ["--", sys.executable, "x"]
    assert str(tmp_path / 'a "b".yaml') in entry["args"]


async def test_a_written_entry_works(tmp_path: Path) -> None:
    file = policy_file(tmp_path, "bf:read:tool_access:allow")
    words = ["protect", "--config", str(file), "--write-config", "--", sys.executable, backend_file(tmp_path)]
    environment = {**os.environ, "MACAROON_SECRET_KEY": SECRET}
    command = [sys.executable, "-m", "mcp_macaroon_middleware", *words]
    written = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, check=True)
    (entry,) = json.loads(written.stdout)["mcpServers"].values()
    transport = StdioTransport(
        entry["command"], entry["args"], env=environment, keep_alive=False, log_file=tmp_path / "log"
    )
    async with Client(transport) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read"]
