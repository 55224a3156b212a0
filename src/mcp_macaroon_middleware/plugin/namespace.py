"""A store that shows one owner's keys and no others: every plugin is handed one, and cannot reach past it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from .contract import Added, Amount, Entry, Store


class Namespaced:
    """The store `inner`, seen through a prefix. Two prefixes never share a key, whatever the keys are (THREATS E04)."""

    __slots__ = ("__inner", "__prefix", "durable", "shared")

    def __init__(self, inner: Store, prefix: str) -> None:
        self.__inner = inner
        self.__prefix = quote(prefix, safe="") + "/"  # holds no slash of its own, so it ends where it ends
        self.durable = inner.durable
        self.shared = inner.shared

    def __repr__(self) -> str:
        return "Namespaced(…)"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys` in this namespace."""
        return await self.__inner.get([self.__prefix + key for key in keys])

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key` in this namespace."""
        await self.__inner.put(self.__prefix + key, value, ttl)

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` in this namespace if its version is still `version`."""
        return await self.__inner.swap(self.__prefix + key, version, value, ttl)

    async def take(self, key: str) -> bytes | None:
        """Removes `key` of this namespace and returns its value."""
        return await self.__inner.take(self.__prefix + key)

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line in this namespace, or none."""
        return await self.__inner.add([replace(amount, key=self.__prefix + amount.key) for amount in amounts])

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """A page of this namespace's entries, by their own keys."""
        page, following = await self.__inner.scan(self.__prefix + prefix, cursor, n)
        return [(key[len(self.__prefix) :], entry) for key, entry in page], following

    async def now(self) -> float:
        """The store's own clock."""
        return await self.__inner.now()

    async def close(self) -> None:
        """Does nothing: the store belongs to the server, not to one of its plugins."""
