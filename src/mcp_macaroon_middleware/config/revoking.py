"""Revokes tokens through the store that servers share: what `revoke(…)` and `mcp-macaroon token revoke` do.

It guesses nothing: what cannot be meant, what nobody would see and what could not be undone are refused before anything
is written. A token is believed about its own id only if its signature holds.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..core.audit import AuditLog
from ..core.revocation import SKEW, Revocations
from ..errors import AuditUnavailable, ConfigError, TokenInvalid
from ..model import Principal
from ..tokens import KeyRing, holds, inspect
from ..tokens.keys import is_key_id
from .opening import open_audit
from .runtime import Runtime
from .settings import ConfigSettings
from .token_policy import TokenPolicy, open_policy

logger: Final = logging.getLogger("mcp_macaroon_middleware")

Act = Callable[[Revocations], Awaitable[None]]

MEMORY: Final = (
    "the store of this file is memory: every process has its own, so no server would see the revocation. Write  "
    "store: redis://HOST  under config, or replace the key: that ends every token"
)
UNRECORDED: Final = "revoked, but not in the audit record"
SHUT: Final = "the audit record cannot be opened, perhaps since the server has it open; this revocation is not in it"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}\Z")


async def revoke(
    policy: Runtime | str | Path,
    token: str | None = None,
    *,
    id: str | None = None,
    key_id: str | None = None,
    principal: Principal | str | None = None,
    before: datetime | None = None,
    whole: bool = False,
) -> None:
    """Ends tokens before their time, from the next call on, at every server that shares the policy's store.

    `policy` is a policy file, or a server's own `Runtime` (`guard(…).runtime`), which a store in memory needs. One of
    these is given: a `token`, which ends with everything that was narrowed from it (`whole`: with what it was narrowed
    from as well); the `id` of a token or a branch; a `key_id`, for all that the key has signed; a `principal`, for its
    tokens issued up to `before` (now, if not given). A text as the `principal` is a subject of the file's own issuer.

    Raises `ValueError` for what cannot be meant, `TokenInvalid` for a token whose signature does not hold,
    `ConfigError` for a file that cannot be used or whose store nobody shares, `StoreUnavailable` if nothing was done.
    """
    if sum(each is not None for each in (token, id, key_id, principal)) != 1:
        raise ValueError("give one of token, id, key_id and principal")
    if (before is not None and principal is None) or (whole and token is None):
        raise ValueError("before goes with principal, and whole with token")
    opened = policy if isinstance(policy, Runtime) else await asyncio.to_thread(open_policy, Path(policy))
    config = opened.compiled.settings.config
    if principal is not None:
        act = of_principal(_principal(principal, config), before)
    elif key_id is not None:
        act = of_key(key_id)
    else:
        act = of_part(id if id is not None else part_of(opened.keys, config.audience, token or "", whole=whole))
    if isinstance(opened, Runtime):
        await _done([act], opened.engine.revocations, logger.error)
    else:
        await carry_out(opened, [act], logger.error)


async def carry_out(policy: TokenPolicy, acts: Sequence[Act], told: Callable[[str], None]) -> None:
    """Revokes through the store of a policy file; `told` hears where the audit record lacks something.

    Raises `ConfigError` for a store that nobody shares, `StoreUnavailable`.
    """
    audit = _audit(policy, told)
    try:
        async with policy.bearers(audit.event if audit is not None else _unrecorded) as (bearers, store):
            if not store.shared:
                raise ConfigError(MEMORY)
            await _done(acts, bearers.revocations, told)
    finally:
        if audit is not None:
            audit.close()


async def _done(acts: Sequence[Act], revocations: Revocations, told: Callable[[str], None]) -> None:
    for act in acts:
        try:
            await act(revocations)
        except AuditUnavailable:
            told(UNRECORDED)


def _audit(policy: TokenPolicy, told: Callable[[str], None]) -> AuditLog | None:
    """The file's audit log, or None: a revocation waits for nobody."""
    if not policy.remembers:
        return None
    try:
        return open_audit(policy.compiled, policy.keys)
    except ConfigError:
        told(SHUT)
        return None


def _unrecorded(name: str, facts: object) -> None:
    """Where the audit record cannot be opened."""


# --- what to revoke -------------------------------------------------------------------------------------------------


def of_part(part: str) -> Act:
    """Ends a token or a branch with everything after it. Raises `ValueError` for what is no id of either."""
    if not _ID.match(part):
        raise ValueError("an id of a token or a branch has 22 characters, as  token inspect  shows them")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke(part)

    return act


def of_key(key_id: str) -> Act:
    """Ends everything that a key has signed. Raises `ValueError` for what is no key's id."""
    if not is_key_id(key_id):
        raise ValueError("a key's id has letters, digits, . _ and - only, as  keys list  shows it")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke_key(key_id)

    return act


def of_principal(principal: Principal, before: datetime | None = None) -> Act:
    """Ends a principal's tokens that were issued up to an instant; now, if none is given.

    Raises `ValueError` for nobody, and for an instant that is still to come, the clocks' skew aside: every token minted
    until then would be refused, and a revocation cannot be taken back.
    """
    now = datetime.now(UTC)
    at = now if before is None else before
    if not principal.subject:
        raise ValueError("a principal has a subject")
    if at.tzinfo is None:
        raise ValueError("an instant needs its time zone")
    if at > now + SKEW:
        raise ValueError("it is still to come: every token minted until then would be refused, with no way back")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke_principal(principal, at)

    return act


def part_of(keys: KeyRing, audience: str, token: str, *, whole: bool = False) -> str:
    """The id that a token ends by: its last branch's, or the first token's for the whole.

    One that has ended already is taken all the same. Raises `TokenInvalid` for a signature that does not hold.
    """
    try:
        holds(keys, token, audience=audience)
    except TokenInvalid as error:
        if error.code != "token_expired":
            raise
    lineage = inspect(token).lineage
    return lineage[0] if whole else lineage[-1]


def _principal(given: Principal | str, config: ConfigSettings) -> Principal:
    if isinstance(given, Principal):
        return given
    return Principal(kind="user", namespace=config.identity.token_namespace or "", subject=given)
