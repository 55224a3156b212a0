"""The connections of one event loop to a redis server. It never sends an operation twice, and never waits for long.

What fails in any way is `StoreUnavailable` with a text of ours: neither the server's words nor the address are in it.
A connection that an operation did not finish on is closed, so that no answer is ever read for another question.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Connection
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from ..plugin import StoreUnavailable
from .redis_dial import Dial, Finder
from .redis_faults import READONLY, eviction_policy, fault, is_node, is_replica, unavailable
from .redis_scripts import CHECK, Script

logger: Final = logging.getLogger("mcp_macaroon_middleware")

CONNECTIONS: Final = 16
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
GOODBYE: Final = 0.5
COPYING: Final = 1000
"""Milliseconds within which replicas must have a write, where they must."""
CLOSED: Final = "the redis store is closed"
_KEEPS_ALL: Final = "noeviction"
_FORGETS: Final = f"the redis server may forget limits and revocations (maxmemory-policy {{}}); set {_KEEPS_ALL} there"
_UNTOLD: Final = "the redis server does not tell its maxmemory-policy; let this user run INFO, or set allow_eviction"
_ALLOWED: Final = (
    "the redis server may forget limits, declines and revocations when it is full, and so let pass what was refused: "
    "its maxmemory-policy is %s, and allow_eviction is set"
)
_A_NODE: Final = "the redis server is a node of a cluster: write redis+cluster:// in the store's address"
_NO_NODE: Final = "the redis server is no node of a cluster: write redis:// in the store's address"

Exchange = Callable[[Connection], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a server is used: the whole time of an operation, in seconds; how many may wait; whether it may be one that
    forgets limits and revocations; how many replicas must have a write; and whether it is a node of a cluster."""

    timeout: float
    max_waiting: int
    allow_eviction: bool = False
    replicas: int = 0
    cluster: bool = False


