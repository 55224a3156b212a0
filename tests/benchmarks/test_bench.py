"""Every table can be made, and one that cannot takes no other with it. What is measured here means nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
TABLES = {
    "added": 6,
    "rules": 3,
    "calls": 4,
    "lists": 6,
    "decisions": 6,
    "principals": 1,
    "grants": 1,
    "throughput": 3,
    "memory": 3,
    "redaction": 5,
    "trips": 7,
    "verifying": 6,
}
"""The tables, and how many lines each has at least."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`run.py` of this folder, as a module."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.spec_from_file_location("bench_run", HERE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    yield made
    for name in set(sys.modules) - before:
        if str(HERE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.timeout(240)
def test_every_table_can_be_made() -> None:
    command = [sys.executable, str(HERE / "run.py"), "--tiny", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == list(TABLES)
    for name, least in TABLES.items():
        head, line, *rows = figures[name].splitlines()
        assert len(rows) >= least, figures[name]
        assert {row.count("|") for row in rows} == {head.count("|")} == {line.count("|")}, figures[name]
        assert len({row.split("|")[1] for row in rows}) == len(rows), figures[name]
    assert f"{len(TABLES)}/{len(TABLES)} verifying done" in done.stderr


def test_every_table_has_its_place_in_the_documents(bench: ModuleType) -> None:
    page = (HERE.parents[1] / "docs" / "performance.md").read_text("utf-8")
    assert list(bench.TABLES) == list(TABLES)
    assert [name for name in TABLES if page.count(f"<!-- bench: {name} -->") != 1] == []


def test_a_table_that_cannot_be_made_takes_no_other_with_it(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def good(bench: Any) -> list[str]:
        return ["| a |", "|---|", "| 1 |"]

    def bad(bench: Any) -> list[str]:
        raise RuntimeError("the tool is gone")

    monkeypatch.setattr(bench, "TABLES", {"first": good, "second": bad, "third": good})
    monkeypatch.setattr(sys, "argv", ["run.py", "--json"])
    monkeypatch.setattr(bench.logging, "disable", lambda _: None)
    assert bench.main() == 1
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == ["first", "third"]
    assert "the tool is gone" in said.err
    assert "FAILED: second" in said.err


def test_figures_are_put_between_their_marks_and_nowhere_else(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    page, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    page.write_text(
        "before\n<!-- bench: lists -->\n<!-- /bench -->\nafter <!-- bench: rules -->\n\nold\n<!-- /bench -->"
    )
    readme.write_text("untouched")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert bench.write({"lists": "new", "unknown": "x"}) == ["unknown"]
    text = page.read_text()
    assert text.startswith("before\n<!-- bench: lists -->\n\nnew\n\n<!-- /bench -->\nafter")
    assert "old" in text
    assert readme.read_text() == "untouched"
