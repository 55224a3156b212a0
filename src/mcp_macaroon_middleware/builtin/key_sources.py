"""The key sources `env` and `file`: a variable's text, a file's text. They judge no key and keep none."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ..plugin import KeySourceContext, KeySourceType, PluginError

MAX_BYTES: Final = 1 << 16


def variable(name: str) -> str:
    """The text of an environment variable. Raises `PluginError` that names it, where it is not set or empty."""
    value = os.environ.get(name) if name and "=" not in name and "\0" not in name else None
    if value:
        return value
    what = "is not set" if value is None else "is empty"
    raise PluginError(f"the environment variable {name} {what}")


def file_text(path: Path) -> str:
    """The text of a regular file (a link to one is fine) of at most 64 KiB of UTF-8, without its last line break.

    Raises `PluginError` that names the file. Never waits on a pipe or a device.
    """
    try:
        raw = _bytes(path)
    except FileNotFoundError:
        what = "a link that leads nowhere" if path.is_symlink() else "there is no such file"
        raise PluginError(f"{path}: {what}") from None
    except IsADirectoryError:
        raise PluginError(f"{path}: this is a directory, not a file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise PluginError(f"{path}: the file cannot be read: {why}") from None
    return _text(path, raw)


def _bytes(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _refuse(path, os.fstat(handle).st_mode)
        raw = b""
        while len(raw) <= MAX_BYTES and (chunk := os.read(handle, MAX_BYTES + 1 - len(raw))):
            raw += chunk
        return raw
    finally:
        os.close(handle)


def _refuse(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise PluginError(f"{path}: this is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise PluginError(f"{path}: this is not a regular file")
    if os.name == "posix" and mode & stat.S_IWOTH:
        raise PluginError(f"{path}: everybody may write to this file; run: chmod o-w {path}")


def _text(path: Path, raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise PluginError(f"{path}: the file has more than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PluginError(f"{path}: the file is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise PluginError(f"{path}: the file is empty")
    return text.removesuffix("\n").removesuffix("\r")


def _env(name: str, context: KeySourceContext) -> str:
    return variable(name)


def _file(name: str, context: KeySourceContext) -> str:
    return file_text(context.base / name)


ENV: Final = KeySourceType(scheme="env", fetch=_env, summary="A key in an environment variable: env:NAME.")
FILE: Final = KeySourceType(scheme="file", fetch=_file, summary="A key in a file: file:PATH.")
