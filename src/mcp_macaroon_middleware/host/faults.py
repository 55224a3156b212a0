"""Puts what a plugin did wrong into one line for an operator. It never raises, whatever a plugin's objects do."""

from __future__ import annotations

import re
from typing import Final

MOST: Final = 300
_USERINFO: Final = re.compile(r"://[^/\s@]*@")


def cause(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its text."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(value: object) -> str:
    """The first line of a value's text, cut at 300 characters, without control characters or passwords in addresses."""
    try:
        lines = str(value).strip().splitlines()
    except KeyboardInterrupt:
        raise
    except BaseException:  # a plugin's exception may fail even at this
        return ""
    line = _USERINFO.sub("://***@", lines[0]) if lines else ""
    return "".join(char if char.isprintable() else "?" for char in line[:MOST])
