"""What pytest loads at every start: it runs the suites' async methods, and imports nothing until a suite is used."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

SUITES = ("approvers", "cases", "enforcers", "hostile", "keys", "sinks", "stores")

pytest.register_assert_rewrite(*(f"mcp_macaroon_middleware.testing.{suite}" for suite in SUITES))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an async method of a suite in an event loop of its own; leaves every other test alone."""
    function: Any = pyfuncitem.obj
    if not getattr(pyfuncitem.cls, "macaroon_suite", False) or not inspect.iscoroutinefunction(function):
        return None
    wanted = inspect.signature(function).parameters
    asyncio.run(function(**{name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}))
    return True
