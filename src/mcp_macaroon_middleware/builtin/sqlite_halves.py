"""The files that a SQLite file consists of while it is used: itself, its log (`-wal`) and the log's index (`-shm`).

Who removes or replaces the log under a server takes away what was written last, and splits those who use the file into
two that see different contents. So all three are looked at as one. It reads none of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHANGED: Final = "store_changed"
"""The code of what is refused because a file of the store was changed from outside, and the event's name."""
PARTS: Final = {"": "file", "-wal": "log", "-shm": "index"}
LOG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes to which SQLite itself cuts its log, and no further."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the files, as it was seen: which it is, and how long."""

    device: int
    inode: int
    size: int


Halves = dict[str, Part | None]


def seen(path: Path) -> Halves:
    """The files at a path, by their endings; None for one that is not there."""
    return {ending: _part(f"{path}{ending}") for ending in PARTS}


def change(before: Halves, now: Halves) -> tuple[str, str] | None:
    """What became of one of the files since: which of them, and `removed`, `replaced` or `cut`; None for nothing."""
    for ending, name in PARTS.items():
        was, there = before[ending], now[ending]
        if was is None:
            continue
        if there is None:
            return name, "removed"
        if (there.device, there.inode) != (was.device, was.inode):
            return name, "replaced"
        if there.size < (min(was.size, LOG_LIMIT) if ending == "-wal" else was.size) and ending:
            return name, "cut"
    return None


def mend_index(path: Path, before: Halves, now: Halves) -> None:
    """Gives a log's index that was cut its length back. It is mapped into memory: what is missing of it would end the
    process that looks there. SQLite finds zeros instead, and makes it anew from the log."""
    was, there = before["-shm"], now["-shm"]
    if was is None or there is None or there.inode != was.inode or there.size >= was.size:
        return
    with contextlib.suppress(OSError):
        os.truncate(f"{path}-shm", was.size)


def _part(name: str) -> Part | None:
    try:
        there = os.stat(name, follow_symlinks=False)
    except OSError:
        return None
    return Part(there.st_dev, there.st_ino, there.st_size) if stat.S_ISREG(there.st_mode) else None
