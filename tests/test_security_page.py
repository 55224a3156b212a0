"""The security page's table agrees with the tests. `python tests/test_security_page.py` writes it anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"^\| ([A-Z]+\d+) \| (.+?) \| (tested|open) \|$", re.MULTILINE)
MARK = re.compile(r"threat\(([^)]*)\)")


def marked() -> set[str]:
    """Every id that a test bears."""
    found: set[str] = set()
    for folder in ("tests", "plugins"):
        for path in (ROOT / folder).rglob("test_*.py"):
            if "node_modules" not in path.parts:
                for ids in MARK.findall(path.read_text(encoding="utf-8")):
                    found.update(re.findall(r'"([A-Q]\d+|FI\d+)"', ids))
    return found


def rows() -> dict[str, str]:
    """The page's lines: id and status."""
    return {name: status for name, _, status in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def test_every_line_that_is_called_tested_has_a_test_and_every_other_is_open() -> None:
    there = marked()
    wrong = {name: status for name, status in rows().items() if (status == "tested") != (name in there)}
    assert not wrong, "the page is out of date; write it anew with: python tests/test_security_page.py"


def test_every_id_that_a_test_bears_stands_on_the_page() -> None:
    assert marked() <= set(rows())


def test_the_page_has_every_line() -> None:
    assert len(rows()) > 190


def write() -> None:
    """Sets every line's status by the tests."""
    there = marked()
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        ROW.sub(lambda row: f"| {row[1]} | {row[2]} | {'tested' if row[1] in there else 'open'} |", text),
        encoding="utf-8",
    )


if __name__ == "__main__":
    write()
    sys.exit(0)
