"""Asks sentinels where the master is. It trusts none of them further than to name it: a copy is never used."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Connection

from ..plugin import StoreUnavailable
from .redis_address import RedisAddress, SentinelAddress
from .redis_dial import Dial

PATIENCE: Final = 0.5
"""Seconds that one sentinel is waited for."""


class Sentinels:
    """A `Finder`. The sentinel that answered last is asked first, unless what it named could not be used."""

    __slots__ = ("_address", "_dial", "_order")

    def __init__(self, address: SentinelAddress, dial: Dial) -> None:
        self._address = address
        self._dial = dial
        self._order = list(address.sentinels)

    async def find(self) -> RedisAddress:
        """The master, by the first sentinel that knows it. Raises `StoreUnavailable` if none does."""
        reached = False
        for sentinel in tuple(self._order):
            with suppress(Exception):  # the next one may know
                answer = await self._ask(sentinel)
                reached = True
                if answer is not None:
                    self._order.remove(sentinel)
                    self._order.insert(0, sentinel)
                    return self._address.at(*answer)
        raise StoreUnavailable(
            "the sentinels know no redis master of that name" if reached else "no redis sentinel can be reached"
        )

    def failed(self) -> None:
        """Next time, another sentinel is asked first."""
        self._order.append(self._order.pop(0))

    async def _ask(self, sentinel: RedisAddress) -> tuple[str, int] | None:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await self._dial.connection(sentinel)
                connect: Any = connection.connect  # it has no annotations
                await connect()
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.name)
                answer = await connection.read_response()
            return (bytes(answer[0]).decode(), int(answer[1])) if answer else None
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)
