"""What a store does not keep or share is said at the start: several workers with a store of their own each."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mcp_macaroon_middleware.config.keeping import present, several_workers
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime

LOUD = "several processes serve this file, and share nothing"

SERVER = """
import sys
from mcp_macaroon_middleware.config.runtime import load_runtime

held = load_runtime(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return written(tmp_path / "policies.yaml", "memory")


def written(path: Path, store: str) -> Path:
    config = {"secret_key": "0123456789abcdef" * 4, "audience": "mail", "default": "deny", "store": store}
    path.write_text(yaml.safe_dump({"config": config, "policies": ["bf:work:rate_limit:allow:10/hour"]}))
    path.chmod(0o600)
    return path


def serving(policy: Path) -> subprocess.Popen[str]:
    other = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(policy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    return other


@pytest.mark.threat("N09")
@pytest.mark.parametrize("store", ["memory", "sqlite:///state.db"])
def test_a_second_process_on_one_file_says_so_loudly_if_they_share_nothing(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = written(tmp_path / "policies.yaml", store)
    other = serving(policy)
    try:
        runtime = load_runtime(policy)
        assert (LOUD in caplog.text) is (store == "memory")
        runtime.close_now()
    finally:
        other.communicate("")
    caplog.clear()
    load_runtime(policy).close_now()
    assert LOUD not in caplog.text


@pytest.mark.threat("N09")
@pytest.mark.parametrize(
    ("variable", "value", "loud"),
    [
        ("WEB_CONCURRENCY", "4", True),
        ("WEB_CONCURRENCY", "1", False),
        ("WEB_CONCURRENCY", "many", False),
        ("GUNICORN_CMD_ARGS", "--bind :80 --workers=3", True),
        ("GUNICORN_CMD_ARGS", "-w 2", True),
        ("GUNICORN_CMD_ARGS", "--workers 1", False),
    ],
)
def test_a_worker_of_several_says_so_loudly(
    variable: str,
    value: str,
    loud: bool,
    policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    load_runtime(policy).close_now()
    assert (LOUD in caplog.text) is loud


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/usr/bin/uvicorn", "server:app", "--workers", "4"], True),
        (["/usr/bin/gunicorn", "-w4", "server:app"], True),
        (["/usr/bin/uvicorn", "server:app"], False),
        (["/srv/server.py", "--workers", "4"], False),
    ],
)
def test_a_launcher_is_known_by_its_command(
    command: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.setattr(sys, "argv", command)
    assert several_workers() is expected


def test_two_runtimes_of_one_process_are_not_several_processes(policy: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = load_runtime(policy), load_runtime(policy)
    assert LOUD not in caplog.text
    first.close_now()
    second.close_now()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_what_shows_the_presence_ends_with_the_runtime(policy: Path) -> None:
    def opened() -> int:
        gc.collect()
        return sum(1 for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == str(policy))

    runtime: Runtime = load_runtime(policy)
    assert opened() == 1
    runtime.close_now()
    assert opened() == 0
    assert present(None) is None
    kept = present(policy.with_name("absent.yaml"))
    assert kept is not None
    assert kept.alone
