"""Reads the bytes of a policy file or a referenced secret, and refuses what nobody should trust. It parses nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigError, Diagnostic

MAX_BYTES: Final = 1 << 20
_WRITABLE_BY_ALL: Final = stat.S_IWOTH
_READABLE_BY_ALL: Final = stat.S_IROTH


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A file's text, and whether everybody on this machine can read it (never true on Windows)."""

    text: str
    world_readable: bool


def read_policy_text(path: Path, *, limit: int = MAX_BYTES) -> PolicyText:
    """Reads a regular file (a link to one is fine) of at most `limit` bytes of UTF-8; a byte order mark is dropped.

    Raises `ConfigError` with one diagnostic that names the file. Never waits on a pipe or a device.
    """
    raw, mode = _read(path, limit)
    if os.name == "posix" and mode & _WRITABLE_BY_ALL:
        raise _error("file_world_writable", path, "everybody may write to this file", f"chmod o-w {path}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error("file_not_utf8", path, f"the file is not UTF-8 (byte {error.start})", "save it as UTF-8") from None
    if not text.strip():
        raise _error("file_empty", path, "the file is empty")
    return PolicyText(text=text, world_readable=os.name == "posix" and bool(mode & _READABLE_BY_ALL))


def _read(path: Path, limit: int) -> tuple[bytes, int]:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        what = "a link that leads nowhere" if path.is_symlink() else "there is no such file"
        raise _error("file_missing", path, what) from None
    except IsADirectoryError:
        raise _error("file_is_directory", path, "this is a directory, not a file") from None
    except (OSError, ValueError) as error:
        raise _error("file_unreadable", path, f"the file cannot be read: {_cause(error)}") from None
    try:
        return _contents(handle, path, limit), os.fstat(handle).st_mode
    except OSError as error:
        raise _error("file_unreadable", path, f"the file cannot be read: {_cause(error)}") from None
    finally:
        os.close(handle)


def _contents(handle: int, path: Path, limit: int) -> bytes:
    facts = os.fstat(handle)
    if stat.S_ISDIR(facts.st_mode):
        raise _error("file_is_directory", path, "this is a directory, not a file")
    if not stat.S_ISREG(facts.st_mode):
        raise _error("file_not_regular", path, "this is not a regular file")
    data = b""
    while len(data) <= limit and (chunk := os.read(handle, limit + 1 - len(data))):
        data += chunk
    if len(data) > limit:
        raise _error("file_too_large", path, f"the file has more than {limit} bytes")
    return data


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _error(code: str, path: Path, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Diagnostic(code=code, message=message, file=str(path), hint=hint)])
