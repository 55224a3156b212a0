"""Opens the file of a `sqlite` store: whose it is, which tables it has, who may read it. It reads no record."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import struct
from pathlib import Path
from typing import Final

from ..plugin import PluginError, StoreUnavailable

APPLICATION: Final = 0x6D63706D
"""`mcpm`, where SQLite files say whose they are."""
SCHEMA: Final = 1
_MAGIC: Final = b"SQLite format 3\0"
_PATIENCE: Final = 5.0

_TABLES: Final = (
    "CREATE TABLE clock (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), seen REAL NOT NULL, boot TEXT NOT NULL,"
    " ticks REAL NOT NULL)",
    "INSERT INTO clock VALUES (1, 0, '', 0)",
    "CREATE TABLE records (space TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version TEXT NOT NULL,"
    " ends REAL NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID",
    "CREATE INDEX records_end ON records (ends)",
    "CREATE TABLE counters (space TEXT NOT NULL, key BLOB NOT NULL, state BLOB NOT NULL, ends REAL NOT NULL,"
    " PRIMARY KEY (space, key)) WITHOUT ROWID",
    "CREATE INDEX counters_end ON counters (ends)",
)


def prepare(path: Path) -> None:
    """Makes the file with its tables if it is not there. Raises `PluginError` for a file that cannot be used."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise PluginError(f"the file cannot be opened: {error.strerror}") from None
    try:
        there = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(there.st_mode):
        raise PluginError("the path is not a file")
    if os.name == "posix" and there.st_mode & 0o077:
        raise PluginError("others may read or write the file; take that away:  chmod 600")
    try:
        if there.st_size:
            _look(path)
        with contextlib.closing(connect(path, _PATIENCE)) as link:
            _tables(link)
    except (sqlite3.Error, OSError) as error:
        raise PluginError(f"the file cannot be used: {why(error)}") from None


def _look(path: Path) -> None:
    """Raises `PluginError` for a file that is not ours, and leaves it as it is: SQLite tidies up what it may write."""
    with path.open("rb") as file:
        head = file.read(100)
    if head[:16] == _MAGIC and struct.unpack_from(">I4xI", head.ljust(100), 60) == (SCHEMA, APPLICATION):
        return
    with contextlib.closing(
        sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=_PATIENCE)
    ) as link:
        known(link)


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection to a file that is there; every commit is on the disk before it is over."""
    name = path.absolute().as_uri() + "?mode=rw"
    link = sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        link.execute("PRAGMA synchronous = FULL")
        link.execute("PRAGMA trusted_schema = OFF")
        link.execute("PRAGMA journal_size_limit = 16777216")
    except BaseException:
        link.close()
        raise
    return link


def _tables(link: sqlite3.Connection) -> None:
    """Makes the tables in an empty file. Raises `PluginError` for another program's file, or a newer one of ours."""
    if known(link):
        return
    link.execute("PRAGMA journal_mode = WAL").fetchone()
    link.execute("BEGIN IMMEDIATE")
    try:
        if not known(link):
            for statement in _TABLES:
                link.execute(statement)
            link.execute(f"PRAGMA application_id = {APPLICATION}")
            link.execute(f"PRAGMA user_version = {SCHEMA}")
        link.execute("COMMIT")
    except BaseException:
        link.execute("ROLLBACK")
        raise


def known(link: sqlite3.Connection) -> bool:
    """Whether the file is ours, of this schema; False for an empty one."""
    ((owner,),) = link.execute("PRAGMA application_id")
    ((version,),) = link.execute("PRAGMA user_version")
    ((tables,),) = link.execute("SELECT count(*) FROM sqlite_master")
    if owner == APPLICATION and version == SCHEMA:
        return True
    if owner == APPLICATION:
        raise PluginError(
            f"the file is of schema {version}, this program knows {SCHEMA}; update it, or take another file"
        )
    if owner or version or tables:
        raise PluginError("the file belongs to another program")
    return False


def why(error: Exception) -> str:
    """What went wrong, in words that hold no path."""
    if isinstance(error, StoreUnavailable):
        return str(error)
    if isinstance(error, ValueError | TypeError):
        return "it holds what this store did not write"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return {
        sqlite3.SQLITE_BUSY: "another process holds it for too long",
        sqlite3.SQLITE_LOCKED: "another process holds it for too long",
        sqlite3.SQLITE_FULL: "it is full, or the disk is",
        sqlite3.SQLITE_READONLY: "it cannot be written",
        sqlite3.SQLITE_IOERR: "the disk failed, or is full",
        sqlite3.SQLITE_CORRUPT: "the file is damaged",
        sqlite3.SQLITE_NOTADB: "the file is damaged, or no SQLite database",
        sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
        sqlite3.SQLITE_PERM: "the file cannot be opened",
    }.get(code, f"{type(error).__name__} {code}".strip())
