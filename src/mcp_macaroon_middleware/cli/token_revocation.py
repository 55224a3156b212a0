"""`mcp-macaroon token revoke`: ends tokens before their time, through the store that servers share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from ..config.revoking import Act, carry_out, of_key, of_part, of_principal, part_of
from ..config.token_policy import TokenPolicy, open_policy
from ..tokens.describe import inspect as describe
from ..tokens.sentences import moment, quoted
from .token import Config, Json, TokenFile, no_words, token_of
from .token_narrowing import read_instant
from .token_output import DONE, Misuse, answered, console, document, warn


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One thing to revoke: how, and what to say of it."""

    act: Act
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
    asyncio.run(carry_out(policy, [ending.act for ending in endings], warn))
    if json_:
        document({"revoked": [ending.facts for ending in endings]})
    else:
        for ending in endings:
            console().print(Text.assemble(("revoked ", "bold green"), ending.words))
    return DONE


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
    try:
        act = of_part(part)
    except ValueError as error:
        raise Misuse(f"--id: {error}") from None
    return Ending(act=act, words=f"{part} and everything that was narrowed from it", facts={"id": part})


def _key(policy: TokenPolicy, key_id: str) -> Ending:
    try:
        act = of_key(key_id)
    except ValueError as error:
        raise Misuse(f"--key-id: {error}") from None
    if key_id == policy.keys.current:
        warn("this key still signs: what is minted from now on is refused too, until there is a new key")
    elif key_id not in policy.keys:
        warn(f"the ring of this file has no key {quoted(key_id)}; its tokens are refused already")
    return Ending(act=act, words=f"every token of the key {quoted(key_id)}", facts={"key_id": key_id})


def _principal(policy: TokenPolicy, subject: str, issuer: str | None, tenant: str | None, before: str | None) -> Ending:
    at = read_instant(before, "--before") if before is not None else datetime.now(UTC)
    principal = policy.principal(subject, issuer, tenant)
    try:
        act = of_principal(principal, at)
    except ValueError as error:
        raise Misuse(f"{'--principal' if not subject else '--before'}: {error}") from None
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
    part = part_of(policy.keys, policy.audience, text, whole=whole)
    expires = describe(text).expires
    if expires is not None and expires <= datetime.now(UTC):
        warn("the token has ended already")
    return part
