"""What a Redis store and its connections have in common: where the servers are, how they are used, what leads there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from ..plugin import Settings
from .redis_address import ClusterAddress, RedisAddress, SentinelAddress

if TYPE_CHECKING:
    from .redis_lua import Script

Address = RedisAddress | SentinelAddress | ClusterAddress


class RedisSettings(Settings):
    """The section `redis` (`rediss`, `redis+sentinel`, …): `timeout` of an operation in seconds; how many may wait at
    once; whether a server may be used that forgets limits and revocations when it is full (any `maxmemory-policy` but
    `noeviction`); and how many replicas must have a write before it counts, so that a failover does not undo it."""

    timeout: float = Field(default=2.0, gt=0, le=60)
    max_waiting: int = Field(default=200, ge=1, le=100_000)
    allow_eviction: bool = False
    replicas: int = Field(default=0, ge=0, le=10)


class Link(Protocol):
    """The connections of one event loop, to one server or to a cluster."""

    @property
    def over(self) -> bool: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int] = ()) -> Any: ...

    async def spread(self, names: Sequence[bytes]) -> Sequence[bytes]: ...

    async def close(self) -> None: ...
