"""Folds what bad credentials write into the audit, and slows their answers. It refuses nobody: behind one address may
be everybody, and a good credential never comes here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import AuditUnavailable

logger: Final = logging.getLogger("mcp_macaroon_middleware")

SECOND: Final = 1.0
SINGLE: Final = 3
"""Bad credentials of one address, with one fault, that have an event each; what repeats itself is folded."""
QUICK: Final = 20
"""Bad credentials of one address in a second that are answered without delay."""
DELAY: Final = 0.25
"""Seconds that the answer to every further one takes longer."""
MOST: Final = 512
"""Addresses that are told apart within a second; all others are one."""
OTHERS: Final = "others"


@dataclass(slots=True)
class _Source:
    """What came from one address with one fault in the second that began with the first of it."""

    began: float
    count: int = 0
    folded: int = 0


class BadCredentials:
    """The refused credentials of one server. `event` writes one event; repeated ones of a second are one event."""

    def __init__(
        self, event: Callable[[str, Mapping[str, Any]], None], clock: Callable[[], float] | None = None
    ) -> None:
        self._event = event
        self._clock = clock or time.monotonic
        self._sources: OrderedDict[tuple[str | None, str], _Source] = OrderedDict()

    def __repr__(self) -> str:
        return f"BadCredentials({len(self._sources)} sources)"

    def note(self, code: str, address: str | None) -> bool:
        """Records a refused credential; False for one that was folded into the event of another."""
        now = self._clock()
        place = (_network(address), code)
        before = self._sources.get(place)
        if before is not None and now - before.began >= SECOND:
            del self._sources[place]  # what was folded goes into this one's event
        self._flush(now)
        if place not in self._sources and len(self._sources) >= MOST:
            place = (OTHERS, code)
        source = self._sources.get(place)
        if source is None:
            self._sources[place] = _Source(began=now, count=1)
            folded = before.folded + 1 if before is not None and before.folded else 0
            self._tell(code, place[0] if place[0] == OTHERS else address, folded)
            return True
        source.count += 1
        if source.count <= SINGLE:
            self._tell(code, place[0] if place[0] == OTHERS else address, 0)
            return True
        source.folded += 1
        return False

    async def slow(self, code: str, address: str | None) -> None:
        """Waits before a bad credential is answered, once there are many of them."""
        source = self._sources.get((_network(address), code)) or self._sources.get((OTHERS, code))
        if source is not None and source.count > QUICK:
            await asyncio.sleep(DELAY)

    def close(self) -> None:
        """Writes what is still folded."""
        self._flush(float("inf"))

    def _flush(self, now: float) -> None:
        """Writes how many there were of each that began more than a second ago."""
        while self._sources:
            (address, code), source = next(iter(self._sources.items()))
            if now - source.began < SECOND:
                return
            self._sources.popitem(last=False)
            if source.folded:
                self._tell(code, address, source.folded)

    def _tell(self, code: str, address: str | None, folded: int) -> None:
        """Writes one event; `folded` is how many refused credentials it stands for, 0 for itself alone."""
        facts: dict[str, Any] = {"code": code, "client_address": address}
        if folded:
            facts["repeated"] = folded
        try:
            self._event("token_refused", facts)
        except AuditUnavailable:
            logger.error("a refused token could not be recorded")


def _network(address: str | None) -> str | None:
    """The address, or the network that one caller has all addresses of (RFC 6177: a site has a /64 at least)."""
    if address is None or ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
