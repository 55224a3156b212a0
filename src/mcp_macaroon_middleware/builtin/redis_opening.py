"""What leads to the servers of an address: one link, one to a master that sentinels name, or those of a cluster.

And whether they can be used at all, which is tried once before a start.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from . import redis_transport as transport
from .redis_address import ClusterAddress, SentinelAddress
from .redis_cluster import Cluster
from .redis_dial import Dial, Fixed
from .redis_faults import unavailable
from .redis_link import CLOSED, Link, Terms
from .redis_sentinel import Sentinels

__all__ = ["CLOSED", "open_link", "probe_store"]


class Probed(Protocol):
    """A store that can be tried."""

    async def probe(self) -> None:
        """Uses it once."""

    async def close(self) -> None:
        """Closes it."""


def open_link(address: transport.Address, settings: transport.RedisSettings) -> transport.Link:
    """Connections for the event loop that is running; none is made yet."""
    dial = Dial()
    terms = Terms(
        timeout=settings.timeout,
        max_waiting=settings.max_waiting,
        allow_eviction=settings.allow_eviction,
        replicas=settings.replicas,
        cluster=isinstance(address, ClusterAddress),
    )
    if isinstance(address, ClusterAddress):
        return Cluster(address, dial, terms)
    finder = Sentinels(address, dial) if isinstance(address, SentinelAddress) else Fixed(address)
    return Link(finder, dial, terms)


def probe_store(probed: Probed, timeout: float) -> None:
    """Uses a store once, within `timeout` seconds in all, in an event loop of its own, and closes it.

    To be called in a thread without a running event loop. A look-up of a host name that hangs is not waited for.
    Raises `StoreUnavailable` with what keeps the store from being used.
    """

    async def probe() -> None:
        try:
            async with asyncio.timeout(timeout):
                await probed.probe()
        except TimeoutError as error:
            raise unavailable(error) from None
        finally:
            await probed.close()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(probe())
    finally:
        loop.close()
