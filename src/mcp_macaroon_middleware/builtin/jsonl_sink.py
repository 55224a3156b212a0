"""The `jsonl` audit sink: one JSON line a record, appended to a file that one process owns at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..plugin import AuditSink, AuditSinkType, AuditUnavailable, Settings, SinkContext
from .jsonl_tail import half_line, open_intents, record_of
from .lines import line_of

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]

KEPT: Final = 64 * 1024  # the most of a half line that is moved into its `truncated` event


class JsonlOptions(Settings):
    """`path` is relative to the policy file; with `sync` every record is on the disk before the call goes on."""

    path: str
    sync: bool = False


class JsonlSink:
    """Appends records to a file, whole lines only. Safe for threads.

    The file is locked, so a second process is refused (THREATS O08). A last line that a crash left half is moved into a
    `truncated` event, and every intent without a final record gets one with the outcome `unknown` (law L6). If the file
    is replaced, deleted, cut or made readable to others while it is open, the next line is an event that says so, with
    the digest of the last line before (FI12). A write that fails leaves no half line, raises `AuditUnavailable`, and
    works again when there is room (FI11).
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._path = path
        self._name = os.fspath(path)
        self._sync = sync
        self._lock = threading.Lock()
        self._closed = False
        self._descriptor = -1
        self._there: os.stat_result | None = None
        self._size = 0
        self._last = b""
        self._begin()

    def __repr__(self) -> str:
        return f"JsonlSink({self._path.name!r})"

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends the record. Raises `AuditUnavailable` where it cannot be appended whole."""
        line = line_of(record) + b"\n"
        with self._lock:
            if self._closed:
                raise AuditUnavailable("the audit file is closed")
            if self._descriptor < 0:
                self._begin()
            else:
                self._follow()
            self._append(line)

    def close(self) -> None:
        """Closes the file, which gives up its lock."""
        with self._lock:
            self._closed = True
            self._release()

    # --- the file -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Opens the file and closes what a crash left open in it."""
        self._open()
        try:
            self._mend()
            for intent in open_intents(self._descriptor, self._size) if self._size else ():
                facts = {key: value for key, value in intent.items() if key not in ("event", "seq", "time")}
                self._event("final", **facts, outcome="unknown", code="unknown")
        except (AuditUnavailable, OSError) as error:
            self._release()
            if isinstance(error, OSError):
                raise self._failed("read", error) from None
            raise

    def _open(self) -> None:
        """Opens the path in place of the file that is open now, which stays if that fails."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise self._failed("open", error) from None
        try:
            _lock(descriptor, self._path)
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode) and not stat.S_ISCHR(there.st_mode):
                raise AuditUnavailable(f"the audit file {self._path.name} is no regular file")
        except AuditUnavailable:
            os.close(descriptor)
            raise
        self._release()
        self._descriptor, self._there, self._size = descriptor, there, there.st_size

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _mend(self, why: str = "a last line that was cut by a crash") -> None:
        """Moves a last line without its end into an event; one that only lacks the newline gets it."""
        half = half_line(self._descriptor, self._size)
        if not half:
            return
        if record_of(half) is not None:
            self._append(b"\n")
            return
        os.ftruncate(self._descriptor, self._size - len(half))
        self._size -= len(half)
        try:
            self._event(
                "truncated",
                detail=f"{why}: {len(half)} bytes",
                line=half[:KEPT].decode("utf-8", "backslashreplace"),
            )
        except AuditUnavailable:
            with contextlib.suppress(OSError):  # as it was, for the next start
                os.write(self._descriptor, half)
            raise

    def _follow(self) -> None:
        """Looks what became of the file since the last write, and says so in it."""
        try:
            now = os.stat(self._name)
        except FileNotFoundError:
            now = None
        except OSError as error:
            raise self._failed("see", error) from None
        was, self._there = self._there, now or self._there
        if now is None or was is None or (now.st_dev, now.st_ino) != (was.st_dev, was.st_ino):
            self._there = was
            self._open()
            self._mend()
            self._changed("replaced", "the audit file was replaced or deleted while it was open")
            return
        if stat.S_ISREG(now.st_mode):
            self._look_at_the_end(now.st_size)
        if now.st_mode != was.st_mode:
            modes = f"from {stat.S_IMODE(was.st_mode):04o} to {stat.S_IMODE(now.st_mode):04o}"
            self._changed("permissions", f"the permissions of the audit file were changed {modes}")

    def _look_at_the_end(self, size: int) -> None:
        """Says where the file does not end as it was left: it was cut, or somebody else wrote to it.

        What they left half goes into an event, so that no record of ours is glued to it.
        """
        try:
            same = (
                size == self._size and os.pread(self._descriptor, len(self._last), size - len(self._last)) == self._last
            )
        except OSError as error:
            raise self._failed("read", error) from None
        if same:
            return
        how = "was cut" if size < self._size else "grew" if size > self._size else "was written to"
        previous, self._size = self._last, size
        self._mend("what stood at the end of the file, without an end of its line")
        self._last = previous
        event = "replaced" if how == "was cut" else "foreign"
        self._changed(event, f"the audit file {how} from outside while it was open")

    # --- lines ----------------------------------------------------------------------------------------------------

    def _changed(self, event: str, detail: str) -> None:
        previous = {"previous": "sha256:" + hashlib.sha256(self._last).hexdigest()} if self._last else {}
        self._event(event, detail=detail, **previous)

    def _event(self, event: str, **facts: Any) -> None:
        self._append(line_of({"time": round(time.time(), 6), **facts, "event": event}) + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._sync:
                os.fsync(self._descriptor)
        except OSError as error:
            self._undo()
            raise self._failed("write", error) from None
        self._size += len(line)
        self._last = line

    def _undo(self) -> None:
        """Takes back what was written of a line, so that none is half."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._release()  # the next write opens and mends the file anew

    def _failed(self, verb: str, error: OSError) -> AuditUnavailable:
        return AuditUnavailable(f"cannot {verb} the audit file {self._path.name}: {error.strerror}")


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
