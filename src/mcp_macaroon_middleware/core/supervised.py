"""Stands between the framework and a store that somebody else wrote: what it raises, however it hangs and whatever it
answers in another form is `StoreUnavailable` (law L2). It stores nothing itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ..errors import StoreUnavailable
from ..plugin.contract import Added, Amount, Entry, Store
from .deadline import within

logger: Final = logging.getLogger("mcp_macaroon_middleware")


class Supervised:
    """The store `inner`, given `seconds` for an operation."""

    def __init__(self, inner: Store, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds
        self.durable = inner.durable
        self.shared = inner.shared

    def __repr__(self) -> str:
        return f"Supervised({type(self._inner).__name__})"

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, as many as there are keys."""

        def fits(found: Any) -> bool:
            return isinstance(found, list) and len(found) == len(keys) and all(e is None or _is_entry(e) for e in found)

        return await self._asked(lambda: self._inner.get(keys), fits)  # type: ignore[no-any-return]

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`."""
        await self._asked(lambda: self._inner.put(key, value, ttl), lambda answer: answer is None)

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version`."""
        return await self._asked(lambda: self._inner.swap(key, version, value, ttl), _is_bool)  # type: ignore[no-any-return]

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value."""
        return await self._asked(lambda: self._inner.take(key), _is_value)  # type: ignore[no-any-return]

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none."""

        def fits(added: Any) -> bool:
            return _is_added(added) and len(added.used) == len(amounts)

        return await self._asked(lambda: self._inner.add(amounts), fits)  # type: ignore[no-any-return]

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """A page of entries whose keys begin with `prefix`, and the next cursor."""

        def fits(found: Any) -> bool:
            if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], list):
                return False
            following = found[1] is None or isinstance(found[1], str)
            return following and all(_is_line(line) and line[0].startswith(prefix) for line in found[0])

        return await self._asked(lambda: self._inner.scan(prefix, cursor, n), fits)  # type: ignore[no-any-return]

    async def now(self) -> float:
        """The store's own clock."""
        return await self._asked(lambda: self._inner.now(), _is_time)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Closes it; one that fails at that is left as it is."""
        try:
            await within(self._seconds, self._inner.close)
        except Exception as error:
            logger.error("the store could not be closed: %s", type(error).__name__)

    async def _asked(self, call: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool]) -> Any:
        """The answer, if it has the form that it must have."""
        try:
            answer = await within(self._seconds, call)
        except StoreUnavailable:
            raise
        except Exception as error:  # its text may hold what is stored
            logger.error("the store failed: %s", type(error).__name__)
            raise StoreUnavailable("the store failed") from None
        if not fits(answer):
            logger.error("the store answered with what is no answer: %s", type(answer).__name__)
            raise StoreUnavailable("the store answers what cannot be read")
        return answer


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Entry) and isinstance(entry.value, bytes) and isinstance(entry.version, str)


def _is_line(line: Any) -> bool:
    return isinstance(line, tuple) and len(line) == 2 and isinstance(line[0], str) and _is_entry(line[1])


def _is_bool(answer: Any) -> bool:
    return isinstance(answer, bool)


def _is_value(answer: Any) -> bool:
    return answer is None or isinstance(answer, bytes)


def _is_time(answer: Any) -> bool:
    return isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)


def _is_added(added: Any) -> bool:
    if not isinstance(added, Added) or not isinstance(added.ok, bool) or not isinstance(added.used, tuple):
        return False
    after = added.retry_after
    return all(isinstance(n, int) for n in added.used) and (after is None or isinstance(after, int | float))
