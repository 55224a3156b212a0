"""The lists of mutants fit the source as it stands: a mutant whose text has moved defends nothing any more."""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "mcp_macaroon_middleware"
MUTANTS: list[dict[str, Any]] = [
    {**mutant, "list": path.name}
    for path in sorted(Path(__file__).parent.glob("*.toml"))
    for mutant in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
]


def test_each_mutants_text_stands_exactly_once_in_its_file() -> None:
    """architecture B3: two had moved by one indentation, and only a run of all mutants would have told."""
    texts = {file: (SOURCE / file).read_text(encoding="utf-8") for file in {mutant["file"] for mutant in MUTANTS}}
    stale = [f"{m['list']}: {m['name']}" for m in MUTANTS if texts[m["file"]].count(m["old"]) != 1]
    assert stale == []


def test_each_mutant_changes_something_and_has_a_name_of_its_own() -> None:
    assert [mutant["name"] for mutant in MUTANTS if mutant["old"] == mutant["new"]] == []
    assert [name for name, count in Counter(mutant["name"] for mutant in MUTANTS).items() if count > 1] == []


def test_each_mutants_tests_are_there() -> None:
    missing = set()
    for tests in {mutant["tests"] for mutant in MUTANTS}:
        for test in shlex.split(tests):
            path, *names = test.split("::")
            file = ROOT / path
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            if not file.exists() or any(name.partition("[")[0] not in text for name in names):
                missing.add(test)
    assert missing == set()
