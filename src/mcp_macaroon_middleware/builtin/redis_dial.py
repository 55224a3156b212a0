"""Connection objects for an address. They never retry, and over TLS they never skip a certificate's check."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from .redis_address import RedisAddress


class Finder(Protocol):
    """Knows where the server is just now."""

    async def find(self) -> RedisAddress:
        """Where it is. Raises `StoreUnavailable` if nobody knows."""

    def failed(self) -> None:
        """What `find` said last led to no server that can be used."""


class Fixed:
    """A server that is always at one address."""

    __slots__ = ("_address",)

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    async def find(self) -> RedisAddress:
        """That address."""
        return self._address

    def failed(self) -> None:
        """Changes nothing: there is no other."""


class Dial:
    """Makes connections that are not open yet. Certificates are read once, away from the event loop."""

    __slots__ = ("_tls",)

    def __init__(self) -> None:
        self._tls: Any = None

    async def connection(self, address: RedisAddress) -> Connection:
        """A new connection object for `address`; raises what reading the certificates raises."""
        options = address.options()
        if not address.tls:
            return Connection(retry=Retry(NoBackoff(), 0), **options)
        connection = SSLConnection(
            retry=Retry(NoBackoff(), 0), ssl_cert_reqs="required", ssl_check_hostname=True, **options
        )
        if self._tls is None:
            await asyncio.to_thread(connection.ssl_context.get)
            self._tls = connection.ssl_context
        connection.ssl_context = self._tls
        return connection
