"""The `log` audit sink: one JSON line a record, through standard logging."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from ..plugin import AuditSink, AuditSinkType, Settings, SinkContext

LOGGER: Final = "mcp_macaroon_middleware.audit"


class LogSink:
    """Writes records at INFO to the logger `mcp_macaroon_middleware.audit`; the record is in `extra` as `audit`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(LOGGER)

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs the record as one line of JSON; control characters are escaped (THREATS E07)."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info("%s", json.dumps(record, ensure_ascii=True), extra={"audit": dict(record)})

    def close(self) -> None:
        """Does nothing: handlers belong to the application."""


def _open(options: Settings, context: SinkContext) -> AuditSink:
    return LogSink()


TYPE: Final = AuditSinkType(name="log", open=_open, summary="Standard logging, one JSON line a record.")
