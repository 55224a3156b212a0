"""What a soak would notice: its judge against made-up ledgers, and its report in documents with and without marks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
FACTS: dict[str, Any] = {
    "minutes": 2.0,
    "store": "valkey",
    "servers": 2,
    "clients": 8,
    "passed": True,
    "calls": 7656,
    "said": {"ok": 3873, "asked": 428},
    "requests": 8014,
    "two_ends": 0,
    "no_end": 0,
    "unknown": 12,
    "runs": 2467,
    "ran_twice": 0,
    "ran_after_refusal": 0,
    "cut": 6,
    "approvals": 1145,
    "legs": 1270,
    "ran_without_approval": 0,
    "most_in_window": 20,
    "faults": {"server killed": 2},
    "back_after_s": 0.8,
    **{f"server_{n}_{what}": 1024 for n in (1, 2) for what in ("rss_warm_kb", "rss_end_kb", "files_warm", "files_end")},
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of this folder, by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(HERE))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(HERE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("tool", "calls", "approved", "said", "runs", "wrong"),
    [
        ("pay", 1, 1, ["asked", "ok", "grant_used"], 1, False),
        ("pay", 1, 1, ["asked", "lost", "grant_used"], 1, False),
        ("pay", 1, 1, ["asked", "lost", "grant_used"], 0, False),
        ("pay", 1, 1, ["asked", "ok", "ok"], 2, True),
        ("pay", 1, 1, ["asked", "lost", "ok"], 2, True),
        ("pay", 1, 1, ["asked", "store_unavailable"], 1, True),
        ("pay", 1, 0, ["asked", "declined", "ok"], 1, True),
        ("pay", 1, 1, ["asked", "ok"], 0, True),
        ("send", 3, 2, ["ok", "declined", "ok"], 2, False),
        ("user", 1, 1, ["asked", "ok", "grant_used"], 1, False),
        ("user", 1, 1, ["asked", "ok", "ok"], 1, True),
        ("user", 1, 1, ["asked", "ok", "asked"], 2, True),
        ("user", 1, 0, ["asked", "lost"], 1, False),
    ],
)
def test_a_call_that_runs_or_is_shown_more_often_than_it_was_approved_is_noticed(
    module: Any, tool: str, calls: int, approved: int, said: list[str], runs: int, wrong: bool
) -> None:
    order = module("load").Order(tool=tool, number=1, calls=calls, approved=approved, said=said)
    assert module("judging")._wrong(order, runs) is wrong


def test_a_request_without_an_end_with_two_and_with_one_are_told_apart(module: Any) -> None:
    judging, load = module("judging"), module("load").Load(None, 0)

    def judged(*events: tuple[str, str, str]) -> bool:
        records = [{"event": event, "request": request, "outcome": outcome} for event, request, outcome in events]
        return bool(judging._ends(records, load).good)

    assert judged(("intent", "1", ""), ("final", "1", "ok"))
    assert not judged(("intent", "1", ""))
    assert not judged(("final", "1", "ok"), ("final", "1", "ok"))
    assert not judged(("intent", "1", ""), ("final", "1", "unknown"))  # and nobody got no answer


def test_growth_and_another_process_are_noticed(module: Any) -> None:
    judging, idle = module("judging"), module("load").Idle

    def judged(warm: Any, end: Any) -> bool:
        return bool(judging._growth(judging.Measured(name="server_1", warm=warm, end=end)).good)

    assert judged(idle(1, 100_000, 12), idle(1, 102_000, 14))
    assert not judged(idle(1, 100_000, 12), idle(1, 120_000, 12))
    assert not judged(idle(1, 100_000, 12), idle(1, 100_000, 40))
    assert not judged(idle(1, 100_000, 12), idle(2, 100_000, 12))


def test_the_figures_are_put_between_the_marks_of_both_documents(module: Any, tmp_path: Path) -> None:
    telling: ModuleType = module("telling")
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "performance.md"
    for path in (readme, page):
        path.write_text("before\n\n<!-- soak -->\n\nold\n\n<!-- /soak -->\n\nafter\n")
    telling.write(tmp_path, FACTS)
    assert "| approvals | 1,145;" in page.read_text()
    assert "7,656 calls and legs" in readme.read_text()
    for path in (readme, page):
        text = path.read_text()
        assert text.startswith("before\n\n<!-- soak -->\n\n")
        assert text.endswith("<!-- /soak -->\n\nafter\n")
        assert "old" not in text
    readme.write_text("no place")
    with pytest.raises(ValueError, match="no place"):
        telling.write(tmp_path, FACTS)


def test_the_documents_have_a_place_for_the_last_soak() -> None:
    root = HERE.parents[1]
    for path in (root / "README.md", root / "docs" / "performance.md"):
        text = path.read_text("utf-8")
        assert text.count("<!-- soak -->") == text.count("<!-- /soak -->") == 1, path.name
