"""FastMCP's own tests with a guard on every server, everything allowed: `python dev.py test --only upstream`.

The source distribution of the installed version comes from PyPI (`--suite PATH` takes a checkout instead), its tests'
needs into an environment of their own. They run bare, then with a runtime for each server (`each`), then with one for
all (`one`). A test that passed bare and fails under a guard fails this run, unless `accepted.toml` names it with the
reason; an entry that fails no more fails the run too, so that the list says what is so. `--only NAME…` runs these
tests alone, and `--keep FOLDER` keeps the reports.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = ROOT / ".venv-upstream"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
FOLDERS = ("tests/server", "tests/tools", "tests/resources", "tests/prompts")
LEFT_OUT = ("tests/server/auth",)
"""Who may connect at all: those tests need other services and make no call that a guard sees."""
NOT = "not integration and not client_process and not subprocess_heavy and not conformance"
TOOLS = re.compile(r"(fastmcp|ruff|ty|prek|loq|ipython|pdbpp|pyinstrument)\b")
"""What the suite's authors work with, and no test imports."""
EXTRAS = ("prefab-ui", "pydantic-monty", "jsonref")
PARTS = ("fastmcp-tasks", "fastmcp-remote")
"""Parts of FastMCP that are not there for every version; tests that need them are then not collected, and told."""
RUNS = ("bare", "each", "one")


def main() -> int:
    """Runs and compares; 1 where a guard breaks a test that is not on the list."""
    parser = argparse.ArgumentParser(prog="dev.py test --only upstream", description=__doc__)
    parser.add_argument("--suite", type=Path, metavar="PATH", help="a checkout of FastMCP, instead of PyPI's source")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="files, folders or tests of the suite")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the reports of the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="macaroon-upstream-") as name:
        folder = options.keep.resolve() if options.keep else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        suite = options.suite.resolve() if options.suite else download(Path(name))
        prepare(suite)
        results = {how: run(suite, how, folder, options.only) for how in RUNS}
    return compare(results, whole=not options.only)


# --- before ---------------------------------------------------------------------------------------------------------


def download(folder: Path) -> Path:
    """The source of the installed version, from PyPI."""
    wanted = f"fastmcp=={version('fastmcp')}"
    pip(sys.executable, "download", "--no-binary", ":all:", "--no-deps", "--dest", str(folder), wanted)
    with tarfile.open(next(folder.glob("fastmcp-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.glob("fastmcp-*") if path.is_dir())


def prepare(suite: Path) -> None:
    """The environment: the package as it stands here, the same FastMCP, and what the suite names."""
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
        pip(str(PYTHON), "install", "--upgrade", "pip")
    project = tomllib.loads((suite / "pyproject.toml").read_text(encoding="utf-8"))
    needs = [need for need in project["dependency-groups"]["dev"] if not TOOLS.match(need)]
    same = [f"{name}=={version(name)}" for name in ("fastmcp", "fastmcp-slim", "mcp", "pytest")]
    pip(str(PYTHON), "install", "--editable", f"{ROOT}[testing]", *same, *needs, *EXTRAS)
    for part in PARTS:
        done = subprocess.run([str(PYTHON), "-m", "pip", "install", "-q", f"{part}=={version('fastmcp')}"], check=False)
        if done.returncode:
            print(f"{part} is not published for this version", flush=True)


def pip(python: str, command: str, *words: str) -> None:
    """Runs pip. Raises `CalledProcessError`."""
    subprocess.run([python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words], check=True)


# --- a run ----------------------------------------------------------------------------------------------------------


def run(suite: Path, how: str, folder: Path, only: Sequence[str] | None) -> dict[str, str]:
    """What became of each test: `passed`, `failed`, `skipped`."""
    print(f"--- {how}", flush=True)
    report = folder / f"{how}.xml"
    report.unlink(missing_ok=True)
    left_out = [] if only else [f"--ignore={path}" for path in LEFT_OUT]
    command = [str(PYTHON), "-m", "pytest", "-q", "--no-header", "-p", "guarding", "-p", "no:cacheprovider", "-n", "2"]
    command += ["--tb=no", "-r", "E", "--timeout=60", "--continue-on-collection-errors", "-m", NOT, *left_out]
    chosen = [*(only or FOLDERS), f"--junitxml={report}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "MACAROON_UPSTREAM": "" if how == "bare" else how}
    environment.pop("CI", None)
    subprocess.run([*command, *chosen], cwd=suite, env=environment, check=False)
    return dict(outcomes(report))


def outcomes(report: Path) -> Iterator[tuple[str, str]]:
    """The tests of a report, by module and name. Raises `OSError`, `ParseError` where a run left none."""
    for case in ElementTree.parse(report).iter("testcase"):  # our own run wrote it
        kinds = {child.tag for child in case}
        name = f"{case.get('classname')}::{case.get('name')}".removeprefix("::")
        yield name, "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


# --- after ----------------------------------------------------------------------------------------------------------


def compare(results: dict[str, dict[str, str]], *, whole: bool) -> int:
    """Prints what a guard changed; 1 where that is not on the list, or the list says more than is so."""
    accepted = reasons()
    bare, broken = results["bare"], set[str]()
    print(f"bare      {figures(bare)}")
    for how in RUNS[1:]:
        new = {name for name, outcome in bare.items() if outcome == "passed" and results[how].get(name) != "passed"}
        broken |= new
        listed = sum(name_of(test) in accepted for test in new)
        print(f"{how:9} {figures(results[how])}, {len(new)} newly failed, {listed} of them listed with a reason")
    unlisted = sorted(test for test in broken if name_of(test) not in accepted)
    idle = sorted(set(accepted) - {name_of(test) for test in broken}) if whole else []
    for test in unlisted:
        print(f"NEW   {test}")
    for name in idle:
        print(f"IDLE  {name}: listed, and fails no more")
    return 1 if unlisted or idle or not any(outcome == "passed" for outcome in bare.values()) else 0


def figures(outcomes: dict[str, str]) -> str:
    """How many passed and failed."""
    counts = {kind: sum(outcome == kind for outcome in outcomes.values()) for kind in ("passed", "failed", "skipped")}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def reasons() -> dict[str, str]:
    """The tests that may fail under a guard, each with the reason."""
    entries = tomllib.loads((HERE / "accepted.toml").read_text(encoding="utf-8"))["accepted"]
    return {test: entry["reason"] for entry in entries for test in entry["tests"]}


def name_of(test: str) -> str:
    """A test without its parameters."""
    return test.partition("[")[0]


if __name__ == "__main__":
    sys.exit(main())