class Link:
    """Up to `CONNECTIONS` connections, made when they are needed, in the event loop that is running.

    While the server cannot be reached, operations fail at once, but for one that tries it again, after pauses of
    `LONGEST_PAUSE` at most. `finder` is asked where the server is before every connection.
    """

    def __init__(self, finder: Finder, dial: Dial, terms: Terms) -> None:
        self._finder = finder
        self._dial = dial
        self._terms = terms
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._door = asyncio.Lock()
        self._waiting = 0
        self._failures = 0
        self._not_before = 0.0
        self._fault = ""
        self._policy: str | None = _KEEPS_ALL
        self._life: AsyncGenerator[None, None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Link(connections={len(self._all)}, waiting={self._waiting})"

    @property
    def over(self) -> bool:
        """Whether nothing can be asked here any more: it was closed, or its event loop was."""
        return self._closed or self._loop.is_closed()

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | int] = (),
        *,
        until: float | None = None,
    ) -> Any:
        """The server's reply, `until` then at the latest, by the event loop's clock. Raises `StoreUnavailable`, and
        then nobody knows whether the script has run; but `Moved` if it has not, for certain."""
        replicas = self._terms.replicas if script.writes else 0

        async def exchange(connection: Connection) -> Any:
            return await _evaluate(connection, script, keys, arguments, replicas)

        return await self.talk(exchange, until)

    async def spread(self, names: Sequence[bytes]) -> Sequence[bytes]:
        """One of `names` for each server that has any: here the first."""
        return names[:1]

    async def talk(self, exchange: Exchange, until: float | None = None) -> Any:
        """What `exchange` returns, which asks on one connection and reads every answer. Raises as `run` does."""
        if self._closed:
            raise StoreUnavailable(CLOSED)
        if self._waiting >= self._terms.max_waiting:
            raise StoreUnavailable("too many operations wait for the redis server")
        self._waiting += 1
        try:
            end = self._loop.time() + self._terms.timeout if until is None else until
            async with asyncio.timeout_at(end) as limit, self._slots:
                connection = await self._connection(limit)
                return await self._converse(limit, connection, exchange)
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever happened, there is no answer
            failure = StoreUnavailable(CLOSED) if self._closed else unavailable(error)
        finally:
            self._waiting -= 1
        raise failure

    async def close(self) -> None:
        """Closes every connection; what is under way on them fails."""
        if not self._closed:
            self._closed = True
            if self._life is not None:
                await self._life.aclose()

    async def _converse(self, limit: asyncio.Timeout, connection: Connection, exchange: Exchange) -> Any:
        """One question and its answer. A connection that fails or hangs takes the idle ones with it, and so does a
        server that has become a copy of another."""
        finished = cancelled = False
        try:
            reply = await exchange(connection)
            finished = True
            return reply
        except ResponseError as error:
            finished = not isinstance(error, ReadOnlyError)
            raise
        except StoreUnavailable:
            finished = True
            raise
        except asyncio.CancelledError:
            cancelled = not limit.expired()
            raise
        finally:
            if finished and not self._closed:
                self._idle.append(connection)
            else:
                await self._drop([connection] if cancelled else [connection, *self._idle])

    async def _connection(self, limit: asyncio.Timeout) -> Connection:
        """A connection that is ready for a question; one at a time is made."""
        found = await self._ready()
        if found is not None:
            return found
        async with self._door:
            found = await self._ready()
            if found is not None:
                return found
            if self._closed:
                raise StoreUnavailable(CLOSED)
            if self._loop.time() < self._not_before:
                raise StoreUnavailable(self._fault)
            return await self._connect(limit)

    async def _ready(self) -> Connection | None:
        """One of the idle connections, unless the server ended them meanwhile."""
        while self._idle:
            connection, quiet = self._idle.pop(), False
            try:
                quiet = await _is_quiet(connection)
            finally:
                if not quiet:
                    await self._drop([connection])
            if quiet:
                return connection
        return None

    async def _connect(self, limit: asyncio.Timeout) -> Connection:
        connection: Connection | None = None
        try:
            connection = await self._fresh()
            self._all.add(connection)
            connect: Any = connection.connect  # it has no annotations
            await connect()
            await self._check(connection)
        except BaseException as error:
            await self._drop([connection] if connection is not None else [])
            if isinstance(error, Exception):
                self._failed(error)
            elif limit.expired():
                self._failed(TimeoutError())
            raise
        if self._failures:
            logger.info("the redis store is available again")
        self._failures = 0
        return connection

    async def _fresh(self) -> Connection:
        """A new connection object, to where the server is now."""
        if self._life is None:
            self._life = self._lifetime()
            await anext(self._life)
        return await self._dial.connection(await self._finder.find())

    async def _check(self, connection: Connection) -> None:
        """Raises for a server that runs no scripts, and `StoreUnavailable` for one that is a copy, that is not what
        the address says, or that may forget keys."""
        await connection.send_command("INFO")
        info = None
        with suppress(ResponseError):  # a user may be kept from INFO
            info = await connection.read_response()
        if is_replica(info):
            raise StoreUnavailable(READONLY)
        if is_node(info) is not None and is_node(info) is not self._terms.cluster:
            raise StoreUnavailable(_NO_NODE if self._terms.cluster else _A_NODE)
        await _evaluate(connection, CHECK, (), ())
        self._judge(eviction_policy(info))

    def _judge(self, policy: str | None) -> None:
        """Refuses a server that may forget keys, or does not say so; where it is allowed to, warns of that once.

        Every key of ours has a TTL, so that each policy but one takes limits, declines and revocations.
        """
        if policy != _KEEPS_ALL and not self._terms.allow_eviction:
            raise StoreUnavailable(_FORGETS.format(policy) if policy else _UNTOLD)
        if policy not in (self._policy, _KEEPS_ALL):
            logger.warning(_ALLOWED, policy or "not told")
        self._policy = policy

    def _failed(self, error: Exception) -> None:
        """Notes that the server cannot be used, and until when nobody tries."""
        self._finder.failed()
        self._fault = str(error) if isinstance(error, StoreUnavailable) else fault(error)
        if not self._failures:
            logger.warning("the redis store is unavailable: %s", self._fault)
        self._not_before = self._loop.time() + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1

    async def _drop(self, connections: Iterable[Connection]) -> None:
        """Closes connections without waiting for the other side."""
        for connection in list(connections):
            if connection in self._idle:
                self._idle.remove(connection)
            self._all.discard(connection)
            with suppress(Exception):
                await connection.disconnect(nowait=True)

    async def _lifetime(self) -> AsyncGenerator[None, None]:
        """Ends with the event loop at the latest: a loop ends its generators before it is closed."""
        try:
            yield
        finally:
            self._closed = True
            there, self._all = self._all, set()
            self._idle.clear()
            await asyncio.gather(*(_part(connection) for connection in there))


async def _evaluate(
    connection: Connection,
    script: Script,
    keys: Sequence[bytes],
    arguments: Sequence[bytes | int],
    replicas: int = 0,
) -> Any:
    """Runs `script`. Its text goes over only after the server said that it does not know it, and so did nothing."""
    for words in (("EVALSHA", script.digest), ("EVAL", script.source)):
        await connection.send_command(*words, len(keys), *keys, *arguments)
        try:
            reply = await connection.read_response()
        except NoScriptError:
            continue
        if replicas:
            await _copied(connection, replicas)
        return reply
    raise NoScriptError


async def _copied(connection: Connection, replicas: int) -> None:
    """Raises `StoreUnavailable` unless that many replicas have what this connection wrote, before long."""
    await connection.send_command("WAIT", replicas, COPYING)
    if int(await connection.read_response()) < replicas:
        raise StoreUnavailable(f"fewer than {replicas} replicas of the redis server have the write")


async def _is_quiet(connection: Connection) -> bool:
    """Whether nothing came since the last answer: no end of the connection, no answer to a question of before."""
    look: Any = getattr(connection, "can_read", None) or connection.can_read_destructive
    try:
        return not await look()
    except Exception:  # it is not usable, whatever the reason
        return False


async def _part(connection: Connection) -> None:
    with suppress(Exception):
        async with asyncio.timeout(GOODBYE):
            await connection.disconnect()
