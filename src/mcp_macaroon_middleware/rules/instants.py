"""The one spelling of an instant, in UTC and whole seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from ..errors import RuleError
from .parts import TIME

EXPIRY_FORMAT: Final = "%Y%m%dT%H%M%SZ"


def parse_expiry(text: str) -> datetime:
    """The UTC instant that `YYYYMMDDTHHMMSSZ` names. Raises `RuleError` for anything else."""
    try:
        if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
            return datetime.strptime(text, EXPIRY_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        pass  # a thirteenth month: said below
    raise RuleError(
        f"{text!r} is not an instant in UTC", length=max(1, len(text)), hint="write it as time<20301231T235959Z"
    )


def format_expiry(at: datetime) -> str:
    """The `time<…` text of an aware datetime, whole seconds in UTC."""
    return TIME + at.astimezone(UTC).strftime(EXPIRY_FORMAT)
