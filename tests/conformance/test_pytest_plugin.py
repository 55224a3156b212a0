"""What an author gets: a test file of six lines, run by a plain pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = "mcp_macaroon_middleware"

SUITE = """
from mcp_macaroon_middleware.plugin import Check, Verdict, enforcer
from mcp_macaroon_middleware.testing import Case, EnforcerContract

@enforcer("odd_hours")
async def odd_hours(check: Check) -> Verdict:
    return Verdict.allow() if check.request.at.hour % 2 else check.refuse("even_hour", "Come back in an hour.")

class TestOddHours(EnforcerContract):
    enforcer = odd_hours
    cases = (Case(at="2026-01-05T11:00:00Z", expect={"allow": "allow"}), Case(expect={"elicit": "ask"}))

async def test_of_somebody_elses():
    assert False
"""


def test_the_entry_point_imports_nothing_heavy() -> None:
    code = (
        f"import sys, {PACKAGE}.testing.pytest_plugin\n"
        f"own = sorted(m for m in sys.modules if m.startswith('{PACKAGE}'))\n"
        "heavy = [m for m in ('pydantic', 'fastmcp', 'mcp', 'pluggy', 'yaml', 'redis', 'rich') if m in sys.modules]\n"
        "print(own, [m for m in heavy if m != 'pluggy'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = [PACKAGE, f"{PACKAGE}.testing", f"{PACKAGE}.testing.pytest_plugin"]
    assert ran.stdout.strip() == f"{own} []"


def test_the_names_of_the_kit_are_loaded_when_first_used() -> None:
    from mcp_macaroon_middleware import testing

    assert all(getattr(testing, name) is not None for name in testing.__all__)
    assert set(testing.__all__) <= set(dir(testing))
    assert not hasattr(testing, "nonsense")


def test_an_authors_suite_runs_async_and_all_without_any_further_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_odd.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", f"{PACKAGE}.testing.pytest_plugin", "-q", "-p", "no:cacheprovider", "--disable-plugin-autoload"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "1 failed" in ran.stdout, ran.stdout
    assert "test_of_somebody_elses" in ran.stdout.split("short test summary")[1]
    assert "TestOddHours" not in ran.stdout.split("short test summary")[1]


def test_the_entry_point_is_registered() -> None:
    from importlib_metadata import entry_points

    found = [entry.value for entry in entry_points(group="pytest11") if entry.name == "mcp_macaroon"]
    assert found == [f"{PACKAGE}.testing.pytest_plugin"]
