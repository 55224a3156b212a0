"""The `log` audit sink: one JSON line a record, through standard logging. It never drops a record in silence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from ..plugin import AuditSink, AuditSinkType, AuditUnavailable, Settings, SinkContext
from .lines import line_of

LOGGER: Final = "mcp_macaroon_middleware.audit"


class LogSink:
    """Writes records at INFO to the logger `mcp_macaroon_middleware.audit`; the record is in `extra` as `audit`.

    A logger without a level of its own is set to INFO. While the process has configured no handler at all, which would
    lose the records, they go to standard error.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(LOGGER)
        if self._logger.level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs the record as one line of JSON; control characters are escaped (THREATS E07).

        Raises `AuditUnavailable` where logging is told to leave such records out.
        """
        line = line_of(record).decode()
        if not self._logger.isEnabledFor(logging.INFO):
            raise AuditUnavailable(f"the logger {self._logger.name} records nothing at INFO")
        if self._logger.hasHandlers():
            self._logger.info("%s", line, extra={"audit": dict(record)})
            return
        try:
            sys.stderr.write(line + "\n")  # not print: without a standard error it would write to standard output
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            raise AuditUnavailable("standard error is closed, and no log handler is configured") from None

    def close(self) -> None:
        """Does nothing: handlers belong to the application."""


def _open(options: Settings, context: SinkContext) -> AuditSink:
    return LogSink()


TYPE: Final = AuditSinkType(name="log", open=_open, summary="Standard logging, one JSON line a record.")
