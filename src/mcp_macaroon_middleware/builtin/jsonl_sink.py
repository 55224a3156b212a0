"""The `jsonl` audit sink: one JSON line a record, appended to a file that one process owns at a time."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic_core import to_json

from ..plugin import AuditSink, AuditSinkType, AuditUnavailable, Settings, SinkContext

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]


class JsonlOptions(Settings):
    """`path` is relative to the policy file; with `sync` every record is on the disk before the call goes on."""

    path: str
    sync: bool = False


class JsonlSink:
    """Appends records to a file, whole lines only.

    The file is locked, so a second process is refused (THREATS O08). A last line that a crash left half is closed, and
    every intent without a final record gets one with the outcome `unknown` (law L6). If the file is replaced or
    deleted while it is open, the next record goes to a new file that says so (FI12). A write that fails leaves no half
    line, raises `AuditUnavailable`, and works again when there is room (FI11).
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._path = path
        self._sync = sync
        self._descriptor = -1
        self._identity: tuple[int, int] = (0, 0)
        self._size = 0
        self._open()
        self._recover()

    def __repr__(self) -> str:
        return f"JsonlSink({self._path.name!r})"

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends the record. Raises `AuditUnavailable` where it cannot be appended whole."""
        if self._descriptor < 0:
            raise AuditUnavailable("the audit file is closed")
        self._follow()
        self._append(record)

    def close(self) -> None:
        """Closes the file, which gives up its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise AuditUnavailable(f"cannot open the audit file {self._path.name}: {error.strerror}") from None
        try:
            _lock(descriptor, self._path)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISCHR(found.st_mode):
                raise AuditUnavailable(f"the audit file {self._path.name} is no regular file")
        except AuditUnavailable:
            os.close(descriptor)
            raise
        self._descriptor, self._size = descriptor, found.st_size
        self._identity = (found.st_dev, found.st_ino)

    def _follow(self) -> None:
        """Opens the path anew where it does not lead to our file any more."""
        try:
            there = os.stat(self._path)
            if (there.st_dev, there.st_ino) == self._identity:
                return
        except FileNotFoundError:
            pass  # deleted: begun anew below
        except OSError as error:
            raise AuditUnavailable(f"cannot see the audit file {self._path.name}: {error.strerror}") from None
        self.close()
        self._open()
        self._append({"event": "replaced", "detail": "the audit file was replaced or deleted while it was open"})

    def _append(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(28, "no space left")
            if self._sync:
                os.fsync(self._descriptor)
        except OSError as error:
            self._undo()
            raise AuditUnavailable(f"cannot write the audit file {self._path.name}: {error.strerror}") from None
        self._size += len(line)

    def _undo(self) -> None:
        """Takes back what was written of a line, so that none is half."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self.close()  # a later write is refused; the next start repairs the file

    # --- at the start ---------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        if self._size == 0:
            return
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            opened, half = _open_intents(file)
        if half:
            os.ftruncate(self._descriptor, self._size - len(half))
            self._size -= len(half)
            self._append({"event": "truncated", "detail": f"a last line of {len(half)} bytes was cut by a crash"})
        for intent in opened.values():
            facts = {key: value for key, value in intent.items() if key not in ("event", "seq", "decision")}
            self._append({**facts, "event": "final", "outcome": "unknown", "code": "unknown"})


def _line(record: Mapping[str, Any]) -> bytes:
    """One line of ASCII, whatever is in the record."""
    text = to_json(record)
    if not text.isascii():
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    return text + b"\n"


def _open_intents(file: BinaryIO) -> tuple[dict[Any, dict[str, Any]], bytes]:
    """The intents that no final record closes, and a last line without its end."""
    file.seek(0)
    opened: dict[Any, dict[str, Any]] = {}
    half = b""
    for line in file:
        if not line.endswith(b"\n"):
            half = line
            break
        for record in _records(line):
            key = record.get("request")
            if record.get("event") == "intent":
                opened[key] = record
            elif record.get("event") == "final":
                opened.pop(key, None)
    return opened, half


def _records(line: bytes) -> Iterator[dict[str, Any]]:
    """The record of a line; a line that is none is left to whoever verifies the file."""
    try:
        record = json.loads(line)
    except ValueError:
        return
    if isinstance(record, dict):
        yield record


def _lock(descriptor: int, path: Path) -> None:
    if fcntl is None:  # pragma: no cover - Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise AuditUnavailable(
            f"another process writes the audit file {path.name}; give every process a file of its own"
        ) from None


def _open(options: JsonlOptions, context: SinkContext) -> AuditSink:
    return JsonlSink(context.base / options.path, sync=options.sync)


TYPE: Final = AuditSinkType(
    name="jsonl", open=_open, options=JsonlOptions, summary="A file with one JSON line a record."
)
