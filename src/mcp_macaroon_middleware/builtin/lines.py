"""Writes an audit record as one line of ASCII: nothing in a record can end the line or reach a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from ..plugin import AuditUnavailable


def line_of(record: Mapping[str, Any]) -> bytes:
    """The record as JSON without its newline. Raises `AuditUnavailable` for what is no JSON data."""
    try:
        text = to_json(record, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):  # half a surrogate pair, or no JSON at all
        text = _escaped(record)
    return text if text.isascii() and b"\x7f" not in text else _escaped(json.loads(text))


def _escaped(record: Any) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        raise AuditUnavailable("the audit record is no JSON data") from None
