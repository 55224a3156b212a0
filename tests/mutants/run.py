"""Takes one defence out at a time and runs the tests that must notice: `python dev.py test --mutants`.

Each mutant is a change of one text in one source file, made in a copy of `src`; the working tree is never touched. A
mutant that survives, or whose text is no longer there, fails the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted(Path(__file__).parent.glob("*.toml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A defence taken out: what it defends, where, how, and which tests must fail."""

    name: str
    defends: str
    file: str
    old: str
    new: str
    tests: str


def main(words: list[str]) -> int:
    """Runs the mutants whose names hold one of `words` (all, without words); returns the exit code."""
    lists = [tomllib.loads(path.read_text(encoding="utf-8")) for path in LISTS]
    mutants = [Mutant(**entry) for entries in lists for entry in entries["mutant"]]
    chosen = [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]
    tests = sorted({test for mutant in chosen for test in mutant.tests.split()})
    print(f"{len(chosen)} mutants; first their tests on the untouched code", flush=True)
    if run_tests(ROOT / "src", tests):
        print("FAIL: the tests fail on the untouched code")
        return 1
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(survives, chosen))
    lived = [mutant.name for mutant, why in zip(chosen, outcomes, strict=True) if why]
    for mutant, why in zip(chosen, outcomes, strict=True):
        print(f"{why or 'caught':10} {mutant.defends:8} {mutant.name}")
    print(f"{len(chosen) - len(lived)} passed, {len(lived)} failed")
    return 1 if lived else 0


def survives(mutant: Mutant) -> str:
    """Why the mutant counts as alive, or an empty text where the tests caught it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / "mcp_macaroon_middleware" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            return "stale"
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        return "" if run_tests(source, mutant.tests.split()) == 1 else "SURVIVED"


def run_tests(source: Path, tests: list[str]) -> int:
    """Runs tests against a source folder; 1 where one failed."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
