"""The project's one script: `python dev.py demo | test | bench | soak | bump`. Standard library only.

Every command does its own set-up: a virtual environment beside this file with the newest pip, the package and every
plugin distribution installed editable. Set-up is skipped while nothing that it depends on has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
OLDEST = (3, 11)


class Failed(Exception):
    """A step did not succeed; the text says which, and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="make the environment and stop")
    commands.add_parser("demo", help="watch a guarded server, scene by scene")
    tests = commands.add_parser("test", help="the gate: lint, format, types, layers and its tests; --all is everything")
    tests.add_argument("--all", action="store_true", help="the gate, then everything that takes longer")
    tests.add_argument(
        "--only", metavar="PART", action="append", choices=list(PARTS), help=f"of --all: {', '.join(PARTS)}"
    )
    tests.add_argument("--changed", action="store_true", help="the tests of what changed since main, and nothing else")
    tests.add_argument("--suite", metavar="PATH", help="a checkout of FastMCP whose tests `upstream` runs")
    tests.add_argument("--mutants", action="store_true", help="take defences out one by one: a test must fail")
    tests.add_argument("--only-tests", action="store_true", help="skip lint, types and layers")
    tests.add_argument(
        "--fastmcp", metavar="VERSION", help="the FastMCP adapter's tests alone, under this FastMCP: oldest, or 4.1.2"
    )
    commands.add_parser("bench", help="measure beside bare FastMCP, in one interleaved run")
    commands.add_parser("soak", help="mixed load with faults for --minutes N, and a report", add_help=False)
    bump = commands.add_parser("bump", help="set a new version everywhere")
    bump.add_argument("part", choices=["major", "minor", "patch", "pre"])
    options, rest = parser.parse_known_args(argv)
    if rest and options.command not in ("demo", "test", "bench", "soak"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if sys.version_info < OLDEST:
        print(f"dev.py needs Python {OLDEST[0]}.{OLDEST[1]}, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        return run(options, rest)
    except Failed as failure:
        print(f"dev.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """The chosen command, after the set-up it needs."""
    if options.command == "bump":
        return bump_version(options.part)
    if options.command == "test" and (options.all or options.only):
        return test_all(options.only or list(PARTS), options.suite)
    if options.command == "test" and options.fastmcp:
        return test_under(oldest_fastmcp() if options.fastmcp == "oldest" else options.fastmcp, rest)
    set_up()
    if options.command == "setup":
        return 0
    if options.command == "demo":
        return subprocess.call([str(PYTHON), "-m", "mcp_macaroon_middleware", "demo", *rest], cwd=ROOT)
    if options.command == "bench":
        return subprocess.call([str(PYTHON), str(ROOT / "tests" / "benchmarks" / "run.py"), *rest], cwd=ROOT)
    if options.command == "soak":
        return subprocess.call([str(PYTHON), str(ROOT / "tests" / "soaking" / "run.py"), *rest], cwd=ROOT)
    if options.mutants:
        return subprocess.call([str(PYTHON), str(ROOT / "tests" / "mutants" / "run.py"), *rest], cwd=ROOT)
    if options.changed:
        return test([*tests_of_changes(), *rest], only_tests=True)
    return test(rest, only_tests=options.only_tests)


# --- set-up ---------------------------------------------------------------------------------------------------------


def distributions() -> list[Path]:
    """The folders of every distribution in this repository, the package first."""
    return [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]


def stamp(*pins: str) -> str:
    """A digest of everything that the environment is made of."""
    digest = hashlib.sha256(repr((sys.version, pins)).encode())
    for folder in distributions():
        digest.update(str(folder).encode())
        digest.update((folder / "pyproject.toml").read_bytes())
    return digest.hexdigest()


def set_up(folder: Path = VENV, *pins: str) -> Path:
    """Makes the environment in `folder`, unless it stands already; returns its Python. `pins` hold versions back."""
    wanted, mark = stamp(*pins), folder / ".macaroon-stamp"
    python = folder / PYTHON.relative_to(VENV)
    if python.exists() and mark.exists() and mark.read_text() == wanted:
        return python
    print(f"set-up: making {folder.name}", flush=True)
    if not python.exists():
        make_venv(folder)
    pip(python, "the newest pip", "--upgrade", "pip")
    editable = [part for each in distributions()[1:] for part in ("--editable", str(each))]
    pip(python, "the package and its plugins", "--editable", f"{ROOT}[dev,testing]", *editable, *pins)
    mark.write_text(wanted)
    return python


def make_venv(folder: Path) -> None:
    """A fresh virtual environment; on Debian the module for it may have to be installed first."""
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise Failed(f"cannot make a virtual environment ({error}); on Debian: apt-get install python3-venv") from None


def pip(python: Path, what: str, *arguments: str) -> None:
    """Installs quietly; on failure shows what pip said."""
    print(f"set-up: installing {what}", flush=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise Failed(f"pip could not install {what}")


# --- test -----------------------------------------------------------------------------------------------------------


def test(rest: list[str], *, only_tests: bool) -> int:
    """The gate: lint, format, types, layers, then its tests, two at a time; the last line says how it went."""
    started = time.monotonic()
    sources = [str(folder / "src") for folder in distributions()]
    steps: list[tuple[str, list[str]]] = []
    if not only_tests:
        steps += [
            ("lint", [str(BIN / "ruff"), "check", "--quiet", "."]),
            ("format", [str(BIN / "ruff"), "format", "--check", "--quiet", "."]),
            ("types", [str(PYTHON), "-m", "mypy", "--strict", *sources, "dev.py"]),
            ("layers", [str(BIN / "lint-imports"), "--no-logo"]),
        ]
    steps.append(("tests", [str(PYTHON), "-m", "pytest", "-q", *PARALLEL, *rest]))
    failed = [name for name, command in steps if not step(name, command)]
    seconds = time.monotonic() - started
    if failed:
        print(f"FAIL: {', '.join(failed)} ({seconds:.0f} s)")
        return 1
    print(f"PASS: {', '.join(name for name, _ in steps)} ({seconds:.0f} s)")
    return 0


def oldest_fastmcp() -> str:
    """The oldest FastMCP that the package says it works with."""
    found = re.search(r'"fastmcp>=([0-9.]+)', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise Failed("pyproject.toml names no oldest FastMCP")
    return found[1]


def test_under(version: str, rest: list[str]) -> int:
    """The tests of the FastMCP adapter under one version of FastMCP, in an environment of its own."""
    pins = [f"fastmcp=={version}", f"fastmcp-slim=={version}"]
    python = set_up(ROOT / f".venv-fastmcp-{version}", *pins)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARALLEL, *(rest or ["tests/adapters"])]
    return 0 if step(f"tests under FastMCP {version}", command) else 1


def tests_of_changes() -> list[str]:
    """The tests of what differs from `main`: changed ones, those that mirror a source file, and its mutants' tests."""
    base = git("merge-base", "HEAD", "main")[0]
    files = {*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")}
    chosen = {file for file in files if re.search(r"/test_\w+\.py$", file) and (ROOT / file).exists()}
    for source in (Path(file) for file in files if "/src/" in f"/{file}" and file.endswith(".py")):
        places = [ROOT / "tests", *(ROOT / "plugins").glob("*/tests")]
        found = [path for place in places for path in place.rglob(f"test_{source.stem}*.py")]
        chosen |= {path.relative_to(ROOT).as_posix() for path in found}
        chosen |= tests_of_mutants(source.as_posix().partition("/mcp_macaroon_middleware/")[2])
    if not chosen:
        raise Failed("nothing that has tests of its own changed; run `python dev.py test`")
    return sorted(chosen)


def tests_of_mutants(file: str) -> set[str]:
    """The test files that notice when a defence in a source file is taken out."""
    lists = [tomllib.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "tests" / "mutants").glob("*.toml")]
    tests = [mutant["tests"] for each in lists for mutant in each["mutant"] if mutant["file"] == file]
    return {test.partition("::")[0] for each in tests for test in each.split()}


def git(*words: str) -> list[str]:
    """The lines that git prints."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.splitlines()


# --- everything -----------------------------------------------------------------------------------------------------


def test_all(parts: Sequence[str], suite: str | None) -> int:
    """Every part that is named, in order and whatever failed before; then one line for each."""
    lines, failed = [], []
    for number, part in enumerate(parts, 1):
        print(f"=== {part} ({number} of {len(parts)})", flush=True)
        started, code = time.monotonic(), 1
        try:
            code = PARTS[part](["--suite", suite] if suite and part == "upstream" else [])
        except Failed as failure:
            print(f"dev.py: {failure}", file=sys.stderr, flush=True)
        failed += [part] if code else []
        lines.append(f"{'FAIL' if code else 'PASS'}  {part:9} {time.monotonic() - started:6.0f} s")
    print("\n".join(["=== everything" if len(parts) == len(PARTS) else "=== parts", *lines]))
    return 1 if failed else 0


def test_gate(rest: list[str]) -> int:
    """What every change has to pass."""
    set_up()
    return test(rest, only_tests=False)


def test_oldest(rest: list[str]) -> int:
    """The FastMCP adapter's tests under the oldest FastMCP that the package takes."""
    return test_under(oldest_fastmcp(), rest)


def test_upstream(rest: list[str]) -> int:
    """FastMCP's own tests with a guard on every server, everything allowed."""
    return run_script("tests/upstream/run.py", *rest)


def test_mutants(rest: list[str]) -> int:
    """Every defence taken out once."""
    return run_script("tests/mutants/run.py", *rest)


def test_stores(rest: list[str]) -> int:
    """A minute of mixed load with faults on every kind of store."""
    kinds = ("memory", "sqlite", "valkey", "redis")
    codes = [run_script("tests/soaking/run.py", "--minutes", "1", "--store", kind, *rest) for kind in kinds]
    return max(codes)


def test_bench(rest: list[str]) -> int:
    """Every table of the measurements can be made; its figures are thrown away."""
    return run_script("tests/benchmarks/run.py", "--tiny", *rest)


def test_soak(rest: list[str]) -> int:
    """Ten minutes of mixed load with faults."""
    return run_script("tests/soaking/run.py", "--minutes", "10", *rest)


def run_script(path: str, *words: str) -> int:
    """Runs a script of the tests in the environment; returns its exit code."""
    return subprocess.call([str(set_up()), str(ROOT / path), *words], cwd=ROOT)


PARALLEL = ("-n", "2", "--dist", "loadgroup")
"""Two tests at a time; those that cannot run beside each other share an `xdist_group`."""

PARTS: dict[str, Callable[[list[str]], int]] = {
    "gate": test_gate,
    "oldest": test_oldest,
    "upstream": test_upstream,
    "mutants": test_mutants,
    "stores": test_stores,
    "bench": test_bench,
    "soak": test_soak,
}
"""What `--all` runs. A check that takes too long for the gate gets a part here: no test is in neither."""


def step(name: str, command: list[str]) -> bool:
    """Runs one step and shows what it says."""
    print(f"--- {name}", flush=True)
    return subprocess.call(command, cwd=ROOT) == 0


# --- bump -----------------------------------------------------------------------------------------------------------


VERSION = re.compile(r'^(version = |__version__: Final = )"(\d+)\.(\d+)\.(\d+)(a\d+)?"', re.MULTILINE)


def bump_version(part: str) -> int:
    """Writes the next version into every file that names it, and opens a section in the changelog."""
    files = [folder / "pyproject.toml" for folder in distributions()]
    files.append(ROOT / "src" / "mcp_macaroon_middleware" / "__init__.py")
    found = VERSION.search(files[0].read_text())
    if found is None:
        raise Failed("pyproject.toml names no version of the form 1.2.3 or 1.2.3a4")
    new = next_version(int(found[2]), int(found[3]), int(found[4]), found[5], part)
    for path in files:
        text, count = VERSION.subn(rf'\g<1>"{new}"', path.read_text(), count=1)
        if not count:
            raise Failed(f"{path.relative_to(ROOT)} names no version")
        path.write_text(text)
    changelog = ROOT / "CHANGELOG.md"
    heading = f"## Unreleased\n\n## {new} ({time.strftime('%Y-%m-%d')})\n"
    changelog.write_text(changelog.read_text().replace("## Unreleased\n", heading, 1))
    print(new)
    return 0


def next_version(major: int, minor: int, patch: int, pre: str | None, part: str) -> str:
    """The version after this one."""
    if part == "pre":
        return f"{major}.{minor}.{patch}a{int(pre[1:]) + 1}" if pre else f"{major}.{minor}.{patch + 1}a1"
    if pre:
        return f"{major}.{minor}.{patch}"
    if part == "major":
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if part == "minor" else f"{major}.{minor}.{patch + 1}"


if __name__ == "__main__":
    sys.exit(main())
