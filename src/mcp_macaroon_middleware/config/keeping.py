"""What a store does not keep or share, and somebody may count on: said at the start, loudly. It changes nothing."""

from __future__ import annotations

import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from ..errors import Diagnostic
from ..plugin.contract import Store
from .compile import Compiled
from .places import DataPath

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]

_WORKERS: Final = re.compile(r"(?:--workers|-w)[=\s]*([0-9]{1,6})(?!\S)")
_LAUNCHERS: Final = ("gunicorn", "uvicorn", "hypercorn", "granian", "fastapi")
_presences: WeakValueDictionary[str, Presence] = WeakValueDictionary()
_presences_lock = threading.Lock()


def store_warnings(compiled: Compiled, store: Store, presence: Presence | None) -> Iterator[Diagnostic]:
    """Warnings about a store that forgets with its process, or that processes do not share."""
    config, source = compiled.settings.config, compiled.source
    if config.tokens is not None and not store.durable:
        message = "with this store, what is revoked counts again after a restart, and at this process alone"
        hint = "name a store that is kept, such as  store: sqlite:///state.db  or mint short-lived tokens"
        place: DataPath = ("config", "tokens")
        yield source.diagnostic("revocations_not_kept", message, place, key=True, hint=hint, severity="warning")
    if not store.shared and (several_workers() or (presence is not None and not presence.alone)):
        message = (
            "several processes serve this file, and share nothing: each counts limits, asks and revokes for itself"
        )
        hint = "name a store that they share, such as  store: sqlite:///state.db  or  redis://…, or run one worker"
        where: DataPath = ("config", "store") if source.get(("config", "store")) is not None else ("config",)
        yield source.diagnostic("store_not_shared", message, where, hint=hint, severity="warning")


def several_workers() -> bool:
    """Whether this process was started as one of several workers, as far as its launcher's settings tell."""
    if _number(os.environ.get("WEB_CONCURRENCY", "")) > 1:
        return True
    given = os.environ.get("GUNICORN_CMD_ARGS", "")
    if any(name in sys.argv[0] for name in _LAUNCHERS):
        given += " " + " ".join(sys.argv[1:])
    return any(_number(found) > 1 for found in _WORKERS.findall(given))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 7 else 0


class Presence:
    """Shows other processes that one serves this file, while it lives: a lock of the file, which nothing waits for.

    `alone` is false if another process shows the same. Runtimes of one process have one presence together.
    """

    __slots__ = ("__weakref__", "alone")

    def __init__(self, name: str) -> None:
        self.alone = True
        if fcntl is None:
            return
        try:
            descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some file systems have no locks
            self.alone = not isinstance(error, BlockingIOError)


def present(path: Path | None) -> Presence | None:
    """The presence of this process at the file `path`; nothing for a policy that is no file."""
    if path is None:
        return None
    name = str(path.resolve())
    with _presences_lock:
        found = _presences.get(name)
        if found is None:
            found = _presences[name] = Presence(name)
        return found
