"""Takes tokens from standard input, a file or the environment; never from the command line, which others can read."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..tokens.macaroons import DISCHARGE, PREFIX

VARIABLE: Final = "MACAROON_TOKEN"
MOST: Final = 512 * 1024
ADVICE: Final = (
    "a token does not belong on the command line: other users and the shell's history can see it. Pipe it in, or use "
    f"--token-file or {VARIABLE}. Take this one for known to others, and revoke it."
)

_ON_COMMAND_LINE: Final = re.compile(rf"(?:{PREFIX}|{DISCHARGE})[A-Za-z0-9_-]{{40,}}")


class InputMissing(Exception):
    """There is no token to work on, or it cannot be read; the text says what to do and repeats no input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was given: a token's text and the discharges beside it. Nothing is verified."""

    token: str = field(repr=False)
    discharges: tuple[str, ...] = field(default=(), repr=False)


def on_command_line(arguments: Iterable[str]) -> bool:
    """Whether a token stands among the arguments of a command."""
    return any(_ON_COMMAND_LINE.search(argument) for argument in arguments)


def given(file: Path | None, discharge_files: Sequence[Path] = ()) -> Given:
    """The one token, and discharges, from a file, else standard input, else `MACAROON_TOKEN`.

    Raises `InputMissing` where there is none, or more than one.
    """
    found = words(file, VARIABLE)
    discharges = [word for word in found if word.startswith(DISCHARGE)]
    tokens = [word for word in found if not word.startswith(DISCHARGE)]
    for path in discharge_files:
        discharges += _file(path).split()
    if not tokens:
        raise InputMissing("there is a discharge, but no token")
    if len(tokens) > 1:
        raise InputMissing("there is more than one token; give one")
    return Given(token=tokens[0], discharges=tuple(dict.fromkeys(discharges)))


def words(file: Path | None, variable: str | None = None) -> list[str]:
    """What stands in the file, else at standard input, else in the environment, cut at white space."""
    if file is not None:
        found = _file(file).split()
        if not found:
            raise InputMissing(f"{file} is empty")
        return found
    found = _standard_input().split()
    if not found and variable is not None:
        found = os.environ.get(variable, "").split()
    if not found:
        raise InputMissing(_nothing(variable))
    return found


def is_open(file: Path | None) -> bool:
    """Whether others on this machine can read a token file."""
    try:
        return file is not None and os.name == "posix" and bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def _nothing(variable: str | None) -> str:
    if variable is None:
        return "nothing was given; pipe it in, or name a file"
    return f"no token was given; pipe it in, or use --token-file FILE or {variable}"


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    raw = sys.stdin.buffer.read(MOST + 1) if hasattr(sys.stdin, "buffer") else sys.stdin.read(MOST + 1).encode()
    return _text(raw, "standard input")


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _text(file.read(MOST + 1), str(path))
    except OSError as error:
        raise InputMissing(f"cannot read {path}: {error.strerror}") from None


def _text(raw: bytes, where: str) -> str:
    if len(raw) > MOST:
        raise InputMissing(f"{where} holds more than tokens can be")
    return raw.decode("utf-8-sig", "replace")
