"""The `sqlite` store: the six primitives in one file, for the processes of one machine; it survives their death.

All work is done by one thread a process, which takes what waits together into one transaction. An operation whose
outcome is not known is an error (`StoreUnavailable`), never a success.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pydantic import Field

from ..plugin import (
    Added,
    Amount,
    Entry,
    MacaroonError,
    PluginError,
    Settings,
    Store,
    StoreContext,
    StoreType,
    StoreUnavailable,
)
from .broken import BROKEN, Broken, Event
from .sqlite_file import SQLiteFile
from .sqlite_halves import CHANGED
from .sqlite_opening import prepare, why
from .windows import check_amounts

logger: Final = logging.getLogger("mcp_macaroon_middleware")

TOGETHER: Final = 64
"""How many operations one transaction takes."""
PAGE: Final = 1000
GOODBYE: Final = 5.0
CLOSED: Final = "the sqlite store is closed"


class SQLiteSettings(Settings):
    """The section `sqlite`: `timeout` of an operation in seconds, how many may wait at once, how large the file gets.

    A file that is full refuses what is new and forgets nothing.
    """

    timeout: float = Field(default=2.0, gt=0, le=60)
    max_waiting: int = Field(default=200, ge=1, le=100_000)
    max_bytes: int = Field(default=1 << 30, ge=1 << 20)


class _Job:
    """An operation that waits, and where its answer goes."""

    __slots__ = ("_future", "_loop", "abandoned", "work", "writes")

    def __init__(self, work: Callable[[SQLiteFile], Any], *, writes: bool) -> None:
        self.work = work
        self.writes = writes
        self.abandoned = False
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()

    def tell(self, answer: Any, error: Exception | None = None) -> None:
        """Hands the answer to the event loop that asked, if that is still there."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._set, answer, error)

    def _set(self, answer: Any, error: Exception | None) -> None:
        if not self._future.done():
            if error is None:
                self._future.set_result(answer)
            else:
                self._future.set_exception(error)

    async def answer(self, timeout: float) -> Any:  # noqa: ASYNC109 - the whole time of an operation
        """The answer. Raises `StoreUnavailable` after `timeout` seconds, and then nobody knows what has happened."""
        try:
            async with asyncio.timeout(timeout):
                return await self._future
        except TimeoutError:
            raise StoreUnavailable("the sqlite store does not answer in time") from None
        finally:
            self.abandoned = True


class _Worker(threading.Thread):
    """The thread that has the file open. It ends with `None` in its queue, or with the process."""

    def __init__(self, file: SQLiteFile) -> None:
        super().__init__(name="mcp-macaroon-sqlite", daemon=True)
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.file = file
        self.process = os.getpid()

    def run(self) -> None:
        """Does what waits, until it is told to end."""
        going = True
        while going:
            jobs, going = self._waiting()
            if jobs:
                self._together(jobs)
        self.file.close()

    def _waiting(self) -> tuple[list[_Job], bool]:
        """What waits, in its order, and whether there may be more."""
        jobs: list[_Job] = []
        try:
            job = self.jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == TOGETHER:
                    return jobs, True
                job = self.jobs.get_nowait()
        except queue.Empty:
            return jobs, True
        return jobs, False

    def _together(self, jobs: Sequence[_Job], *, again: bool = True) -> None:
        """One transaction for all of them. Where an operation fails in it, all of it is undone, what has ended is
        dropped to make room, and each has a transaction of its own."""
        try:
            self._transact(jobs)
        except _Undone as undone:
            if not again:
                jobs[0].tell(None, undone.fault)
                return
            with contextlib.suppress(StoreUnavailable):
                self.file.clear()
            for job in jobs:
                self._together([job], again=False)
        except StoreUnavailable as fault:
            for job in jobs:
                job.tell(None, StoreUnavailable(str(fault), code=fault.code))

    def _transact(self, jobs: Sequence[_Job]) -> None:
        """Does the work and hands out the answers. Raises `_Undone` if nothing of it has happened, for certain."""
        wanted = [job for job in jobs if not job.abandoned]
        if not wanted:
            return
        writes = any(job.writes for job in wanted)
        self.file.begin(writes=writes)
        try:
            answers = [(job, job.work(self.file)) for job in wanted if not job.abandoned]
        except Exception as error:
            self.file.abandon()
            raise _Undone(error) from None
        self.file.commit(writes=writes)
        for job, answer in answers:
            job.tell(answer)


