"""`mcp-macaroon token revoke`: ends tokens before their time, through the store that servers share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich.text import Text

from ..config.opening import open_audit
from ..core.audit import AuditLog
from ..core.revocation import Revocations
from ..errors import AuditUnavailable, ConfigError, TokenInvalid
from ..tokens import holds
from ..tokens.describe import inspect as describe
from ..tokens.sentences import moment, quoted
from .token import Config, Json, TokenFile, no_words, token_of
from .token_narrowing import read_instant
from .token_output import DONE, Misuse, answered, console, document, warn
from .token_policy import TokenPolicy, open_policy

MEMORY: Final = (
    "the store of this file is memory: every process has its own, so no server would see the revocation. Write  "
    "store: redis://HOST  under config, or replace the key: that ends every token"
)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One thing to revoke: how, and what to say of it."""

    act: Callable[[Revocations], Awaitable[None]]
    words: str
    facts: dict[str, str]


@answered
def revoke(
    *words: Annotated[str, Parameter(show=False)],
    config: Config,
    id_: Annotated[
        tuple[str, ...],
        Parameter(name="--id", help="The id of a token or a branch.", allow_leading_hyphen=True),
    ] = (),
    key_id: Annotated[tuple[str, ...], Parameter(help="Everything that this key has signed.")] = (),
    principal: Annotated[str | None, Parameter(help="Every token of a subject.")] = None,
    before: Annotated[
        str | None, Parameter(help="With --principal: those issued up to this instant; default: now.")
    ] = None,
    issuer: Annotated[str | None, Parameter(help="With --principal: as the tokens name it.")] = None,
    tenant: Annotated[str | None, Parameter(help="With --principal: as the tokens name it.")] = None,
    whole: Annotated[
        bool,
        Parameter(help="With a token: what it was narrowed from as well, from the first token on."),
    ] = False,
    token_file: TokenFile = None,
    json_: Json = False,
) -> int:
    """Revoke tokens at once, at every server that shares the store of a policy file.

    A token at standard input is revoked with everything that was narrowed from it; so is a branch by its id. Ids are in
    the audit record and in `token inspect`. The keys of the file are needed: nobody else can write a revocation.

        mcp-macaroon token revoke --config policies.yaml < leaked.token
        mcp-macaroon token revoke --config policies.yaml --id=4rO2m0dT6vJr0n1rSsYqPw
        mcp-macaroon token revoke --config policies.yaml --principal alice --before 2031-01-31T18:00Z

    Exit codes: 0 revoked, 1 not revoked, with the reason, 2 a wrong call or policy file, or a store in memory.
    """
    no_words(words)
    _fit(id_, key_id, principal, before=before, names=issuer or tenant, whole=whole)
    policy = open_policy(config)
    if principal is not None:
        endings = [_principal(policy, principal, issuer, tenant, before)]
    elif key_id:
        endings = [_key(policy, each) for each in key_id]
    else:
        endings = [_part(each) for each in id_ or (_own(policy, token_file, whole=whole),)]
    asyncio.run(_revoked(policy, endings))
    if json_:
        document({"revoked": [ending.facts for ending in endings]})
    else:
        for ending in endings:
            console().print(Text.assemble(("revoked ", "bold green"), ending.words))
    return DONE


async def _revoked(policy: TokenPolicy, endings: list[Ending]) -> None:
    audit = _audit(policy)
    try:
        async with policy.bearers(audit.event if audit is not None else _unrecorded) as (bearers, store):
            if not store.shared:
                raise Misuse(MEMORY)
            for ending in endings:
                try:
                    await ending.act(bearers.revocations)
                except AuditUnavailable:
                    warn(f"revoked, but not in the audit record: {ending.words}")
    finally:
        if audit is not None:
            audit.close()


def _audit(policy: TokenPolicy) -> AuditLog | None:
    """The file's audit log, or None with a warning: a revocation waits for nobody."""
    if not policy.remembers:
        return None
    try:
        return open_audit(policy.compiled, policy.keys)
    except ConfigError:
        warn("the audit record cannot be opened, perhaps since the server has it open; this revocation is not in it")
        return None


def _unrecorded(name: str, facts: object) -> None:
    """Where the audit record cannot be opened."""


# --- what to revoke -------------------------------------------------------------------------------------------------


def _fit(
    ids: tuple[str, ...],
    key_ids: tuple[str, ...],
    principal: str | None,
    *,
    before: str | None,
    names: str | None,
    whole: bool,
) -> None:
    """Raises `Misuse` for options that do not go together: nobody should guess what was revoked."""
    kinds = sum((bool(ids), bool(key_ids), principal is not None))
    if kinds > 1:
        raise Misuse("give one of --id, --key-id and --principal, or a token at standard input")
    if principal is None and (before or names):
        raise Misuse("--before, --issuer and --tenant go with --principal")
    if kinds and whole:
        raise Misuse("--whole goes with a token")


def _part(part: str) -> Ending:
    if not _ID.match(part):
        raise Misuse("--id takes the id of a token or a branch: 22 characters, as in  token inspect")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke(part)

    return Ending(act=act, words=f"{part} and everything that was narrowed from it", facts={"id": part})


def _key(policy: TokenPolicy, key_id: str) -> Ending:
    if key_id == policy.keys.current:
        warn("this key still signs: what is minted from now on is refused too, until there is a new key")
    elif key_id not in policy.keys:
        warn(f"the ring of this file has no key {quoted(key_id)}; its tokens are refused already")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke_key(key_id)

    return Ending(act=act, words=f"every token of the key {quoted(key_id)}", facts={"key_id": key_id})


def _principal(policy: TokenPolicy, subject: str, issuer: str | None, tenant: str | None, before: str | None) -> Ending:
    at = read_instant(before, "--before") if before is not None else datetime.now(UTC)
    principal = policy.principal(subject, issuer, tenant)
    if not subject:
        raise Misuse("--principal names a subject")

    async def act(revocations: Revocations) -> None:
        await revocations.revoke_principal(principal, at)

    facts = {"subject": subject, "issuer": principal.namespace, "before": at.isoformat()}
    who = quoted(subject) + "".join(f", {name} {quoted(value)}" for name, value in _names(issuer, tenant))
    return Ending(
        act=act,
        words=f"every token of {who} that was issued up to {moment(at)}",
        facts=facts if tenant is None else {**facts, "tenant": tenant},
    )


def _names(issuer: str | None, tenant: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("issuer", issuer), ("tenant", tenant)) if value]


def _own(policy: TokenPolicy, file: Path | None, *, whole: bool) -> str:
    """The id to revoke for a token: its last branch, or, for the whole, its first id. Its signature must hold."""
    text = token_of(file)
    try:
        holds(policy.keys, text, audience=policy.audience)
    except TokenInvalid as error:
        if error.code != "token_expired":
            raise
        warn("the token has ended already")
    lineage = describe(text).lineage
    return lineage[0] if whole else lineage[-1]
