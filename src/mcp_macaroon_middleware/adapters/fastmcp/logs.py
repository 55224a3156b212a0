"""Keeps values out of FastMCP's own log: while an output rule applies, and where it prints a call's arguments.

FastMCP logs at DEBUG every text that a component sends to its client and every call's arguments, and a failing prompt
with its traceback before anybody could look at it. A line that is held keeps its logger, level and time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final

from fastmcp.server.dependencies import fastmcp_request_ctx

HELD_LINE: Final = "[withheld: a log line of a component under an output rule]"
QUIET: Final = "_macaroon_quiet"
"""The attribute that marks a client session whose channels are held."""

HIDDEN: Final = "[arguments]"
OURS: Final = ("fastmcp.server.server", "fastmcp.server.mixins.mcp_operations")
"""Loggers that speak before or after a body, never with what it says."""

_held: ContextVar[bool] = ContextVar("mcp_macaroon_held", default=False)
_plain_record: Final = frozenset(vars(logging.makeLogRecord({})))


def hush() -> Token[bool]:
    """From now on what FastMCP's and the SDK's loggers say of a component's texts is replaced, until `unhush`."""
    return _held.set(True)


unhush: Final = _held.reset


def quiet_logs() -> None:
    """Puts the filters on FastMCP's and the SDK's loggers; once is enough, again does no harm."""
    known = logging.Logger.manager.loggerDict
    if len(known) == _Hush.seen:
        return
    _Hush.seen = len(known)
    for name in [name for name in known if name.startswith(("fastmcp.", "mcp."))]:
        logging.getLogger(name).addFilter(_ARGUMENTS if name in OURS else _HUSH)
    _Hush.seen = len(known)


class _Hush(logging.Filter):
    """Replaces lines while a body is held."""

    seen = -1

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_held():
            _replace(record, HELD_LINE, ())
        return True


class _Arguments(logging.Filter):
    """Takes the arguments out of the lines that name a call's component and its arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "Handler called" in str(record.msg) and isinstance(record.args, tuple) and len(record.args) > 1:
            record.args = (record.args[0], *(HIDDEN for _ in record.args[1:]))
        return True


def _is_held() -> bool:
    """Whether a held body speaks, also where a proxy's own task speaks for it."""
    if _held.get():
        return True
    bound = fastmcp_request_ctx.get()
    return bound is not None and is_quiet(bound.session)


def is_quiet(session: Any) -> bool:
    """Whether a client session is held."""
    return getattr(session, QUIET, False) is True


def _replace(record: logging.LogRecord, text: str, args: tuple[Any, ...] | Mapping[str, Any]) -> None:
    record.msg, record.args = text, args
    record.exc_info = record.exc_text = record.stack_info = None
    for name in set(vars(record)) - _plain_record:
        delattr(record, name)


_HUSH: Final = _Hush()
_ARGUMENTS: Final = _Arguments()
