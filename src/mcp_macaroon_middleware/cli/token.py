"""`mcp-macaroon token mint | attenuate | inspect`: makes tokens, narrows them, says what is in them.

A token goes to standard output or a file for its owner alone, and comes from standard input, a file or the environment;
no message shows one.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.text import Text

from .. import tokens
from ..config.token_policy import TokenPolicy, open_policy
from ..core import holders
from ..errors import StoreUnavailable, TokenInvalid
from ..tokens.describe import UNCHECKED, Inspection, ticket_text
from ..tokens.describe import inspect as describe
from .token_input import given, is_open
from .token_narrowing import Narrowing, checked, idle, read_end
from .token_output import (
    DONE,
    FAILED,
    Misuse,
    answered,
    console,
    deliver,
    document,
    facts,
    fail,
    note,
    numbered,
    summary,
    warn,
)
from .token_reasons import in_words

REVOKED: Final = (
    "nothing was made, since no server would take it: the key that signs is revoked (put another in its place with: "
    "mcp-macaroon keys rotate), or the principal is, up to this moment (then mint again in a second)"
)

Config = Annotated[Path, Parameter(help="The policy file of the server that the token is for.")]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], help="A new file, for its owner alone.")]
Force = Annotated[bool, Parameter(help="Replace the file of -o.")]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document.")]
Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], help="Say nothing but warnings.")]
TokenFile = Annotated[
    Path | None, Parameter(help="The file with the token; default: standard input, else MACAROON_TOKEN.")
]


@answered
def mint(
    *,
    config: Config,
    principal: Annotated[str, Parameter(help="Whom the token speaks for: the subject.")],
    issuer: Annotated[str | None, Parameter(help="Who named the subject, where that is not the server.")] = None,
    tenant: Annotated[str | None, Parameter(help="The subject's tenant.")] = None,
    client: Annotated[str | None, Parameter(help="The client program that the token is for.")] = None,
    expires: Annotated[
        str, Parameter(help="How long (8h, 30m, 7d), or until when (2031-01-31T18:00Z); default: 1h.")
    ] = "1h",
    narrow: Narrowing | None = None,
    require: Annotated[tuple[str, ...], Parameter(help="A location of third_party that must vouch for it.")] = (),
    output: Output = None,
    force: Force = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a token with the keys of a policy file, for its server. The token alone is printed.

    What it allows is said on standard error. It allows what the file allows its principal, less what its caveats take
    away, and ends after an hour unless --expires says otherwise (366 days at most).

        TOKEN=$(mcp-macaroon token mint --config policies.yaml --principal alice --expires 8h)
        mcp-macaroon token mint --config policies.yaml --principal ci --only-tools "read_*" -o ci.token

    Exit codes: 0 made, 1 not made, with the reason, 2 a wrong call or policy file.
    """
    policy, now = open_policy(config), datetime.now(UTC)
    caveats = checked((narrow or Narrowing()).caveats(), policy.check)
    text = _minted(
        policy,
        subject=principal,
        namespace=issuer or "",
        tenant=tenant,
        client=client,
        caveats=caveats,
        expires=read_end(expires, now),
        now=now,
    )
    fault = _ready(policy, text)
    if fault is not None:
        why = REVOKED if fault == "token_revoked" else f"nothing was made, since {in_words(fault)}"
        return fail(why, FAILED)
    for location in require:
        text = _requiring(policy, text, location, principal)
    return _delivered(text, output=output, force=force, as_json=json_, quiet=quiet)


