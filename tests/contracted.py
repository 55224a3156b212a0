"""The conformance suite of stores on servers that stand already: every store is empty, since its audience is new."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp_macaroon_middleware.plugin import Store
from mcp_macaroon_middleware.testing.stores import StoreContract


class StandingContract(StoreContract, ABC):
    """A test module says with `opened` how a store is opened, and with `beside` how another one on the same records."""

    audience: str

    @abstractmethod
    def opened(self, audience: str) -> Store:
        """A store of this audience."""

    def beside(self, audience: str) -> Store:
        """A second store of the same audience."""
        return self.opened(audience)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        self.audience = secrets.token_hex(8)
        async with _closing(self.opened(self.audience)) as store:
            yield store

    @asynccontextmanager
    async def open_peer(self, store: Store) -> AsyncIterator[Store]:
        async with _closing(self.beside(self.audience)) as peer:
            yield peer


@asynccontextmanager
async def _closing(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.close()
