"""`guard` and `bind`: put a policy around a FastMCP server and everything mounted on it, and say what that covers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastmcp import FastMCP

from ...errors import BindError
from . import census
from .compat import self_test
from .frames import binding, frame, making, within
from .guard import Source, runtime_of
from .install import InstalledGuard
from .middleware import POSTS

T = TypeVar("T")


def guard(server: FastMCP[Any], source: Source) -> InstalledGuard:
    """Puts a policy around a server and everything mounted on it, at once; works in an event loop and outside one.

    `source` is a policy file, the same as a mapping, or a `Runtime`. Raises `ConfigError` for what is wrong with the
    file and `BindError` for what does not fit the server; then the server refuses everything. Components of a proxied
    server are looked at on the first request: only the loop that serves can ask for them (see `bind`).
    """
    made = _made(server, source)
    taken = _at_once(census.take(server, remote=False))
    return _bound(made, lambda: made.adopt(taken or census.Census(missing=["components that must be waited for"])))


async def bind(server: FastMCP[Any], source: Source) -> InstalledGuard:
    """`guard`, for a host that owns the event loop: proxied components are listed and fitted at once too."""
    made = _made(server, source)
    _standing(made)  # before the census, in which a server that proxies itself would ask itself without end
    made.pending = True
    with within(making(frame(), binding(server))):
        taken = await census.take(server)
    return _bound(made, lambda: made.adopt(taken))


def _made(server: FastMCP[Any], source: Source) -> InstalledGuard:
    if not isinstance(server, FastMCP):
        raise BindError(f"guard takes a FastMCP server, not {type(server).__name__}")
    self_test()
    made = InstalledGuard(server, runtime_of(source), POSTS)
    try:
        made.add_tools()
    except BindError as error:
        made.install()
        made.fail(error)
        raise
    return made


def _standing(made: InstalledGuard) -> None:
    try:
        made.install()
    except BindError as error:
        made.fail(error)
        raise


def _bound(made: InstalledGuard, fit: Callable[[], None]) -> InstalledGuard:
    try:
        made.install()
        fit()
    except BindError as error:
        made.fail(error)
        raise
    made.end_binding()
    return made


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """The coroutine's result if it never waits; None if it does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    return None
