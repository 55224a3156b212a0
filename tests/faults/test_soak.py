"""A short soak: load and every fault once, on a server's store and on a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soaking" / "run.py"


@pytest.mark.threat("FI1", "FI4", "FI13", "FI15")
@pytest.mark.parametrize("store", ["valkey", "sqlite"])
def test_under_load_and_faults_every_request_has_one_end_and_nothing_runs_twice(store: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--minutes", "0.35", "--store", store, "--clients", "6"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "figures.json")], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert figures["passed"]
    assert figures["calls"] > 100
    assert figures["two_ends"] == figures["ran_twice"] == figures["ran_after_refusal"] == 0
    expected = {"store hung", "store killed", "connections ended"} if store == "valkey" else {"file held"}
    assert {"server killed", "policy written anew"} | expected == set(figures["faults"])
