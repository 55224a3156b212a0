"""A short soak: load and every fault at least once, on a server's store and on a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soaking" / "run.py"


@pytest.mark.timeout(200)
@pytest.mark.threat("FI1", "FI4", "FI5", "FI10", "FI11", "FI13", "FI15", "D01", "D02", "O05")
@pytest.mark.parametrize("store", ["valkey", "sqlite"])
def test_under_load_and_faults_every_request_has_one_end_and_no_approval_runs_twice(store: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--minutes", "0.35", "--store", store, "--clients", "6"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "figures.json")], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert figures["passed"]
    assert figures["calls"] > 100
    assert figures["legs"] > 20
    assert figures["approvals"] > 20
    assert figures["two_ends"] == figures["no_end"] == figures["ran_twice"] == figures["ran_after_refusal"] == 0
    assert figures["ran_without_approval"] == 0
    expected = {"server killed", "policy written anew", "audit disk full"}
    expected |= {"file held"} if store == "sqlite" else {"store hung", "store killed", "connections ended"}
    expected |= {"store emptied"} if store != "sqlite" else set()
    expected |= {"clock set"} if sys.platform == "linux" and shutil.which("cc") else set()
    assert set(figures["faults"]) == expected
