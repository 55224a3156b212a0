"""The nodes of a redis cluster, as one server. An operation goes to the node that has its keys; one that a node did not
run, since they had moved, is sent once to the node that it named. Nothing else is ever sent twice.

While a slot is on its way from one node to another, the nodes refuse scripts on it, and so the store is unavailable for
what lies there until it has arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis.asyncio import Connection
from redis.crc import key_slot

from ..plugin import StoreUnavailable
from .redis_address import ClusterAddress, RedisAddress
from .redis_dial import Dial, Fixed
from .redis_faults import Moved, fault
from .redis_link import CLOSED, Link, Terms
from .redis_scripts import Script

PAUSE: Final = 0.25
"""Seconds between two looks at who has what."""
_NOBODY: Final = "no node of the redis cluster has this part of the store"

Node = tuple[str, int]


class Cluster:
    """The links to the nodes, in one event loop, and who has which slots, as far as a node has told."""

    def __init__(self, address: ClusterAddress, dial: Dial, terms: Terms) -> None:
        self._address = address
        self._dial = dial
        self._terms = terms
        self._loop = asyncio.get_running_loop()
        self._links: dict[Node, Link] = {}
        self._owners: dict[int, Node] = {}
        self._door = asyncio.Lock()
        self._waiting = 0
        self._stale = True
        self._not_before = 0.0
        self._fault = _NOBODY
        self._closed = False

    def __repr__(self) -> str:
        return f"Cluster(nodes={len(self._links)}, waiting={self._waiting})"

    @property
    def over(self) -> bool:
        """Whether nothing can be asked here any more: it was closed, or its event loop was."""
        return self._closed or self._loop.is_closed()

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int] = ()) -> Any:
        """The reply of the node that has `keys`, which lie in one slot. Raises `StoreUnavailable`, and then nobody
        knows whether the script has run."""
        if self._closed:
            raise StoreUnavailable(CLOSED)
        if self._waiting >= self._terms.max_waiting:
            raise StoreUnavailable("too many operations wait for the redis cluster")
        self._waiting += 1
        try:
            return await self._run(self._loop.time() + self._terms.timeout, script, keys, arguments)
        except Moved as where:
            why = str(where)
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever happened, there is no answer
            why = CLOSED if self._closed else fault(error)
        finally:
            self._waiting -= 1
        raise StoreUnavailable(why)

    async def spread(self, names: Sequence[bytes]) -> Sequence[bytes]:
        """One of `names` for each node that has any. Raises `StoreUnavailable` where nobody has one of them."""
        found: dict[Node, bytes] = {}
        for name in names:
            found.setdefault(await self._owner(key_slot(name)), name)
        return tuple(found.values())

    async def close(self) -> None:
        """Closes every connection; what is under way on them fails."""
        self._closed = True
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()))

    async def _run(self, until: float, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any:
        slot = key_slot(keys[0])
        async with asyncio.timeout_at(until):
            node = await self._owner(slot)
        try:
            return await self._link(node).run(script, keys, arguments, until=until)
        except Moved as where:
            named = self._owners[slot] = (where.host or node[0], where.port)
            self._stale = True
            return await self._link(named).run(script, keys, arguments, until=until)
        except StoreUnavailable:
            self._stale = True  # it may be another's by now
            raise

    async def _owner(self, slot: int) -> Node:
        """The node that has `slot`, by what is known; that is asked for anew after anything that went wrong."""
        if self._stale or slot not in self._owners:
            async with self._door:
                if (self._stale or slot not in self._owners) and self._loop.time() >= self._not_before:
                    await self._learn()
        if slot not in self._owners:
            raise StoreUnavailable(self._fault if not self._owners else _NOBODY)
        return self._owners[slot]

    async def _learn(self) -> None:
        """Asks one node after the other who has what, until one knows. If none does, what was known stays."""
        self._not_before = self._loop.time() + PAUSE
        for node in self._known():
            try:
                patience = self._loop.time() + self._terms.timeout / 4
                found = _owners(await self._link(node).talk(_slots, patience), node[0])
            except StoreUnavailable as error:
                self._fault = str(error)
                continue
            if found:
                self._owners, self._stale = found, False
                await self._part()
                return

    def _known(self) -> Iterable[Node]:
        """Nodes that may be asked: those that had something, and those of the address."""
        return dict.fromkeys((*self._owners.values(), *((each.host, each.port) for each in self._address.nodes)))

    async def _part(self) -> None:
        """Closes what leads to nodes that are no part of the cluster any more."""
        there = set(self._known())
        gone = [node for node in self._links if node not in there]
        for link in [self._links.pop(node) for node in gone]:
            await link.close()

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None or link.over:
            if self._closed:
                raise StoreUnavailable(CLOSED)
            where: RedisAddress = self._address.at(*node)
            link = self._links[node] = Link(Fixed(where), self._dial, self._terms)
        return link


async def _slots(connection: Connection) -> Any:
    await connection.send_command("CLUSTER", "SLOTS")
    return await connection.read_response()


def _owners(answer: Any, asked: str) -> dict[int, Node]:
    """Who has which slot. A node that does not tell its own host is where it was `asked`."""
    found: dict[int, Node] = {}
    for first, last, (host, port, *_), *_ in answer:
        name = bytes(host or b"").decode() or asked
        if name != "?":
            found.update(dict.fromkeys(range(int(first), int(last) + 1), (name, int(port))))
    return found
