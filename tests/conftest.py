"""What every test gets: `async def` tests run in an event loop of their own, `threat` markers are known, and where the
gate runs nothing is left out without being told.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Generator
from typing import Any, Final

import pytest

MAY_BE_LEFT_OUT: Final = frozenset(
    {
        # another system
        "file modes",
        "links and sockets of POSIX",
        "symbolic links",
        "no /dev/full here",
        "open files are counted in /proc",
        "only root can give files away",
        "reads /proc/self/status",
        "this system has no clock of its own for it",
        # another version of what we stand on
        "this FastMCP passes no results on that are no objects",
        "this FastMCP looks mounted components up in another server's session",
        "this FastMCP reads no query that a template spells out",
    }
)
"""Why a test may be left out where the gate runs (`CI` is set). Redis, Valkey and node have to be there."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "threat(*ids): the lines of the threat list that this test proves")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function: Any = pyfuncitem.obj
    if not inspect.iscoroutinefunction(inspect.unwrap(function)) and not inspect.iscoroutinefunction(function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


# --- nothing is left out in silence ---------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _held_to((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _held_to((yield))


def _held_to(report: Any) -> Any:
    """The report; one of a test that was left out for any other reason is a failure where the gate runs."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        why = _why(report.longrepr)
        if why not in MAY_BE_LEFT_OUT:
            report.outcome = "failed"
            report.longrepr = f"left out, which the gate does not allow: {why} (see MAY_BE_LEFT_OUT in conftest.py)"
    return report


def _why(left_out: Any) -> str:
    """The reason that a skip gives."""
    text = left_out[2] if isinstance(left_out, tuple) else str(left_out)
    return str(text).removeprefix("Skipped: ")
