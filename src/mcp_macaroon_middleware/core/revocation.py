"""What is revoked: tokens and branches by id, principals before an instant, keys. Immediate wherever it is shared.

A record that forbids is believed even if it cannot be read. What this server has revoked or seen revoked it also keeps
in memory, bounded, so that nothing comes back here when the record is gone (law L5). It verifies no signature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..errors import StoreUnavailable
from ..model import Principal
from ..plugin.contract import Entry, Store
from ..tokens import VerifiedToken
from . import epoch
from .forbidden import Forbidden, Latest
from .sealing import Broken, Sealer

LASTS: Final = 3670 * 86_400.0
"""Seconds that a revocation is kept: longer than any token lives."""
SKEW: Final = timedelta(seconds=30)
TRIES: Final = 16


class Revocations:
    """The revocations of one server, or of every server that shares its store."""

    def __init__(
        self,
        *,
        store: Store,
        sealer: Sealer,
        epoch: epoch.Epoch,
        digest: Callable[..., str],
        event: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._epoch = epoch
        self._digest = digest
        self._event = event
        self._known = Forbidden()
        self._instants = Latest()

    def __repr__(self) -> str:
        return "Revocations(…)"

    # --- asking ---------------------------------------------------------------------------------------------------

    async def fault(self, token: VerifiedToken, principal: Principal) -> str | None:
        """The code of why a verified token counts no more, or None. One read of the store.

        With a store that is kept, a token from before its epoch is refused: what was revoked then may be lost.
        """
        ids = [self._id_name(part) for part in (*token.lineage, f"key {token.key_id}")]
        whole = self._principal_name(principal)
        if any(name in self._known for name in ids) or token.issued_at.timestamp() <= self._instants.of(whole):
            return "token_revoked"
        found = await self._store.get([epoch.NAME, whole, *ids])
        if any(entry is not None for entry in found[2:]):
            for name, entry in zip(ids, found[2:], strict=True):
                if entry is not None:
                    self._known.add(name, LASTS)
            return "token_revoked"
        if token.issued_at.timestamp() <= self._instant(whole, found[1]):
            return "token_revoked"
        since = await self._epoch.since(found[0])
        if self._store.durable and (token.issued_at + SKEW).timestamp() < since:
            return "token_before_epoch"
        return None

    def _instant(self, name: str, entry: Entry | None) -> float:
        """Up to when the store revokes a principal's tokens; a record that cannot be read revokes all of them."""
        if entry is None:
            return -math.inf
        try:
            instant = float(json.loads(self._sealer.open("record", name, entry.value)))
        except (Broken, ValueError, TypeError):
            return math.inf
        self._instants.tell(name, instant)
        return instant

    # --- revoking -------------------------------------------------------------------------------------------------

    async def revoke(self, part: str) -> None:
        """Revokes a token or a branch by its id, and with it everything that was narrowed from it."""
        await self._forbid(part)
        self._event("revoked", {"id": part})

    async def revoke_key(self, key_id: str) -> None:
        """Revokes every token signed with a key."""
        await self._forbid(f"key {key_id}")
        self._event("revoked", {"key": key_id})

    async def revoke_principal(self, principal: Principal, before: datetime) -> None:
        """Revokes every token of a principal that was issued up to an instant."""
        if before.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        name = self._principal_name(principal)
        self._instants.tell(name, before.timestamp())
        await self.begin()
        at = await self._move_on(name, before.timestamp())
        self._event("revoked", {"subject": principal.subject, "before": datetime.fromtimestamp(at, UTC).isoformat()})

    async def _move_on(self, name: str, at: float) -> float:
        """Moves a principal's instant on in the store, whoever else does so at the same time; where it is then.

        A record that cannot be read has revoked everything, so that it is written anew up to now. Raises
        `StoreUnavailable` where others are faster at every try.
        """
        for _ in range(TRIES):
            (there,) = await self._store.get([name])
            known = self._instant(name, there)
            if at <= known < math.inf:
                return known
            at = max(at, await self._store.now() if known == math.inf else at)
            value = self._sealer.seal("record", name, json.dumps(at).encode())
            if await self._store.swap(name, there.version if there is not None else None, value, LASTS):
                self._instants.tell(name, at)
                return at
        raise StoreUnavailable("others change this revocation at every try")

    async def begin(self) -> float:
        """Makes sure that the store has an epoch, so that tokens minted from now on count; since when it lasts."""
        return await self._epoch.since((await self._store.get([epoch.NAME]))[0])

    async def _forbid(self, part: str) -> None:
        """Keeps an id for good: here first, so that this server forbids it even if the store cannot be reached."""
        name = self._id_name(part)
        self._known.add(name, LASTS)
        await self.begin()
        await self._store.put(name, self._sealer.seal("record", name, b"0.0"), LASTS)

    def _id_name(self, part: str) -> str:
        return "revoked/id/" + self._digest("revoked", part)

    def _principal_name(self, principal: Principal) -> str:
        return "revoked/principal/" + self._digest("revoked principal", principal.key)
