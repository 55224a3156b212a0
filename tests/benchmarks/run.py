"""Measures what a guard adds, beside bare FastMCP in one interleaved run: `python dev.py bench [NAME…]`.

Each NAME is a table; without one all are made. `--write` puts them between their marks: the short ones into README.md,
all of them into docs/performance.md. No figure is asserted; a table that cannot be made is told, and the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

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

Size = Literal["tiny", "quick", "full"]
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
    "verifying": verifying.verifying,
}
SHORT = ("added", "rules", "calls", "lists", "verifying")


def measure(name: str, size: Size) -> str:
    """One table, as markdown."""
    with tempfile.TemporaryDirectory(prefix="macaroon-bench-") as folder:
        made = TABLES[name](Bench(folder=Path(folder), size=size))
        lines = asyncio.run(made) if inspect.iscoroutine(made) else made
    return "\n".join(lines)


def measured(names: Sequence[str], size: Size, show: Callable[[str], Any]) -> tuple[dict[str, str], list[str]]:
    """Every table that can be made, by name, and the names of the others, whose errors go to standard error."""
    figures: dict[str, str] = {}
    failed: list[str] = []
    for number, name in enumerate(names, 1):
        say(f"{number}/{len(names)} {name} …")
        began = time.monotonic()
        try:
            figures[name] = measure(name, size)
        except Exception:
            failed.append(name)
            say(traceback.format_exc())
        else:
            show(figures[name])
        say(f"{number}/{len(names)} {name} {'FAILED' if name in failed else 'done'}, {time.monotonic() - began:.0f} s")
    return figures, failed


def say(text: str) -> None:
    """How far it is: beside the tables, never among them."""
    print(text, file=sys.stderr, flush=True)


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
    """Puts the tables where they belong; returns the names of those that have no place.

    README.md shows some of them together: it stays as it was unless all of those are there.
    """
    if all(name in figures for name in SHORT):
        put(ROOT / "README.md", BEGIN, END, "\n\n".join(figures[name] for name in SHORT))
    page = ROOT / "docs" / "performance.md"
    return [name for name, text in figures.items() if not put(page, f"<!-- bench: {name} -->", "<!-- /bench -->", text)]


def main() -> int:
    """Runs and prints; with `--write` also into the documents. Returns 1 if a table could not be made."""
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TABLES)}; all without one")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a tenth of the rounds, without the largest sizes")
    sizes.add_argument(
        "--tiny", action="store_true", help="only shows that every table can be made; figures mean nothing"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/performance.md")
    parser.add_argument("--json", action="store_true", help="print the tables as one JSON text")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in TABLES]
    if unknown:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    if options.write and options.tiny:
        parser.error("figures of --tiny mean nothing; they are not written")
    logging.disable(logging.WARNING)
    size: Size = "tiny" if options.tiny else "quick" if options.quick else "full"
    show: Callable[[str], Any] = (
        (lambda _: None) if options.json else (lambda text: print(text, end="\n\n", flush=True))
    )
    figures, failed = measured(options.names or list(TABLES), size, show)
    if options.json:
        print(json.dumps(figures))
    homeless = write(figures) if options.write else []
    if homeless:
        say(f"no place in docs/performance.md for {', '.join(homeless)}")
    if failed:
        say(f"FAILED: {', '.join(failed)}")
    return 1 if homeless or failed else 0


if __name__ == "__main__":
    sys.exit(main())