@answered
def attenuate(
    *words: Annotated[str, Parameter(show=False)],
    expires: Annotated[str | None, Parameter(help="How long from now (5m, 8h), or until when.")] = None,
    narrow: Narrowing | None = None,
    unchecked: Annotated[bool, Parameter(help="Write rules of policies that are not installed here.")] = False,
    token_file: TokenFile = None,
    output: Output = None,
    force: Force = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a narrower token of one that you hold. It needs no key and no server, and can only take away.

    The token comes from standard input, --token-file or MACAROON_TOKEN, never from the command line. The new one has a
    branch of its own, so that it can be revoked by itself.

        mcp-macaroon token attenuate --only-tools search --expires 5m < my.token > agent.token
        echo "$TOKEN" | mcp-macaroon token attenuate --rule "bf:delete_*:tool_access:deny"

    Exit codes: 0 made, 1 not made: no token, or too many caveats, 2 a wrong call.
    """
    no_words(words)
    text, now = token_of(token_file), datetime.now(UTC)
    before = describe(text)
    caveats = checked((narrow or Narrowing()).caveats(), anything if unchecked else holders.known_here)
    end = read_end(expires, now) if expires is not None else None
    for warning in idle(before, caveats, end, now):
        warn(warning)
    if not caveats and end is None:
        warn("nothing is added but a branch: the new token can do as much, and can be revoked by itself")
    narrower = tokens.attenuate(text, *caveats, expires=end, now=now)
    return _delivered(narrower, output=output, force=force, as_json=json_, quiet=quiet)


@answered
def inspect(
    *words: Annotated[str, Parameter(show=False)],
    token_file: TokenFile = None,
    json_: Json = False,
    tickets: Annotated[bool, Parameter(help="Print only what third parties need to vouch for it.")] = False,
) -> int:
    """Say in words what is in a token. It needs no key, so the signature is not checked.

    --tickets prints a line for each third party, its location and its ticket: hand that to the service, not the token.

        mcp-macaroon token inspect --token-file agent.token
        mcp-macaroon token inspect --json < agent.token
        mcp-macaroon token inspect --tickets < my.token

    Exit codes: 0 said, 1 this is no token, 2 a wrong call.
    """
    no_words(words)
    found, now = describe(token_of(token_file)), datetime.now(UTC)
    if tickets:
        _show_tickets(found, as_json=json_)
    elif json_:
        document(found.as_document())
    else:
        _show(found, now)
    return DONE


# --- parts ----------------------------------------------------------------------------------------------------------


def _minted(policy: TokenPolicy, **fields: Any) -> str:
    try:
        return tokens.mint(policy.keys, audience=policy.audience, counts=policy.counts, **fields)
    except UnicodeError:
        raise
    except ValueError as error:
        raise Misuse(str(error)) from None


def _requiring(policy: TokenPolicy, text: str, location: str, subject: str) -> str:
    party = policy.parties.get(location)
    if party is None:
        known = ", ".join(sorted(policy.parties)) or "none"
        raise Misuse(f"--require: no such location under config.third_party; there are: {known}")
    return tokens.require(text, party, subject=subject, audience=policy.audience)


def _ready(policy: TokenPolicy, text: str) -> str | None:
    """Sees to it that the server will take the token, and warns where nobody knows; the code of why it never will."""
    if not policy.accepts:
        warn("this file has no tokens section, so its server takes no token: write  tokens: {}  under config")
    if not policy.remembers:
        return None
    try:
        return asyncio.run(_begin(policy, text))
    except StoreUnavailable:
        warn("the store does not answer; if it is new or was emptied, the server will refuse this token: mint it again")
        return None


async def _begin(policy: TokenPolicy, text: str) -> str | None:
    async with policy.bearers() as (bearers, _):
        await bearers.revocations.begin()
        try:
            await bearers.accept(text)
        except TokenInvalid as error:
            return error.code
    return None


def _delivered(text: str, *, output: Path | None, force: bool, as_json: bool, quiet: bool) -> int:
    made = describe(text)
    deliver(text, made.as_document(), output=output, force=force, as_json=as_json)
    note(summary(made, datetime.now(UTC)), quiet=quiet)
    return DONE


def token_of(file: Path | None) -> str:
    """The token that was given. Raises `InputMissing`; warns of a file that others can read."""
    if is_open(file):
        warn(f"others on this machine can read {file}; run: chmod 600 {file}")
    return given(file).token


def no_words(words: tuple[str, ...]) -> None:
    """Raises `Misuse` for words beside the options: a token is never one."""
    if words:
        raise Misuse("unexpected words; the token comes from standard input, --token-file or MACAROON_TOKEN")


def anything(rule: object) -> None:
    """The check of `--unchecked`: none."""


def _show_tickets(found: Inspection, *, as_json: bool) -> None:
    asked = [{"location": each.location, "ticket": ticket_text(each.ticket or b"")} for each in found.third_parties]
    if as_json:
        document({"tickets": asked})
        return
    for each in asked:
        print(each["location"], each["ticket"])


def _show(found: Inspection, now: datetime) -> None:
    shown = console()
    for name, value in facts(found, now):
        shown.print(Text.assemble((f"{name:9}", "bold"), value))
    shown.print(Text.assemble((f"{'warning':9}", "bold"), (UNCHECKED, "yellow")))
    for line in numbered(found.statements):
        shown.print(Text(line))
