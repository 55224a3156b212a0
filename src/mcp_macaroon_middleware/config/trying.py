"""Uses the store that a file names once, before anything is served, so that one that is down stops the start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from ..errors import ConfigError
from .compile import Compiled
from .key_sources import in_time
from .opening import store_address, store_context, store_failed

LASTS: Final = 90.0
"""Seconds after which a probe, which ought to give up by itself, is not waited for any longer."""
HINT: Final = "start it, or mend config.store and the store's section;  mcp-macaroon check FILE  tries again"

_untried: ContextVar[bool] = ContextVar("mcp_macaroon_store_untried", default=False)


def try_store(compiled: Compiled) -> None:
    """Uses the store of the file once, where its kind knows how, within the time of one operation.

    It runs in a thread of its own, so that it may be called inside and outside of an event loop, and holds up the
    caller. Raises `ConfigError` with why the store cannot be used; it shows no address and no secret.
    """
    kind = compiled.store
    if kind is None or kind.probe is None or _untried.get():
        return
    probe, address, context = kind.probe, store_address(compiled), store_context(compiled, kind)

    def probed() -> str:
        probe(address, context)
        return ""

    try:
        in_time(probed, LASTS)
    except Exception as error:  # whatever a plugin raises, the start stops
        raise ConfigError([store_failed(compiled, kind.scheme, "used", error, HINT)]) from None


@contextmanager
def untried_store() -> Iterator[None]:
    """Inside, no store is tried: for looking at a file where its store cannot be reached, and nothing is served."""
    token = _untried.set(True)
    try:
        yield
    finally:
        _untried.reset(token)
