"""One token at an MCP server and at a web service, as two processes under one file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mcp_macaroon_middleware.tokens.keys import new_secret

EXAMPLE = Path(__file__).parents[2] / "examples" / "token_example"


@contextmanager
def running(folder: Path, script: str, env: dict[str, str]) -> Iterator[str]:
    """A program on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / f"{script}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, script, str(port)], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            for _ in range(400):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / f"{script}.log").read_text()
                time.sleep(0.05)
            yield str(port)
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("era", [[], ["--legacy"]], ids=["modern", "legacy"])
def test_a_token_counts_at_both_and_is_held_to_what_it_says(era: list[str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "token_example", ignore=shutil.ignore_patterns("__pycache__")))
    env = {**os.environ, "MACAROON_SECRET_KEY": new_secret(), "NO_COLOR": "1"}
    with ExitStack() as stack:
        mcp = stack.enter_context(running(folder, "mcp_server.py", env))
        api = stack.enter_context(running(folder, "server.py", env))
        command = [sys.executable, "client.py", "--mcp", mcp, "--api", api, *era]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    steps = {block.partition("\n")[0]: block for block in done.stdout.strip().split("\n\n")}
    assert "tools: book_transfer, read_customer" in steps["The agent's token, at the MCP server"]
    assert "book_transfer: {'booked': 40}" in steps["The agent's token, at the MCP server"]
    assert 'POST /transfers: 200 {"booked":40}' in steps["The agent's token, at the web service"]
    narrow = steps["Narrowed by the agent: reading only, at the MCP server"]
    assert "tools: read_customer\n" in narrow
    assert "Unknown tool: 'book_transfer'" in narrow
    narrow = steps["Narrowed by the agent: reading only, at the web service"]
    assert "GET /customers/1: 200" in narrow
    assert "POST /transfers: 404" in narrow
    assert "401" in steps["No token, at the web service"]
    assert "Carol" in done.stdout
    assert "120-55-0199" not in done.stdout
