"""The redis store on real servers: the contract, the same answers as the memory store, and the servers' own ways."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis_server import BINARIES, RedisServer, running

from mcp_macaroon_middleware.builtin.redis_store import REDIS, RedisSettings
from mcp_macaroon_middleware.plugin import Store, StoreContext
from mcp_macaroon_middleware.testing.stores import StoreContract


def opened(server: RedisServer, audience: str = "", **settings: Any) -> Store:
    context = StoreContext(audience=audience or secrets.token_hex(8), settings=RedisSettings(**settings))
    return REDIS.open(server.url(), context)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    if request.param not in BINARIES:
        pytest.skip(f"no {request.param} server here")
    with running(request.param) as started:
        yield started


class TestContract(StoreContract):
    """The contract on each kind of server; every store is empty, since its audience is new."""

    server: RedisServer
    audience: str

    @pytest.fixture(autouse=True)
    def on(self, server: RedisServer) -> None:
        self.server = server

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        self.audience = secrets.token_hex(8)
        store = opened(self.server, self.audience)
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def open_peer(self, store: Store) -> AsyncIterator[Store]:
        peer = opened(self.server, self.audience)
        try:
            yield peer
        finally:
            await peer.close()
