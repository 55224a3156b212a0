"""What leads to the servers of an address: one link, one to a master that sentinels name, or those of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .redis_address import ClusterAddress, SentinelAddress
from .redis_cluster import Cluster
from .redis_dial import Dial, Fixed
from .redis_link import CLOSED, Link, Terms
from .redis_sentinel import Sentinels

if TYPE_CHECKING:
    from . import redis_store as store

__all__ = ["CLOSED", "open_link"]


def open_link(address: store.Address, settings: store.RedisSettings) -> store.Link:
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