class _Undone(Exception):
    """An operation failed, and its transaction was undone."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        if isinstance(error, StoreUnavailable):
            self.fault = StoreUnavailable(str(error), code=error.code)
        else:
            self.fault = StoreUnavailable(f"the sqlite store cannot be used: {why(error)}")


class SQLiteStore:
    """A `Store` in a file. Servers with different audiences share nothing in it."""

    durable = True
    shared = True

    def __init__(
        self, path: Path, audience: str, settings: SQLiteSettings | None = None, event: Event = lambda *_: None
    ) -> None:
        self._broken = Broken(event)
        self._event = event
        self._path = path
        self._audience = audience
        self._settings = settings or SQLiteSettings()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._others: list[_Worker] = []  # of a process that this one was forked from; its connections are its own
        self._waiting = 0
        self._closed = False
        prepare(path)

    def __repr__(self) -> str:
        return f"SQLiteStore({self._path.name!r})"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order, read at one instant."""
        wanted = list(keys)
        found: list[Entry | None] = await self._do(lambda file: file.get(wanted), writes=False)
        return found

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, gone after `ttl` seconds. Raises `ValueError` for a ttl that is not above 0."""
        _check_ttl(ttl)
        await self._do(lambda file: file.put(key, bytes(value), ttl))

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent)."""
        _check_ttl(ttl)
        return bool(await self._do(lambda file: file.swap(key, version, bytes(value), ttl)))

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value; of any number of takers at most one gets it."""
        found: bytes | None = await self._do(lambda file: file.take(key))
        return found

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none; see `Store.add`. Raises `ValueError` for amounts, limits or windows below 0."""
        lines = list(amounts)
        check_amounts(lines)
        answer: Added = await self._do(lambda file: file.add(lines), writes=any(line.amount for line in lines))
        return answer

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries in the order of their keys, after `cursor`; at most `PAGE` at once."""
        if n < 1:
            raise ValueError("a page has at least one entry")
        page: tuple[list[tuple[str, Entry]], str | None]
        page = await self._do(lambda file: file.scan(prefix, cursor, min(n, PAGE)), writes=False)
        return page

    async def now(self) -> float:
        """The store's own clock: it goes on with the machine's uptime, whatever becomes of its wall clock."""
        return float(await self._do(lambda file: file.now, writes=False))

    async def close(self) -> None:
        """Ends the thread and closes the file; every later call raises `StoreUnavailable`."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker is not None and worker.process == os.getpid():
            worker.jobs.put(None)
            await asyncio.to_thread(worker.join, self._settings.timeout + GOODBYE)

    async def _do(self, work: Callable[[SQLiteFile], Any], *, writes: bool = True) -> Any:
        job = _Job(work, writes=writes)
        self._send(job)
        try:
            return await job.answer(self._settings.timeout)
        except StoreUnavailable as error:
            if error.code == BROKEN:
                self._broken.met()
            self._tell_changes()
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def _tell_changes(self) -> None:
        """Says what became of the files from outside, once for each change."""
        worker = self._worker
        while worker is not None and worker.file.changes:
            part, how = worker.file.changes.pop(0)
            logger.error("the %s of the sqlite store was %s from outside; what was under way is refused", part, how)
            try:
                self._event(CHANGED, {"part": part, "how": how})
            except MacaroonError:
                logger.error("a change of the store's files could not be recorded")

    def _send(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise StoreUnavailable(CLOSED)
            if self._waiting >= self._settings.max_waiting:
                raise StoreUnavailable("too many operations wait for the sqlite store")
            worker = self._worker
            if worker is None or worker.process != os.getpid() or not worker.is_alive():
                if worker is not None:
                    self._others.append(worker)
                options = self._settings
                file = SQLiteFile(self._path, self._audience, timeout=options.timeout, max_bytes=options.max_bytes)
                worker = self._worker = _Worker(file)
                worker.start()
            worker.jobs.put(job)
            self._waiting += 1


def _check_ttl(ttl: float) -> None:
    if not ttl > 0 or not math.isfinite(ttl):
        raise ValueError("a ttl is a number of seconds above 0")


def _open(address: str, context: StoreContext) -> Store:
    if not context.audience:
        raise PluginError("a sqlite store needs `audience`, which names this server")
    _, _, rest = address.partition("://")
    if not rest or "?" in rest or "#" in rest or rest == ":memory:":
        raise PluginError("write  store: sqlite:///relative.db  or  sqlite:////absolute/path.db")
    name = unquote(rest.removeprefix("/"))
    if not rest.startswith("/") or not name or "\0" in name:
        raise PluginError("write  store: sqlite:///relative.db  or  sqlite:////absolute/path.db")
    return SQLiteStore(context.base / name, context.audience, context.settings, context.event)


TYPE: Final = StoreType(
    scheme="sqlite",
    open=_open,
    settings=SQLiteSettings,
    summary="In a file, for the processes of one machine; sqlite:///state.db.",
)
