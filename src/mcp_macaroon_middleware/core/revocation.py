"""What is revoked: tokens and branches by id, principals before an instant, keys. Immediate wherever it is shared.

A record that forbids is believed even if it cannot be read, and is remembered in memory. It verifies no signature.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..model import Principal
from ..plugin.contract import Entry, Store
from ..tokens import VerifiedToken
from . import epoch
from .forbidden import Forbidden
from .sealing import Broken, Sealer

LASTS: Final = 3670 * 86_400.0
"""Seconds that a revocation is kept: longer than any token lives."""
SKEW: Final = timedelta(seconds=30)


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

    def __repr__(self) -> str:
        return "Revocations(…)"

    # --- asking ---------------------------------------------------------------------------------------------------

    async def fault(self, token: VerifiedToken, principal: Principal) -> str | None:
        """The code of why a verified token counts no more, or None. One read of the store.

        With a store that is kept, a token from before its epoch is refused: what was revoked then may be lost.
        """
        ids = [self._id_name(part) for part in (*token.lineage, f"key {token.key_id}")]
        whole = self._principal_name(principal)
        if any(name in self._known for name in ids):
            return "token_revoked"
        found = await self._store.get([epoch.NAME, whole, *ids])
        if any(entry is not None for entry in found[2:]):
            for name, entry in zip(ids, found[2:], strict=True):
                if entry is not None:
                    self._known.add(name, LASTS)
            return "token_revoked"
        if self._before(whole, found[1], token.issued_at):
            return "token_revoked"
        since = await self._epoch.since(found[0])
        if self._store.durable and (token.issued_at + SKEW).timestamp() < since:
            return "token_before_epoch"
        return None

    def _before(self, name: str, entry: Entry | None, issued_at: datetime) -> bool:
        """Whether a principal's tokens of that time are revoked. A record that cannot be read revokes all of them."""
        if entry is None:
            return False
        try:
            return issued_at.timestamp() <= float(json.loads(self._sealer.open("record", name, entry.value)))
        except (Broken, ValueError, TypeError):
            return True

    # --- revoking -------------------------------------------------------------------------------------------------

    async def revoke(self, part: str) -> None:
        """Revokes a token or a branch by its id, and with it everything that was narrowed from it."""
        await self._put(self._id_name(part), 0.0)
        self._event("revoked", {"id": part})

    async def revoke_key(self, key_id: str) -> None:
        """Revokes every token signed with a key."""
        await self._put(self._id_name(f"key {key_id}"), 0.0)
        self._event("revoked", {"key": key_id})

    async def revoke_principal(self, principal: Principal, before: datetime) -> None:
        """Revokes every token of a principal that was issued up to an instant."""
        if before.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        name = self._principal_name(principal)
        at = before.timestamp()
        there = (await self._store.get([name]))[0]
        if there is not None:
            with contextlib.suppress(Broken, ValueError, TypeError):  # then it is written anew, and says it again
                at = max(at, float(json.loads(self._sealer.open("record", name, there.value))))
        await self._put(name, at)
        self._event("revoked", {"subject": principal.subject, "before": datetime.fromtimestamp(at, UTC).isoformat()})

    async def begin(self) -> float:
        """Makes sure that the store has an epoch, so that tokens minted from now on count; since when it lasts."""
        return await self._epoch.since((await self._store.get([epoch.NAME]))[0])

    async def _put(self, name: str, value: float) -> None:
        if name.startswith("revoked/id/"):
            self._known.add(name, LASTS)
        await self.begin()
        await self._store.put(name, self._sealer.seal("record", name, json.dumps(value).encode()), LASTS)

    def _id_name(self, part: str) -> str:
        return "revoked/id/" + self._digest("revoked", part)

    def _principal_name(self, principal: Principal) -> str:
        return "revoked/principal/" + self._digest("revoked principal", principal.key)
