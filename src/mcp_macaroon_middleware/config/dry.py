"""A runtime to look at, for `check --server`: it records nothing, keeps nothing, and its key is of the moment."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ..core.audit import AuditLog, SinkSlot
from ..plugin.contract import StoreContext
from ..tokens.keys import KeyRing
from .compile import Compiled
from .runtime import Runtime
from .sections import MEMORY


def dry_runtime(compiled: Compiled) -> Runtime:
    """The compiled file as a runtime that touches no file, no network and no key of the operator's."""
    audience = compiled.settings.config.audience
    store = compiled.registry.stores[MEMORY].contribution.open(MEMORY, StoreContext(audience=audience))
    keys = KeyRing.from_secret(secrets.token_urlsafe(48))
    audit = AuditLog([SinkSlot(name="none", sink=_Nowhere())], digest_key=keys.derive("audit", audience))
    return Runtime(compiled, keys=keys, store=store, audit=audit)


class _Nowhere:
    """An audit sink for decisions that nobody asked for."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Drops the record: a check decides nothing."""

    def close(self) -> None:
        """Nothing to release."""
