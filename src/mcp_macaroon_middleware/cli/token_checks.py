"""`mcp-macaroon token verify`: whether a server with this policy file would take a token. It judges no rule of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from ..config.token_policy import TokenPolicy, open_policy
from ..errors import RuleError, StoreUnavailable, TokenInvalid
from ..rules import parse_rule
from ..tokens import VerifiedToken, bind, verify
from ..tokens.describe import inspect as describe
from ..tokens.sentences import moment, quoted, spelled
from .token import Config, Json, TokenFile, no_words
from .token_input import Given, given
from .token_output import DONE, FAILED, answered, console, document, facts, numbered, warn
from .token_reasons import in_words

MEMORY = "not looked up: the store of this file is memory, and only the server's own process knows it"
LOOKED_UP = "looked up in the store: not revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of it. `token` is there if it is valid; `refusing` are caveats that this server does not understand."""

    code: str = ""
    token: VerifiedToken | None = field(default=None, repr=False)
    looked_up: bool = False
    refusing: tuple[str, ...] = field(default=(), repr=False)


@answered
def verify_token(
    *words: Annotated[str, Parameter(show=False)],
    config: Config,
    discharge: Annotated[tuple[Path, ...], Parameter(help="A file with discharges, bound to the token.")] = (),
    token_file: TokenFile = None,
    json_: Json = False,
) -> int:
    """Check a token as the server of a policy file would: signature, end, third parties, revocation.

    Discharges may also follow the token at standard input. Rules in it are shown and not judged: that takes a call.

        mcp-macaroon token verify --config policies.yaml < agent.token
        mcp-macaroon token verify --config policies.yaml --token-file my.token --discharge my.discharges

    Exit codes: 0 valid, 1 not valid or nobody can know, with the reason, 2 a wrong call or policy file.
    """
    no_words(words)
    policy, found = open_policy(config), given(token_file, discharge)
    judged = asyncio.run(_judged(policy, found))
    if judged.token is not None:
        _told(policy, judged, found, as_json=json_)
        return DONE
    if json_:
        document({"valid": False, "code": judged.code, "reason": in_words(judged.code)})
    else:
        console().print(Text.assemble(("not valid: ", "bold red"), in_words(judged.code)))
    return FAILED


async def _judged(policy: TokenPolicy, found: Given) -> Judged:
    try:
        async with policy.bearers() as (bearers, store):
            token = (await bearers.accept(found.token, found.discharges)).token
            return Judged(token=token, looked_up=store.shared, refusing=tuple(_refusing(policy, token)))
    except StoreUnavailable as error:
        return Judged(code=error.code)
    except TokenInvalid as error:
        return Judged(code="discharge_unbound" if _is_unbound(policy, found) else error.code)


def _is_unbound(policy: TokenPolicy, found: Given) -> bool:
    """Whether the discharges would do, were they bound to the token."""
    if not found.discharges:
        return False
    try:
        bound = bind(found.token, found.discharges)
        verify(policy.keys, found.token, audience=policy.audience, discharges=bound, parties=policy.parties)
    except TokenInvalid:
        return False
    return bound != found.discharges


def _refusing(policy: TokenPolicy, token: VerifiedToken) -> Iterator[str]:
    for text in token.caveats:
        try:
            policy.check(parse_rule(text, in_token=True))
        except RuleError as error:
            yield f"refuses everything at this server: {spelled(text)}: {error}"


def _told(policy: TokenPolicy, judged: Judged, found: Given, *, as_json: bool) -> None:
    said, token = describe(found.token), judged.token
    if token is None:
        return
    for refusing in judged.refusing:
        warn(refusing)
    if not policy.accepts:
        warn("this file has no tokens section, so its server takes no token: write  tokens: {}  under config")
    if as_json:
        document(_document(said.as_document(), judged, token))
        return
    shown = console()
    shown.print(Text.assemble(("valid", "bold green"), f" until {moment(token.expires)}"))
    for name, value in facts(said, datetime.now(UTC)):
        shown.print(Text.assemble((f"{name:9}", "bold"), value))
    if token.discharged_by:
        shown.print(Text.assemble((f"{'vouched':9}", "bold"), "by " + ", ".join(map(quoted, token.discharged_by))))
    shown.print(Text.assemble((f"{'revoked':9}", "bold"), LOOKED_UP if judged.looked_up else MEMORY))
    for line in numbered(said.statements):
        shown.print(Text(line))


def _document(said: dict[str, Any], judged: Judged, token: VerifiedToken) -> dict[str, Any]:
    return {
        "valid": True,
        **said,
        "signature": "valid",
        "expires": token.expires.isoformat(),
        "discharged_by": list(token.discharged_by),
        "revocation": "looked up" if judged.looked_up else "not looked up",
        "refusing": list(judged.refusing),
    }
