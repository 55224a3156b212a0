"""`mcp-macaroon check`: every diagnostic with its caret, one summary line, an exit code that says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.cli.check import check

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str]]

FINE = "config: {default: deny}\npolicies:\n  - bf:add:tool_access:allow\n"

SERVER = """
from fastmcp import FastMCP

print("a server may print while it is imported")
mcp = FastMCP("test")


@mcp.tool
def add(a: int, b: int) -> int:
    return a + b


def make() -> FastMCP:
    return mcp
"""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", "k" * 16 + "-a key for tests, long enough")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "policies.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    return written


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*args: Any, **options: Any) -> tuple[int, str]:
        code = check(*args, **options)
        return code, capsys.readouterr().out

    return ran


def test_a_right_file_is_fine(write: Write, run: Run) -> None:
    path = write(FINE)
    code, out = run(path)
    assert code == 0
    assert out.startswith(f"{path}: 1 rule, ")
    assert "0 errors, 0 warnings" in out
    assert len(out.splitlines()) == 1


def test_warnings_count_with_strict_alone(write: Write, run: Run) -> None:
    path = write("policies: []")
    assert run(path)[0] == 0
    code, out = run(path, strict=True)
    assert code == 1
    assert "[default_missing]" in out


@pytest.mark.threat("L03", "L09")
def test_every_error_is_printed_with_its_line_and_a_caret(write: Write, run: Run) -> None:
    path = write("config: {default: dney}\npolicies:\n  - bf:add:tool_acess:allow\n  - 'bf:add:tool_access:dney'\n")
    code, out = run(path)
    assert code == 2
    lines = out.splitlines()
    at = lines.index("      - bf:add:tool_acess:allow")
    assert lines[at - 1].startswith(f"{path}:3:12: error: no policy named 'tool_acess'")
    assert lines[at + 1] == " " * (4 + 11) + "^" * len("tool_acess")
    assert "did you mean 'tool_access'?" in lines[at + 2]
    assert "3 errors" in lines[-1]


@pytest.mark.threat("M07", "FI18")
def test_a_plugin_that_cannot_be_loaded_has_an_exit_code_of_its_own(write: Write, run: Run) -> None:
    write("raise RuntimeError('no')", "mine.py")
    path = write("config: {default: deny}\nplugins: {files: [mine.py]}\npolicies: ['bf:add:tool_access:allow']")
    code, out = run(path)
    assert code == 3
    assert "[plugin_failed]" in out


@pytest.mark.threat("L07")
@pytest.mark.parametrize("text", [None, "", "\x00", "config: ["])
def test_a_file_that_cannot_be_read_has_an_exit_code_of_its_own(tmp_path: Path, run: Run, text: str | None) -> None:
    path = tmp_path / "policies.yaml"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    code, out = run(path)
    assert code == (2 if text else 5)
    assert str(path) in out


def test_json_says_the_same_to_programs(write: Write, run: Run) -> None:
    path = write("config: {default: deny}\npolicies:\n  - bf:add:tool_acess:allow\n")
    code, out = run(path, as_json=True)
    document = json.loads(out)
    assert (code, document["exit_code"], document["errors"]) == (2, 2, 1)
    (error,) = (d for d in document["diagnostics"] if d["severity"] == "error")
    assert (error["code"], error["line"], error["column"]) == ("unknown_policy", 3, 12)
    assert any(plugin["name"] == "builtin" for plugin in document["plugins"])


@pytest.mark.threat("L08")
def test_a_machine_without_the_secrets_can_check_the_rest(
    write: Write, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MACAROON_SECRET_KEY")
    path = write(FINE)
    assert run(path)[0] == 2
    code, out = run(path, no_secrets=True)
    assert code == 0
    assert "warning: there is no key" in out


def test_L7_a_literal_key_is_never_printed(write: Write, run: Run) -> None:
    for secret in ("hunter2", "hunter2" * 6):
        path = write(f"config: {{default: dney, secret_key: {secret}}}\npolicies: []")
        assert "hunter2" not in run(path)[1] + run(path, as_json=True)[1]


def test_colours_are_off_where_nobody_sees_them(write: Write) -> None:
    path = write("policies: [x]")
    code = (
        "import sys; from pathlib import Path; from mcp_macaroon_middleware.cli.check import check; "
        f"sys.exit(check(Path({str(path)!r})))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False
    )
    assert ran.returncode == 2
    assert "\x1b" not in ran.stdout + ran.stderr


# --- with a server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [":mcp", ":make", ""])
def test_a_server_is_imported_and_bound_and_what_is_covered_is_printed(write: Write, run: Run, name: str) -> None:
    path, server = write(FINE), write(SERVER, "a_server.py")
    code, out = run(path, server=f"{server}{name}")
    assert code == 0, out
    assert "guarded: test: 1 tools" in out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{folder}/absent.py:mcp", "there is no file"),
        ("{folder}/a_server.py:absent", "has no 'absent'"),
        ("{folder}/broken.py:mcp", "RuntimeError"),
        ("{folder}/leaves.py:mcp", "SystemExit"),
        ("no_such_module_anywhere:mcp", "ModuleNotFoundError"),
    ],
)
def test_a_server_that_cannot_be_loaded_has_an_exit_code_of_its_own(
    write: Write, run: Run, tmp_path: Path, spec: str, message: str
) -> None:
    path = write(FINE)
    write(SERVER, "a_server.py")
    write("raise RuntimeError('no')", "broken.py")
    write("raise SystemExit(0)", "leaves.py")
    code, out = run(path, server=spec.format(folder=tmp_path))
    assert code == 4
    assert message in out


@pytest.mark.threat("J02", "L04")
def test_a_rule_that_no_component_bears_is_named_with_near_names(write: Write, run: Run) -> None:
    path, server = write(FINE + "  - bf:ad:tool_access:deny\n"), write(SERVER, "a_server.py")
    code, out = run(path, server=f"{server}:mcp")
    assert code == 4
    assert "'ad'" in out
    assert "add" in out


def test_enforcers_of_the_application_are_known_with_its_server(write: Write, run: Run) -> None:
    text = (
        SERVER
        + """

from mcp_macaroon_middleware.plugin import policy_enforcer


@policy_enforcer("check_test_hours")
def hours(caveat, context, **kwargs):
    return []
"""
    )
    path, server = write(FINE + "  - bf:add:check_test_hours:allow\n"), write(text, "hours_server.py")
    code, out = run(path)
    assert (code, "check_test_hours" in out) == (2, True)
    code, out = run(path, server=f"{server}:mcp")
    assert code == 0, out
