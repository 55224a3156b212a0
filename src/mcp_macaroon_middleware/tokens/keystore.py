"""The key file on disk: read if nobody else could have read or written it, replaced as a whole. It makes no key.

A file is written beside its place, for its owner's eyes alone, flushed to the disk and moved into place, so that a
reader finds the old keys or the new ones and a failure leaves the old ones. No copy stays.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import KeyRingError
from .keyfile import KeyFile
from .keys import KeyRing, called, is_read_only, refuse_open_directory, refuse_open_file

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

MAX_BYTES: Final = 1 << 16
PATIENCE: Final = 10.0
SUFFIX: Final = ".json"


def read_ring(path: str | Path) -> KeyRing:
    """The ring at a path: a key directory, or a key file. Raises `KeyRingError`."""
    path = Path(path)
    if path.is_dir() or path.suffix != SUFFIX:
        return KeyRing.from_directory(path)
    return read_key_file(path).ring()


def read_key_file(path: Path) -> KeyFile:
    """The keys of a key file.

    Raises `KeyRingError` for a file that is not there, damaged, open to others or another user's, for a link where
    links can be changed, and for a directory that others can write to.
    """
    try:
        refuse_open_directory(path.parent)
        links = 0 if is_read_only(path.parent) else getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | links)
        with os.fdopen(descriptor, "rb") as file:
            refuse_open_file(path, os.fstat(descriptor))
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise KeyRingError(f"there is no key file {path.name}; make it with: mcp-macaroon keys new {path}") from None
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror or type(error).__name__
        raise KeyRingError(f"cannot read the key file {path.name}: {why}") from None
    try:
        if len(raw) > MAX_BYTES:
            raise KeyRingError("it is too large")
        return KeyFile.from_text(raw.decode("utf-8"))
    except (KeyRingError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, KeyRingError) else "it is no text"
        raise KeyRingError(f"the key file {path.name}: {why}") from None


def make_key_file(path: Path, file: KeyFile) -> None:
    """Writes a key file where there is none. Raises `KeyRingError`, and `OSError` if it cannot be written."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(path.parent):
        if os.path.lexists(path):
            raise KeyRingError(f"{path.name} is there already; change it with: mcp-macaroon keys rotate")
        _put(path, file)


def change_key_file(path: Path, change: Callable[[KeyFile], KeyFile]) -> tuple[KeyFile, KeyFile]:
    """Replaces a key file by what `change` makes of it, one change at a time; the file before and after.

    Raises `KeyRingError`, and `OSError` if it cannot be written; then nothing has changed.
    """
    if not path.parent.is_dir():
        raise KeyRingError(f"there is no key file {path.name}; make it with: mcp-macaroon keys new {path}")
    with _alone(path.parent):
        before = read_key_file(path)
        after = change(before)
        if after != before:
            _put(path, after)
    return before, after


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Alone with the directory, among those who change key files in it."""
    refuse_open_directory(directory)
    if fcntl is None:  # pragma: no cover - Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise KeyRingError(f"somebody else is changing a key file in {called(directory)}; try again") from None
            time.sleep(0.05)


def _put(path: Path, file: KeyFile) -> None:
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(file.to_text())
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    _settle(path.parent)


def _settle(directory: Path) -> None:
    """Flushes the directory, so that the new file is there after a power cut."""
    if os.name != "posix":  # pragma: no cover - Windows
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
