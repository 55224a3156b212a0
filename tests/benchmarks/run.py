"""Measures what a guard adds, beside bare FastMCP in one interleaved run: `python dev.py bench [NAME…]`.

Each NAME is a table; without one all are made. `--write` puts them between their marks: the short ones into README.md,
all of them into docs/performance.md. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "tests"))

import basics  # noqa: E402
import decisions  # noqa: E402
import growing  # noqa: E402
import peaks  # noqa: E402
import redaction  # noqa: E402
import throughput  # noqa: E402
import trips  # noqa: E402
import verifying  # noqa: E402
from measuring import Bench  # noqa: E402

BEGIN, END = "<!-- figures: python dev.py bench --write -->", "<!-- /figures -->"

TABLES: dict[str, Callable[[Bench], Any]] = {
    "added": basics.added,
    "rules": basics.rules,
    "calls": growing.calls,
    "lists": basics.lists,
    "decisions": decisions.decisions,
    "principals": growing.principals,
    "grants": growing.grants,
    "throughput": throughput.throughput,
    "memory": peaks.peaks,
    "redaction": redaction.redaction,
    "trips": trips.trips,
    "verifying": lambda bench: verifying.measure(bench.rounds(1_000)),
}
SHORT = ("added", "rules", "calls", "lists", "verifying")


def measure(name: str, *, quick: bool) -> str:
    """One table, as markdown."""
    with tempfile.TemporaryDirectory(prefix="macaroon-bench-") as folder:
        made = TABLES[name](Bench(folder=Path(folder), quick=quick))
        lines = asyncio.run(made) if inspect.iscoroutine(made) else made
    return "\n".join(lines)


def put(path: Path, begin: str, end: str, figures: str) -> bool:
    """Puts figures between two marks of a file; False where it has none."""
    text = path.read_text(encoding="utf-8")
    before, mark, rest = text.partition(begin)
    if not mark or end not in rest:
        return False
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n\n{figures}\n\n{end}{after}", encoding="utf-8")
    return True


def write(figures: dict[str, str]) -> list[str]:
    """Puts the tables where they belong; returns the names of those that have no place."""
    if all(name in figures for name in SHORT):
        put(ROOT / "README.md", BEGIN, END, "\n\n".join(figures[name] for name in SHORT))
    page = ROOT / "docs" / "performance.md"
    return [name for name, text in figures.items() if not put(page, f"<!-- bench: {name} -->", "<!-- /bench -->", text)]


def main() -> int:
    """Runs and prints; with `--write` also into the documents."""
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TABLES)}; all without one")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, without the largest sizes")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/performance.md")
    parser.add_argument("--json", action="store_true", help="print the tables as one JSON text")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in TABLES]
    if unknown:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    logging.disable(logging.WARNING)
    figures: dict[str, str] = {}
    for name in options.names or TABLES:
        figures[name] = measure(name, quick=options.quick)
        if not options.json:
            print(figures[name], end="\n\n", flush=True)
    if options.json:
        print(json.dumps(figures))
    homeless = write(figures) if options.write else []
    if homeless:
        print(f"no place in docs/performance.md for {', '.join(homeless)}", file=sys.stderr)
    return 1 if homeless else 0


if __name__ == "__main__":
    sys.exit(main())
