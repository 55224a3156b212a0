"""The file of a `sqlite` store: how it is opened, what is in it, and the six primitives within one transaction.

It belongs to one thread. It never makes a file anew once it was there: a file that is gone is an error, not an empty
store. Whatever fails is told by a text of ours, without the path.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..plugin import Added, Amount, Entry, PluginError, StoreUnavailable
from ..plugin.ticks import ticks
from .broken import BROKEN
from .sqlite_halves import CHANGED, Halves, change, mend_index, seen
from .sqlite_opening import connect, known, why
from .windows import Counter, ends_of, fresh, name_of, packed, refusal, unpacked

PAGE: Final = 4096
SWEPT: Final = 64
MOST_BYTES: Final = 4 * 1024 * 1024
"""About how many bytes of values one page of `scan` has."""
LONGEST: Final = 100 * 365 * 86_400.0
"""Seconds; whatever is to last longer lasts this long."""


class SQLiteFile:
    """The file, open, as one server (`space`) sees it."""

    def __init__(self, path: Path, space: str, *, timeout: float, max_bytes: int) -> None:
        self._path = path
        self._space = space
        self._timeout = timeout
        self._pages = max(max_bytes // PAGE, 64)
        self._link: sqlite3.Connection | None = None
        self._halves: Halves = {}
        self.changes: list[tuple[str, str]] = []
        self._changes = 0
        self.now = 0.0

    def close(self) -> None:
        """Closes the file."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(sqlite3.Error):
                link.close()

    def begin(self, *, writes: bool) -> None:
        """Begins a transaction: everything in it happens at one instant, or not at all. Raises `StoreUnavailable`."""
        try:
            link = self._open()
            link.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            known_boot = self._read_clock(link)
            if not writes and not known_boot:  # what is seen by the wall clock is kept, or a clock set back undoes it
                link.execute("ROLLBACK")
                link.execute("BEGIN IMMEDIATE")
                self._read_clock(link)
                self._write_clock(link)
                link.execute("COMMIT")
                link.execute("BEGIN")
        except (sqlite3.Error, ValueError, TypeError) as error:
            self.abandon()
            raise StoreUnavailable(f"the sqlite store cannot be used: {why(error)}") from None
        self._changes = link.total_changes

    def _read_clock(self, link: sqlite3.Connection) -> bool:
        """Brings `now` up to date. True if the file's clock is that of this start of the machine."""
        ((seen, boot, then),) = link.execute("SELECT seen, boot, ticks FROM clock")
        if not math.isfinite(seen) or not math.isfinite(then):
            raise ValueError("a time is a number")
        self.now = max(self.now, _now(seen, boot, then))
        return bool(boot == boot_id())

    def _write_clock(self, link: sqlite3.Connection) -> None:
        link.execute("UPDATE clock SET seen = ?, boot = ?, ticks = ?", (self.now, boot_id(), ticks()))

    def commit(self, *, writes: bool) -> None:
        """Ends the transaction; when it returns, what was written is on the disk. Raises `StoreUnavailable`."""
        link = self._there()
        try:
            if writes:
                written = link.total_changes - self._changes
                self._write_clock(link)
                self._sweep(link, SWEPT + 2 * written)  # faster than anything grows
            link.execute("COMMIT")
            if writes:  # what is acknowledged stands in the file, so that nobody can take it away with the log
                link.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        except sqlite3.Error as error:
            self.abandon()
            raise StoreUnavailable(f"the sqlite store cannot be used: {why(error)}") from None
        self._require_whole()

    def abandon(self) -> None:
        """Undoes the transaction, and opens the file anew at the next."""
        if self._link is not None:
            with contextlib.suppress(sqlite3.Error):
                self._link.execute("ROLLBACK")
        self.close()

    def _open(self) -> sqlite3.Connection:
        """The connection, made anew where the file at the path is another. Raises `StoreUnavailable` without a file."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError as error:
            if self._link is not None:
                self.changes.append(("file", "removed"))
            self.close()
            raise StoreUnavailable(f"the file of the sqlite store is gone ({error.strerror})") from None
        if not stat.S_ISREG(there.st_mode):
            self.close()
            raise StoreUnavailable("the path of the sqlite store is not a file any more")
        self._require_whole()
        if self._link is None:
            link = connect(self._path, self._timeout)
            self._link, self._halves = link, {}
            try:
                ours = known(link)
            except PluginError as error:
                self.close()
                raise StoreUnavailable(f"the sqlite store cannot be used: {error}") from None
            if not ours:
                self.close()
                raise StoreUnavailable("the file of the sqlite store is empty; start the server anew to make it")
            link.execute(f"PRAGMA max_page_count = {self._pages}")
            self._halves = seen(self._path)
        return self._link

    def _require_whole(self) -> None:
        """Raises `StoreUnavailable` where the file, its log or the log's index is not the one that is open here.

        What is open is let go: the next operation opens what is there then. Nothing is lost by it, since whatever was
        acknowledged stands in the file itself (`commit`).
        """
        if self._link is None or not self._halves:
            return
        now = seen(self._path)
        changed = change(self._halves, now)
        if changed is None:
            self._halves = {**now, **{end: part for end, part in self._halves.items() if now[end] is None}}
            return
        mend_index(self._path, self._halves, now)
        self.changes.append(changed)
        self.close()
        name, how = changed
        raise StoreUnavailable(f"the {name} of the sqlite store was {how} while it was in use", code=CHANGED)

    def clear(self) -> None:
        """Drops all that has ended. Raises `StoreUnavailable`."""
        self.begin(writes=True)
        try:
            self._sweep(self._there(), -1)
        except sqlite3.Error as error:
            self.abandon()
            raise StoreUnavailable(f"the sqlite store cannot be used: {why(error)}") from None
        self.commit(writes=True)

    def _there(self) -> sqlite3.Connection:
        if self._link is None:
            raise StoreUnavailable("the sqlite store has no transaction open")
        return self._link

    def _sweep(self, link: sqlite3.Connection, most: int) -> None:
        """Drops some of what has ended."""
        for table in ("records", "counters"):
            gone = f"SELECT space, key FROM {table} WHERE ends <= ? ORDER BY ends LIMIT ?"  # noqa: S608 - our own names
            link.execute(f"DELETE FROM {table} WHERE (space, key) IN ({gone})", (self.now, most))  # noqa: S608

    # --- the primitives, within a transaction -----------------------------------------------------------------------

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order."""
        return [self._entry(_bytes(key)) for key in keys]

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`."""
        ends = self.now + min(ttl, LONGEST)
        row = (self._space, _bytes(key), value, secrets.token_hex(16), ends)
        self._there().execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)

    def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only over this version."""
        there = self._entry(_bytes(key))
        if (there.version if there is not None else None) != version:
            return False
        self.put(key, value, ttl)
        return True

    def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value."""
        there = self._entry(_bytes(key))
        if there is None:
            return None
        self._there().execute("DELETE FROM records WHERE space = ? AND key = ?", (self._space, _bytes(key)))
        return there.value

    def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line, or none."""
        counters: dict[str, Counter] = {}
        for amount in amounts:
            name = name_of(amount)
            if name not in counters:
                counters[name] = self._counter(name, amount)
        refused = refusal(amounts, counters, self.now)
        if refused is not None:
            return refused
        charged: dict[str, Counter] = {}
        for amount in amounts:
            if amount.amount:
                charged[name_of(amount)] = counter = counters[name_of(amount)]
                counter.add(self.now, amount.amount, min(amount.window, LONGEST))
        ends = ends_of(amounts, charged, self.now)
        for name, counter in charged.items():
            row = (self._space, _bytes(name), packed(counter), ends[name])
            self._there().execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?)", row)
        return Added(ok=True, used=tuple(counters[name_of(amount)].used(self.now) for amount in amounts))

    def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries in the order of their keys, after `cursor`."""
        start = _bytes(prefix)
        after = start if cursor is None else max(start, _bytes(cursor) + b"\0")  # the next key there can be
        rows = self._there().execute(
            "SELECT key, value, version FROM records WHERE space = ? AND key >= ? AND key < ? AND ends > ?"
            " ORDER BY key LIMIT ?",
            (self._space, after, start + b"\xff", self.now, n + 1),
        )
        found: list[tuple[str, Entry]] = []
        size = 0
        for key, value, version in rows:
            if len(found) == n or size >= MOST_BYTES:
                return found, found[-1][0]
            found.append((_text(key), _read(value, version)))
            size += len(value)
        return found, None

    def _entry(self, key: bytes) -> Entry | None:
        row = (
            self._there()
            .execute(
                "SELECT value, version FROM records WHERE space = ? AND key = ? AND ends > ?",
                (self._space, key, self.now),
            )
            .fetchone()
        )
        return _read(*row) if row is not None else None

    def _counter(self, name: str, amount: Amount) -> Counter:
        row = (
            self._there()
            .execute(
                "SELECT state FROM counters WHERE space = ? AND key = ? AND ends > ?",
                (self._space, _bytes(name), self.now),
            )
            .fetchone()
        )
        return fresh(amount) if row is None else _unpacked(row[0], bucket=amount.refills)


# --- parts ------------------------------------------------------------------------------------------------------------


def _now(seen: float, boot: str, then: float) -> float:
    """The store's own time: it goes on from the last instant that the file knows, as this machine's uptime does.

    So a wall clock that is set changes nothing. It counts after a start of the machine, and never takes time back.
    """
    return seen + max(0.0, ticks() - then) if boot == boot_id() else max(seen, time.time())


@functools.cache
def boot_id() -> str:
    """What tells one start of this machine from another, and those who see another uptime; without such a thing, one
    process from another."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return secrets.token_hex(16)
    with contextlib.suppress(OSError):
        boot += " " + os.readlink("/proc/self/ns/time")
    return boot


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(key: Any) -> str:
    try:
        return bytes(key).decode("utf-8", "surrogatepass")
    except (ValueError, TypeError):
        raise _foreign() from None


def _read(value: Any, version: Any) -> Entry:
    """An entry. A column may hold a value of any type: of a number, `bytes` would make as many zeros."""
    if not isinstance(value, bytes) or not isinstance(version, str):
        raise _foreign()
    return Entry(value=value, version=version)


def _foreign() -> StoreUnavailable:
    return StoreUnavailable("the sqlite file holds what this store did not write", code=BROKEN)


def _unpacked(state: Any, *, bucket: bool) -> Counter:
    try:
        counter = unpacked(state, bucket=bucket)
    except ValueError:
        raise _foreign() from None
    return counter
